"""Convolutions of derivatives that differ by known numbers only, as one product of matrices.

After a convolution and an activation, derivative s of channel c at pixel q is a[s, c] d[c, q]: a
tap of the kernel times the slope of the activation, which all derivatives of an element share.
The next convolution needs those slopes once, and not once for each derivative:

    result[s', o, p] = sum over taps t and channels c of W[s', o, t, c] d[c, p + t]
    W[s', o, t, c] = kernel[o, c, t] times the sum of a[s, c] over all s that t takes to s'

That is a matrix known beforehand times the patches of d, and nothing is left to be moved and added
up. W has zeros where a tap takes nothing to a derivative, so that it pays for few channels only.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block, Factors, IntArray
from torchjac._evaluate.direct.taps import patches
from torchjac._local.algebra import Convolve
from torchjac._pattern.windows import windows

# How many products of a matrix library's an element costs that is written and read by itself.
_PER_ELEMENT = 10


class Landing(NamedTuple):
    """Which derivatives of the result of a convolution those of its argument become.

    Attributes:
        seen: Inputs that each tap sees, shape (taps, k, channels of a group or 1, batch, groups,
            *space); 1 where channels share them.
        group_of: The derivative of the result that each becomes, shape (taps, k, channels or 1).
        inputs: Of the derivatives of the result, shape (slots, batch, groups, *space).
        space: Of the argument.
    """

    seen: IntArray
    group_of: IntArray
    inputs: IntArray
    space: tuple[int, ...]


def by_patches(block: Block, convolve: Convolve, kernel: Tensor, landing: Landing) -> Tensor | None:
    """The derivatives of a convolution as a matrix times patches.

    Args:
        block: Derivatives of a tensor (batch, channels, *space).
        convolve: The convolution.
        kernel: Its kernel, shape (groups, out, in, taps).
        landing: What becomes of them.

    Returns:
        Shape (slots, batch, groups, out, *space). None if the derivatives are not of that form, or
        are cheaper to have one by one.
    """
    factors, slots = block.factors, len(landing.inputs)
    if factors is None or not _pays(kernel, block.slices, slots):
        return None
    weights = _by_channel(block, factors, convolve.groups)
    if weights is None or not _is_complete(landing, convolve):
        return None
    groups, outputs, channels, taps = kernel.shape
    sums = _sums(weights, landing)  # (groups, slots, in, taps)
    matrix = sums[:, :, None] * kernel[:, None]
    space = convolve.shape[2:]
    seen = patches(factors.shared(), convolve).unflatten(1, (groups, channels))
    around = range(3 + len(space), seen.dim())
    seen = seen.permute(1, 2, *around, 0, *range(3, 3 + len(space)))
    batch = seen.shape[-1 - len(space)]
    columns = seen.reshape(groups, channels * taps, -1)
    values = matrix.reshape(groups, slots * outputs, channels * taps) @ columns
    values = values.reshape(groups, slots, outputs, batch, *space).movedim((0, 2), (2, 3))
    if landing.inputs.all():
        return values
    live = torch.from_numpy(landing.inputs[:, :, :, None] != 0).to(values.device)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    return torch.where(live, values, zero)


def _pays(kernel: Tensor, slices: int, slots: int) -> bool:
    """Whether fewer elements to be moved make up for products with zeros."""
    _, outputs, channels, taps = kernel.shape
    here = taps * channels * (slots * outputs + _PER_ELEMENT)
    moved = channels * slices + 2 * taps * slices * outputs
    return here <= taps * outputs * channels * slices + _PER_ELEMENT * moved


def _by_channel(block: Block, factors: Factors, groups: int) -> Tensor | None:
    """The weights, shape (k, groups, channels), if all elements of a channel have the same."""
    weights = factors.weights.movedim(2, 1).flatten(2)
    live = torch.from_numpy(np.moveaxis(block.index, 2, 1) != 0).to(weights.device).flatten(2)
    where = live.to(torch.uint8).argmax(2, keepdim=True)
    first = weights.gather(2, where)
    if bool((live & (weights != first)).any()):
        return None
    first = torch.where(live.any(2, keepdim=True), first, first.new_zeros(()))
    return first.reshape(len(weights), groups, -1)


def _is_complete(landing: Landing, convolve: Convolve) -> bool:
    # A derivative that an element lacks has weight zero there, and not in the matrix. What comes of
    # it has to be one that is dropped.
    within = np.ones((1, *landing.space), np.int32)
    inside = np.moveaxis(windows(within, convolve), -1, 0) != 0  # (taps, 1, *space)
    for tap, groups, reached in zip(landing.seen, landing.group_of, inside, strict=True):
        for s, group in np.ndenumerate(groups):
            missing = (tap[s] == 0) & (landing.inputs[group] != 0) & reached
            if missing.any():
                return False
    return True


def _sums(weights: Tensor, landing: Landing) -> Tensor:
    """Weights added up where taps take them to one derivative, shape (groups, slots, in, taps)."""
    slices, groups, channels = weights.shape
    slots, taps = len(landing.inputs), len(landing.seen)
    group_of = np.broadcast_to(landing.group_of, (taps, slices, channels))
    cells = (group_of * channels + np.arange(channels)) * taps + np.arange(taps)[:, None, None]
    given = weights.permute(0, 2, 1).expand(taps, slices, channels, groups).flatten(0, 2)
    where = torch.from_numpy(cells.reshape(-1)).to(weights.device)
    total = weights.new_zeros(slots * channels * taps, groups).index_add(0, where, given)
    return total.t().reshape(groups, slots, channels, taps)
