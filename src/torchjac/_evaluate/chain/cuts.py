"""Waists of a linear program: few numbers through which all that a tangent does must pass.

A cut is a set of tensors such that every path from the tangents to the results holds one of them.
The narrowest one is a minimum vertex cut, and has the value of a maximum flow through a network in
which each tensor lets through as many units as it has elements (Ford & Fulkerson 1956; Menger
1927). A residual connection round a waist is thus part of the cut. The halves are cut again, so
that the cuts lie one behind the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from torchjac._evaluate.chain.segment import segment
from torchjac._evaluate.chain.work import Work
from torchjac._linearize.program import LinearProgram

Cut = tuple[int, ...]
# A residual connection round a part doubles its width, and adds few entries.
WIDER = 2
# Units of flow, which SciPy counts in 32 bits: together the tensors let through fewer.
_ENDLESS = 2**30
_MOST_UNITS = 2**29
# Of cuts that are nearly as narrow, one that halves the work: those at the ends count as so much
# wider.
_ASIDE = 0.25


def nested_cuts(program: LinearProgram, most: int) -> list[Cut]:
    """Cuts of a program one behind the other, from its tangents to its results.

    Args:
        program: The whole.
        most: How many at most.

    Returns:
        The cuts, each the numbers of its tensors. None is more than twice as wide as the wider one
        of those that it was found between.
    """
    ends = program.tangents, tuple(dict.fromkeys([n for n in program.outputs if n is not None]))
    if not all([width(program, end) for end in ends]):
        return []
    parts = [_part(program, *ends)]
    while len(parts) <= most:
        left = [part for part in parts if part.may_be_cut]
        if not left:
            break
        widest = max(left, key=lambda part: part.work.total)
        place = parts.index(widest)
        cut = _waist(widest.program, widest.work)
        if cut is None or cut in (widest.start, widest.stop):
            parts[place] = replace(widest, may_be_cut=False)
            continue
        halves = (widest.start, cut), (cut, widest.stop)
        parts[place : place + 1] = [_part(widest.program, *half) for half in halves]
    return [part.stop for part in parts[:-1]]


@dataclass(frozen=True, eq=False)
class _Part:
    """What lies between two cuts."""

    start: Cut
    stop: Cut
    program: LinearProgram
    work: Work
    may_be_cut: bool


def _part(program: LinearProgram, start: Cut, stop: Cut) -> _Part:
    part = segment(program, start, stop)
    work = Work(part)
    return _Part(start, stop, part, work, len(work.mixing) > 1)


def width(program: LinearProgram, cut: Sequence[int]) -> int:
    """Elements of the tensors of a cut.

    Args:
        program: Where they are.
        cut: Their numbers.

    Returns:
        How many.
    """
    return sum([prod(program.values[n].shape) for n in cut])


def _waist(part: LinearProgram, work: Work) -> Cut | None:
    """The narrowest cut between the first and the last operation that mixes elements."""
    network = _Network(part, work)
    if network.units > _MOST_UNITS:
        return None
    cut = network.cut()
    stops = tuple([n for n in part.outputs if n is not None])
    widest = WIDER * max(width(part, part.tangents), width(part, stops))
    return cut if cut and width(part, cut) <= widest else None


class _Network:
    """The tensors and operations of a program as vertices, each tensor as two.

    Flow comes in where a tensor is made and goes out where it is used.
    """

    def __init__(self, part: LinearProgram, work: Work) -> None:
        nodes = part.linear_nodes
        self._tensors = [n for n in part.linear if n in {*part.tangents}]
        made = [n for node in nodes for n in node.outputs if n is not None]
        self._tensors += [n for n in dict.fromkeys(made) if n not in self._tensors]
        self._place = {n: k for k, n in enumerate(self._tensors)}
        self._first = 2 * len(self._tensors)
        self._source, self._sink = self._first + len(nodes), self._first + len(nodes) + 1
        self._edges: list[tuple[int, int, int]] = []
        self._add_tensors(part, work)
        for k, node in enumerate(nodes):
            # What lies before a cut may not depend on what lies behind it: back from an operation
            # an endless edge leads to where its arguments are made, and from there to their makers.
            for place in {self._place[n] for n in node.inputs if n in self._place}:
                self._connect(2 * place + 1, self._first + k)
                self._connect(self._first + k, 2 * place)
            for place in [self._place[n] for n in node.outputs if n is not None]:
                self._connect(self._first + k, 2 * place)
                self._connect(2 * place, self._first + k)
        for n in part.tangents:
            self._connect(self._source, 2 * self._place[n])
        for n in {n for n in part.outputs if n is not None}:
            self._connect(2 * self._place[n] + 1, self._sink)
        self._connect(self._source, self._first + work.mixing[0])
        self._connect(self._first + work.mixing[-1], self._sink)

    @property
    def units(self) -> int:
        """All that the tensors let through."""
        return sum([units for *_, units in self._edges if units < _ENDLESS])

    def _add_tensors(self, part: LinearProgram, work: Work) -> None:
        done = np.cumsum(work.multiplications) / max(work.total, 1)
        after = {n: done[k] for k, node in enumerate(part.linear_nodes) for n in node.outputs}
        sizes = {n: prod(part.values[n].shape) for n in self._tensors}
        # Of an element, so that nearly as narrow cuts can be told apart.
        scale = min(1000, max(1, _MOST_UNITS // (2 * sum(sizes.values()) + 1)))
        for n, place in self._place.items():
            aside = abs(2 * after.get(n, 0.0) - 1)
            is_real = part.values[n].dtype.is_floating_point
            units = int(sizes[n] * scale * (1 + _ASIDE * aside))
            units = min(units, _ENDLESS) if is_real else _ENDLESS
            self._connect(2 * place, 2 * place + 1, units)

    def _connect(self, start: int, stop: int, units: int = _ENDLESS) -> None:
        self._edges.append((start, stop, units))

    def cut(self) -> Cut | None:
        """The tensors of a minimum cut, None if there is none."""
        starts, stops, units = (np.array(part) for part in zip(*self._edges, strict=True))
        size = self._sink + 1
        keys, where = np.unique(starts.astype(np.int64) * size + stops, return_inverse=True)
        capacity = np.zeros(len(keys), np.int64)
        np.maximum.at(capacity, where, units)
        rows, columns = np.divmod(keys, size)
        graph: Any = sparse.csr_array(
            (capacity.astype(np.int32), (rows, columns)), shape=(size, size), dtype=np.int32
        )
        flow: Any = maximum_flow(graph, self._source, self._sink)
        if flow.flow_value >= _ENDLESS:
            return None
        left = graph - flow.flow
        left.data = np.maximum(left.data, 0)
        left.eliminate_zeros()
        reached = set(breadth_first_order(left, self._source, return_predecessors=False).tolist())
        crossing = [
            n for n, k in self._place.items() if 2 * k in reached and 2 * k + 1 not in reached
        ]
        return tuple(crossing)
