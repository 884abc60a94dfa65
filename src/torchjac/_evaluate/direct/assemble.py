"""From blocks of derivatives to the nonzeros of the Jacobian in CSR order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block, compacted
from torchjac._evaluate.direct.placed import Part, Placed
from torchjac._evaluate.direct.regular import turn_of
from torchjac._evaluate.direct.rows import Places, Slices, in_rows, index_tensor
from torchjac._pattern.pattern import SparsityPattern


@dataclass(frozen=True, eq=False)
class Piece:
    """Derivatives of a result, each with its place among the nonzeros.

    Attributes:
        places: Shape (k, *S); -1 for a derivative that is none, or zero at every x.
        values: The derivatives, shape (k, *S).
        result: Number of the result.
        is_constant: Whether the derivatives are the same at every x.
        summands: Gives what the derivatives are sums of, if they are: several to one place.
    """

    places: Places
    values: Tensor
    result: int = 0
    is_constant: bool = False
    summands: Callable[[], "Piece"] | None = None


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


class Lookup:
    """Where derivatives stand among the nonzeros of a pattern.

    Args:
        pattern: Of the Jacobian.
        transposed: Whether results of the linear program are columns.
    """

    def __init__(self, pattern: SparsityPattern, *, transposed: bool) -> None:
        self._width = pattern.shape[1]
        self._keys = pattern.rows.astype(np.int64)
        self._keys *= self._width
        self._keys += pattern.indices
        self._transposed = transposed
        self._dtype = np.int32 if pattern.nnz < 2**31 - 1 else np.int64

    def places_of(
        self, block: Block, start: int, elements: NDArray[np.int64] | None = None
    ) -> Places:
        """Where each derivative of a block stands.

        Args:
            block: Of a result of the linear program, or of some of its elements.
            start: Number of the first element of this result among all results.
            elements: Which elements of the result they are, None for all.

        Returns:
            Places, shape (k, *S), -1 where there is none: no input, or a derivative that constant
            zeros make zero.
        """
        places = np.full((block.slices, prod(block.shape)), -1, self._dtype)
        own = np.arange(places.shape[1]) if elements is None else elements
        for found, index in zip(places, block.index.reshape(block.slices, -1), strict=True):
            live = np.flatnonzero(index)
            inputs, results = index[live].astype(np.int64) - 1, own[live] + start
            rows, columns = (inputs, results) if self._transposed else (results, inputs)
            keys = rows * self._width + columns
            near = np.searchsorted(self._keys, keys)
            hit = near < len(self._keys)
            hit[hit] = self._keys[near[hit]] == keys[hit]
            found[live[hit]] = near[hit]
        return places.reshape(block.index.shape)


def assemble(
    results: Sequence[Sequence[Part] | None],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    *,
    transposed: bool,
    is_constant: Callable[[Tensor], bool],
) -> Assembly:
    """Put the derivatives of all results in order.

    Args:
        results: Derivatives of each result of the linear program.
        sizes: Numbers of elements of the results.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        transposed: Whether the program was the transposed one.
        is_constant: Whether a tensor is the same at every x.

    Returns:
        The nonzeros.
    """
    lookup = Lookup(pattern, transposed=transposed)
    starts = np.cumsum([0, *sizes])
    pieces = [
        _piece(lookup, part, number, int(start), like, is_constant)
        for number, (parts, start) in enumerate(zip(results, starts, strict=False))
        for part in parts or ()
    ]
    constant = [piece for piece in pieces if piece.is_constant]
    varying = [piece for piece in pieces if not piece.is_constant]
    base = like.new_zeros(pattern.nnz)
    for piece in constant:
        base = base + _scattered(piece, like, pattern.nnz)
    if not varying:
        return Assembly(base.clone(), None, np.empty(0, np.int64))
    targets = _targets(varying, pattern.nnz)
    found = _in_order(varying, targets, pattern.nnz)
    under = base if targets is None else base[index_tensor(targets, like)]
    found = found + under if bool((under != 0).any()) else found
    if targets is None:
        return Assembly(found, found, None)
    whole = _regular(pieces, pattern.nnz)
    if whole is None:
        whole = base.index_copy(0, index_tensor(targets, like), found)
    return Assembly(whole, found, targets)


def _piece(
    lookup: Lookup,
    part: Part,
    result: int,
    start: int,
    like: Tensor,
    is_constant: Callable[[Tensor], bool],
) -> Piece:
    block, elements = (part.block, part.elements) if isinstance(part, Placed) else (part, None)
    places = lookup.places_of(block, start, elements)
    made = Piece(places, block.values.to(like.dtype), result, is_constant(block.values))
    if block.summands is None:
        return made
    given = block.summands

    def summands() -> Piece:
        apart = Block(given.index, given.values)
        return Piece(
            lookup.places_of(apart, start, given.elements), given.values.to(like.dtype), result
        )

    return replace(made, summands=summands)


def _targets(pieces: Sequence[Piece], count: int) -> Places | None:
    """Places of the nonzeros that pieces give, rising; None if they are all."""
    given = np.zeros(count, bool)
    for piece in pieces:
        given[piece.places[piece.places >= 0]] = True
    return None if given.all() else np.flatnonzero(given)


def _scattered(piece: Piece, like: Tensor, count: int) -> Tensor:
    places = piece.places.ravel()
    live = np.flatnonzero(places >= 0)
    values = piece.values.reshape(-1)[index_tensor(live, like)]
    return like.new_zeros(count).index_add(0, index_tensor(places[live], like), values)


def _in_order(pieces: Sequence[Piece], targets: Places | None, count: int) -> Tensor:
    """The values of pieces in the order of their places, which are `targets`, or all."""
    if targets is not None:
        count = len(targets)
        pieces = [_renumbered(piece, targets) for piece in pieces]
    if len(pieces) == 1:
        permuted = _permuted(pieces[0], count)
        if permuted is not None:
            return permuted
    regular = _regular(pieces, count)
    if regular is not None:
        return regular
    if any([piece.summands is not None for piece in pieces]):
        return _added_up([piece.summands() if piece.summands else piece for piece in pieces], count)
    return _gathered(list(_compacted(pieces)), count)


def _renumbered(piece: Piece, targets: Places) -> Piece:
    """The piece with the place of each derivative among `targets`."""
    places = np.searchsorted(targets, piece.places).astype(piece.places.dtype)
    places[piece.places < 0] = -1
    summands = piece.summands
    of_summands = None if summands is None else lambda: _renumbered(summands(), targets)
    return replace(piece, places=places, summands=of_summands)


def _compacted(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """As few slices as possible of each result."""
    alikes = groupby(pieces, lambda piece: (piece.result, piece.places.shape[1:]))
    for (number, _), alike in alikes:
        for block in compacted([Block(p.places + 1, p.values) for p in alike]):
            yield Piece(block.index - 1, block.values, number)


def _gathered(pieces: Sequence[Piece], count: int) -> Tensor:
    """The values by their places, added up where several belong to one."""
    places = np.concatenate([piece.places.ravel() for piece in pieces])
    parts = [piece.values.reshape(-1) for piece in pieces]
    source = parts[0] if len(parts) == 1 else torch.cat(parts)
    live = np.flatnonzero(places >= 0)
    order = live[np.argsort(places[live], kind="stable")]
    if len(order) == count:
        return source.index_select(0, index_tensor(order, source))
    where = index_tensor(places[order], source)
    picked = source.index_select(0, index_tensor(order, source))
    return source.new_zeros(count).index_add(0, where, picked)


def _added_up(pieces: Sequence[Piece], count: int) -> Tensor:
    """The values added up by their places, in one pass over them."""
    places = np.concatenate([piece.places.ravel() for piece in pieces])
    parts = [piece.values.reshape(-1) for piece in pieces]
    source = parts[0] if len(parts) == 1 else torch.cat(parts)
    live = np.flatnonzero(places >= 0)
    if len(live) < len(places):
        source = source.index_select(0, index_tensor(live, source))
    where = index_tensor(places[live], source)
    return source.new_zeros(count).scatter_add(0, where, source)


def _permuted(piece: Piece, count: int) -> Tensor | None:
    """The values with their axes in another order, if that brings them into place."""
    places = piece.places.ravel()
    if len(places) != count or not count or places.min() < 0:
        return None
    sources = np.full(count, -1, np.int64)
    sources[places] = np.arange(count)
    turn = turn_of(sources)
    return (
        None if turn is None else piece.values.reshape(turn.shape).permute(turn.order).reshape(-1)
    )


def _regular(pieces: Sequence[Piece], count: int) -> Tensor | None:
    """The nonzeros in regular rows, or None if there are none or several results."""
    if len({piece.places.shape[1:] for piece in pieces}) != 1:
        return None
    places = np.concatenate([piece.places.reshape(len(piece.places), -1) for piece in pieces])
    live = np.flatnonzero((places >= 0).any(axis=1))
    slices = [(p, s) for p in pieces for s in range(len(p.places))]
    values = [slices[k][0].values[slices[k][1]].reshape(-1) for k in live]
    return in_rows(Slices(places[live], values, [slices[k][0].is_constant for k in live]), count)
