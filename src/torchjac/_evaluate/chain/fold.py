"""Small blocks of derivatives added into a large one that has a place for each of their entries."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from torchjac._evaluate.direct.blocks import Block, IntArray

# Blocks with fewer slices stay apart: stencils are put in order slice by slice.
_LARGE = 17


def folded(blocks: Sequence[Block]) -> list[Block]:
    """The same sum in fewer blocks: what goes round a large one by a residual connection, say.

    Args:
        blocks: Of one tensor.

    Returns:
        The largest block with others added to it, and those that would not fit.
    """
    if len(blocks) < 2 or max([block.slices for block in blocks]) < _LARGE:
        return list(blocks)
    first, *others = sorted(blocks, key=lambda block: (-block.slices, not _rises(block)))
    same = [(block, order) for block in others if (order := _order(block, first)) is not None]
    values = first.values
    for block, order in same:
        values = values + block.values[_tensor(order, block)]
    others = [block for block in others if not any([block is other for other, _ in same])]
    values, rest = _with_entries(Block(first.index, values), others)
    return [Block(first.index, values), *folded(rest)]


def _inputs(block: Block) -> IntArray | None:
    """The input of each slice, None unless it is the same for all elements."""
    index = block.index.reshape(block.slices, -1)
    return index[:, 0] if index.size and (index == index[:, :1]).all() else None


def _rises(block: Block) -> bool:
    inputs = _inputs(block)
    return inputs is not None and bool((np.diff(inputs) > 0).all())


def _order(block: Block, first: Block) -> IntArray | None:
    """Where the slices of one block are in another, if these have one input each."""
    if block.slices != first.slices:
        return None
    ours, its = _inputs(first), _inputs(block)
    if ours is None or its is None or not np.array_equal(np.sort(ours), np.sort(its)):
        return None
    return np.argsort(its)[np.argsort(np.argsort(ours))]


def _with_entries(first: Block, others: Sequence[Block]) -> tuple[torch.Tensor, list[Block]]:
    """The values of a block with the entries of others added, and those without a place."""
    if not others:
        return first.values, []
    slices = _Slices(first)
    rest: list[Block] = []
    where: list[IntArray] = []
    what: list[torch.Tensor] = []
    for block in others:
        live = np.flatnonzero(block.index)
        places = slices.places(block.index.ravel()[live], live % max(prod(block.shape), 1))
        if places is None:
            rest.append(block)
            continue
        where.append(places)
        what.append(block.values.reshape(-1)[_tensor(live, block)])
    values = first.values
    if where:
        places = _tensor(np.concatenate(where), first)
        values = values.reshape(-1).index_add(0, places, torch.cat(what)).reshape(values.shape)
    return values, rest


class _Slices:
    """Where the derivative of each element by each input stands in a block."""

    def __init__(self, block: Block) -> None:
        self._count = prod(block.shape)
        keys = (
            block.index.reshape(-1, self._count).astype(np.int64) * self._count
            + np.arange(self._count)
        ).ravel()
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def places(self, inputs: IntArray, elements: IntArray) -> IntArray | None:
        """Places in the values laid out flat, None if there are not places for all."""
        keys = inputs.astype(np.int64) * self._count + elements
        found = np.searchsorted(self._sorted, keys)
        found = np.minimum(found, len(self._sorted) - 1)
        return self._order[found] if np.array_equal(self._sorted[found], keys) else None


def _tensor(numbers: IntArray, block: Block) -> torch.Tensor:
    return torch.from_numpy(np.require(numbers, np.int64, ["C", "W"])).to(block.values.device)
