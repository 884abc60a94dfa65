"""Sparse tensors, read as the dense ones that they stand for.

Where the entries of a sparse tensor lie is known if its indices depend on no input, even where its
values do.
"""

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Contract, Deposit, Mix, Move, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten._coalesce, aten._to_dense, aten._to_sparse, aten.coalesce)
def same_elements(call: Call) -> Terms:
    """The same elements in another layout.

    _to_dense(t)  ->  t
    """
    return [Term(ref) for ref in call.tangents()]


@rule(aten.sparse_mask, aten._sparse_mask_projection)
def sparse_mask(call: Call) -> Terms:
    """What lies where another tensor has entries.

    sparse_mask(t, mask)  ->  t: Scale(entries of mask)
    """
    source = call["self"]
    if list(call.tangents()) != [source]:
        return NotImplemented
    return [Term(source, [_where_entries_lie(call, call["mask"])])]


@rule(aten._values, aten.values)
def values(call: Call) -> Terms:
    """The entries of a sparse tensor.

    values(t)  ->  t: Move(index), with the indices of t
    """
    (source,) = call.tangents()
    found = _skeleton(call, source)
    if found is None:
        return NotImplemented
    places = tuple(_places(found))
    return [Term(source, [Move(lambda t: t[places])])]


@rule(aten._sparse_coo_tensor_with_dims_and_tensors, aten.sparse_compressed_tensor)
def from_values(call: Call) -> Terms:
    """The sparse tensor that has given entries.

    _sparse_coo_tensor_with_dims_and_tensors(..., index, t)  ->  t: Deposit(index)
    """
    source, found = call["values"], _made_by(call)
    if list(call.tangents()) != [source] or found is None:
        return NotImplemented
    places = tuple(_places(found))
    return [Term(source, [Deposit(lambda t: t[places], call.out_shape())])]


@rule(aten._sparse_sum_backward)
def sum_backward(call: Call) -> Terms:
    """The transpose of a sum of entries over axes.

    _sparse_sum_backward(t, s, dims)  ->  t: Move(reshape), Scale(entries of s)
    """
    grad, shape = call["grad"], call.out_shape()
    if list(call.tangents()) != [grad]:
        return NotImplemented
    summed = {d % len(shape) for d in call["dim"]}
    kept = tuple([1 if d in summed else n for d, n in enumerate(shape)])
    spread = Move(lambda t: t.reshape(kept))
    return [Term(grad, [spread, _where_entries_lie(call, call["self"])])]


@rule(aten._sparse_softmax_backward_data, aten._sparse_log_softmax_backward_data)
def softmax_backward(call: Call) -> Terms:
    """The Jacobian of a softmax mixes the entries along its axis.

    _sparse_softmax_backward_data(t, y, dim, s)  ->  t: Scale(entries of s), Mix(dim), Scale
    """
    grad, shape = call["grad_output"], call.out_shape()
    if list(call.tangents()) != [grad]:
        return NotImplemented
    kept = _where_entries_lie(call, call["self"])
    return [Term(grad, [kept, Mix((call["dim"] % len(shape),), shape), kept])]


@rule(aten._sparse_mm_reduce_impl_backward)
def reduced_product_backward(call: Call) -> dict[int, Terms]:
    """The transpose of a product of a sparse matrix, sums of a row or the largest of it.

    _sparse_mm_reduce_impl_backward(s, t, w)
        ->  0, t: Contract("ik,jk->ij", w), Scale(entries of s);  1, t: Contract("ik,ij->jk", s)
    """
    matrix, grad, weight = call["self"], call["grad_out"], call["weight"]
    if list(call.tangents()) != [grad]:
        return NotImplemented
    outer = Contract("ik,jk->ij", weight, call.shape(weight), call.constant(weight))
    inner = Contract("ik,ij->jk", matrix, call.shape(matrix), call.constant(matrix))
    kept = [outer, _where_entries_lie(call, matrix)]
    return {0: [Term(grad, kept)], 1: [Term(grad, [inner])]}


def _where_entries_lie(call: Call, ref: Ref) -> Scale:
    shape, found = call.shape(ref), _skeleton(call, ref)
    if found is None:
        return Scale(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(_places(found))] = True
    return Scale(shape, mask)


def _places(sparse: Tensor) -> Tensor:
    """Where the entries of a sparse tensor lie, in the order of its values."""
    if sparse.layout is not torch.sparse_coo:
        sparse = sparse.to_sparse_coo()
    return aten._indices(sparse).cpu()


def _skeleton(call: Call, ref: Ref) -> Tensor | None:
    """A sparse tensor with the entries of another, in the same order, whatever their values.

    None if it is not known where they lie.
    """
    known = call.constant(ref)
    if known is not None:
        return known if known.layout in (torch.sparse_coo, torch.sparse_csr) else None
    made = _maker(call, ref)
    return None if made is None else _made_by(made)


def _made_by(made: Call) -> Tensor | None:
    """The skeleton of the result of an operation."""
    packet = made.node.op.overloadpacket
    if packet in (aten.sparse_mask, aten._sparse_mask_projection):
        return _skeleton(made, made["mask"])
    if packet in (aten._sparse_softmax, aten._sparse_log_softmax):
        return _skeleton(made, made["self"])
    if packet in (aten._coalesce, aten.coalesce):
        found = _skeleton(made, made["self"])
        return None if found is None else found.coalesce()
    if packet is aten._sparse_coo_tensor_with_dims_and_tensors:
        index = _index(made, made["indices"])
        if index is None:
            return None
        entries = torch.zeros(made.shape(made["values"]))
        return torch.sparse_coo_tensor(index.cpu(), entries, made["size"])
    if packet is aten.sparse_compressed_tensor and made["layout"] is torch.sparse_csr:
        starts, columns = made.index(made["compressed_indices"]), made.index(made["plain_indices"])
        if starts is None or columns is None:
            return None
        entries = torch.zeros(made.shape(made["values"]))
        return torch.sparse_csr_tensor(starts.cpu(), columns.cpu(), entries, made["size"])
    return None


def _index(call: Call, ref: Ref) -> Tensor | None:
    """Numbers of an index, also of one that was taken out of a sparse tensor."""
    known, made = call.index(ref), _maker(call, ref)
    if known is not None or made is None:
        return known
    if made.node.op.overloadpacket not in (aten.indices, aten._indices):
        return None
    found = _skeleton(call, made["self"])
    return None if found is None else _places(found)


def _maker(call: Call, ref: Ref) -> Call | None:
    node = call.program.makers.get(ref.number)
    if node is None or not hasattr(node.op, "overloadpacket"):
        return None
    return Call(node, call.program, call.is_local)
