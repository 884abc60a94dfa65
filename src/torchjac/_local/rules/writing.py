"""Elements written by index: set, added, filled in.

The transpose of reading. An index that depends on x may name anything along the axes that it
indexes: what is written then reaches all of them, and nothing is certain to be overwritten.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Deposit, LinearMap, Move, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule
from torchjac._local.rules.indexing import (
    Axes,
    find_indices,
    indexed_axes,
    read_under_mask,
    unknown_mask,
)
from torchjac._local.rules.movement import alone
from torchjac._local.windows import written_by_choice

aten = torch.ops.aten
Read = Callable[[Tensor, Mapping[int, Tensor]], Tensor]


@rule(aten.scatter, aten.scatter_add, aten.scatter_reduce)
def scatter(call: Call) -> Terms:
    """Elements written along one axis, by index.

    scatter(t, dim, index, s)       ->  t: Move(scatter of zeros);  s: Move(scatter to zeros)
    scatter_add(t, dim, index, s)   ->  t;  s: Deposit(gather)
    """
    target, index = call["self"], call["index"]
    rank = len(call.out_shape())
    dim = call["dim"] % max(rank, 1)
    adds, keeps = _effect(call)
    if adds is None or call.is_tangent(index):
        return NotImplemented
    axes = {index: (dim,) if rank else ()}
    terms: list[Term] = []
    if call.is_tangent(target):
        terms.append(Term(target, [] if keeps else _cleared(call, axes)))
    source: Any = call.arguments.get("src")
    if call.is_tangent(source):
        terms.append(Term(source, _scattered(call, source, axes, dim, adds=adds)))
    return terms


def _effect(call: Call) -> tuple[bool | None, bool]:
    """Whether the operation adds, None if it does neither; and whether it keeps what was there."""
    if call.node.op.overloadpacket is aten.scatter_add:
        return True, True
    how = call.arguments.get("reduce")
    if how is None:
        return False, False
    return True if how in ("sum", "mean", "add") else None, call.arguments.get("include_self", True)


def _scattered(call: Call, source: Ref, axes: Axes, dim: int, *, adds: bool) -> list[LinearMap]:
    (index,) = axes
    if call.index(index) is not None and not adds:
        return _moved(call, source, axes)
    corner = call.shape(index)  # the source may be larger
    used = Move(lambda t: _corner(t, corner))
    if call.index(index) is None:
        maps = written_by_choice(call, index, dim, corner, call.out_shape())
        if maps is not None:
            return [used, *maps]
    return [used, *_written(call, axes, lambda t, found: t.gather(dim, found[index.number]))]


def _corner(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.dim() != len(shape):  # a number and a tensor of one element pass for each other
        return tensor.reshape(shape)
    return tensor[tuple([slice(0, n) for n in shape])]


@rule(aten.index_add)
def index_add(call: Call) -> Terms:
    """Slices added along one axis, by index.

    index_add(t, dim, index, s)  ->  t;  s: Deposit(index_select)
    """
    dim, index, axes = _slices(call)

    def read(tensor: Tensor, found: Mapping[int, Tensor]) -> Tensor:
        return tensor.index_select(dim, found[index.number])

    terms = [Term(call["self"])] if call.is_tangent(call["self"]) else []
    if call.is_tangent(call["source"]) and call["alpha"] != 0:
        terms.append(Term(call["source"], _written(call, axes, read)))
    return terms


@rule(aten.index_copy)
def index_copy(call: Call) -> Terms:
    """Slices set along one axis, by index.

    index_copy(t, dim, index, s)  ->  t: Move(index_copy of zeros);  s: Move(index_copy to zeros)
    """
    dim, index, axes = _slices(call)

    def read(tensor: Tensor, found: Mapping[int, Tensor]) -> Tensor:
        return tensor.index_select(dim, found[index.number])

    return _set(call, call["source"], axes, lambda: _written(call, axes, read))


@rule(aten.index_fill)
def index_fill(call: Call) -> Terms:
    """Slices filled with a number.

    index_fill(t, dim, index, s)  ->  t: Move(index_fill of zero);  s: Move(index_fill to zeros)
    """
    axes = _slices(call)[2]
    return _set(call, call["value"], axes, lambda: [Scale(call.out_shape())])


@rule(aten.index_put, aten._unsafe_index_put, aten._index_put_impl)
def index_put(call: Call) -> Terms:
    """Elements set, or added to, at several indices or masks.

    index_put(t, [i], s)                     ->  t: Move;  s: Move
    index_put(t, [i], s, accumulate=True)    ->  t;  s: Scale, Deposit(index)
    """
    indices, values = call["indices"], call["values"]
    axes = indexed_axes(indices, call)

    def read(tensor: Tensor, found: Mapping[int, Tensor]) -> Tensor:
        return aten.index(tensor, [None if i is None else found[i.number] for i in indices])

    def written() -> list[LinearMap]:
        mask = unknown_mask(call, axes)
        if mask is not None:
            return _put_under_mask(call, axes[mask])
        numbers = find_indices(call, axes).numbers
        shape = read(torch.zeros((), dtype=torch.int8).expand(call.out_shape()), numbers).shape
        return [Scale(tuple(shape)), *_written(call, axes, read)]

    if unknown_mask(call, axes) is not None and len(axes) > 1:
        return NotImplemented
    if not call["accumulate"]:
        return _set(call, values, axes, written)
    terms = [Term(call["self"])] if call.is_tangent(call["self"]) else []
    return [*terms, Term(values, written())] if call.is_tangent(values) else terms


def _put_under_mask(call: Call, masked: tuple[int, ...]) -> list[LinearMap]:
    """Any of the values, at any place where the mask may hold."""
    shape = call.out_shape()
    before, after = shape[: masked[0]], shape[masked[-1] + 1 :]
    united, spread = (*before, 1, *after), (*before, *(1,) * len(masked), *after)
    axis = len(call.shape(call["values"])) - len(after) - 1
    reduce: list[LinearMap] = [Reduce((axis,), keepdim=True)] if axis >= 0 else []
    return [*reduce, Scale(united), Move(lambda t: t.reshape(spread)), Scale(shape)]


@rule(aten.put)
def put(call: Call) -> Terms:
    """Elements set, or added to, by their number in the tensor laid out flat.

    put(t, index, s)                     ->  t: Move(put of zeros);  s: Move(put to zeros)
    put(t, index, s, accumulate=True)    ->  t;  s: Deposit(take)
    """
    index, source = call["index"], call["source"]
    axes = {index: tuple(range(len(call.out_shape())))}

    def written() -> list[LinearMap]:
        return _written(call, axes, lambda t, found: t.take(found[index.number]))

    if not call["accumulate"]:
        return _set(call, source, axes, written)
    terms = [Term(call["self"])] if call.is_tangent(call["self"]) else []
    return [*terms, Term(source, written())] if call.is_tangent(source) else terms


@rule(aten._unsafe_masked_index_put_accumulate)
def masked_index_put(call: Call) -> Terms:
    """Elements added at indices, where a mask holds.

    _unsafe_masked_index_put_accumulate(t, mask, [i], s)  ->  t;  s: Deposit(_unsafe_masked_index)
    """
    mask, indices, values = call["mask"], call["indices"], call["values"]
    axes = {mask: (), **indexed_axes(indices, call)}

    def read(tensor: Tensor, found: Mapping[int, Tensor]) -> Tensor:
        return read_under_mask(tensor, found, mask, indices)

    terms = [Term(call["self"])] if call.is_tangent(call["self"]) else []
    if call.is_tangent(values):
        terms.append(Term(values, _written(call, axes, read)))
    return terms


@rule(aten.masked_fill)
def masked_fill(call: Call) -> Terms:
    """A number where a mask holds.

    masked_fill(t, mask, s)  ->  t: Scale(not mask);  s: Scale(mask)
    """
    target, value, shape = call["self"], call["value"], call.out_shape()
    known = call.index(call["mask"])
    terms: list[Term] = []
    if call.is_tangent(target):
        terms.append(Term(target, [Scale(shape, None if known is None else ~known)]))
    if call.is_tangent(value):
        terms.append(Term(value, [Scale(shape, known)]))
    return terms


@rule(aten.masked_scatter)
def masked_scatter(call: Call) -> Terms:
    """The elements of a source, in order, where a mask holds.

    masked_scatter(t, mask, s)  ->  t: Scale(not mask);  s: Move(masked_scatter to zeros)
    """
    target, mask, source, shape = call["self"], call["mask"], call["source"], call.out_shape()
    known = call.index(mask)
    terms: list[Term] = []
    if call.is_tangent(target):
        terms.append(Term(target, [Scale(shape, None if known is None else ~known)]))
    if call.is_tangent(source):
        maps: list[LinearMap] = [Reduce(tuple(range(len(call.shape(source))))), Scale(shape)]
        if known is not None:
            maps = _moved(call, source, {mask: ()})
        terms.append(Term(source, maps))
    return terms


@rule(aten.embedding_dense_backward)
def embedding_dense_backward(call: Call) -> Terms:
    """The transpose of `embedding`; the row of the padding stays zero.

    embedding_dense_backward(t, index, ...)  ->  t: Deposit(embedding)
    """
    index, padding = call["indices"], call["padding_idx"]
    known = call.index(index)

    def read(tensor: Tensor, found: Mapping[int, Tensor]) -> Tensor:
        rows = found[index.number]
        picked = tensor[rows.long()]
        if known is None or padding < 0:
            return picked
        return picked.masked_fill((rows == padding)[..., None], 0)

    return [Term(call["grad_output"], _written(call, {index: (0,)}, read))]


def _slices(call: Call) -> tuple[int, Ref, Axes]:
    """The axis along which slices are written, their index, and what it indexes."""
    rank = len(call.out_shape())
    dim = call["dim"] % max(rank, 1)
    return dim, call["index"], {call["index"]: (dim,) if rank else ()}


def _set(call: Call, source: Ref, axes: Axes, written: Callable[[], list[LinearMap]]) -> list[Term]:
    """The terms of an operation that overwrites; `written` is for an index that is not known."""
    terms: list[Term] = []
    if call.is_tangent(call["self"]):
        terms.append(Term(call["self"], _cleared(call, axes)))
    if call.is_tangent(source):
        is_known = not find_indices(call, axes).unknown
        terms.append(Term(source, _moved(call, source, axes) if is_known else written()))
    return terms


def _cleared(call: Call, axes: Axes) -> list[LinearMap]:
    """What remains of the target: all but what is overwritten."""
    found = find_indices(call, axes)
    if found.unknown:
        return []
    value = call.arguments.get("value")
    if value is None or isinstance(value, Ref):
        return _moved(call, call["self"], axes)
    (index,) = axes
    write = aten.index_fill if "index_fill" in call.node.name else aten.scatter
    dim, places = call["dim"], found.numbers[index.number]
    return [Move(lambda t: write(t, dim, places.to(t.device), 0))]


def _moved(call: Call, ref: Ref, axes: Axes) -> list[LinearMap]:
    """The operation itself, on one argument."""
    return [Move(alone(call, ref, find_indices(call, axes).numbers))]


def _written(call: Call, axes: Axes, read: Read) -> list[LinearMap]:
    """The transpose of reading, to all elements along the axes whose index is not known."""
    found, shape = find_indices(call, axes), call.out_shape()
    united = tuple([1 if d in found.unknown else n for d, n in enumerate(shape)])

    def run(tensor: Tensor) -> Tensor:
        return read(tensor, {n: i.to(tensor.device) for n, i in found.numbers.items()})

    maps: list[LinearMap] = [Deposit(run, united)]
    return [*maps, Scale(shape)] if found.unknown else maps
