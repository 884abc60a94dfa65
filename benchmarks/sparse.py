"""Sparse Jacobians and Hessians: torchjac beside asdex, each in a process and an environment.

asdex needs JAX, which stays out of the environment of torchjac: `make bench` puts it into one of
its own. Without that environment torchjac is measured alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.facts import WrongAnswer
from benchmarks.table import aligned, milliseconds
from torchjac.testing import Scenario, scenario

ROOT = Path(__file__).resolve().parents[1]
# The environment of asdex, in which `make bench` leaves a mark when it is complete.
PEERS = ROOT / os.environ.get("TORCHJAC_BENCH_PEERS", ".venv-bench")
TIMEOUT_S = 900

# Family, sizes, and the sizes at which a process warms up.
CASES: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    *(("brusselator", (n,), (6,)) for n in (32, 64, 256, 1000)),
    *(("allen_cahn", (n,), (12,)) for n in (10**3, 10**4, 10**5, 10**6)),
    *(("burgers", (n,), (12,)) for n in (10**3, 10**4, 10**5)),
    *(("convnet", (n,), (8,)) for n in (28, 64)),
    *(("rosenbrock", (n,), (12,)) for n in (10**3, 10**5)),
    ("arrow", (1000,), (12,)),
    *(("bundle", sizes, (4, 6, 18)) for sizes in ((10, 200, 1000), (50, 5000, 40000))),
)
QUICK_NONZEROS = 100_000
# Largest difference of two answers, relative to the largest entry.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

# Preparing, relative to asdex: no slower from so many unknowns on, and far faster from so many.
NO_SLOWER_FROM, FAR_FASTER_FROM, FAR_FASTER = 2_000, 100_000, 0.2
MIB = 2**20
# Preparing, in seconds and bytes.
BUDGETS = {"brusselator(256)": (0.6, 150 * MIB), "allen_cahn(1000000)": (3.0, None)}


@dataclass(frozen=True)
class Solved:
    """What one side reported of one problem.

    Attributes:
        who: "torchjac" or "asdex".
        passes: Colors, one product each.
        how: The method, in its own words.
        start_s: First use of a fresh process, on a small problem.
        prepare_s: Pattern and colors.
        prepare_bytes: Growth of the resident set while preparing.
        first_s: First evaluation, with what is compiled for it.
        evaluate_bytes: Growth of the resident set in the first evaluation.
        evaluate_s: Median of the evaluations that follow.
        function_s: Median of a call of the function, compiled where the evaluation is.
        copy_bandwidth: Bytes a second of a copy; torchjac's process measures it for both.
    """

    who: str
    passes: int
    how: str
    start_s: float
    prepare_s: float
    prepare_bytes: int
    first_s: float
    evaluate_bytes: int
    evaluate_s: float
    function_s: float
    copy_bandwidth: float = float("nan")


@dataclass(frozen=True)
class Comparison:
    """One problem, solved by one side or by both.

    Attributes:
        name: Family and sizes.
        dtype: Of input and answer.
        unknowns: Size of the input.
        nnz: Entries of the answer.
        ours: torchjac.
        peer: asdex, None where it cannot be run.
        absent: Why it cannot.
    """

    name: str
    dtype: torch.dtype
    unknowns: int
    nnz: int
    ours: Solved
    peer: Solved | None
    absent: str = ""

    @property
    def floor_s(self) -> float:
        """The time in which input and entries can be read and written."""
        return (self.unknowns + self.nnz) * self.dtype.itemsize / self.ours.copy_bandwidth

    @property
    def verdicts(self) -> list[str]:
        """Whether what the project promises of preparing is kept, in a few words each."""
        found = []
        if self.peer is not None and self.unknowns >= NO_SLOWER_FROM:
            limit = FAR_FASTER if self.unknowns >= FAR_FASTER_FROM else 1.0
            ratio = self.ours.prepare_s / self.peer.prepare_s
            found.append(_verdict(ratio, limit, "{:.2f} of asdex's preparing"))
        seconds, limit_bytes = BUDGETS.get(self.name, (None, None))
        if seconds is not None:
            found.append(_verdict(self.ours.prepare_s, seconds, "{:.2f} s to prepare"))
        if limit_bytes is not None:
            mib = self.ours.prepare_bytes / MIB
            found.append(_verdict(mib, limit_bytes / MIB, "{:.0f} MiB to prepare"))
        return found


def _verdict(value: float, limit: float, what: str) -> str:
    is_met = value <= limit
    sign = "<=" if is_met else ">"
    return f"{'met' if is_met else 'MISSED'} {what.format(value)}, {sign} {limit:g}"


def comparisons(quick: bool) -> Iterator[Comparison | WrongAnswer]:
    """Solve the problems one after the other.

    Args:
        quick: Only those with few nonzeros, in double precision, and shorter.

    Yields:
        A comparison, or the error where answers differ.
    """
    for name, sizes, small in CASES:
        problem = scenario(name, *sizes)
        if quick and problem.pattern.nnz > QUICK_NONZEROS:
            continue
        for dtype in (torch.float64,) if quick else (torch.float64, torch.float32):
            try:
                yield _compare(problem, dtype, (name, sizes, small), 0.2 if quick else 2.0)
            except WrongAnswer as error:
                yield error


def _compare(
    problem: Scenario,
    dtype: torch.dtype,
    case: tuple[str, tuple[int, ...], tuple[int, ...]],
    seconds: float,
) -> Comparison:
    small = scenario(case[0], *case[2])
    starts = {"x": problem.x(dtype).numpy(), "x_small": small.x(dtype).numpy()}

    def solve(python: Path | str, module: str) -> tuple[sparse.csr_array, dict[str, Any]]:
        words = [",".join(map(str, sizes)) for sizes in case[1:]]
        command = [str(python), "-m", module, case[0], *words, str(seconds)]
        return _in_process(command, starts, problem.pattern.shape)

    answer, report = solve(sys.executable, "benchmarks.torchjac_side")
    ours = Solved("torchjac", **report)
    peer, absent = None, f"asdex is not in {PEERS.name}: `make bench` puts it there"
    if (PEERS / ".installed").exists():
        expected, report = solve(PEERS / "bin/python", "benchmarks.asdex_side")
        peer, absent = Solved("asdex", **report), ""
        _refuse_difference(f"{problem.name}, {dtype}", answer, expected, TOLERANCE[dtype])
    n = problem.pattern.shape[1]
    return Comparison(problem.name, dtype, n, answer.nnz, ours, peer, absent)


def _in_process(
    command: Sequence[str], starts: dict[str, np.ndarray], shape: tuple[int, int]
) -> tuple[sparse.csr_array, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.npz"
        np.savez(file, **starts)
        run = subprocess.run(
            [*command, str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        )
        if run.returncode != 0:
            raise WrongAnswer(f"{' '.join(command[1:])} failed:\n{run.stderr}")
        with np.load(file) as found:
            places = found["rows"], found["columns"]
            answer = sparse.coo_array((found["values"], places), shape=shape).tocsr()
        answer.sort_indices()
        return answer, json.loads(run.stdout)


def _refuse_difference(
    what: str, answer: sparse.csr_array, expected: sparse.csr_array, tolerance: float
) -> None:
    """Compare matrices; entries that one side stores and the other does not must be zero."""
    difference = abs(answer - expected)
    worst = difference.max() if difference.nnz else 0.0
    if not worst <= tolerance * abs(expected).max():
        raise WrongAnswer(f"{what}: answers differ by {worst}")


HEADINGS = (
    "sparse",
    "nnz",
    "",
    "passes",
    *("start ms", "prepare ms", "first ms"),
    *("prepare MiB", "first MiB"),
    *("ms", "f ms", "floor ms"),
    "how",
    "target",
)
NUMBERS = (1, *range(3, 12))  # columns that are set flush right


def render(comparison: Comparison) -> list[str]:
    """A table with a row for each side, and what is promised."""
    rows = [_cells(solved, comparison) for solved in (comparison.ours, comparison.peer) if solved]
    dtype = str(comparison.dtype).removeprefix("torch.")
    rows[0][0], rows[0][1] = f"{comparison.name} {dtype}", f"{comparison.nnz:,}"
    rows[0][-1] = ", ".join([*comparison.verdicts, *filter(None, [comparison.absent])])
    return aligned([list(HEADINGS), *rows], NUMBERS)


def _cells(solved: Solved, comparison: Comparison) -> list[str]:
    seconds = (solved.start_s, solved.prepare_s, solved.first_s)
    often = (solved.evaluate_s, solved.function_s, comparison.floor_s)
    return [
        *("", "", solved.who, str(solved.passes)),
        *map(milliseconds, seconds),
        *(f"{count / MIB:.0f}" for count in (solved.prepare_bytes, solved.evaluate_bytes)),
        *map(milliseconds, often),
        *(solved.how, ""),
    ]


def as_data(comparison: Comparison) -> dict[str, Any]:
    """A comparison for JSON: times in seconds, sizes in bytes."""
    told = {"dtype": str(comparison.dtype), "floor_s": comparison.floor_s}
    return asdict(comparison) | told | {"verdicts": comparison.verdicts}
