"""Convolutions read as index sets: each element sees a window of the argument."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from torchjac._local.algebra import Convolve
from torchjac._pattern.sets import IndexSets, IntArray, gathered

# More numbers than this, and channels count as mixed whatever their weights.
_MOST_ENTRIES = 50_000_000


def convolved(sets: IndexSets, convolve: Convolve) -> IndexSets:
    """The sets of the result of a convolution.

    Args:
        sets: Those of the argument, shape (batch, channels, *space).
        convolve: The convolution.

    Returns:
        The sets of its result, shape (batch, channels, *space).
    """
    taps = _taps(convolve)
    batch, channels = sets.shape[:2]
    groups, per_group = convolve.groups, channels // convolve.groups
    space_in, space = sets.shape[2:], convolve.shape[2:]
    outputs = convolve.shape[1] // groups
    of = sets.of.reshape(batch, groups, per_group, *space_in)
    size = prod(convolve.shape) * per_group * taps.shape[-1]
    if _is_uniform(taps) or size > _MOST_ENTRIES:
        width = np.moveaxis(of, 2, -1).reshape(-1, per_group)
        sets = gathered(sets, width, (batch, groups, *space_in))
        numbers = windows(sets.of, convolve) * taps.any(axis=(0, 1, 2))
        result = gathered(sets, numbers.reshape(-1, taps.shape[-1]), (batch, groups, 1, *space))
        result = result.expanded((batch, groups, outputs, *space))
        return result.reshaped(convolve.shape)
    numbers = np.moveaxis(windows(of, convolve), 2, -2)  # (batch, groups, *space, in, taps)
    by_output = [numbers * _between(taps[:, o], len(space)) for o in range(outputs)]
    wide = np.stack(by_output, axis=2)
    return gathered(sets, wide.reshape(-1, per_group * taps.shape[-1]), convolve.shape)


def _between(taps: IntArray, rank: int) -> IntArray:
    """Taps of one output channel of each group, shape (groups, *ones, in, taps)."""
    return taps.reshape(taps.shape[0], *(1,) * rank, *taps.shape[1:])


def _is_uniform(taps: IntArray) -> bool:
    """Whether each tap is used by all pairs of channels, or by none."""
    flat = taps.reshape(-1, taps.shape[-1])
    return bool((flat == flat[:1]).all())


def _taps(convolve: Convolve) -> IntArray:
    """Which weights are not zero, shape (groups, out, in, taps), in the order of the windows."""
    size = convolve.kernel[2:]
    nonzero = _nonzero(convolve.value, convolve.kernel)
    groups = convolve.groups
    if not convolve.transposed:
        return nonzero.reshape(groups, -1, convolve.kernel[1], prod(size))
    flipped = nonzero[(slice(None), slice(None), *(slice(None, None, -1),) * len(size))]
    inputs = convolve.kernel[0] // groups
    return flipped.reshape(groups, inputs, -1, prod(size)).transpose(0, 2, 1, 3)


def _nonzero(value: Tensor | None, shape: tuple[int, ...]) -> IntArray:
    return np.ones(shape, bool) if value is None else (value != 0).cpu().numpy()


def windows(of: IntArray, convolve: Convolve) -> IntArray:
    """What each element of the result of a convolution sees.

    Args:
        of: Numbers of the elements of the argument, the axes of space last.
        convolve: The convolution.

    Returns:
        The axes of space of the result in place of those of the argument, and one more, of taps.
        0 stands for what lies outside.
    """
    space = convolve.shape[2:]
    rank = len(space)
    size, dilation = convolve.kernel[2:], convolve.dilation
    before, stride = convolve.padding, convolve.stride
    if convolve.transposed:  # a convolution with stride one, of the argument with zeros between
        of = _spread(of, stride)
        spans = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        before = tuple([s - p for s, p in zip(spans, before, strict=True)])
        stride = (1,) * rank
    padded = _padded(
        of,
        before,
        [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(space, stride, size, dilation, strict=True)
        ],
    )
    steps = padded.strides[-rank:]
    shape = (*padded.shape[:-rank], *space, *size)
    strides = (
        *padded.strides[:-rank],
        *[s * n for s, n in zip(steps, stride, strict=True)],
        *[s * n for s, n in zip(steps, dilation, strict=True)],
    )
    return as_strided(padded, shape, strides).reshape(*shape[: len(shape) - rank], prod(size))


def _spread(of: IntArray, stride: Sequence[int]) -> IntArray:
    rank = len(stride)
    space = [(n - 1) * s + 1 for n, s in zip(of.shape[-rank:], stride, strict=True)]
    wide = np.zeros((*of.shape[:-rank], *space), of.dtype)
    wide[(..., *[slice(None, None, s) for s in stride])] = of
    return wide


def _padded(of: IntArray, before: Sequence[int], lengths: Sequence[int]) -> IntArray:
    """`of` with zeros before and after, or cut, so that each axis of space has its length."""
    rank = len(lengths)
    wide = np.zeros((*of.shape[:-rank], *lengths), of.dtype)
    into, out_of = [], []
    for start, length, have in zip(before, lengths, of.shape[-rank:], strict=True):
        low, high = max(start, 0), min(start + have, length)
        into.append(slice(low, max(high, low)))
        out_of.append(slice(low - start, max(high, low) - start))
    wide[(..., *into)] = of[(..., *out_of)]
    return wide
