"""Keep summands apart: axes of a tensor become axes of its slices."""

from collections.abc import Sequence

import numpy as np
import torch

from torchjac._evaluate.direct.blocks import Block, IntArray, Summands


def varying(block: Block, dims: Sequence[int]) -> list[int]:
    """Axes of a tensor along which the input of an element changes.

    Args:
        block: Derivatives of the tensor.
        dims: The axes to look at.

    Returns:
        Those along which it does. Along the others together, all elements that have an input have
        the same.
    """
    index = block.index
    found: list[int] = []
    for dim in dims:
        most = index.max(axis=dim + 1, keepdims=True, initial=0)
        if ((index == most) | (index == 0)).all():
            index = most  # two axes may agree each by itself and not together
        else:
            found.append(dim)
    return found


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


def comb(block: Block, dim: int, period: int) -> Block:
    """The block with a slice for each of several combs of elements along an axis, zero elsewhere.

    Args:
        block: Of a tensor of shape S.
        dim: Axis of the tensor.
        period: Distance of the teeth.

    Returns:
        A block of the same tensor with `period` times as many slices: for each comb, of the
        elements k, k + period, k + 2 period, ... along the axis.
    """
    teeth = np.arange(block.shape[dim]) % period == np.arange(period)[:, None]
    ones = [block.shape[dim] if d == dim else 1 for d in range(len(block.shape))]
    teeth = teeth.reshape(period, 1, *ones)
    index = np.where(teeth, block.index, np.int32(0))
    kept = torch.from_numpy(teeth).to(block.values.device)
    zero = torch.zeros((), dtype=block.values.dtype, device=block.values.device)
    values = torch.where(kept, block.values, zero)
    return Block(index.reshape(-1, *block.shape), values.reshape(-1, *block.shape))


def gathered(block: Block, sources: IntArray) -> Block:
    """The derivatives of other elements, in place of those of each element.

    Args:
        block: k slices of a tensor.
        sources: Which elements of the tensor laid out flat, counted from 1, 0 for none; shape
            (r, *S).

    Returns:
        A block of a tensor of shape S, with k r slices.
    """
    index = block.index.reshape(block.slices, -1)
    values = block.values.reshape(block.slices, -1)
    if sources.all():
        sources = sources - 1
    else:
        index = np.pad(index, ((0, 0), (1, 0)))
        values = torch.nn.functional.pad(values, (1, 0))
    shape = sources.shape[1:]
    where = torch.from_numpy(np.ascontiguousarray(sources)).to(values.device)
    return Block(index[:, sources].reshape(-1, *shape), values[:, where].reshape(-1, *shape))


def summands_of(block: Block, sources: IntArray) -> Summands:
    """The derivatives that are put to the places of a tensor, not added up.

    Args:
        block: k slices of a tensor that is put there.
        sources: Which of its elements, laid out flat, are put to each place, counted from 1, 0 for
            none; shape (r, places).

    Returns:
        Derivatives of all elements that are put anywhere, in their order if each is put once.
    """
    live = np.flatnonzero(sources)
    order = live[np.argsort(sources.ravel()[live], kind="stable")]
    picked = sources.ravel()[order] - 1
    index = block.index.reshape(block.slices, -1)
    values = block.values.reshape(block.slices, -1)
    if not np.array_equal(picked, np.arange(index.shape[1])):
        index = index[:, picked]
        values = values.index_select(1, torch.from_numpy(picked).to(values.device))
    return Summands(index, values, order % sources.shape[1])


def sources_of(targets: IntArray, count: int) -> IntArray:
    """Which elements are put to each place.

    Args:
        targets: Place of each element, counted from 1; 0 for nowhere.
        count: Number of places.

    Returns:
        Elements, counted from 1, shape (most at one place, count); 0 stands for none.

    >>> sources_of(np.array([3, 1, 3]), 3).tolist()
    [[2, 0, 1], [0, 0, 3]]
    """
    elements = np.flatnonzero(targets)
    places = targets[elements] - 1
    order = np.argsort(places, kind="stable")
    elements, places = elements[order], places[order]
    firsts = np.searchsorted(places, np.arange(count))
    ranks = np.arange(len(places)) - firsts[places]
    sources = np.zeros((int(ranks.max(initial=0)) + 1, count), np.int64)
    sources[ranks, places] = elements + 1
    return sources
