"""Keep summands apart: axes of a tensor become axes of its slices."""

import numpy as np
import torch

from torchjac._evaluate.direct.blocks import Block


def varies(block: Block, dim: int) -> bool:
    """Whether the input of an element changes along an axis of the tensor."""
    first = np.take(block.index, [0], axis=dim + 1)
    return not bool((block.index == first).all())


def apart(block: Block, dims: list[int]) -> Block:
    """The block with some axes of its tensor moved in front, into the slices.

    Args:
        block: What is to be summed over `dims`.
        dims: Axes of the tensor.

    Returns:
        A block of the tensor without these axes.
    """
    front = [0, *[d + 1 for d in dims]]
    rest = [d for d in range(block.index.ndim) if d not in front]
    shape = tuple([block.index.shape[d] for d in rest])
    return Block(
        block.index.transpose([*front, *rest]).reshape(-1, *shape),
        block.values.permute([*front, *rest]).reshape(-1, *shape),
    )


def one_hot(block: Block, dim: int) -> Block:
    """The block with a slice for each index along an axis, zero but there.

    Args:
        block: Of a tensor of shape S.
        dim: Axis of the tensor, of length r.

    Returns:
        A block of the same tensor with r times as many slices. Along the axis no element of a
        slice names another input than its neighbours, for all but one name none.
    """
    length, axis = block.shape[dim], dim + 1
    index = np.zeros((length, *block.index.shape), np.int32)
    for place in range(length):
        at = (slice(None),) * axis + (place,)
        index[place][at] = block.index[at]
    ones = [length if d == axis else 1 for d in range(block.index.ndim)]
    eye = torch.eye(length, dtype=block.values.dtype, device=block.values.device)
    values = block.values[None] * eye.reshape(length, *ones)
    return Block(index.reshape(-1, *block.shape), values.reshape(-1, *block.shape))


def sources_of(targets: np.ndarray, count: int) -> np.ndarray:
    """Which elements are put to each place.

    Args:
        targets: Place of each element, counted from 1; 0 for nowhere.
        count: Number of places.

    Returns:
        Elements, shape (most at one place, count); the number of elements stands for none.
    """
    elements = np.flatnonzero(targets)
    places = targets[elements] - 1
    order = np.argsort(places, kind="stable")
    elements, places = elements[order], places[order]
    firsts = np.searchsorted(places, np.arange(count))
    ranks = np.arange(len(places)) - firsts[places]
    sources = np.full((int(ranks.max(initial=0)) + 1, count), len(targets))
    sources[ranks, places] = elements
    return sources
