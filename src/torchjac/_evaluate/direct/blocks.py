"""Slices of partial derivatives that a tensor carries, and the inputs they belong to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[Any]

# Elements that are looked at to tell slices apart quickly.
_SAMPLE = 1024
# More slices than this are added up by a scatter.
_MOST_ADDED = 128
# A slice is compared with so many others before it gets a place of its own.
_MOST_COMPARED = 64


class Factors(NamedTuple):
    """Derivatives as products of known numbers and of what all derivatives of an element share.

    Attributes:
        weights: The same at every x, shape (k, *S).
        shared: Gives the other factor, shape S. It is a function, since few ask.
    """

    weights: Tensor
    shared: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Summands:
    """Derivatives of a tensor of shape S before those of one element were added up.

    Attributes:
        index: Numbers of the input elements, as in a block, shape (k, m).
        values: The derivatives, shape (k, m).
        elements: Which element of S, laid out flat, each of the m belongs to; several may belong
            to one.
    """

    index: IntArray
    values: Tensor
    elements: IntArray


@dataclass(frozen=True, eq=False)
class Block:
    """Partial derivatives of a tensor of shape S by one input element each.

    values[s, e] = d tensor[e] / d input[index[s, e] - 1], for each of k slices s

    Attributes:
        index: Number of the input element, counted from 1; 0 where the derivative is zero. int32,
            shape (k, *S).
        values: The derivatives, shape (k, *S).
        factors: What they are products of, where that is known.
        summands: What they are sums of, where they have just been added up.
    """

    index: IntArray
    values: Tensor
    factors: Factors | None = None
    summands: Summands | None = None

    @property
    def slices(self) -> int:
        """How many derivatives each element has here."""
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.index.shape[1:]

    @cached_property
    def key(self) -> int:
        """The same for two blocks with the same index."""
        return hash((self.index.shape, int(self.fingerprints.sum())))

    @cached_property
    def fingerprints(self) -> IntArray:
        """A number for each slice, the same for equal ones."""
        return fingerprints(self.index.reshape(self.slices, -1))


def fingerprints(rows: IntArray) -> IntArray:
    """A number for each row, the same for equal rows, most likely other ones for others.

    Args:
        rows: Integers, shape (k, n).

    Returns:
        int64, shape (k,).
    """
    sample = rows[:, :: max(1, rows.shape[1] // _SAMPLE)].astype(np.int64)
    return sample @ _weights(sample.shape[1])


@lru_cache(maxsize=64)
def _weights(count: int) -> IntArray:
    return np.random.default_rng(0).integers(1, 2**40, count)


def added(blocks: Sequence[Block]) -> list[Block]:
    """The sum of blocks: those with one index become one."""
    if len(blocks) < 2:
        return list(blocks)
    first, *others = blocks
    if all([other.index is first.index for other in others]):
        return [Block(first.index, reduce(torch.add, [block.values for block in blocks]))]
    groups: dict[int, list[Block]] = {}
    for block in blocks:
        alike = groups.setdefault(block.key, [])
        for place, other in enumerate(alike):
            if other.index is block.index or np.array_equal(other.index, block.index):
                alike[place] = Block(other.index, other.values + block.values)
                break
        else:
            alike.append(block)
    return [block for alike in groups.values() for block in alike]


def merged(block: Block) -> Block:
    """Add up the slices that never name different inputs for one element.

    Args:
        block: Slices of which some may belong together.

    Returns:
        A block with fewer slices, or the same.
    """
    groups = compatible(block.index.reshape(block.slices, -1))
    count = int(groups.max(initial=-1)) + 1
    if count == block.slices:
        return block
    return Block(united(block.index, groups, count), sums(block.values, groups, count))


def united(index: IntArray, groups: IntArray, count: int) -> IntArray:
    """The inputs that the slices of each group name.

    Args:
        index: Of slices that go together, shape (k, *S).
        groups: Group of each slice, shape (k,).
        count: Number of groups.

    Returns:
        int32, shape (count, *S).
    """
    united = np.zeros((count, *index.shape[1:]), np.int32)
    for slice_index, group in zip(index, groups, strict=True):
        np.maximum(united[group, ...], slice_index, out=united[group, ...])
    return united


def compacted(blocks: Sequence[Block]) -> list[Block]:
    """Add up slices of different blocks that never name different inputs for one element.

    Args:
        blocks: Of one tensor.

    Returns:
        Blocks of one slice each, or the same if there is nothing to gain.
    """
    if len(blocks) < 2 or sum([block.slices for block in blocks]) > _MOST_ADDED:
        return list(blocks)
    slices = [Block(b.index[s, None], b.values[s, None]) for b in blocks for s in range(b.slices)]
    groups = compatible(np.concatenate([s.index.reshape(1, -1) for s in slices]))
    if groups.max(initial=-1) + 1 == len(slices):
        return list(blocks)
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    return [reduce(_overlaid, [slices[m] for m in member]) for member in members]


def _overlaid(a: Block, b: Block) -> Block:
    return Block(np.maximum(a.index, b.index), a.values + b.values)


def sums(slices: Tensor | Sequence[Tensor], groups: IntArray, count: int) -> Tensor:
    """Slices added up by group: one by one where they are few, which a compiler can fuse.

    Args:
        slices: Tensors of one shape S.
        groups: Group of each slice, shape (k,).
        count: Number of groups.

    Returns:
        Shape (count, *S).
    """
    if len(groups) > _MOST_ADDED:
        values = slices if isinstance(slices, Tensor) else torch.stack(list(slices))
        where = torch.from_numpy(groups).to(values.device)
        return values.new_zeros(count, *values.shape[1:]).index_add(0, where, values)
    parts = list(slices)
    members = [np.flatnonzero(groups == group) for group in range(count)]
    return torch.stack([reduce(torch.add, [parts[m] for m in member]) for member in members])


def compatible(rows: IntArray) -> IntArray:
    """Which slices go together, since they never name different inputs for one element.

    Args:
        rows: Index of each slice, shape (k, n).

    Returns:
        The group of each slice, shape (k,), counted from 0.
    """
    # Rows of a group agree wherever both are not zero, so at the element that most rows have an
    # input for they name the same or one of them none: only such rows are compared.
    if not rows.size:
        return np.arange(len(rows))
    center = int((rows != 0).sum(axis=0).argmax())
    unions: list[IntArray] = []
    by_center: dict[int, list[int]] = {}
    groups = np.empty(len(rows), np.int64)
    for place, row in enumerate(rows):
        named = int(row[center])
        alike = [*by_center.get(named, ())]
        alike += by_center.get(0, ()) if named else range(len(unions))
        for number in alike[:_MOST_COMPARED]:
            union = unions[number]
            if ((row == union) | (row == 0) | (union == 0)).all():
                if named and not union[center]:
                    by_center[0].remove(number)
                    by_center.setdefault(named, []).append(number)
                np.maximum(union, row, out=union)
                groups[place] = number
                break
        else:
            by_center.setdefault(named, []).append(len(unions))
            groups[place] = len(unions)
            unions.append(row.copy())
    return groups
