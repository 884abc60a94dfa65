"""What the taps of a convolution see of a tensor."""

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from torchjac._local.algebra import Convolve


def through_taps(given: Iterable[Tensor], convolve: Convolve) -> list[Tensor]:
    """What each element of the result of a convolution sees through each tap.

    Args:
        given: Padded tensors, one for each tap, shape (*, *space).
        convolve: The convolution.

    Returns:
        A view for each tap, shape (*, *space of the result).
    """
    size, dilation = convolve.kernel[2:], convolve.dilation
    stride = _steps(convolve)
    return [
        part[
            (
                ...,
                *[
                    slice(t * d, t * d + (n - 1) * s + 1, s)
                    for t, d, n, s in zip(tap, dilation, convolve.shape[2:], stride, strict=True)
                ],
            )
        ]
        for part, tap in zip(given, product(*map(range, size)), strict=True)
    ]


def padded(values: Tensor, convolve: Convolve) -> Tensor:
    """The values with zeros around, as far as taps reach; before that between, if transposed.

    Args:
        values: The axes of space last.
        convolve: The convolution.

    Returns:
        A tensor in which no tap reaches beyond the end.
    """
    size, dilation = convolve.kernel[2:], convolve.dilation
    before, stride = convolve.padding, _steps(convolve)
    rank = len(size)
    if convolve.transposed:
        values = _spread(values, convolve.stride)
        spans = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        before = tuple([s - p for s, p in zip(spans, before, strict=True)])
    reach = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(convolve.shape[2:], stride, size, dilation, strict=True)
    ]
    after = [r - b - n for r, b, n in zip(reach, before, values.shape[-rank:], strict=True)]
    return F.pad(values, [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair])


def patches(values: Tensor, convolve: Convolve) -> Tensor:
    """What each element of the result of a convolution sees of a tensor.

    Args:
        values: Shape (batch, channels, *space).
        convolve: The convolution.

    Returns:
        A view, shape (batch, channels, *space of the result, *size of the kernel).
    """
    values, sizes = padded(values, convolve), convolve.kernel[2:]
    steps = zip(sizes, _steps(convolve), convolve.dilation, strict=True)
    for dim, (size, step, d) in enumerate(steps, 2):
        values = values.unfold(dim, (size - 1) * d + 1, step)[..., ::d]
    return values


def _steps(convolve: Convolve) -> tuple[int, ...]:
    """How far windows lie apart; a transposed convolution has zeros between elements instead."""
    return (1,) * len(convolve.stride) if convolve.transposed else convolve.stride


def _spread(values: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The values with zeros between them."""
    first = values.dim() - len(stride)
    for dim, step in enumerate(stride, first):
        if step == 1:
            continue
        length = values.shape[dim]
        zeros = [torch.zeros_like(values)] * (step - 1)
        values = torch.stack([values, *zeros], dim + 1).flatten(dim, dim + 1)
        values = values.narrow(dim, 0, (length - 1) * step + 1)
    return values
