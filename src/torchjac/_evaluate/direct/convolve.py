"""Convolutions of derivatives: each tap of the kernel moves them by a step."""

from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchjac._evaluate.direct.blocks import Block, merged_slices
from torchjac._local.algebra import Convolve
from torchjac._pattern.windows import windows


def convolved(block: Block, convolve: Convolve, weight: Tensor) -> Block:
    """The derivatives of a convolution, those of different taps apart, then merged.

    Args:
        block: Derivatives of a tensor (batch, channels, *space).
        convolve: The convolution.
        weight: Its kernel.

    Returns:
        Derivatives of the result. Channels are summed at once where they share their inputs.
    """
    groups = convolve.groups
    batch, channels, *space = block.shape
    index = block.index.reshape(block.slices, batch, groups, channels // groups, *space)
    values = block.values.reshape(block.slices, batch, groups, channels // groups, prod(space))
    kernel = _kernel(weight, convolve)
    if (index == index[:, :, :, :1]).all():
        values = _summed(values, kernel)
        index = index[:, :, :, :1]
    else:
        values = torch.einsum("kbgcp,goct->tkcbgop", values, kernel).flatten(1, 2)
        index = np.moveaxis(index, 3, 1).reshape(-1, batch, groups, 1, *space)
    outputs = convolve.shape[1] // groups
    index = np.broadcast_to(index, (len(index), batch, groups, outputs, *space))
    index = np.moveaxis(windows(index, convolve), -1, 0).reshape(-1, *convolve.shape)
    taps = _taps(values.unflatten(-1, space), convolve)
    slices = [part for tap in taps for part in tap.reshape(-1, *convolve.shape).unbind()]
    return merged_slices(index, slices)


def _summed(values: Tensor, kernel: Tensor) -> Tensor:
    """Sums over channels, shape (taps, slices, batch, groups, out, points), as one product."""
    slices, batch, groups, channels, points = values.shape
    flat = values.permute(2, 3, 0, 1, 4).reshape(groups, channels, -1)
    outputs, taps = kernel.shape[1], kernel.shape[3]
    weights = kernel.permute(0, 3, 1, 2).reshape(groups, taps * outputs, channels)
    sums = (weights @ flat).reshape(groups, taps, outputs, slices, batch, points)
    return sums.permute(1, 3, 4, 0, 2, 5)


def _kernel(weight: Tensor, convolve: Convolve) -> Tensor:
    """The kernel, shape (groups, out, in, taps), in the order of the taps."""
    groups, count = convolve.groups, prod(convolve.kernel[2:])
    if not convolve.transposed:
        return weight.reshape(groups, -1, convolve.kernel[1], count)
    flipped = weight.flip(tuple(range(2, weight.dim())))
    inputs = convolve.kernel[0] // groups
    return flipped.reshape(groups, inputs, -1, count).transpose(1, 2)


def _taps(values: Tensor, convolve: Convolve) -> list[Tensor]:
    """What reaches each element of the result through each tap; the taps come first in `values`."""
    size, dilation = convolve.kernel[2:], convolve.dilation
    before, stride = convolve.padding, convolve.stride
    rank = len(size)
    if convolve.transposed:
        values = _spread(values, stride)
        spans = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        before = tuple([s - p for s, p in zip(spans, before, strict=True)])
        stride = (1,) * rank
    space = convolve.shape[2:]
    reach = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(space, stride, size, dilation, strict=True)
    ]
    after = [r - b - n for r, b, n in zip(reach, before, values.shape[-rank:], strict=True)]
    pads = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
    padded = F.pad(values, pads)
    return [
        part[
            (
                ...,
                *[
                    slice(t * d, t * d + (n - 1) * s + 1, s)
                    for t, d, n, s in zip(tap, dilation, space, stride, strict=True)
                ],
            )
        ]
        for part, tap in zip(padded, product(*map(range, size)), strict=True)
    ]


def _spread(values: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The values with zeros between them."""
    first = values.dim() - len(stride)
    for dim, step in enumerate(stride, first):
        length = values.shape[dim]
        zeros = [torch.zeros_like(values)] * (step - 1)
        values = torch.stack([values, *zeros], dim + 1).flatten(dim, dim + 1)
        values = values.narrow(dim, 0, (length - 1) * step + 1)
    return values
