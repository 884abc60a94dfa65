"""Inputs in memory as they lay when a program was recorded.

The numbers of a tensor do not depend on where they lie, but some operations do: a factorisation
that `torch.det` keeps for its derivative is that of the matrix or of its transpose, whichever is
faster to read, and compiled code reads places.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Strides = Sequence[tuple[int, ...]]


def strides_of(examples: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """Strides of copies of some tensors, each element of which has a place of its own.

    Args:
        examples: The tensors.

    Returns:
        Those of each.

    >>> strides_of([torch.ones(2, 3).T, torch.ones(1).expand(4)])
    [(1, 3), (1,)]
    """
    return [torch.empty_like(x, device="meta").stride() for x in examples]


def laid_out(leaves: Sequence[Tensor], strides: Strides) -> Sequence[Tensor]:
    """Tensors with the same numbers and the strides wanted.

    Args:
        leaves: The tensors.
        strides: For each those of a tensor without gaps.

    Returns:
        Copies of those that lie otherwise; autograd sees through them.
    """
    return [
        x
        if x.stride() == s
        else torch.empty_strided(x.shape, s, dtype=x.dtype, device=x.device).copy_(x)
        for x, s in zip(leaves, strides, strict=True)
    ]
