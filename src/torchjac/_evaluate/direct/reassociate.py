"""Products of several tensors in the order in which they are cheapest.

Derivatives that go through a sum of products become outer products, and are then multiplied with
the next matrix: (a b) W, where a does not change along the axis that is summed, is a (b W), with a
fraction of the multiplications. Here stretches of a program that only move, multiply and sum become
networks of named axes, and are written out again in the cheapest order, where that is predicted to
be clearly faster. A product with matrices side by side becomes a sum of products.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch

from torchjac._evaluate.direct.contraction import MOST_FACTORS, contracted
from torchjac._evaluate.direct.network import Term, matrix_product, whole
from torchjac._evaluate.direct.reading import read
from torchjac._evaluate.direct.spread import Builder
from torchjac._linearize.cost import bytes_of, is_view
from torchjac._linearize.program import LinearProgram, Node, Ref

aten = torch.ops.aten
# A stretch must become faster by so much, and by so many microseconds.
_FASTER, _LEAST_GAIN = 0.75, 10.0
# Microseconds: of a call, of a byte or a floating-point operation, of a number that is gathered, of
# one that is copied when its neighbours come from elsewhere, and of a matrix in a batch.
_CALL, _UNIT, _GATHERED, _TURNED, _MATRIX = 1.5, 1.1e-5, 1e-3, 4e-3, 0.05
_PRODUCTS, _GATHERS = frozenset({aten.mm, aten.bmm}), frozenset({aten.index, aten.index_select})
_MOVES = frozenset({aten.permute.default, aten.transpose.int, aten.expand.default})
_RESHAPES = frozenset({aten.view, aten.reshape, aten._unsafe_view})
_COPIES = _RESHAPES | {aten.clone}


def reassociated(program: LinearProgram) -> LinearProgram:
    """The program with products and sums in a cheaper order, where that is clearly faster.

    Args:
        program: Linear in nothing.

    Returns:
        A program with the same results up to rounding.
    """
    numbers = [n for node in program.nodes for n in (*node.inputs, *node.outputs) if n is not None]
    if any([0 in program.values[n].shape for n in numbers]):
        return program
    rewriter = _Rewriter(program)
    for place in range(len(program.nodes)):
        rewriter.read(place)
    for number in program.outputs:
        if number is not None:
            rewriter.settle(number)
    builder = rewriter.builder
    return replace(
        program,
        nodes=tuple(builder.nodes),
        values=tuple(builder.values),
        constants=builder.constants,
    )


class _Held(NamedTuple):
    """A tensor that is not written down yet.

    Attributes:
        terms: Their sum is the tensor; or they lie side by side along its last axis.
        places: Of the operations that it takes.
        is_moved: Whether these only give other shapes to one tensor.
        is_apart: Whether the terms lie side by side.
    """

    terms: tuple[Term, ...]
    places: tuple[int, ...]
    is_moved: bool
    is_apart: bool = False


class _Rewriter:
    """The new program, as far as it is written."""

    def __init__(self, program: LinearProgram) -> None:
        self.builder = Builder(program.values, dict(program.constants))
        self._program = program
        self._held: dict[int, _Held] = {}
        self._written: set[int] = set()
        self._uses: dict[int, int] = {}
        ends = [n for n in program.outputs if n is not None]
        for number in [*[n for node in program.nodes for n in node.inputs], *ends]:
            self._uses[number] = self._uses.get(number, 0) + 1

    def read(self, place: int) -> None:
        """Hold the result of an operation, or write it down."""
        node = self._program.nodes[place]
        found = self._sums(node) or self._side_by_side(node)
        number = node.outputs[0]
        if found is None or number is None:
            for needed in node.inputs:
                self.settle(needed)
            self._write(place)
            return
        behind = [self._held[n] for n in node.inputs if n in self._held]
        places = {place}.union(*[held.places for held in behind])
        is_moved = is_view(node) and all([held.is_moved for held in behind])
        self._held[number] = found._replace(places=tuple(sorted(places)), is_moved=is_moved)
        if self._uses.get(number, 0) > 1 and not is_moved:
            self.settle(number)

    def _sums(self, node: Node) -> _Held | None:
        """The result as a sum of terms."""
        held = [self._held.get(n) for n in node.inputs]
        if any([h is not None and h.is_apart for h in held]):
            return self._product_with_sides(node)
        counts = [1 if h is None else len(h.terms) for h in held]
        if prod(counts) != max(counts, default=1):
            return None
        terms: list[Term] = []
        for place in range(max(counts, default=1)):

            def fetch(ref: Ref, place: int = place) -> Term:
                known = self._held.get(ref.number)
                if known is None:
                    return whole(ref, self._program.values[ref.number].shape)
                return known.terms[place if len(known.terms) > 1 else 0]

            term = read(node, fetch, self._program.values, self._program.constants)
            if term is None or len(term.factors) > MOST_FACTORS:
                return None
            terms.append(term)
        return _Held(tuple(terms), (), is_moved=False)

    def _side_by_side(self, node: Node) -> _Held | None:
        """A concatenation along the last axis."""
        number = node.outputs[0]
        if node.op is not aten.cat.default or number is None or node.kwargs:
            return None
        parts: Sequence[Ref] = node.args[0]
        value = self._program.values[number]
        last = len(value.shape) - 1
        dim = node.args[1] % (last + 1) if len(node.args) > 1 else 0
        same = all([self._program.values[part.number].dtype == value.dtype for part in parts])
        if not same or not value.dtype.is_floating_point or dim != last:
            return None
        terms: list[Term] = []
        for part in parts:
            held = self._held.get(part.number)
            if held is None:
                terms.append(whole(part, self._program.values[part.number].shape))
            elif len(held.terms) == 1:
                terms.append(held.terms[0])
            else:
                return None
        return _Held(tuple(terms), (), is_moved=False, is_apart=True)

    def _product_with_sides(self, node: Node) -> _Held | None:
        """What is done to terms that lie side by side: other shapes, or a product with a matrix."""
        first, number = node.args[0], node.outputs[0]
        held = self._held.get(first.number) if isinstance(first, Ref) else None
        if held is None or not held.is_apart or number is None:
            return None
        shape = self._program.values[number].shape
        if getattr(node.op, "overloadpacket", None) in _RESHAPES:
            if shape[-1:] != self._program.values[first.number].shape[-1:]:
                return None
            found = [term.reshaped((*shape[:-1], term.shape[-1])) for term in held.terms]
            terms = tuple([term for term in found if term is not None])
            return held._replace(terms=terms) if len(terms) == len(found) else None
        if node.op is not aten.mm.default or node.args[1].number in self._held:
            return None
        return self._sum_of_products(held.terms, node.args[1])

    def _sum_of_products(self, parts: Sequence[Term], matrix: Ref) -> _Held | None:
        terms: list[Term] = []
        start = 0
        width = self.builder.shape(matrix)[1]
        for part in parts:
            inner = part.shape[-1]
            args = matrix, 0, start, start + inner
            rows = self.builder.call(aten.slice.Tensor, args, (inner, width))
            start += inner
            if self._is_zero(part) and self._is_finite(rows):
                continue
            term = matrix_product(part, whole(rows, (inner, width)))
            if term is None or len(term.factors) > MOST_FACTORS:
                return None
            terms.append(term)
        return _Held(tuple(terms), (), is_moved=False) if terms else None

    def _is_zero(self, term: Term) -> bool:
        known = [self.builder.constants.get(factor.ref.number) for factor in term.factors]
        return len(known) == 1 and known[0] is not None and not bool(known[0].any())

    def _is_finite(self, ref: Ref) -> bool:
        known = self.builder.constants.get(ref.number)
        return known is not None and bool(known.isfinite().all())

    def settle(self, number: int) -> None:
        """Write down what makes a tensor, as it was or in a better order.

        Args:
            number: Of the tensor.
        """
        held = self._held.pop(number, None)
        if held is None:
            return
        left = [place for place in held.places if place not in self._written]
        nodes = [self._program.nodes[place] for place in left]
        before = self._microseconds(nodes)
        if before > _LEAST_GAIN and not held.is_moved and not held.is_apart:
            start = len(self.builder.nodes)
            self._rewrite(held.terms, number)
            after = self._microseconds(self.builder.nodes[start:])
            if after < min(_FASTER * before, before - _LEAST_GAIN):
                return
            del self.builder.nodes[start:]
        for place in left:
            self._write(place)

    def _write(self, place: int) -> None:
        self.builder.nodes.append(self._program.nodes[place])
        self._written.add(place)

    def _rewrite(self, terms: Sequence[Term], number: int) -> None:
        """Write the sum of networks under a number, laid out in memory as it was."""
        builder, start = self.builder, len(self.builder.nodes)
        shape, _, strides = builder.values[number]
        order = sorted(range(len(shape)), key=lambda d: -strides[d] if strides else d)
        parts = [contracted(builder, term.permuted(order)) for term in terms]
        total = parts[0]
        for part in parts[1:]:
            total = builder.call(aten.add.Tensor, (total, part), builder.shape(total))
        total = builder.permute(total, [order.index(d) for d in range(len(shape))])
        if builder.nodes[start:] and builder.nodes[-1].outputs == (total.number,):
            builder.nodes[-1] = replace(builder.nodes[-1], outputs=(number,))
        else:
            builder.nodes.append(Node(aten.alias.default, (total,), {}, (number,)))

    def _microseconds(self, nodes: Sequence[Node]) -> float:
        """What operations take one after the other."""
        makers = {node.outputs[0]: node for node in nodes}
        total = 0.0
        for node in nodes:
            packet = getattr(node.op, "overloadpacket", None)
            shape = self.builder.values[node.outputs[0] or 0].shape
            maker = makers.get(node.inputs[0]) if node.inputs else None
            moved = packet in _COPIES and getattr(maker, "op", None) in _MOVES
            total += _CALL
            if moved or not is_view(node):
                total += _UNIT * self._traffic_and_work(node)
            if moved and maker is not None and self._moves_last(maker):
                total += _TURNED * prod(shape)
            if packet in _GATHERS:
                total += _GATHERED * prod(shape)
            elif packet is aten.bmm:
                total += _MATRIX * shape[0]
        return total

    def _moves_last(self, node: Node) -> bool:
        """Whether the numbers that lay side by side do so no more."""
        rank = len(self.builder.values[node.inputs[0]].shape)
        if not rank or node.op is aten.expand.default:
            return False
        if node.op is aten.permute.default:
            return node.args[1][-1] % rank != rank - 1
        return rank - 1 in [d % rank for d in node.args[1:]]

    def _traffic_and_work(self, node: Node) -> int:
        values = [self.builder.values[n] for n in (*node.inputs, *node.outputs) if n is not None]
        moved = sum([bytes_of(value) for value in values])
        if getattr(node.op, "overloadpacket", None) in _PRODUCTS:
            return moved + 2 * prod(values[0].shape) * values[1].shape[-1]
        return moved + max([prod(value.shape) for value in values])
