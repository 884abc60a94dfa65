"""Several dense blocks out of one vector of entries, each by one operation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._layout.arrange import Arrangement
from torchjac._layout.slices import Slices


class _Tile(NamedTuple):
    """A dense block: its shape and strides, and its first entry, None if it has none."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int | None


@dataclass(frozen=True)
class Mosaic:
    """Dense blocks, each a run of entries or nothing but zeros.

    Attributes:
        tiles: The blocks.
    """

    tiles: tuple[_Tile, ...]

    def blocks(self, values: Tensor) -> list[Tensor]:
        """The blocks.

        Args:
            values: The entries in their order.

        Returns:
            Tensors that lie in the memory of `values`, or are zeros of their own.
        """
        values = values.contiguous()
        offset = values.storage_offset()
        return [
            values.new_zeros(shape)
            if start is None
            else values.as_strided(shape, strides, offset + start)
            for shape, strides, start in self.tiles
        ]


def mosaic_of(arrangements: Sequence[Arrangement]) -> Mosaic | None:
    """How to cut entries into blocks.

    Args:
        arrangements: Of the blocks.

    Returns:
        The mosaic; None unless every block is dense, and is a run of entries or zero.
    """
    tiles = [_tile(where) for where in arrangements]
    known = tuple([tile for tile in tiles if tile is not None])
    return Mosaic(known) if len(known) == len(tiles) else None


def _tile(where: Arrangement) -> _Tile | None:
    if where.layout is not torch.strided:
        return None
    strides = torch.empty(where.shape, device="meta").stride()
    if where.stored == (0,):
        return _Tile(where.shape, strides, None)
    run = where.take
    if where.put is None and isinstance(run, Slices) and run.strides in ((), (1,)):
        return _Tile(where.shape, strides, run.offset)
    return None
