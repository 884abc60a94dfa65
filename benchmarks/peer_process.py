"""What the processes of other libraries share: read, compare, then measure and print."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import measured, one_core, timed
from benchmarks.compare import WrongAnswerError, distance, read_answer
from benchmarks.model import Measured
from benchmarks.request import Asked, Request
from benchmarks.timing import measure, set_aside


class AbsentError(Exception):
    """A library cannot express a problem, or not at this size; the message says why."""


@dataclass(frozen=True)
class Solution:
    """A problem as a library takes it, prepared.

    Attributes:
        call: Computes the derivative, and is done when it returns.
        once: Seconds spent on preparing, by what they were spent on.
        answer: Brings a result into the form of the reference.
        work: Passes, in words.
        tolerance: Largest difference to the reference, relative to its largest entry.
        note: What one should know when reading the time.
    """

    call: Callable[[], Any]
    once: Mapping[str, float]
    answer: Callable[[Any], Any]
    work: str
    tolerance: float
    note: str = ""


Solve = Callable[[Asked, np.ndarray, Any], Solution]


def serve(library: str, way: str, solve: Solve) -> None:
    """Solve what the command line asks for, and print a line of JSON for each problem.

    Args:
        library: Name of the library.
        way: What of it is used.
        solve: Prepares a problem, given what is asked, where, and the answer that is expected.
    """
    request, folder = Request.read(Path(sys.argv[1])), Path(sys.argv[2])
    effort = one_core(request.effort) if request.cpu_time else request.effort
    for asked in request.asked:
        x, expected = read_answer(folder / asked.file)
        set_aside()
        # Alone from the beginning: what is prepared is compared, and one turn waits less than two.
        with request.turns.alone():
            try:
                solution, _, once_bytes = measured(partial(solve, asked, x, expected))
                result, first_s = timed(solution.call)
                error = distance(solution.answer(result), expected, solution.tolerance)
                del result
            except AbsentError as absent:
                print(json.dumps({"absent": str(absent)}), flush=True)
                continue
            except WrongAnswerError as wrong:
                print(json.dumps({"wrong": str(wrong)}), flush=True)
                continue
            _, again_s, grown = measured(solution.call)
            samples = measure({"call": solution.call}, effort)["call"]
        once = {**solution.once, "first call": max(0.0, first_s - again_s)}
        found = Measured(
            library=library,
            way=way,
            time_s=samples.median_s,
            spread=samples.spread,
            once=once,
            call_bytes=grown,
            once_bytes=once_bytes,
            work=solution.work,
            error=error,
            note=solution.note,
        )
        print(json.dumps(asdict(found)), flush=True)
