"""Derivatives of a few elements of a tensor: long rows beside short ones.

An element that is a sum over all inputs has as many derivatives as there are inputs. In a tensor
with many others, a block would have as many slices for each of these too, nearly all of them zero.
So such elements are carried apart as long as operations only move and scale them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block, IntArray
from torchjac._evaluate.direct.extremes import extremes
from torchjac._local.algebra import Deposit, LinearMap, Move, Scale, Term

# So many slices or fewer are no long rows, and zeros in them are not worth a thought.
_FEW_SLICES = 32
# A tensor is sparsely filled if it has so many times the elements that were put into it.
_SPARSE = 4
_MOVES = frozenset({Move, Deposit})


@dataclass(frozen=True, eq=False)
class Placed:
    """Derivatives of some elements of a tensor of shape S; the others have none here.

    Attributes:
        block: Derivatives of these elements, in a row: a block of shape (m,).
        elements: Which they are, S laid out flat, shape (m,).
        shape: S.
    """

    block: Block
    elements: IntArray
    shape: tuple[int, ...]


Part = Block | Placed


def whole(part: Part) -> Block:
    """The derivatives with a place for each element.

    Args:
        part: Of a tensor of shape S.

    Returns:
        A block of shape S.
    """
    if isinstance(part, Block):
        return part
    block, count = part.block, prod(part.shape)
    index = np.zeros((block.slices, count), np.int32)
    index[:, part.elements] = block.index
    values = block.values.new_zeros(block.slices, count)
    values = values.index_copy(1, _tensor(part.elements, values), block.values)
    shape = (block.slices, *part.shape)
    return Block(index.reshape(shape), values.reshape(shape))


def split(parts: Sequence[Part]) -> tuple[list[Block], list[Placed]]:
    """Blocks of a tensor, and those of few of its elements.

    Args:
        parts: Derivatives of a tensor.

    Returns:
        The two kinds.
    """
    blocks = [part for part in parts if isinstance(part, Block)]
    return blocks, [part for part in parts if isinstance(part, Placed)]


def moved(
    part: Part,
    terms: Sequence[Term],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    on: Callable[[Tensor], Tensor],
) -> list[Placed] | None:
    """What an operation makes of the derivatives of few elements.

    Args:
        part: Derivatives of its argument; a block if that has few elements in all.
        terms: The terms of the result that hold it.
        shape: Of the result.
        dtype: Likewise.
        on: The operation, as a function of that argument alone, others being zero.

    Returns:
        Derivatives of few elements of the result. None if they are not few, or if the operation
        does more than move and scale them.
    """
    kinds = {type(m) for term in terms for m in term.maps}
    is_alone = len(terms) == 1
    if not kinds <= (_MOVES | {Scale} if is_alone else {Move}):
        return None
    given = part if isinstance(part, Placed) else _flat(part, shape)
    if given is None or given.block.values.is_complex():
        return None
    results: list[Placed] = []
    for term in terms:
        found = _followed(given, term.maps)
        if found is None or _SPARSE * np.count_nonzero(found) > found.size:
            return None
        elements = np.flatnonzero(found)
        sources = found[elements] - 1
        block, values = given.block, given.block.values
        if not np.array_equal(sources, np.arange(len(given.elements))):
            values = values.index_select(1, _tensor(sources, values))
        if kinds != {Move}:
            # Other elements have to be zero, since several may be added up in one place.
            factor = on(_ones(given, values)).reshape(-1)
            values = values * factor.index_select(0, _tensor(elements, values))
        moved_block = Block(block.index[:, sources], values.to(dtype))
        results.append(Placed(moved_block, elements, shape))
    return results


def _flat(block: Block, shape: tuple[int, ...]) -> Placed | None:
    """A block as derivatives of few elements, if it is better kept like that in a larger tensor."""
    count = prod(block.shape)
    if block.slices <= _FEW_SLICES or _SPARSE * count > prod(shape):
        return None
    flat = Block(block.index.reshape(-1, count), block.values.reshape(-1, count))
    return Placed(flat, np.arange(count), block.shape)


def _followed(part: Placed, maps: Sequence[LinearMap]) -> IntArray | None:
    """Which of the elements comes to each of the result, counted from 1, None if several do."""
    labels = np.zeros(prod(part.shape), np.int32)
    labels[part.elements] = np.arange(1, len(part.elements) + 1)
    found = extremes(labels.reshape(part.shape), maps)
    return found.high.ravel() if np.array_equal(found.low, found.high) else None


def _ones(part: Placed, like: Tensor) -> Tensor:
    """One at the elements that have derivatives, zero elsewhere."""
    ones = like.new_zeros(prod(part.shape))
    return ones.index_fill(0, _tensor(part.elements, like), 1).reshape(part.shape)


def _tensor(numbers: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers, np.int64)).to(like.device)
