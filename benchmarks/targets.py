"""What the project promises of its speed and memory, and whether a run keeps it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.model import (
    ASDEX,
    BACKENDS,
    EAGER,
    FUNC,
    FUNCTIONAL,
    HAND,
    PLAN,
    REFILL,
    REPLAY,
    TORCHJAC,
    Growth,
    Measured,
    Planning,
    Row,
    Run,
)

MIB = 2**20
# Names of rows, and what is promised of them.
FLOOR_ROWS = ("brusselator(256)", "burgers(100000)")
FLOOR_LIMIT = 4.0
REPLAY_ROWS = ("brusselator(64)", "brusselator(256)")
SMALL_ROWS = ("allen_cahn(1000)", "burgers(1000)", "rosenbrock(1000)")
SMALL_US = 30.0
REFILL_ROW, REFILL_FACTOR = "allen_cahn(100000)", 5.0
GEOMETRIC_MEAN = 2.5
AGAINST_COMPILED = {
    "waist/1000-10-1000": 3.0,
    "waist/1000-256-10-256-1000": 10.0,
    "waist/784-512-256-32-256-512-784": 10.0,
    "block": 5.0,
}
AGAINST_WHOLE = {"batch/32": 80.0, "batch/64": 80.0, "tokens": 80.0}
AGAINST_FUNC = {"ntk": 100.0}
ROBOT, ROBOT_PEERS = "robot/512", ("vmap(jacfwd)", "make_fx of ")
HARDLY_BEHIND = 1.1
LOOP_FACTOR = 10.0
LARGE = ("classifier", "decoder", "batch", "plain")
PLANNING_LIMITS_S = {"planning beyond tracing": 0.2, "minimum cuts": 0.05}
# Preparing, relative to asdex: no slower from so many unknowns on, far faster from so many.
NO_SLOWER_FROM, FAR_FASTER_FROM, FAR_FASTER = 2_000, 100_000, 5.0
PREPARE_S = {"brusselator(256)": 0.6, "allen_cahn(1000000)": 3.0}


@dataclass(frozen=True)
class Verdict:
    """Whether one promise is kept on one row.

    Attributes:
        promise: What is promised.
        where: The row.
        value: What was found, None where it could not be.
        limit: What it must be, at least or at most.
        unit: Of both: "×" (times as fast), "us", "ms", "s", "MiB" or "× floor".
        at_least: Whether the limit is a lower one.
    """

    promise: str
    where: str
    value: float | None
    limit: float
    unit: str = "×"
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the promise is kept; what could not be found is not."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        """In a few words.

        >>> str(Verdict("as fast as asdex", "arrow(1000)", 0.5, 1.0))
        'MISSED 0.50 × (≥ 1 ×)'
        """
        found = "not measured" if self.value is None else f"{_digits(self.value)} {self.unit}"
        sign = "≥" if self.at_least else "≤"
        word = "met" if self.met else "MISSED"
        return f"{word} {found} ({sign} {self.limit:.3g} {self.unit})"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean, NaN of nothing.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms)) if logarithms else math.nan


def speedup(own: Measured | None, peers: Iterable[Measured | None]) -> float | None:
    """How many times as fast as the fastest of some peers; None if either is missing."""
    times = [peer.time_s for peer in peers if peer is not None]
    return min(times) / own.time_s if own is not None and times else None


def judge(run: Run) -> list[Verdict]:
    """Hold a run against all promises that concern what it measured.

    Args:
        run: The run.

    Returns:
        A verdict for each promise and row.
    """
    found = [*_geometric(run.rows)]
    for row in run.rows:
        for judged in (_sparse, _structured, _behind, _one_call, _preparing):
            found += judged(row)
    found += [_planning(planning) for planning in run.planning]
    return found + [_growth(growth) for growth in run.growths if growth.limit_bytes is not None]


def against_asdex(row: Row) -> float | None:
    """How many times as fast as asdex the plan is."""
    return speedup(row.own, [row.find(ASDEX)])


def _geometric(rows: Sequence[Row]) -> Iterator[Verdict]:
    factors = [factor for row in rows if (factor := against_asdex(row)) is not None]
    if factors:
        promise = "sparse, geometric mean against asdex under jit"
        where = f"{len(factors)} sparse rows"
        yield Verdict(promise, where, geometric_mean(factors), GEOMETRIC_MEAN)


def _sparse(row: Row) -> Iterator[Verdict]:
    if row.kind != "sparse":
        return
    where, asdex = row.label, row.find(ASDEX)
    if asdex is not None:
        yield Verdict("sparse, against asdex under jit", where, against_asdex(row), 1.0)
    if row.name == REFILL_ROW:
        factor = speedup(row.find(TORCHJAC, REFILL), [asdex])
        yield Verdict("refill in place, against asdex", where, factor, REFILL_FACTOR)
    if row.name in REPLAY_ROWS:
        factor = speedup(row.find(TORCHJAC, REPLAY), [asdex])
        yield Verdict("replay without a compiler, against asdex", where, factor, 1.0)
    own = row.own
    if row.name in FLOOR_ROWS:
        times = None if own is None else own.time_s / row.floor_s
        yield Verdict("time over the floor", where, times, FLOOR_LIMIT, "× floor", False)
    if row.name in SMALL_ROWS:
        time_us = None if own is None else 1e6 * own.time_s
        yield Verdict("small stencils, whole call", where, time_us, SMALL_US, "us", False)


def _structured(row: Row) -> Iterator[Verdict]:
    where, name, own = row.label, row.name, row.own

    def all_of(library: str, keep: Callable[[Measured], bool]) -> list[Measured]:
        return [m for m in row.measured if m.library == library and keep(m)]

    if name in AGAINST_COMPILED:
        compiled = all_of(FUNC, lambda m: m.is_compiled)
        promise = "against the best compiled torch.func"
        yield Verdict(promise, where, speedup(own, compiled), AGAINST_COMPILED[name])
    if name in AGAINST_WHOLE:
        whole = all_of(FUNC, lambda _: True)
        promise = "against the best of torch.func, batch given whole"
        yield Verdict(promise, where, speedup(own, whole), AGAINST_WHOLE[name])
        by_hand = all_of(HAND, lambda m: m.way.startswith("vmap"))
        factor = speedup(own, by_hand)
        yield Verdict("against a hand-written vmap", where, factor, 1.0)
    if name in AGAINST_FUNC:
        factor = speedup(own, all_of(FUNC, lambda _: True))
        yield Verdict("against torch.func", where, factor, AGAINST_FUNC[name])
    if name == ROBOT:
        by_hand = all_of(HAND, lambda m: m.is_compiled and m.way.startswith(ROBOT_PEERS))
        promise = "against compiled vmap(jacfwd), or traced and compiled by hand"
        yield Verdict(promise, where, speedup(own, by_hand), 1.0)


def _behind(row: Row) -> Iterator[Verdict]:
    """The plan as it comes is hardly behind the best candidate, and the best of PyTorch."""
    chosen, where = row.find(TORCHJAC, PLAN), row.label
    if chosen is None:
        return
    backends = row.find(TORCHJAC, *BACKENDS.values())
    factor = speedup(chosen, [backends])
    yield Verdict("the plan against its best backend", where, factor, 1 / HARDLY_BEHIND)
    if row.kind == "sparse":
        return
    of_func = [m for m in row.peers if m.library == FUNC]
    compiled = [m for m in of_func if m.is_compiled]
    if row.kind == "laplacian":
        promise = "against the best of torch.func"
        yield Verdict(promise, where, speedup(chosen, of_func), 1 / HARDLY_BEHIND)
    elif compiled:
        promise = "against the best compiled jacrev or jacfwd"
        yield Verdict(promise, where, speedup(chosen, compiled), 1 / HARDLY_BEHIND)
    if row.family in ("plain", "tutorial"):
        promise = "against the best of all others"
        yield Verdict(promise, where, speedup(chosen, row.peers), 1 / HARDLY_BEHIND)


def _one_call(row: Row) -> Iterator[Verdict]:
    """`jacobian` and `batch_jacobian`, which trace nothing."""
    own = row.find(TORCHJAC, "jacobian", "batch_jacobian")
    loop = row.find(FUNCTIONAL, "jacobian")
    if row.family == "tutorial":
        factor = speedup(own, [loop])
        yield Verdict("one call, against functional.jacobian", row.label, factor, 1.0)
    elif row.family in LARGE:
        factor = speedup(own, [loop])
        yield Verdict("one call, against functional.jacobian", row.label, factor, LOOP_FACTOR)
        ways = ("vmap(jacrev)", "vmap(jacfwd)", "jacrev", "jacfwd")
        plain = [row.find(library, *ways) for library in (FUNC, HAND)]
        promise = "one call, against torch.func as it comes"
        yield Verdict(promise, row.label, speedup(own, plain), 1 / HARDLY_BEHIND)


def _preparing(row: Row) -> Iterator[Verdict]:
    """Pattern and colors, without what a compiler takes on either side."""
    own, asdex = row.find(TORCHJAC, EAGER), row.find(ASDEX)
    if row.kind != "sparse" or row.dtype != "float64" or own is None:
        return
    if asdex is not None and row.unknowns >= NO_SLOWER_FROM:
        theirs = sum(s for stage, s in asdex.once.items() if stage != "first call")
        limit = FAR_FASTER if row.unknowns >= FAR_FASTER_FROM else 1.0
        yield Verdict("preparing, against asdex", row.label, theirs / own.once_s, limit)
    if row.name in PREPARE_S:
        limit = PREPARE_S[row.name]
        yield Verdict("preparing", row.label, own.once_s, limit, "s", False)


def _planning(planning: Planning) -> Verdict:
    where = f"{planning.operations} operations"
    limit = PLANNING_LIMITS_S[planning.stage]
    return Verdict(planning.stage, where, 1e3 * planning.seconds, 1e3 * limit, "ms", False)


def _growth(growth: Growth) -> Verdict:
    limit = (growth.limit_bytes or 0) / MIB
    where = f"{growth.case}: {growth.contender}"
    return Verdict("memory budget", where, growth.growth_bytes / MIB, limit, "MiB", False)


def lost(run: Run) -> list[tuple[Row, Measured, float]]:
    """Rows on which somebody is faster than torchjac, with the time of torchjac over theirs."""
    found = []
    for row in run.rows:
        best = min(row.peers, key=lambda m: m.time_s, default=None)
        if row.own is not None and best is not None and best.time_s < row.own.time_s:
            found.append((row, best, row.own.time_s / best.time_s))
    return sorted(found, key=lambda item: -item[2])
