"""Candidates, and the choice between them by predicted time.

Colorings are made one after the other, the most promising first. No direct method needs fewer
columns than the longest row has entries (nor fewer rows than the longest column), so that a
candidate whose bound alone costs more than what was found already is not colored at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import NamedTuple

from torchjac._coloring.coloring import Coloring, Kind
from torchjac._coloring.select import color_pattern
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.probe import FORWARD, REVERSE, Probe
from torchjac._planner.structure import SYMMETRIC, Candidate, Request, Side
from torchjac.errors import ArgumentError

# Coloring columns and rows at once is tried where one side alone takes so many times more than
# the entries of an average row or column: where there are both dense rows and dense columns.
BOTH_RATIO = 4
BOTH_LEAST = 8
INDEX_BYTES = 8
# Predictions are off by about as much. Where they are closer, reverse mode is taken: it evaluates
# the function once however many passes there are, and its passes differ less from one another.
FORWARD_DOUBT = 1.3
NAMES = {FORWARD: "columns by forward mode", REVERSE: "rows by reverse mode"}
KINDS: Mapping[str, Kind] = {FORWARD: "column", REVERSE: "row"}


class Choice(NamedTuple):
    """A coloring, the products that it asks for, and what else there was."""

    coloring: Coloring
    sides: tuple[Side, ...]
    candidates: tuple[Candidate, ...]
    coloring_s: float


class _Colored(NamedTuple):
    coloring: Coloring
    sides: tuple[Side, ...]
    candidate: Candidate
    doubted_s: float


def choose(
    request: Request,
    pattern: SparsityPattern,
    probes: Sequence[Probe],
    itemsize: int,
    given: Coloring | Kind | None = None,
) -> Choice:
    """Color the pattern, and decide what goes through which mode.

    Args:
        request: What the user asked for.
        pattern: Entries to compute.
        probes: One for each mode that is possible.
        itemsize: Bytes of a number.
        given: A coloring, or the kind of one, that the user asked for.

    Returns:
        The choice.
    """
    began = perf_counter()
    ledger = _Ledger(request.api, pattern, {p.mode: p for p in probes}, itemsize)
    if given is not None:
        ledger.consider(given if isinstance(given, Coloring) else color_pattern(pattern, given))
    elif request.order == 2:
        ledger.consider(color_pattern(pattern, "star"))
    else:
        ledger.color_one_side()
        ledger.color_both_sides()
    coloring_s = perf_counter() - began
    return ledger.close(coloring_s)


@dataclass(slots=True)
class _Ledger:
    """What was colored, and what was not and why."""

    api: str
    pattern: SparsityPattern
    probes: Mapping[str, Probe]
    itemsize: int
    colored: list[_Colored] = field(default_factory=list)
    dropped: list[Candidate] = field(default_factory=list)

    def color_one_side(self) -> None:
        """Columns by forward mode or rows by reverse mode; a bound may settle it."""
        counts = {FORWARD: self.pattern.row_counts, REVERSE: self.pattern.column_counts}
        bounds = {mode: int(counts[mode].max(initial=0)) for mode in self.probes}
        least_s = {mode: self._doubted_s({mode: bounds[mode]}) for mode in bounds}
        for mode in sorted(bounds, key=lambda mode: least_s[mode]):
            if self.colored and least_s[mode] >= self._best().doubted_s:
                note = f"at least {bounds[mode]}: not colored"
                self.dropped.append(self._candidate(NAMES[mode], {mode: bounds[mode]}, note))
            else:
                self.consider(color_pattern(self.pattern, KINDS[mode]))

    def color_both_sides(self) -> None:
        """Columns and rows at once, where one side alone looks bad."""
        seeds = self._best().candidate.seeds
        short = self.pattern.nnz / max(min(self.pattern.shape), 1)
        if len(self.probes) == 2 and seeds >= max(BOTH_LEAST, BOTH_RATIO * short):
            self.consider(color_pattern(self.pattern, "bidirectional"))

    def consider(self, coloring: Coloring) -> None:
        """Enter a coloring, by each mode that can use it."""
        for counts in _uses(coloring, self.probes):
            if not counts.keys() <= self.probes.keys():
                continue
            name = " and ".join(NAMES[mode] for mode in counts) or "nothing to compute"
            sides = [Side(mode, self.probes[mode].method, k) for mode, k in counts.items()]
            candidate = self._candidate(name, counts, coloring.kind)
            doubted_s = self._doubted_s(counts)
            self.colored.append(_Colored(coloring, tuple(sides), candidate, doubted_s))

    def close(self, coloring_s: float) -> Choice:
        """The best of what was colored."""
        if not self.colored:
            raise ArgumentError(
                f"{self.api}: the coloring needs a mode that this function or `strategy` does not "
                f"allow; possible: {', '.join(self.probes)}. Leave `coloring` or `strategy` out."
            )
        best = self._best()
        candidates = [replace(c.candidate, is_chosen=c is best) for c in self.colored]
        sizes = {FORWARD: self.pattern.shape[1], REVERSE: self.pattern.shape[0]}
        for mode in self.probes:
            dense = self._candidate(f"dense, {mode}", {mode: sizes[mode]}, "")
            m, n = self.pattern.shape
            candidates.append(replace(dense, bytes=m * n * self.itemsize))
        return Choice(best.coloring, best.sides, (*candidates, *self.dropped), coloring_s)

    def _best(self) -> _Colored:
        return min(self.colored, key=lambda c: c.doubted_s)

    def _doubted_s(self, counts: Mapping[str, int]) -> float:
        """Predicted seconds, with what forward mode has to be better by."""
        parts = {mode: self.probes[mode].predict(k) for mode, k in counts.items()}
        return sum(s * FORWARD_DOUBT if mode == FORWARD else s for mode, s in parts.items())

    def _candidate(self, name: str, counts: Mapping[str, int], note: str) -> Candidate:
        m, n = self.pattern.shape
        sizes = {FORWARD: m, REVERSE: n}
        numbers = self.pattern.nnz + sum(k * sizes[mode] for mode, k in counts.items())
        return Candidate(
            name,
            sum(counts.values()),
            numbers * self.itemsize + self.pattern.nnz * INDEX_BYTES,
            sum(self.probes[mode].predict(k) for mode, k in counts.items()),
            note,
        )


def _uses(coloring: Coloring, modes: Iterable[str]) -> list[dict[str, int]]:
    """Seeds for each mode, for each way to use a coloring."""
    if coloring.kind in SYMMETRIC:
        return [{mode: coloring.num_colors} for mode in modes]
    counts = {FORWARD: coloring.num_column_colors, REVERSE: coloring.num_row_colors}
    return [{mode: k for mode, k in counts.items() if k}]
