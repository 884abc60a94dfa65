"""The cheapest order in which to multiply the tensors of a network, written out as operations.

For the few tensors of a network all orders are looked at, by dynamic programming over its subsets.

Source: Pfeifer, Haegeman & Verstraete (2014), "Faster identification of optimal contraction
sequences for tensor networks", Physical Review E 90.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations
from math import inf, prod
from typing import NamedTuple

import torch

from torchjac._evaluate.direct.network import Factor, Label, Term
from torchjac._evaluate.direct.spread import Builder
from torchjac._linearize.program import Ref

aten = torch.ops.aten
# More tensors are too many to look at all orders.
MOST_FACTORS = 7
# What an operation takes, in multiplications; and a number that is read or written.
_CALL, _NUMBER = 100_000.0, 2.0
# Matrices in a batch have at least so many rows and columns, if axes are repeated to have them.
_LEAST_SIDE = 4

Labels = tuple[Label, ...]


class Piece(NamedTuple):
    """A tensor with one name for each axis."""

    ref: Ref
    labels: Labels


def contracted(builder: Builder, term: Term) -> Ref:
    """Write down the operations that compute a term.

    Args:
        builder: Where they are written.
        term: With at most `MOST_FACTORS` factors.

    Returns:
        The tensor.
    """
    network = _Network(term)
    pieces = [_opened(builder, factor) for factor in term.factors]
    order = tuple([label for label in term.labels if label in term.owned])
    writer = _Writer(builder, pieces, network, order)
    if term.scale != 1:
        writer.scale(term.scale, network.size(network.everything))
    piece = writer.written(network.everything, order)
    if term.scale != 1 and not writer.is_scaled:
        piece = Piece(writer.times(piece.ref, term.scale), piece.labels)
    ref = piece.ref
    if piece.labels != order:
        moved = builder.permute(ref, [piece.labels.index(k) for k in order])
        ref = builder.reshape(moved, [prod(builder.shape(moved))])  # in contiguous memory
    if order != term.labels:
        wide = builder.reshape(ref, [k.length if k in order else 1 for k in term.labels])
        ref = builder.expanded(wide, [k.length for k in term.labels])
    return builder.reshape(ref, term.shape)


def _opened(builder: Builder, factor: Factor) -> Piece:
    lengths = [label.length for label in factor.labels]
    return Piece(builder.reshape(factor.ref, lengths), factor.labels)


class _Network:
    """Sets of factors, as bits of a number, and the best way to multiply each together."""

    def __init__(self, term: Term) -> None:
        self._labels = [frozenset(factor.labels) for factor in term.factors]
        self._wanted = frozenset(term.labels)
        self.everything = (1 << len(self._labels)) - 1

    def kept(self, these: int) -> frozenset[Label]:
        """Labels of a product that what is multiplied later needs."""
        inside = self._of(these)
        return inside & (self._wanted | self._of(self.everything & ~these))

    def _of(self, these: int) -> frozenset[Label]:
        labels = [k for place, k in enumerate(self._labels) if these >> place & 1]
        return frozenset[Label]().union(*labels)

    def size(self, these: int) -> int:
        """Numbers of a product."""
        return _count(self.kept(these))

    @cached_property
    def halves(self) -> dict[int, tuple[int, int]]:
        """What to multiply last to have each product."""
        best: dict[int, float] = {}
        found: dict[int, tuple[int, int]] = {}
        places = range(len(self._labels))
        for count in range(1, len(self._labels) + 1):
            for chosen in combinations(places, count):
                these = sum([1 << place for place in chosen])
                best[these] = 0.0 if count == 1 else inf
                part = (these - 1) & these
                while part:
                    rest = these & ~part
                    if part > rest:
                        weight = best[part] + best[rest] + self._weight(part, rest)
                        if weight < best[these]:
                            best[these], found[these] = weight, (part, rest)
                    part = (part - 1) & these
        return found

    def _weight(self, one: int, other: int) -> float:
        left, right, both = self.kept(one), self.kept(other), self.kept(one | other)
        terms = _count(left | right)
        numbers = _count(left) + _count(right) + _count(both)
        if not is_matrix_product(left, right, both) and len(both) < len(left | right):
            numbers += 2 * terms
        return _CALL + terms + _NUMBER * numbers


def is_matrix_product(
    left: frozenset[Label], right: frozenset[Label], kept: frozenset[Label]
) -> bool:
    """Whether a product has rows, columns and a sum."""
    return bool(left - right and right - left and (left & right) - kept)


class _Writer:
    """Writes the products of a network in its order."""

    def __init__(
        self, builder: Builder, pieces: list[Piece], network: _Network, order: Labels
    ) -> None:
        self._builder = builder
        self._pieces = pieces
        self._network = network
        self._order = order
        self.is_scaled = False

    def scale(self, number: float, most: int) -> None:
        """Multiply the smallest factor with a number, if it is smaller than the result."""
        sizes = [prod(self._builder.shape(piece.ref)) for piece in self._pieces]
        place = sizes.index(min(sizes))
        if sizes[place] < most:
            piece = self._pieces[place]
            self._pieces[place] = Piece(self.times(piece.ref, number), piece.labels)
            self.is_scaled = True

    def times(self, ref: Ref, number: float) -> Ref:
        """A tensor times a number."""
        shape = self._builder.shape(ref)
        return self._builder.call(aten.mul.Scalar, (ref, number), shape)

    def written(self, these: int, order: Labels | None = None) -> Piece:
        """The product of some factors.

        Args:
            these: Which.
            order: The labels of the result as they are best in order, if that matters.

        Returns:
            The product, in some order.
        """
        kept = self._network.kept(these)
        if these not in self._network.halves:
            return self._summed(self._pieces[these.bit_length() - 1], kept)
        one, other = [self.written(half) for half in self._network.halves[these]]
        shared = [k for k in one.labels if k in other.labels]
        over = [k for k in shared if k not in kept]
        if is_matrix_product(frozenset(one.labels), frozenset(other.labels), kept):
            return self._matrices(one, other, over, order)
        if not over:
            return self._outer(one, other, order)
        return self._summed(self._outer(one, other, None), kept)

    def _summed(self, piece: Piece, kept: Iterable[Label]) -> Piece:
        gone = [place for place, k in enumerate(piece.labels) if k not in kept]
        if not gone:
            return piece
        labels = tuple([k for k in piece.labels if k in kept])
        shape = [k.length for k in labels]
        return Piece(self._builder.call(aten.sum.dim_IntList, (piece.ref, gone), shape), labels)

    def _outer(self, one: Piece, other: Piece, order: Labels | None) -> Piece:
        """The product element by element."""
        small, large = sorted((one, other), key=lambda piece: _count(piece.labels))
        order = order or (*[k for k in small.labels if k not in large.labels], *large.labels)
        # The result lies in memory as its factors do.
        factors = [self._arranged(piece, order, lays_out=True) for piece in (one, other)]
        shape = [k.length for k in order]
        return Piece(self._builder.call(aten.mul.Tensor, tuple(factors), shape), order)

    def _matrices(
        self, one: Piece, other: Piece, over: Sequence[Label], order: Labels | None
    ) -> Piece:
        """A batch of matrix products, in the wanted order where that is cheap."""
        groups = _groups(one, other, over, self._order)
        placed = _in_order(*groups, over, order or ())
        batch, rows, columns = placed or groups
        if rows[0] in other.labels:
            one, other = other, one
        left = self._matrix(one, batch, (*rows, *over))
        right = self._matrix(other, batch, (*over, *columns))
        count, height, width, inner = [_count(g) for g in (batch, rows, columns, over)]
        builder, op = self._builder, aten.bmm.default if batch else aten.mm.default
        front = [count] if batch else []
        factors = (
            builder.reshape(left, [*front, height, inner]),
            builder.reshape(right, [*front, inner, width]),
        )
        product = builder.call(op, factors, [*front, height, width])
        labels = (*batch, *rows, *columns)
        return Piece(builder.reshape(product, [k.length for k in labels]), labels)

    def _matrix(self, piece: Piece, batch: Labels, sides: Labels) -> Ref:
        """A tensor with the axes of a batch in front, repeated along those that it lacks."""
        order = (*batch, *sides)
        # Libraries want the numbers of a matrix to lie side by side.
        wide = self._arranged(piece, order, lays_out=piece.labels[-1] in batch)
        return self._builder.expanded(wide, [k.length for k in order])

    def _arranged(self, piece: Piece, order: Labels, *, lays_out: bool) -> Ref:
        """A tensor with its axes in order, those that it lacks of length one."""
        builder = self._builder
        own = [k for k in order if k in piece.labels]
        moved = builder.permute(piece.ref, [piece.labels.index(k) for k in own])
        if lays_out and tuple(own) != piece.labels:
            moved = builder.reshape(moved, [_count(own)])  # in contiguous memory
        return builder.reshape(moved, [k.length if k in own else 1 for k in order])


def _groups(
    one: Piece, other: Piece, over: Sequence[Label], order: Labels
) -> tuple[Labels, Labels, Labels]:
    """Axes of a batch, of rows and of columns, each as the wanted order has them."""

    def ordered(labels: Iterable[Label]) -> Labels:
        return tuple(sorted(labels, key=lambda k: order.index(k) if k in order else 0))

    batch = [k for k in one.labels if k in other.labels and k not in over]
    rows = ordered([k for k in one.labels if k not in other.labels])
    columns = ordered([k for k in other.labels if k not in one.labels])
    # What is innermost in the end is so from the beginning.
    last = max((*rows, *columns), key=lambda k: order.index(k) if k in order else -1)
    return (ordered(batch), columns, rows) if last in rows else (ordered(batch), rows, columns)


def _in_order(
    batch: Labels, rows: Labels, columns: Labels, over: Sequence[Label], order: Labels
) -> tuple[Labels, Labels, Labels] | None:
    """Batch, rows and columns of a product whose result is in order, whichever factor is first.

    Axes of one factor that come before those of the batch become axes of the batch, along which the
    other factor is repeated, if that is little beside the result.

    Returns:
        The axes of the batch, of one factor and of the other; None if the result needs to be put in
        order.
    """
    for start in range(len(batch), len(order)):
        front, rest = order[:start], order[start:]
        first, last = (rows, columns) if rest[0] in rows else (columns, rows)
        one = tuple([k for k in rest if k in first])
        other = tuple([k for k in rest if k in last])
        if not other or not set(batch) <= set(front) or rest != (*one, *other):
            continue
        sizes = [_count((*front, *over, *side)) for side in (one, other)]
        repeated = [set(front) & set(group) for group in (last, first)]
        grown = sum([size for size, new in zip(sizes, repeated, strict=True) if new])
        is_little = 2 * grown <= _count(order) and min(_count(one), _count(other)) >= _LEAST_SIDE
        return (front, one, other) if not grown or is_little else None
    return None


def _count(labels: Iterable[Label]) -> int:
    return prod([k.length for k in labels])
