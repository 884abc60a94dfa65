"""A part of a Jacobian that was computed by itself, as a linear map on derivatives.

Its derivatives come as blocks: by the input for each element of the output, or, from a transposed
program, by the output for each element of the input. Mostly their indices are regular: along an
axis of the other tensor they change with the slice alone, or they follow an axis of the tensor
itself, which is then an axis of batches, tokens or the like. Such a block is a tensor of so many
axes, and is multiplied by one product of matrices, or one for each batch. Others are multiplied
entry by entry, or laid out densely if their rows are long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.apart import sources_of
from torchjac._evaluate.direct.blocks import Block, IntArray

# Rows that are longer than this, counting each entry as so many products, are laid out densely.
_LONG, _ENTRY = 8, 8
_OWN, _OTHER = "abcdefghijklm", "ABCDEFGHIJKLM"

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Regular:
    """A map from one tensor to another as an array.

    out[...] = sum over the axes of the input that `letters` has and `out` has not

    Attributes:
        source: Place of the input among the tensors of its cut.
        target: Place of the output among those of its own.
        values: The coefficients.
        letters: Names of their axes.
        inner: Names of the axes of the input.
        outer: Names of the axes of the output.
        shape: Shape of the output.
    """

    source: int
    target: int
    values: Tensor
    letters: str
    inner: str
    outer: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Entries:
    """A map from one tensor to another entry by entry.

    Attributes:
        source: Place of the input among the tensors of its cut.
        target: Place of the output among those of its own.
        block: Of the output, its index counting elements of the input from 1.
    """

    source: int
    target: int
    block: Block


Piece = Regular | Entries


def pieces(
    carried: Sequence[Sequence[Block]], others: Sequence[Shape], *, by_output: bool
) -> list[Piece]:
    """The map that blocks stand for.

    Args:
        carried: For each tensor of one cut its blocks, which count the elements of all tensors of
            the other cut one after the other, from 1.
        others: Shapes of the tensors of the other cut.
        by_output: Whether the blocks are those of inputs, by outputs, and not the other way round.

    Returns:
        Its pieces: their sum is the map.
    """
    starts = np.cumsum([0, *[prod(shape) for shape in others]])
    found: list[Piece] = []
    for own, blocks in enumerate(carried):
        for block in blocks:
            for other, shape in enumerate(others):
                part = _within(block, int(starts[other]), int(starts[other + 1]))
                if part is not None:
                    found.append(_piece(part, own, other, shape, by_output=by_output))
    return found


def _within(block: Block, start: int, stop: int) -> Block | None:
    """The derivatives by some of the elements, counted anew from 1."""
    inside = (block.index > start) & (block.index <= stop)
    kept = np.flatnonzero(inside.reshape(block.slices, -1).any(axis=1))
    if not len(kept):
        return None
    index, values = block.index, block.values
    if len(kept) < block.slices:
        index, inside = index[kept], inside[kept]
        values = values[_tensor(kept, values)]
    if (inside | (index == 0)).all():
        return Block(index - np.int32(start) * inside, values)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    kept_values = torch.where(torch.from_numpy(inside).to(values.device), values, zero)
    return Block(np.where(inside, index - np.int32(start), np.int32(0)), kept_values)


def _piece(block: Block, own: int, other: int, shape: Shape, *, by_output: bool) -> Piece:
    source, target = (own, other) if by_output else (other, own)
    if max(len(shape), len(block.shape)) > len(_OWN):  # there are not letters for all axes
        return Entries(source, target, _turned(block, shape) if by_output else block)
    regular = _regular(block, own, other, shape, by_output=by_output)
    if regular is not None:
        return regular
    if block.slices > _LONG and block.slices * _ENTRY > prod(shape):
        return _dense(block, source, target, shape, by_output=by_output)
    return Entries(source, target, _turned(block, shape) if by_output else block)


def _dense(block: Block, source: int, target: int, shape: Shape, *, by_output: bool) -> Regular:
    """All elements of both tensors, zeros included."""
    own, other = prod(block.shape), prod(shape)
    index = block.index.reshape(block.slices, own)
    slices, elements = np.nonzero(index)
    places = elements * other + index[slices, elements] - 1
    found = block.values.reshape(-1)[_tensor(slices * own + elements, block.values)]
    matrix = block.values.new_zeros(own * other)
    matrix = matrix.index_add(0, _tensor(places, block.values), found)
    mine, its = _OWN[: len(block.shape)], _OTHER[: len(shape)]
    values = matrix.reshape((*block.shape, *shape))
    if by_output:
        return Regular(source, target, values, mine + its, mine, its, shape)
    return Regular(source, target, values, mine + its, its, mine, block.shape)


def _turned(block: Block, shape: Shape) -> Block:
    """Derivatives by the elements of the tensor itself, for each element of the other one."""
    index = block.index.ravel()
    entries = sources_of(index, prod(shape))  # counted from 1, 0 for none
    elements = np.arange(index.size, dtype=np.int32) % max(prod(block.shape), 1) + 1
    turned = np.append(np.int32(0), elements)[entries]
    values = torch.nn.functional.pad(block.values.reshape(-1), (1, 0))
    picked = values[_tensor(entries, values)]
    return Block(turned.reshape(-1, *shape), picked.reshape(-1, *shape))


def _tensor(numbers: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.require(numbers, np.int64, ["C", "W"])).to(like.device)


def _regular(
    block: Block, own: int, other: int, shape: Shape, *, by_output: bool
) -> Regular | None:
    """The block as an array, if along each axis of the other tensor its index is regular."""
    letters = _other_letters(block, shape)
    if letters is None:
        return None
    mine = _OWN[: len(block.shape)]
    rest = "".join([c for c in letters if c not in mine])
    values = _in_order(block, shape, letters, rest)
    axes = rest + mine
    if by_output:
        return Regular(own, other, values, axes, mine, letters, shape)
    return Regular(other, own, values, axes, letters, mine, block.shape)


def _other_letters(block: Block, shape: Shape) -> str | None:
    """Names of the axes of the other tensor: those of this one where both go together."""
    live = block.index > 0
    found = ""
    for axis, part in enumerate(_coordinates(block, shape)):
        per_slice = np.where(live, part, -1).reshape(block.slices, -1).max(axis=1)
        wide = per_slice.reshape(-1, *(1,) * len(block.shape))
        if (~live | (part == wide)).all():
            found += _OTHER[axis]
            continue
        together = _together(part, live, block.shape, shape[axis], found)
        if together is None:
            return None
        found += together
    return found


def _coordinates(block: Block, shape: Shape) -> Sequence[IntArray]:
    """Where along each axis of the other tensor the index lies."""
    return np.unravel_index(np.maximum(block.index - 1, 0), shape) if shape else ()


def _together(part: IntArray, live: IntArray, own: Shape, length: int, taken: str) -> str | None:
    for dim, size in enumerate(own):
        if size == length and _OWN[dim] not in taken:
            along = np.arange(size).reshape(-1, *(1,) * (len(own) - dim - 1))
            if (~live | (part == along)).all():
                return _OWN[dim]
    return None


def _in_order(block: Block, shape: Shape, letters: str, rest: str) -> Tensor:
    """The slices in the order of the axes that change with them, which take their place."""
    lengths = [n for n, c in zip(shape, letters, strict=True) if c in rest]
    live = block.index > 0
    places = np.zeros(block.slices, np.int64)
    for c, part in zip(letters, _coordinates(block, shape), strict=True):
        if c in rest:
            per_slice = np.where(live, part, 0).reshape(block.slices, -1).max(axis=1)
            places = places * shape[letters.index(c)] + per_slice
    values, count = block.values, prod(lengths)
    if len(places) != count or not np.array_equal(places, np.arange(count)):
        order = np.argsort(places)
        if len(places) == count and np.array_equal(places[order], np.arange(count)):
            values = values[_tensor(order, values)]
        else:
            values = values.new_zeros(count, *block.shape).index_add(
                0, _tensor(places, values), values
            )
    return values.reshape((*lengths, *block.shape))
