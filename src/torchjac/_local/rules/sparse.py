"""Sparse tensors: what is kept of a dense one, and products reduced otherwise than by a sum."""

import torch
from torch import Tensor

from torchjac._local.algebra import Contract, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten.sparse_mask, aten._sparse_mask_projection)
def sparse_mask(call: Call) -> Terms:
    """What lies where another tensor has entries.

    sparse_mask(t, mask)  ->  t: Scale(entries of mask)
    """
    source, mask = call["self"], call.constant(call["mask"])
    if list(call.tangents()) != [source]:
        return NotImplemented
    return [Term(source, [Scale(call.out_shape(), None if mask is None else _entries(mask))])]


@rule(aten._sparse_mm_reduce_impl_backward)
def reduced_product_backward(call: Call) -> dict[int, Terms]:
    """The transpose of a product of a sparse matrix, sums of a row or the largest of it.

    _sparse_mm_reduce_impl_backward(s, t, w)
        ->  0, t: Contract("ik,jk->ij", w), Scale(entries of s);  1, t: Contract("ik,ij->jk", s)
    """
    matrix, grad, weight = call["self"], call["grad_out"], call["weight"]
    if list(call.tangents()) != [grad]:
        return NotImplemented
    known, shape = call.constant(matrix), call.shape(matrix)
    outer = Contract("ik,jk->ij", weight, call.shape(weight), call.constant(weight))
    kept = Scale(shape, None if known is None else _entries(known))
    inner = Contract("ik,ij->jk", matrix, shape, known)
    return {0: [Term(grad, [outer, kept])], 1: [Term(grad, [inner])]}


def _entries(matrix: Tensor) -> Tensor:
    """Ones where a sparse tensor has entries, be they zero."""
    found = matrix.to_sparse_coo().coalesce()
    ones = torch.ones_like(found.values())
    return torch.sparse_coo_tensor(found.indices(), ones, found.shape).to_dense()
