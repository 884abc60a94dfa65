"""Convolutions of derivatives: each tap of the kernel moves them by a step."""

from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block, compatible, sums, united
from torchjac._evaluate.direct.patches import Landing, by_patches
from torchjac._evaluate.direct.taps import padded, through_taps
from torchjac._local.algebra import Convolve
from torchjac._pattern.windows import windows

# Zeros around a tensor may make it so many times as large before it is multiplied.
_MOST_AROUND = 1.5


def convolved(block: Block, convolve: Convolve, weight: Tensor) -> Block:
    """The derivatives of a convolution, those of different taps apart, then merged.

    Args:
        block: Derivatives of a tensor (batch, channels, *space).
        convolve: The convolution.
        weight: Its kernel.

    Returns:
        Derivatives of the result. Channels are summed at once where they share their inputs.
    """
    groups, space = convolve.groups, convolve.shape[2:]
    batch, channels, *given = block.shape
    index = block.index.reshape(block.slices, batch, groups, channels // groups, *given)
    shares = bool((index == index[:, :, :, :1]).all())
    if shares:
        index = index[:, :, :, :1]
    # (taps, slices, channels or 1, batch, groups, *space)
    seen = np.moveaxis(windows(index, convolve), (-1, 3), (0, 2))
    rows = seen.reshape(-1, batch, groups, *space)
    group_of = compatible(rows.reshape(len(rows), -1))
    count = int(group_of.max(initial=-1)) + 1
    joint = united(rows, group_of, count)
    landing = Landing(seen, group_of.reshape(seen.shape[:3]), joint, tuple(given))
    outputs = convolve.shape[1] // groups
    wide = np.repeat(joint[:, :, :, None], outputs, axis=3)
    kernel = _kernel(weight, convolve)
    values = by_patches(block, convolve, kernel, landing)
    if values is None:
        apart = _apart(block.values, convolve, kernel, shares=shares)
        slices = [part for tap in apart for part in tap.reshape(-1, *convolve.shape).unbind()]
        values = sums(slices, group_of, count)
    return Block(wide.reshape(count, *convolve.shape), values.reshape(count, *convolve.shape))


def _apart(values: Tensor, convolve: Convolve, kernel: Tensor, *, shares: bool) -> list[Tensor]:
    """What reaches each element of the result through each tap.

    Args:
        values: Derivatives of the argument.
        convolve: The convolution.
        kernel: Its kernel, shape (groups, out, in, taps).
        shares: Whether channels share their inputs, and are summed.

    Returns:
        For each tap, shape (k, batch, groups, out, *space); k channels if they are not summed.
    """
    groups = convolve.groups
    slices, batch, channels, *space = values.shape
    values = values.reshape(slices, batch, groups, channels // groups, *space)
    taps = prod(convolve.kernel[2:])
    moves_on = prod(convolve.stride) > 1
    if moves_on and not convolve.transposed:  # most elements miss most taps
        given = torch.stack(through_taps([padded(values, convolve)] * taps, convolve))
        return list(_products(given, kernel, shares=shares))
    around = values if moves_on else padded(values, convolve)
    if moves_on or around.numel() > _MOST_AROUND * values.numel():
        parts = _products(values[None], kernel, shares=shares)
        return through_taps(padded(parts, convolve), convolve)
    # Zeros that are there before need no care afterwards.
    return through_taps(_products(around[None], kernel, shares=shares), convolve)


def _products(values: Tensor, kernel: Tensor, *, shares: bool) -> Tensor:
    """The derivatives times each tap.

    Args:
        values: For each tap, or for all, shape (taps or 1, slices, batch, groups, in, *space).
        kernel: Shape (groups, out, in, taps).
        shares: Whether channels are summed; else each is a slice by itself.

    Returns:
        Shape (taps, slices, batch, groups, out, *space).
    """
    each, slices, batch, groups, channels, *space = values.shape
    _, outputs, _, taps = kernel.shape
    if not shares:
        values = values.expand(taps, *values.shape[1:]).flatten(5)
        apart = torch.einsum("tkbgcp,goct->tkcbgop", values, kernel)
        return apart.flatten(1, 2).unflatten(-1, space)
    flat = values.movedim((3, 4), (1, 2)).reshape(each * groups, channels, -1)
    weights = kernel.permute(3, 0, 1, 2)  # (taps, groups, out, in)
    if each == 1:  # all taps at once
        weights = weights.transpose(0, 1)
    rows = weights.numel() // (len(flat) * channels)
    sums = weights.reshape(len(flat), rows, channels) @ flat
    if each == 1:
        sums = sums.reshape(groups, taps, outputs, slices, batch, *space).transpose(0, 1)
    else:
        sums = sums.reshape(taps, groups, outputs, slices, batch, *space)
    return sums.movedim((1, 2), (3, 4))


def _kernel(weight: Tensor, convolve: Convolve) -> Tensor:
    """The kernel, shape (groups, out, in, taps), in the order of the taps."""
    groups, count = convolve.groups, prod(convolve.kernel[2:])
    if not convolve.transposed:
        return weight.reshape(groups, -1, convolve.kernel[1], count)
    flipped = weight.flip(tuple(range(2, weight.dim())))
    inputs = convolve.kernel[0] // groups
    return flipped.reshape(groups, inputs, -1, count).transpose(1, 2)
