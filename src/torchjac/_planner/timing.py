"""How long things take: the least of a few times, or several things in turns."""

from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from time import perf_counter

import torch

# Times are taken at least so often, then so long or so often.
REPEATS, MOST_REPEATS = 3, 100
# What is timed in turns runs so long at a time, for so many rounds, or so long in all.
TURN_S, ROUNDS, IN_ALL_S = 1e-3, 25, 0.2

Run = Callable[[], object]


def least_seconds(run: Run, device: torch.device, long_s: float) -> float:
    """Seconds of one call, the least of a few: others run beside us.

    Args:
        run: What is timed.
        device: Where it runs.
        long_s: Seconds after which it was timed often enough.

    Returns:
        Seconds.
    """
    times: list[float] = []
    while len(times) < REPEATS or (sum(times) < long_s and len(times) < MOST_REPEATS):
        times.append(_timed(run, device, 1))
    return min(times)


def seconds_in_turns(runs: Sequence[Run], device: torch.device) -> list[float]:
    """Seconds of a call of each, the median of turns that are taken in another order each round.

    Things that take about as long can only be told apart side by side: a machine slows down, and
    what runs after a large thing finds the caches full of it.

    Args:
        runs: What is timed.
        device: Where they run.

    Returns:
        Seconds for each.
    """
    counts = [max(1, int(TURN_S / max(_timed(run, device, 1), 1e-9))) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    order, draw = list(range(len(runs))), Random(0)
    began = perf_counter()
    while len(times[0]) < REPEATS or (len(times[0]) < ROUNDS and perf_counter() - began < IN_ALL_S):
        draw.shuffle(order)
        for i in order:
            times[i].append(_timed(runs[i], device, counts[i]))
    return [median(taken) for taken in times]


def _timed(run: Run, device: torch.device, count: int) -> float:
    began = perf_counter()
    for _ in range(count):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (perf_counter() - began) / count
