"""What a process measures of itself, with NumPy and the standard library alone.

Contenders that need an environment of their own run in processes that import nothing else of this
package.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

# Calls are repeated until a block of them takes this long.
BLOCK_S = 0.005
MOST_BLOCKS = 200


def forget_peak() -> None:
    """Set the peak of the resident set to what it is now."""
    Path("/proc/self/clear_refs").write_text("5")


def status(field: str) -> int:
    """Bytes in a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no field {field}")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What one call returns, and its seconds."""
    begin = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin


def measured(call: Callable[[], T]) -> tuple[T, float, int]:
    """What one call returns, its seconds, and how much the resident set grew at most."""
    gc.collect()
    forget_peak()
    before = status("VmRSS")
    result, seconds = timed(call)
    return result, seconds, status("VmHWM") - before


def median_s(call: Callable[[], object], seconds: float) -> float:
    """Median seconds of a call, over blocks that take `seconds` together, at least three."""
    call()
    _, guess = timed(call)
    repeats = max(1, int(BLOCK_S / max(guess, 1e-7)))
    blocks = max(3, min(MOST_BLOCKS, int(seconds / max(repeats * guess, 1e-7))))
    gc.collect()
    times = []
    for _ in range(blocks):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - begin) / repeats)
    return statistics.median(times)


@dataclass(frozen=True)
class Side:
    """A library that computes sparse Jacobians and Hessians of one family of problems.

    Attributes:
        problem: Makes a function of the family from its sizes.
        array: Makes a starting point, as the library takes it, of an array.
        prepare: Takes a function and a starting point, and returns what is needed once.
        evaluator: Takes a function and what was prepared; returns what computes the derivative,
            and is done when it returns.
        function: Makes the function itself likewise.
        entries: Rows, columns and values of a result.
        facts: Passes, and what else there is to say, of what was prepared.
    """

    problem: Callable[..., Any]
    array: Callable[[np.ndarray], Any]
    prepare: Callable[[Any, Any], Any]
    evaluator: Callable[[Any, Any], Callable[[Any], Any]]
    function: Callable[[Any], Callable[[Any], Any]]
    entries: Callable[[Any], Sequence[np.ndarray]]
    facts: Callable[[Any], dict[str, Any]]


def serve(make: Callable[[str], Side]) -> None:
    """Solve what the command line says: NAME SIZES SMALL SECONDS FILE.

    FILE holds starting points for the problem at SIZES and at SMALL; the answer takes its place,
    and a report is printed. The small problem is solved first, so that what a process does only
    once is measured by itself.
    """
    name, sizes, small, seconds, file = sys.argv[1:]
    side = make(name)
    with np.load(file) as given:
        x, x_small = side.array(given["x"]), side.array(given["x_small"])
    first = side.problem(*map(int, small.split(",")))
    _, start_s = timed(lambda: side.evaluator(first, side.prepare(first, x_small))(x_small))
    problem = side.problem(*map(int, sizes.split(",")))
    prepared, prepare_s, prepare_bytes = measured(lambda: side.prepare(problem, x))
    evaluate, function = side.evaluator(problem, prepared), side.function(problem)
    result, first_s, evaluate_bytes = measured(lambda: evaluate(x))
    rows, columns, values = side.entries(result)
    np.savez(file, rows=rows, columns=columns, values=values)
    report = {
        "start_s": start_s,
        "prepare_s": prepare_s,
        "prepare_bytes": prepare_bytes,
        "first_s": first_s,
        "evaluate_bytes": evaluate_bytes,
        "evaluate_s": median_s(lambda: evaluate(x), float(seconds)),
        "function_s": median_s(lambda: function(x), float(seconds) / 4),
    }
    print(json.dumps(report | side.facts(prepared)))
