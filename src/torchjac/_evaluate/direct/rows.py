"""The nonzeros of regular rows, set side by side instead of gathered."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Places = NDArray[Any]  # int32 where the numbers of nonzeros fit, else int64
# A row, or a group of rows, with more entries is not set side by side.
_MOST_SLOTS = 64
# Longest group of rows that repeats, and fewest groups for which it is one.
_LONGEST_PERIOD, _FEWEST_GROUPS = 8, 16
# Groups that are looked at to see where entries usually stand.
_SAMPLE = 255
# Part of the nonzeros that may stand elsewhere than in a regular row.
_MOST_IRREGULAR = 0.15
# So few, and no longer period is tried.
_FEW_IRREGULAR = 0.02
_NEVER = np.iinfo(np.int64).max


class Slices(NamedTuple):
    """Derivatives of one result with n elements, slice by slice.

    Attributes:
        places: Of each derivative among the nonzeros, -1 for none, shape (k, n).
        values: The slices, k tensors of n elements.
        constant: Whether a slice is the same at every x, k of them.
    """

    places: Places
    values: Sequence[Tensor]
    constant: Sequence[bool]


class Slots(NamedTuple):
    """Where entries stand in regular rows.

    Attributes:
        period: Rows in a group; all groups are alike.
        width: Entries of a group.
        first: Place of the first slot of the first group, at most zero.
        slot_of: For each slice and row of the group which slot it fills, -1 for none; shape
            (k, period).
    """

    period: int
    width: int
    first: int
    slot_of: Places


def in_rows(slices: Slices, count: int) -> Tensor | None:
    """The values of slices side by side, if that brings nearly all of them into place.

    In the interior of a stencil every row has its entries in one order; only rows at a border,
    where neighbors are missing or wrap around, are put right one by one. Where each element of a
    grid has several rows, rows repeat in groups.

    Args:
        slices: All derivatives of one result.
        count: Number of nonzeros.

    Returns:
        The nonzeros in order, or None if the rows are not that regular.
    """
    slots = _regular(slices.places, count) if count else None
    if slots is None:
        return None
    source = _sources(slices.places, slots, count)
    if source is None:
        return None
    shift = -slots.first
    wrong = np.flatnonzero(source != np.arange(shift, shift + count))
    if len(wrong) > _MOST_IRREGULAR * count:
        return None
    rows = _side_by_side(slices, slots)
    ordered = rows if rows.numel() == count else rows[shift : shift + count]
    if not len(wrong):
        return ordered
    like = slices.values[0]
    return ordered.index_copy(0, index_tensor(wrong, like), rows[index_tensor(source[wrong], like)])


def _regular(places: Places, count: int) -> Slots | None:
    """The slots of the period with which a sample of rows is most regular, a short one if alike."""
    length = places.shape[1]
    best, fewest = None, _MOST_IRREGULAR
    for period in range(1, _LONGEST_PERIOD + 1):
        groups = length // period
        if not groups or length % period or (period > 1 and groups < _FEWEST_GROUPS):
            continue
        slots, wrong = _slots(places.reshape(len(places), groups, period), count)
        if slots is not None and wrong < fewest and slots.width * groups - count >= -slots.first:
            best, fewest = slots, wrong / 2
            if wrong < _FEW_IRREGULAR:
                break
    return best


def _slots(places: Places, count: int) -> tuple[Slots | None, float]:
    """Slots of most groups, given places (k, groups, period); the part of entries elsewhere."""
    groups = places.shape[1]
    begin = max(0, (groups - _SAMPLE) // 2)
    sample = places[:, begin : begin + _SAMPLE].astype(np.int64)
    width = _width(sample, count)
    if not 0 < width <= _MOST_SLOTS:
        return None, 1.0
    live = sample >= 0
    steps = width * np.arange(begin, begin + sample.shape[1])[:, None]
    offsets = np.where(live, sample - steps, _NEVER)
    counts = live.sum(axis=1)
    middle = (counts - 1).clip(0)[:, None] // 2
    usual = np.take_along_axis(np.sort(offsets, axis=1), middle, axis=1)[:, 0]
    found, wrong = counts > 0, (live & (offsets != usual[:, None])).sum()
    first = int(usual[found].min(initial=0))
    slot_of = np.where(found, usual - first, -1)
    if not np.array_equal(np.unique(slot_of[found]), np.arange(width)):
        return None, 1.0
    return Slots(places.shape[2], width, first, slot_of), float(wrong / counts.sum())


def _width(sample: Places, count: int) -> int:
    """Entries from one group to the next, for most groups."""
    both = (sample[:, 1:] >= 0) & (sample[:, :-1] >= 0)
    steps = (sample[:, 1:] - sample[:, :-1])[both]
    return int(np.median(steps)) if len(steps) else count


def _sources(places: Places, slots: Slots, count: int) -> Places | None:
    """The slot in which each nonzero stands, None if one stands in none or shares it."""
    slices, length = places.shape
    groups = places.reshape(slices, -1, slots.period)
    begin = np.arange(groups.shape[1], dtype=np.int64) * slots.width
    source = np.full(count, -1, places.dtype if slots.width * length < 2**31 else np.int64)
    filled = np.full(groups.shape[1] * slots.width, -1, places.dtype)
    for k, r in np.argwhere((groups >= 0).any(axis=1)):
        if slots.slot_of[k, r] < 0:
            return None
        live = np.flatnonzero(groups[k, :, r] >= 0)
        where, entry = begin[live] + slots.slot_of[k, r], groups[k, live, r]
        clash = (source[entry] != -1) & (source[entry] != where)
        if clash.any() or ((filled[where] != -1) & (filled[where] != entry)).any():
            return None
        source[entry], filled[where] = where, entry
    return None if (source < 0).any() else source


def _side_by_side(slices: Slices, slots: Slots) -> Tensor:
    """Slots next to each other, each the sum of what fills it, all groups one after the other."""
    parts: list[list[Tensor]] = [[] for _ in range(slots.width)]
    alone = np.bincount(slots.slot_of[slots.slot_of >= 0], minlength=slots.width) == 1
    for k, r in np.argwhere(slots.slot_of >= 0):
        slot = slots.slot_of[k, r]
        values = slices.values[k]
        if slots.period > 1:
            values = values.reshape(-1, slots.period)[:, r]
        if alone[slot] and slices.constant[k]:
            values = _evened(values, slices.places[k].reshape(-1, slots.period)[:, r])
        parts[slot].append(values)
    return torch.stack([reduce(torch.add, part) for part in parts], dim=1).reshape(-1)


def _evened(values: Tensor, places: Places) -> Tensor:
    """A constant where all entries are the same, whatever stands where there is none."""
    known = values[index_tensor(np.flatnonzero(places >= 0), values)]
    one = known[:1]
    return one.expand(len(values)) if bool((known == one).all()) else values


def index_tensor(numbers: Places, like: Tensor) -> Tensor:
    """Places as a tensor that PyTorch takes as an index.

    Args:
        numbers: Integers.
        like: On the device where it is used.

    Returns:
        int64.
    """
    return torch.from_numpy(numbers).to(like.device, torch.int64)
