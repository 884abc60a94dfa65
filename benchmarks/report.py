"""A row as cells of a table, for the terminal and for the page alike."""

from benchmarks.model import Measured, Row
from benchmarks.request import NO_TIME
from benchmarks.text import aligned, duration, factor, mebibytes, milliseconds

HEADINGS = ("", "ms", "ratio", "once", "MiB once", "MiB call", "passes or k", "error")
NUMBERS = (1, 2, 3, 4, 5, 7)
# Parts of what is spent once that are worth a word, in seconds.
LEAST_PART_S = 5e-4


def cells(row: Row, measured: Measured) -> tuple[str, ...]:
    """What is said of one contender."""
    own = row.own
    return (
        measured.name,
        milliseconds(measured.time_s),
        factor(measured.time_s / own.time_s) if own is not None else "",
        duration(measured.once_s) if measured.once else "",
        mebibytes(measured.once_bytes) if measured.once else "",
        mebibytes(measured.call_bytes),
        measured.work,
        f"{measured.error:.0e}",
    )


def parts(measured: Measured) -> str:
    """What was spent once, by what it was spent on."""
    known = {stage: s for stage, s in measured.once.items() if s >= LEAST_PART_S}
    return ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in known.items())


def by_time(row: Row) -> list[Measured]:
    """Contenders, the fastest first."""
    return sorted(row.measured, key=lambda m: m.time_s)


def head(row: Row) -> str:
    """What the row is, and what its times are to be compared with."""
    compiled = "" if row.f_compiled_s is None else f", compiled {milliseconds(row.f_compiled_s)} ms"
    return (
        f"{row.label}: {row.size}; {row.entries:,} entries; one f {milliseconds(row.f_s)} ms"
        f"{compiled}; floor {milliseconds(row.floor_s)} ms"
    )


def printed(row: Row) -> list[str]:
    """Lines for the terminal."""
    table = [list(HEADINGS), *[list(cells(row, m)) for m in by_time(row)]]
    return [
        head(row),
        *("  " + line for line in aligned(table, NUMBERS)),
        *(f"  {name}: WRONG: {why}" for name, why in row.wrong.items()),
        *(f"  {name}: not measured: {why}" for name, why in row.absent.items() if why != NO_TIME),
    ]
