"""Elements read by index.

An index whose numbers are known makes a move. One that depends on x may name anything along the
axes that it indexes: there all elements are united first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import LinearMap, Move, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule
from torchjac._local.rules.movement import alone
from torchjac._local.windows import read_by_choice

aten = torch.ops.aten
Axes = Mapping[Ref, tuple[int, ...]]


class Indices(NamedTuple):
    """The indices of an operation.

    Attributes:
        numbers: Those that are known, and zeros for the others, by number of the tensor.
        unknown: The axes that the others index.
    """

    numbers: Mapping[int, Tensor]
    unknown: tuple[int, ...]


def find_indices(call: Call, axes: Axes) -> Indices:
    """The numbers of indices, as far as they are known.

    Args:
        call: The operation.
        axes: The axes that each index or mask indexes, none negative.

    Returns:
        The numbers. A mask that is not known holds everywhere.
    """
    numbers: dict[int, Tensor] = {}
    unknown: set[int] = set()
    for ref, indexed in axes.items():
        known = call.index(ref)
        if known is None:
            unknown.update(indexed)
            is_mask = call.value(ref).dtype == torch.bool
            known = torch.full(call.shape(ref), is_mask, dtype=call.value(ref).dtype)
        numbers[ref.number] = known.cpu()
    return Indices(numbers, tuple(sorted(unknown)))


def indexed_axes(indices: Sequence[Ref | None], values: Call) -> Axes:
    """The axes that each of the indices of `x[a, b, ...]` indexes; a mask has several."""
    axes: dict[Ref, tuple[int, ...]] = {}
    start = 0
    for ref in indices:
        count = 1
        if ref is not None:
            value = values.value(ref)
            count = len(value.shape) if value.dtype in (torch.bool, torch.uint8) else 1
            axes[ref] = (*axes.get(ref, ()), *range(start, start + count))
        start += count
    return axes


def unknown_mask(call: Call, axes: Axes) -> Ref | None:
    """A mask among the indices whose numbers are not known."""
    masks = [ref for ref in axes if call.value(ref).dtype in (torch.bool, torch.uint8)]
    return next((ref for ref in masks if call.index(ref) is None), None)


@rule(aten.gather)
def gather(call: Call) -> Terms:
    """Elements along one axis, by index.

    gather(t, dim, index)               ->  t: Move(gather)
    With an index of max_pool2d         ->  t: Convolve
    With an index that depends on x     ->  t: Reduce(dim), Move(gather with zeros)
    """
    source, index = call["self"], call["index"]
    if list(call.tangents()) != [source]:
        return NotImplemented
    shape = call.shape(source)
    dim = call["dim"] % max(len(shape), 1)
    if call.index(index) is None:
        maps = read_by_choice(call, index, dim, shape, call.out_shape())
        if maps is not None:
            return [Term(source, maps)]
    return _read(call, source, {index: (dim,) if shape else ()})


@rule(aten.index_select)
def index_select(call: Call) -> Terms:
    """Slices along one axis, by index.

    index_select(t, dim, index)  ->  t: Move(index_select)
    """
    source = call["self"]
    rank = len(call.shape(source))
    return _read(call, source, {call["index"]: (call["dim"] % rank,) if rank else ()})


@rule(aten.take)
def take(call: Call) -> Terms:
    """Elements by their number in the tensor laid out flat.

    take(t, index)  ->  t: Move(take)
    """
    source = call["self"]
    return _read(call, source, {call["index"]: tuple(range(len(call.shape(source))))})


@rule(aten.embedding)
def embedding(call: Call) -> Terms:
    """Rows of a table.

    embedding(t, index)  ->  t: Move(embedding)
    """
    return _read(call, call["weight"], {call["indices"]: (0,)})


@rule(aten.index, aten._unsafe_index)
def index(call: Call) -> Terms:
    """Elements named by several indices or masks.

    index(t, [None, i])              ->  t: Move(index)
    With i that depends on x         ->  t: Reduce(1), Move(index with zeros)
    """
    source, indices = call["self"], call["indices"]
    axes = indexed_axes(indices, call)
    mask = unknown_mask(call, axes)
    if mask is None:
        return _read(call, source, axes)
    if len(axes) > 1 or list(call.tangents()) != [source]:
        return NotImplemented
    # As many elements along one axis as the mask holds, any of those under it.
    start, shape = axes[mask][0], call.out_shape()
    united = (*shape[:start], 1, *shape[start + 1 :])
    maps = [Reduce(axes[mask]), Move(lambda t: t.reshape(united)), Scale(shape)]
    return [Term(source, maps)]


@rule(aten._unsafe_masked_index)
def masked_index(call: Call) -> Terms:
    """Elements by index where a mask holds, a number elsewhere.

    _unsafe_masked_index(t, mask, [i], fill)  ->  t: Move(_unsafe_masked_index)
    """
    source, mask, indices = call["self"], call["mask"], call["indices"]
    if list(call.tangents()) != [source]:
        return NotImplemented
    axes = {mask: (), **indexed_axes(indices, call)}
    found = find_indices(call, axes)
    read = Move(lambda t: read_under_mask(t, found.numbers, mask, indices))
    return [Term(source, [*_unite(found.unknown), read])]


def read_under_mask(
    tensor: Tensor, numbers: Mapping[int, Tensor], mask: Ref, indices: Sequence[Ref | None]
) -> Tensor:
    """Elements by index where a mask holds, zero elsewhere."""
    places: list[Any] = [None if ref is None else numbers[ref.number] for ref in indices]
    return aten._unsafe_masked_index(tensor, numbers[mask.number], places, 0)


@rule(aten.masked_select, aten.masked_scatter_backward)
def masked_select(call: Call) -> Terms:
    """The elements where a mask holds, in order.

    masked_select(t, mask)              ->  t: Move(masked_select)
    With a mask that depends on x       ->  t: Reduce, Scale
    """
    source, mask = call.node.args[:2]
    known = call.index(mask)
    if known is not None:
        return [Term(source, [Move(alone(call, source, {mask.number: known}))])]
    return [Term(source, [Reduce(tuple(range(len(call.shape(source))))), Scale(call.out_shape())])]


def _read(call: Call, source: Ref, axes: Axes) -> Terms:
    if list(call.tangents()) != [source]:
        return NotImplemented
    found = find_indices(call, axes)
    return [Term(source, [*_unite(found.unknown), Move(alone(call, source, found.numbers))])]


def _unite(unknown: tuple[int, ...]) -> list[LinearMap]:
    return [Reduce(unknown, keepdim=True)] if unknown else []
