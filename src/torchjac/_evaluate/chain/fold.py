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
    first, *others = sorted(blocks, key=lambda block: -block.slices)
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
    if not where:
        return list(blocks)
    values = first.values.reshape(-1).clone()
    values = values.index_add(0, _tensor(np.concatenate(where), first), torch.cat(what))
    return [Block(first.index, values.reshape(first.values.shape)), *folded(rest)]


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
