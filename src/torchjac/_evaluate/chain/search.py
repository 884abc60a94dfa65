"""Dynamic programming over the stretches between two cuts.

The best way to have a stretch is one of the moves applied to best ways to have shorter ones. What a
move costs depends on how many derivatives each element has by then, which the patterns tell.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torchjac._evaluate.chain.parts import Load, Part
from torchjac._evaluate.chain.relation import Relation
from torchjac._evaluate.chain.stretch import ADJOINT, TANGENT, Stretch

# What a byte moved, and an operation begun, cost in multiplications: 40 of them take as long as it
# takes to move 13 bytes, and 200,000 as long as to begin an operation, on one core.
BYTE, OPERATION = 3.0, 200_000.0
# Operations of a product: factors are laid out as matrices first, the result as derivatives.
_OPERATIONS, _MOVES = 6, 2
# How often factors that are kept are read, for each time that they are computed.
_USES = 8


class Cost(NamedTuple):
    """What something takes.

    Attributes:
        multiplications: Numbers multiplied and added.
        bytes: Read and written.
        operations: Operations begun.
    """

    multiplications: float = 0.0
    bytes: float = 0.0
    operations: int = 0

    def plus(self, *others: "Cost") -> "Cost":
        """All of them together."""
        return Cost(*map(sum, zip(self, *others, strict=True)))

    @property
    def weight(self) -> float:
        """In multiplications."""
        return self.multiplications + BYTE * self.bytes + OPERATION * self.operations


class Way(NamedTuple):
    """A way to have a stretch, and what it costs."""

    stretch: Stretch
    cost: Cost


class Search:
    """The cheapest way to have each stretch, in both directions.

    Args:
        parts: The parts between the cuts.
        itemsize: Bytes of a number.
    """

    def __init__(self, parts: Sequence[Part], itemsize: int) -> None:
        self._parts = parts
        self._itemsize = itemsize
        self._last = len(parts)
        self._relations: dict[tuple[int, int], Relation] = {}
        self._ways: dict[tuple[int, int, str], Way] = {}
        for length in range(1, self._last + 1):
            for start in range(self._last - length + 1):
                self._find(start, start + length)

    def best(self, rows_first: str) -> Way:
        """The way to have the whole.

        Args:
            rows_first: The direction that gives its entries row by row; those of the other one
                are put in order.

        Returns:
            The way and its cost.
        """
        whole = self._relations[0, self._last]
        turn = Cost(0.0, 4.0 * whole.entries * self._itemsize, 1)
        ways = [
            way if way.stretch.direction == rows_first else Way(way.stretch, way.cost.plus(turn))
            for way in self._both(0, self._last)
        ]
        return min(ways, key=lambda way: way.cost.weight)

    def factors(self) -> tuple[tuple[Stretch, Relation], ...]:
        """The ways to have factors of the whole that are cheap to have and to multiply with.

        Returns:
            First to last, each with its pattern.
        """
        paths: dict[int, tuple[float, tuple[Stretch, ...]]] = {0: (0.0, ())}
        for stop in range(1, self._last + 1):
            found = []
            for start in range(stop):
                way = self._cheapest(start, stop)
                entries = self._relations[start, stop].entries
                weight = way.cost.weight + _USES * BYTE * self._itemsize * entries
                found.append((paths[start][0] + weight, (*paths[start][1], way.stretch)))
            paths[stop] = min(found, key=lambda path: path[0])
        return tuple([(s, self._relations[s.start, s.stop]) for s in paths[self._last][1]])

    def _find(self, start: int, stop: int) -> None:
        last = self._parts[stop - 1].relation
        known = self._relations.get((start, stop - 1))
        self._relations[start, stop] = last if known is None else last.after(known)
        for direction in (TANGENT, ADJOINT):
            ways = self._candidates(start, stop, direction)
            if ways:
                best = min(ways, key=lambda way: way.cost.weight)
                self._ways[start, stop, direction] = best

    def _candidates(self, start: int, stop: int, direction: str) -> list[Way]:
        ways: list[Way] = []
        plain = self._sent(start, stop, start, stop, direction)
        if plain is not None:
            ways.append(Way(Stretch(start, stop, direction), plain))
        for cut in range(start + 1, stop):
            ends = (start, cut) if direction == TANGENT else (cut, stop)
            rest = (cut, stop) if direction == TANGENT else (start, cut)
            before = self._ways.get((*ends, direction))
            if before is None:
                continue
            sent = self._sent(*rest, start, stop, direction)
            if sent is not None and before.stretch.factor is not None:
                stretch = Stretch(start, stop, direction, before.stretch)
                ways.append(Way(stretch, before.cost.plus(sent)))
            factor = self._cheapest(*rest)
            stretch = Stretch(start, stop, direction, before.stretch, factor.stretch)
            product = self._product(start, cut, stop, direction)
            ways.append(Way(stretch, before.cost.plus(factor.cost, product)))
        return ways

    def _both(self, start: int, stop: int) -> list[Way]:
        ways = [self._ways.get((start, stop, direction)) for direction in (TANGENT, ADJOINT)]
        return [way for way in ways if way is not None]

    def _cheapest(self, start: int, stop: int) -> Way:
        return min(self._both(start, stop), key=lambda way: way.cost.weight)

    def _slices(self, start: int, stop: int, direction: str) -> int:
        """Derivatives of each element, between one cut and another."""
        if start == stop:
            return 1
        relation = self._relations[start, stop]
        return relation.longest_row if direction == TANGENT else relation.longest_column

    def _sent(self, begin: int, end: int, start: int, stop: int, direction: str) -> Cost | None:
        """Derivatives of or by the cuts `start` and `stop`, through the parts from begin to end."""
        total = Cost()
        for place in range(begin, end):
            part = self._parts[place]
            loads = part.forward if direction == TANGENT else part.backward
            if loads is None:
                return None
            if direction == TANGENT:
                before = self._slices(start, place, direction)
                after = self._slices(start, place + 1, direction)
            else:
                before = self._slices(place + 1, stop, direction)
                after = self._slices(place, stop, direction)
            total = total.plus(*[_cost(load, before, after) for load in loads])
        return total

    def _product(self, start: int, cut: int, stop: int, direction: str) -> Cost:
        ends = (start, cut) if direction == TANGENT else (cut, stop)
        rest = (cut, stop) if direction == TANGENT else (start, cut)
        factor = self._relations[rest]
        numbers = sum([self._relations[pair].entries for pair in (ends, rest, (start, stop))])
        slices = self._slices(*ends, direction)
        moved = float(_MOVES * numbers * self._itemsize)
        return Cost(float(slices) * factor.entries, moved, _OPERATIONS)


def _cost(load: Load, before: int, after: int) -> Cost:
    """An operation on derivatives that were so many before its part and are so many after it."""
    most = max(before, after)
    given, made = (s if before == 1 else min(before * s, most) for s in load.slices)
    moved = float(given) * load.bytes[0] + float(made) * load.bytes[1]
    return Cost(float(given) * load.multiplications, moved, 1)
