"""Blocks of a Jacobian, and passes that make them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchjac._evaluate.seeds import BatchDims

# blocks[i][j]: derivative of output i by input j, None where it is known to be zero.
Blocks = list[list[Tensor | None]]
# product(seeds) -> one tensor per target, None where no path leads to it
Product = Callable[[Sequence[Tensor]], Sequence[Tensor | None]]


def apply_seeds(
    product: Product, seeds: Sequence[Tensor], *, stacked: bool
) -> Sequence[Tensor | None]:
    """Push or pull a chunk of seeds, together or one after the other.

    Args:
        product: One pass.
        seeds: Tensors with a leading axis of k seeds.
        stacked: Hand all k over at once.

    Returns:
        One tensor (k, *shape) per target, or None.
    """
    if stacked:
        return product(seeds)
    count = seeds[0].shape[0]
    single = [product([s[r] for s in seeds]) for r in range(count)]
    return [_stacked(column) for column in zip(*single, strict=True)]


def _stacked(column: Sequence[Tensor | None]) -> Tensor | None:
    """Rows on top of each other, in new memory, with zeros for those that are None."""
    like = next((row for row in column if row is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if row is None else row for row in column])


def rows_to_block(
    rows: Tensor | None, output: Tensor, x: Tensor, batch: BatchDims | None = None
) -> Tensor | None:
    """(m, *in) -> (*out, *in), or with samples -> (B, *out of one, *in of one)."""
    if rows is None:
        return None
    if batch is None:
        return rows.reshape(output.shape + x.shape)
    apart = rows.movedim(batch.inputs + 1, 0)
    return apart.reshape(block_shape(output, x, batch))


def columns_to_block(
    columns: Tensor | None, output: Tensor, x: Tensor, batch: BatchDims | None = None
) -> Tensor | None:
    """(n, *out) -> (*out, *in), or with samples -> (B, *out of one, *in of one): a view."""
    if columns is None:
        return None
    if batch is None:
        return columns.movedim(0, -1).reshape(output.shape + x.shape)
    apart = columns.movedim(batch.outputs + 1, 0).movedim(1, -1)
    return apart.reshape(block_shape(output, x, batch))


def block_shape(output: Tensor, x: Tensor, batch: BatchDims | None) -> torch.Size:
    """Shape of the block of one output and one input."""
    if batch is None:
        return output.shape + x.shape
    outer, inner = list(output.shape), list(x.shape)
    size = outer.pop(batch.outputs)
    inner.pop(batch.inputs)
    return torch.Size([size, *outer, *inner])
