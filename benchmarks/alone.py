"""What a process measures of itself, with the standard library alone.

Libraries that need an environment of their own run in processes that import little else of this
package.
"""

import ctypes
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.timing import Effort

T = TypeVar("T")


class OutOfTimeError(BaseException):
    """The time is over; no `Exception`, so that no library takes it for an error of its own."""


def forget_peak() -> None:
    """Set the peak of the resident set to what it is now, and give freed memory back before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
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
    forget_peak()
    before = status("VmRSS")
    result, seconds = timed(call)
    return result, seconds, max(0, status("VmHWM") - before)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise an OutOfTimeError in the block if it takes longer and Python gets a word in."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"not done in {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_core(effort: Effort) -> Effort:
    """Keep this process on one core, and read its processor time instead of the wall's."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return effort.of_clock(time.process_time)
