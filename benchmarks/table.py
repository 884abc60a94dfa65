"""Races as plain text and as JSON."""

import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import torchjac
from benchmarks.memory import RESULT_BYTES, Growth
from benchmarks.race import Race, Row

MS = 1e3
MIB = 2**20
UNITS = ((2**30, "GiB"), (MIB, "MiB"), (2**10, "KiB"), (1, "B"))
HEADINGS = ("", "ms", "+-%", "/best", "peak", "calls", "error", "how", "target")
NUMBERS = range(1, 7)  # columns that are set flush right


def aligned(cells: Sequence[Sequence[str]], numbers: Sequence[int] = NUMBERS) -> list[str]:
    """Lines of a table with columns of equal width.

    Args:
        cells: Rows of cells.
        numbers: Columns set flush right.

    Returns:
        One line per row.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k in numbers else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def milliseconds(seconds: float) -> str:
    """Seconds in milliseconds, three digits that mean something.

    >>> milliseconds(0.0000123456), milliseconds(1.5)
    ('0.0123', '1500')
    """
    ms = seconds * MS
    digits = max(0, 2 - math.floor(math.log10(ms))) if ms > 0 else 0
    return f"{ms:.{digits}f}"


def size(count: int) -> str:
    """Bytes in the unit that reads best, three digits.

    >>> size(176), size(3 * 2**19)
    ('176 B', '1.5 MiB')
    """
    unit, name = next(((u, n) for u, n in UNITS if count >= u), UNITS[-1])
    return f"{count / unit:.3g} {name}"


def render(race: Race) -> Iterator[str]:
    """The lines for one problem."""
    problem = race.problem
    dtype = str(problem.inputs[0].dtype).removeprefix("torch.")
    yield (
        f"{problem.name}: {problem.size}, {dtype}; one call of f "
        f"{milliseconds(race.function.median_s)} ms, result {size(race.result_bytes)}"
    )
    yield from ("  " + line for line in aligned([HEADINGS, *map(_cells, race.rows)]))
    for row in race.rows:
        if row.contender.note:
            yield f"  {row.contender.name}: {row.contender.note}"
    for name, reason in race.absent.items():
        yield f"  {name}: not measured: {reason}"


def _cells(row: Row) -> tuple[str, ...]:
    whole = row.contender.share == 1
    spread = row.samples.spread
    return (
        row.contender.name + ("" if whole else " *"),
        milliseconds(row.samples.median_s),
        "-" if math.isnan(spread) else f"{100 * spread:.0f}",
        f"{row.ratio:.2f}",
        size(row.facts.peak_bytes) if whole else "-",
        str(row.facts.calls),
        f"{row.facts.error:.0e}",
        "; ".join(map(_how, row.facts.runs)),
        ", ".join(map(str, row.verdicts)),
    )


def _how(run: torchjac.Evaluation) -> str:
    passes = f"{run.passes} pass" + ("es" if run.passes != 1 else "")
    return f"{run.mode}/{run.method}, {run.seeds} seeds, {passes} of <= {run.chunk_size}"


def render_growths(growths: Sequence[Growth]) -> list[str]:
    """The lines for the memory of processes."""
    head = (
        "memory: growth of the resident set of a fresh process, and the tensors alone; result "
        f"{RESULT_BYTES / MIB:.0f} MiB"
    )
    headings = ("", "", "MiB", "tensors", "ms", "how", "target")
    cells = [
        (
            growth.case,
            growth.contender,
            f"{growth.growth_bytes / MIB:.0f}",
            f"{growth.meter_bytes / MIB:.0f}",
            milliseconds(growth.wall_s),
            "; ".join(growth.runs),
            growth.verdict,
        )
        for growth in growths
    ]
    return [head, *("  " + line for line in aligned([headings, *cells], range(2, 5)))]


def summary(
    races: Sequence[Race], growths: Sequence[Growth], sparse: Mapping[str, Sequence[str]]
) -> list[str]:
    """How many targets are met, and those that are not by name.

    Args:
        races: All races.
        growths: All processes whose memory was measured.
        sparse: Verdicts on sparse problems, by name.

    Returns:
        A line, and one more for each target that is not met.
    """
    judged = [
        (f"{race.problem.name}, {row.contender.name}", str(verdict))
        for race in races
        for row in race.rows
        for verdict in row.verdicts
    ]
    judged += [
        (f"memory/{growth.case}, {growth.contender}", growth.verdict)
        for growth in growths
        if growth.verdict
    ]
    judged += [(name, text) for name, verdicts in sparse.items() for text in verdicts]
    missed = [f"  {name}: {text}" for name, text in judged if not text.startswith("met")]
    return [f"targets: {len(judged) - len(missed)} of {len(judged)} met", *missed]


def race_as_data(race: Race) -> dict[str, Any]:
    """A race for JSON: times in seconds, sizes in bytes."""
    problem = race.problem
    return {
        "problem": problem.name,
        "size": problem.size,
        "dtype": str(problem.inputs[0].dtype),
        "function_s": race.function.median_s,
        "result_bytes": race.result_bytes,
        "absent": dict(race.absent),
        "rows": [_row_as_data(row) for row in race.rows],
    }


def growth_as_data(growth: Growth) -> dict[str, Any]:
    """The memory of a process for JSON."""
    return asdict(growth) | {"verdict": growth.verdict}


def _row_as_data(row: Row) -> dict[str, Any]:
    return {
        "contender": row.contender.name,
        "role": row.contender.role,
        "share": row.contender.share,
        "median_s": row.samples.median_s,
        "times_s": list(row.samples.by_round.values()),
        "ratio": row.ratio,
        "error": row.facts.error,
        "calls": row.facts.calls,
        "peak_bytes": row.facts.peak_bytes,
        "runs": [asdict(run) for run in row.facts.runs],
        "verdicts": [asdict(verdict) | {"met": verdict.met} for verdict in row.verdicts],
    }


def machine() -> dict[str, Any]:
    """Where and with what a run is made."""
    return {
        "torchjac": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


def _version() -> str:
    try:
        return version("torchjac")
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The name of the processor, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
