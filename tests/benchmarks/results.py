"""Rows of benchmarks made up for tests."""

from collections.abc import Iterable
from typing import Any

from benchmarks.model import ASDEX, EAGER, PLAN, TORCHJAC, Growth, Measured, Planning, Row, Run


def measured(library: str, way: str, time_s: float, **more: Any) -> Measured:
    given = {"spread": 0.1, "once": {}, "call_bytes": 0, "once_bytes": 0, "work": "", "error": 0.0}
    return Measured(library, way, time_s, **(given | more))


def row(name: str, contenders: Iterable[Measured], **more: Any) -> Row:
    given: dict[str, Any] = {
        "family": name.partition("/")[0].partition("(")[0],
        "kind": "sparse" if "(" in name else "jacobian",
        "size": "10 unknowns",
        "dtype": "float64",
        "unknowns": 1000,
        "entries": 3000,
        "itemsize": 8,
        "copy_bandwidth": 1e9,
        "f_s": 1e-5,
        "f_compiled_s": None,
    }
    return Row(name, measured=tuple(contenders), **(given | more))


def against_asdex(name: str, own_s: float, asdex_s: float, **more: Any) -> Row:
    return row(name, [measured(TORCHJAC, PLAN, own_s), measured(ASDEX, "jit", asdex_s)], **more)


def a_run() -> Run:
    """One of everything."""
    sparse = row(
        "arrow(1000)",
        [
            measured(TORCHJAC, PLAN, 2e-3, once={"trace": 0.1}, work="direct | replay"),
            measured(TORCHJAC, EAGER, 4e-3),
            measured(ASDEX, "jit", 1e-3, note="a note"),
        ],
        absent={"CasADi": "casadi is *not* installed"},
        wrong={"scipy": "an entry differs"},
    )
    dense = row("robot/1", [measured(TORCHJAC, PLAN, 1e-6), measured("torch.func", "jacrev", 3e-6)])
    samples = [row(f"batch/{b}", [measured(TORCHJAC, PLAN, 1e-6 * b)]) for b in (1, 8)]
    return Run(
        machine={"torch": "2.13"},
        quick=True,
        rows=(sparse, dense),
        scaling=tuple(samples),
        growths=(Growth("reverse", "torchjac", 2**20, 2**21, 2**19, 0.5, ("reverse-mode",)),),
        planning=(Planning("planning beyond tracing", 500, 0.1),),
        failures=("a process ended",),
    )
