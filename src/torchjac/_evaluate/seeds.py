"""Seeds: rows of the standard basis, made a chunk at a time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class BatchDims(NamedTuple):
    """Axes of independent samples: of every input, and of every output."""

    inputs: int
    outputs: int


# More tensors than this, and small ones, are seeded together: one pass instead of one each.
FEW = 4
SMALL = 64


def are_many_and_small(counts: Sequence[int], few: int = FEW) -> bool:
    """Whether more than `few` tensors with so many elements are best seeded together."""
    return len(counts) > few and sum(counts) < SMALL * len(counts)


def seed_count(tensor: Tensor, dim: int | None) -> int:
    """Seeds that `tensor` needs: its elements, or those of one sample along axis `dim`.

    Args:
        tensor: What is seeded.
        dim: Axis of samples, None for one point.

    Returns:
        The number of seeds.

    >>> seed_count(torch.zeros(5, 3), None), seed_count(torch.zeros(5, 3), 0)
    (15, 3)
    """
    if dim is None:
        return tensor.numel()
    return math.prod(size for axis, size in enumerate(tensor.shape) if axis != dim)


def rows_of_samples(tensor: Tensor, dim: int) -> Tensor:
    """One row per sample.

    Args:
        tensor: Any tensor.
        dim: Axis of samples.

    Returns:
        Shape (B, elements of one sample).

    >>> rows_of_samples(torch.zeros(3, 5), 1).shape
    torch.Size([5, 3])
    """
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], seed_count(tensor, dim))


def basis(like: Tensor, start: int, stop: int, dim: int | None = None) -> Tensor:
    """Rows `start` to `stop` of the identity over the elements of `like`, or of its samples.

    Args:
        like: The tensor whose elements are seeded, shape S.
        start: First element.
        stop: One past the last element.
        dim: Axis of samples; all samples get the same seed.

    Returns:
        Seeds, shape (stop - start, *S), dtype and device of `like`. No n×n array is made, and
        samples share memory.

    >>> basis(torch.zeros(3), 1, 3).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> basis(torch.zeros(2, 2), 0, 1, dim=0).tolist()
    [[[1.0, 0.0], [1.0, 0.0]]]
    """
    if dim is not None:
        shape = [size for axis, size in enumerate(like.shape) if axis != dim]
        sample = torch.empty(shape, dtype=like.dtype, device=like.device)
        seeds = basis(sample, start, stop).unsqueeze(dim + 1)
        return seeds.expand(stop - start, *like.shape)
    count, size = stop - start, like.numel()
    if start == 0 and count == size:
        seeds = torch.eye(size, dtype=like.dtype, device=like.device)
    else:
        seeds = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        seeds.diagonal(start).fill_(1)
    return seeds.view(count, *like.shape)


def joint_basis(tensors: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
    """Rows of the identity over the elements of several tensors, one after the other.

    Args:
        tensors: The tensors that are seeded together.
        start: First element, counted over all of them.
        stop: One past the last.

    Returns:
        For each tensor its part of the seeds, shape (stop - start, *shape).

    >>> [t.tolist() for t in joint_basis([torch.zeros(1), torch.zeros(2)], 0, 2)]
    [[[1.0], [0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    """
    parts, offset = [], 0
    for tensor in tensors:
        size = tensor.numel()
        part = torch.zeros(stop - start, size, dtype=tensor.dtype, device=tensor.device)
        first, last = max(start, offset), min(stop, offset + size)
        if first < last:
            part[first - start : last - start].diagonal(first - offset).fill_(1)
        parts.append(part.view(stop - start, *tensor.shape))
        offset += size
    return parts
