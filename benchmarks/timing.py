"""Times of several calls, taken in turns so that noise hits all of them alike."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

Call = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        seconds: For all the calls of one problem together.
        fewest: Rounds that even the slowest call takes part in.
        most: Rounds at most.
        block_s: Calls are repeated within a round until they take this long together.
        slow_s: A call that takes longer is timed once.
        clock: What is read before and after, in seconds.
    """

    seconds: float
    fewest: int
    most: int
    block_s: float
    slow_s: float
    clock: Callable[[], float] = time.perf_counter

    def of_clock(self, clock: Callable[[], float]) -> "Effort":
        """As long, by another clock."""
        return replace(self, clock=clock)


FULL = Effort(seconds=6.0, fewest=5, most=150, block_s=0.010, slow_s=3.0)
QUICK = Effort(seconds=0.7, fewest=3, most=30, block_s=0.005, slow_s=0.4)


@dataclass(frozen=True)
class Samples:
    """Seconds per call in each round, by the number of the round."""

    by_round: Mapping[int, float]

    @property
    def median_s(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.by_round.values())

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        times = list(self.by_round.values())
        if len(times) < 2:
            return math.nan
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return (high - low) / 2 / self.median_s

    def extrapolated(self, share: float, once: "Samples") -> "Samples":
        """Times of the whole, of which these are for a part, each with `once` in it one time."""
        base = once.median_s
        return Samples({r: base + (t - base) / share for r, t in self.by_round.items()})


def set_aside() -> None:
    """Take all that lives out of the sight of Python's collector.

    With PyTorch loaded, each of its rounds looks through a million objects, and there is one before
    each call of which the memory is told. What is set aside is seen again at the next such call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def measure(calls: Mapping[str, Call], effort: Effort) -> dict[str, Samples]:
    """Time all calls, round by round.

    A first call of each, not counted, tells how often it is to be repeated within a round. The
    order is another one in each round: whoever follows one that leaves threads waiting, or caches
    full, is slower. A slow call takes part in fewer rounds, spread evenly, so that no call gets
    more than its share of the time.

    Args:
        calls: What to time, by name; warm from earlier calls.
        effort: How long.

    Returns:
        The times, by name.
    """
    guesses = {name: max(_block(call, 1, effort.clock), 1e-7) for name, call in calls.items()}
    slow = {name: Samples({0: guess}) for name, guess in guesses.items() if guess > effort.slow_s}
    calls = {name: call for name, call in calls.items() if name not in slow}
    if not calls:
        return slow
    guesses = {name: guesses[name] for name in calls}
    repeats = {name: max(1, math.ceil(effort.block_s / guess)) for name, guess in guesses.items()}
    share = effort.seconds / len(calls)
    rounds = {
        name: min(effort.most, max(effort.fewest, int(share / (repeats[name] * guesses[name]))))
        for name in calls
    }
    total = max(rounds.values())
    times: dict[str, dict[int, float]] = {name: {} for name in calls}
    order, chance = list(calls), random.Random(0)
    with _quiet_collector():
        for r in range(total):
            gc.collect()
            chance.shuffle(order)
            for name in order:
                if _takes_part(r, rounds[name], total):
                    times[name][r] = _block(calls[name], repeats[name], effort.clock)
    return {name: Samples(by_round) for name, by_round in times.items()} | slow


def _takes_part(r: int, own: int, total: int) -> bool:
    """Whether a call that is in `own` of `total` rounds is in round r."""
    return (r + 1) * own // total > r * own // total


def _block(call: Call, repeats: int, clock: Callable[[], float]) -> float:
    if repeats > 1:
        call()  # finds the caches as the contender before left them
    begin = clock()
    for _ in range(repeats):
        call()
    return (clock() - begin) / repeats


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep Python's collector of cycles out of what is timed; called by hand, it stays quick."""
    set_aside()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
