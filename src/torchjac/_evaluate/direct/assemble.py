"""From blocks of derivatives to the nonzeros of the Jacobian in CSR order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block, compacted
from torchjac._pattern.pattern import SparsityPattern

Places = NDArray[Any]  # int32 where the numbers of nonzeros fit, else int64
# Rows with more entries are not set side by side.
_MOST_SLICES = 64
# Rows that are looked at to see in which order the entries usually stand.
_SAMPLE = 255
# Part of the nonzeros that may stand elsewhere than in a regular row.
_MOST_IRREGULAR = 0.15


@dataclass(frozen=True, eq=False)
class Piece:
    """Derivatives of a result, each with its place among the nonzeros.

    Attributes:
        places: Shape (k, *S); -1 for a derivative that is none, or zero at every x.
        values: The derivatives, shape (k, *S).
    """

    places: Places
    values: Tensor


class Assembly(NamedTuple):
    """The nonzeros of a Jacobian.

    Attributes:
        nonzeros: All of them, shape (nnz,), in CSR order.
        varying: Those that depend on x.
        targets: Their places, rising; None if they are all.
    """

    nonzeros: Tensor
    varying: Tensor | None
    targets: Places | None


def places_of(block: Block, start: int, pattern: SparsityPattern, *, transposed: bool) -> Places:
    """Where each derivative of a block stands among the nonzeros of a pattern.

    Args:
        block: Of a result of the linear program.
        start: Number of the first element of this result among all results.
        pattern: Of the Jacobian.
        transposed: Whether the program was the transposed one, its results columns.

    Returns:
        Places, shape (k, *S), -1 where there is none: no input, or a derivative that constant
        zeros make zero.
    """
    elements = prod(block.shape)
    index = block.index.reshape(block.slices, elements).astype(np.int64)
    across = np.broadcast_to(np.arange(start, start + elements), index.shape)
    rows, columns = (index - 1, across) if transposed else (across, index - 1)
    keys = rows * pattern.shape[1] + columns
    known = pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices
    places = np.searchsorted(known, keys)
    found = np.minimum(places, max(pattern.nnz - 1, 0))
    hit = (index > 0) & (known[found] == keys) if pattern.nnz else np.zeros(index.shape, bool)
    small = np.int32 if pattern.nnz < 2**31 else np.int64
    return np.where(hit, found, -1).astype(small).reshape(block.index.shape)


def assemble(
    results: Sequence[Sequence[Block] | None],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    *,
    transposed: bool,
    is_constant: Callable[[Tensor], bool],
) -> Assembly:
    """Put the derivatives of all results in order.

    Args:
        results: Blocks of each result of the linear program.
        sizes: Numbers of elements of the results.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        transposed: Whether the program was the transposed one.
        is_constant: Whether a tensor is the same at every x.

    Returns:
        The nonzeros.
    """

    def pieces(kept: Callable[[Block], bool]) -> list[Piece]:
        found: list[Piece] = []
        for blocks, start in zip(results, np.cumsum([0, *sizes]), strict=False):
            for block in compacted([b for b in blocks or () if kept(b)]):
                places = places_of(block, int(start), pattern, transposed=transposed)
                found.append(Piece(places, block.values.to(like.dtype)))
        return found

    constant = pieces(lambda block: is_constant(block.values))
    varying = pieces(lambda block: not is_constant(block.values))
    base = like.new_zeros(pattern.nnz)
    for piece in constant:
        base = base + _scattered(piece, like, pattern.nnz)
    if not varying:
        return Assembly(base.clone(), None, np.empty(0, np.int64))
    found, targets = _in_order(varying, pattern.nnz, like)
    under = base if targets is None else base[_tensor(targets, like)]
    found = found + under if bool((under != 0).any()) else found
    if targets is None:
        return Assembly(found, found, None)
    regular = in_rows(pieces(lambda _: True), pattern.nnz)
    if regular is None:
        regular = base.index_copy(0, _tensor(targets, like), found)
    return Assembly(regular, found, targets)


def _scattered(piece: Piece, like: Tensor, count: int) -> Tensor:
    places = piece.places.ravel()
    live = np.flatnonzero(places >= 0)
    values = piece.values.reshape(-1)[_tensor(live, like)]
    return like.new_zeros(count).index_add(0, _tensor(places[live], like), values)


def _in_order(pieces: Sequence[Piece], count: int, like: Tensor) -> tuple[Tensor, Places | None]:
    """The values of pieces in the order of their places, and these, or None for all of them."""
    if len(pieces) == 1:
        permuted = _permuted(pieces[0], count)
        if permuted is not None:
            return permuted, None
    regular = in_rows(pieces, count)
    if regular is not None:
        return regular, None
    places = np.concatenate([piece.places.ravel() for piece in pieces])
    source = torch.cat([piece.values.reshape(-1) for piece in pieces])
    live = np.flatnonzero(places >= 0)
    targets, first, inverse, counts = np.unique(
        places[live], return_index=True, return_inverse=True, return_counts=True
    )
    if (counts == 1).all():
        found = source[_tensor(live[first], like)]
    else:
        found = source.new_zeros(len(targets)).index_add(
            0, _tensor(inverse, like), source[_tensor(live, like)]
        )
    return found, None if len(targets) == count else targets


def _permuted(piece: Piece, count: int) -> Tensor | None:
    """The values with their axes in another order, if that brings them into place."""
    places = piece.places
    if places.size != count or not count:
        return None
    origin = (0,) * places.ndim
    steps = []
    for axis, length in enumerate(places.shape):
        neighbor = tuple([1 if d == axis and length > 1 else 0 for d in range(places.ndim)])
        steps.append(int(places[neighbor] - places[origin]))
    order = sorted(range(places.ndim), key=lambda d: (-steps[d], places.shape[d]))
    if not np.array_equal(places.transpose(order).ravel(), np.arange(count)):
        return None
    return piece.values.permute(order).reshape(-1)


def in_rows(pieces: Sequence[Piece], count: int) -> Tensor | None:
    """The values of slices side by side, if that brings nearly all of them into place.

    In the interior of a stencil every row has its entries in one order; only rows at a border,
    where neighbors are missing or wrap around, are put right one by one.

    Args:
        pieces: All derivatives of one result.
        count: Number of nonzeros.

    Returns:
        The nonzeros in order, or None if the rows are not that regular.
    """
    if len({piece.places.shape[1:] for piece in pieces}) != 1:
        return None
    slices = [
        (places.ravel(), v) for p in pieces for places, v in zip(p.places, p.values, strict=True)
    ]
    if not count or len(slices) > _MOST_SLICES:
        return None
    places = np.stack([s[0] for s in slices], axis=1)
    order = _usual_order(places)
    slices = [slices[k] for k in order]
    places = places[:, order].ravel()
    live = np.flatnonzero(places >= 0)
    if len(live) != count or not (np.bincount(places[live], minlength=count) == 1).all():
        return None
    source = np.empty(count, places.dtype)
    source[places[live]] = live
    shift = int(np.median(source - np.arange(count, dtype=source.dtype)))
    wrong = np.flatnonzero(source != np.arange(shift, shift + count))
    if len(wrong) > _MOST_IRREGULAR * count or shift < 0 or shift + count > len(places):
        return None
    rows = torch.stack([s[1].reshape(-1) for s in slices], dim=1).reshape(-1)
    ordered = rows[shift : shift + count]
    if not len(wrong):
        return ordered
    like = slices[0][1]
    moved = rows[_tensor(source[wrong], like)]
    return ordered.index_copy(0, _tensor(wrong, like), moved)


def _usual_order(places: Places) -> Places:
    """In which order the entries stand in most rows; a sample of rows votes."""
    step = max(1, len(places) // _SAMPLE) | 1
    sample = places[step // 2 :: step]
    full = sample[(sample >= 0).all(axis=1)]
    orders, votes = np.unique(
        np.argsort(full if len(full) else sample, axis=1), axis=0, return_counts=True
    )
    return orders[votes.argmax()]


def _tensor(numbers: Places, like: Tensor) -> Tensor:
    return torch.from_numpy(numbers).to(like.device, torch.int64)
