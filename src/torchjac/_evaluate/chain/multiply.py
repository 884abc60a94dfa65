"""A product of two parts of a Jacobian: derivatives in blocks, sent through a map."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.chain.factor import Entries, Piece, Regular
from torchjac._evaluate.direct.apart import gathered, varying
from torchjac._evaluate.direct.blocks import Block, IntArray, added, merged

_SLICES = "z"


def multiplied(
    carried: Sequence[Sequence[Block]],
    factor: Sequence[Piece],
    results: Sequence[torch.dtype],
    check_room: Callable[[int], None],
) -> list[list[Block]]:
    """The derivatives behind a map.

    Args:
        carried: Those of each tensor before it.
        factor: The map.
        results: Data types of the tensors behind it.
        check_room: Raises an error if so many derivatives are too many.

    Returns:
        Blocks of each tensor behind it.
    """
    sums: list[list[Block]] = [[] for _ in results]
    for piece in factor:
        send = _through_entries if isinstance(piece, Entries) else _through_array
        for block in carried[piece.source]:
            found = send(block, piece, check_room)  # pyright: ignore[reportArgumentType]
            values = found.values.to(results[piece.target])
            sums[piece.target].append(Block(found.index, values))
    return [added(blocks) for blocks in sums]


def _through_entries(block: Block, piece: Entries, check_room: Callable[[int], None]) -> Block:
    rows = piece.block
    check_room(block.slices * rows.index.size)
    picked = gathered(block, np.require(rows.index, requirements=["C", "W"]))
    values = picked.values.unflatten(0, (block.slices, rows.slices)) * rows.values
    return merged(Block(picked.index, values.flatten(0, 1)))


def _through_array(block: Block, piece: Regular, check_room: Callable[[int], None]) -> Block:
    # Over an axis along which the inputs of the derivatives change, the products stay apart, and
    # it becomes an axis of slices.
    summed = [d for d, c in enumerate(piece.inner) if c not in piece.outer]
    apart = varying(block, summed)
    check_room(block.slices * prod([block.shape[d] for d in apart]) * prod(piece.shape))
    over = tuple([d + 1 for d in summed if d not in apart])
    index = block.index.max(axis=over, initial=0) if over else block.index
    named = _SLICES + "".join([c for d, c in enumerate(piece.inner) if d + 1 not in over])
    kept = _SLICES + "".join([piece.inner[d] for d in apart])
    kept = _rising(index, named, kept)
    index = _arranged(index, named, kept, piece)
    values = _contracted(block.values, piece, kept).reshape(index.shape)
    return merged(Block(index, values)) if apart else Block(index, values)


def _rising(index: IntArray, named: str, kept: str) -> str:
    """The axes of slices in the order in which the inputs of the slices rise, if there is one."""
    steps = {}
    for axis in kept:
        most = index.max(axis=tuple([d for d, c in enumerate(named) if c != axis]))
        steps[axis] = int(most[1]) - int(most[0]) if len(most) > 1 else 0
    return "".join(sorted(kept, key=lambda axis: -steps[axis]))


def _arranged(index: IntArray, named: str, kept: str, piece: Regular) -> IntArray:
    """Axes of slices in front, then those of the result, some of them new."""
    wanted = kept + piece.outer
    order = [named.index(c) for c in wanted if c in named]
    lengths = [index.shape[named.index(c)] for c in kept]
    new = [d for d, c in enumerate(wanted) if c not in named]
    wide = np.expand_dims(index.transpose(order), new)
    found = np.broadcast_to(wide, (*lengths, *piece.shape)).reshape(-1, *piece.shape)
    return np.require(found, requirements=["C", "W"])


def _contracted(values: Tensor, piece: Regular, kept: str) -> Tensor:
    """One product of matrices, or one for each index along the axes that both have and keep."""
    dtype = torch.promote_types(values.dtype, piece.values.dtype)
    wanted, named = kept + piece.outer, _SLICES + piece.inner
    batch = "".join([c for c in piece.inner if c in wanted])
    summed = "".join([c for c in piece.inner if c not in wanted])
    new = "".join([c for c in piece.outer if c not in batch])
    sizes = dict(zip(named, values.shape, strict=True))
    sizes |= dict(zip(piece.letters, piece.values.shape, strict=True))
    left = _matrices(values.to(dtype), named, (batch, _SLICES, summed))
    right = _matrices(piece.values.to(dtype), piece.letters, (batch, summed, new))
    product = left * right if not summed else left @ right
    found = product.reshape([sizes[c] for c in batch + _SLICES + new])
    return found.permute([(batch + _SLICES + new).index(c) for c in wanted])


def _matrices(values: Tensor, named: str, groups: tuple[str, str, str]) -> Tensor:
    """Axes gathered in three groups, two if there are no batches."""
    sizes = dict(zip(named, values.shape, strict=True))
    moved = values.permute([named.index(c) for group in groups for c in group])
    lengths = [prod([sizes[c] for c in group]) for group in groups]
    return moved.reshape(lengths if groups[0] else lengths[1:])
