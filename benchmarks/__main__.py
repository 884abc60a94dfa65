"""The command line of the benchmarks."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import memory, workloads
from benchmarks.compare import WrongAnswerError
from benchmarks.model import CASADI, Planning, Row, Run, read_run, write_run
from benchmarks.page import render
from benchmarks.plots import draw
from benchmarks.report import printed
from benchmarks.request import Asked, Request
from benchmarks.sides import ALL_PEERS, OWN, ROOT, Sides, environment, missing
from benchmarks.targets import judge
from benchmarks.text import duration
from benchmarks.turns import Turns

SPARSE, DENSE, SCALING, MEMORY, PLANNING = "sparse", "dense", "scaling", "memory", "planning"
PARTS = (*workloads.FAMILIES, SCALING, MEMORY, PLANNING)
GROUPS = {SPARSE: workloads.SPARSE_FAMILIES, DENSE: tuple(workloads.DENSE)}
# Left out where there is little time, unless asked for.
LONG = ("decoder", "classifier", "hessian", SCALING, MEMORY)
DOCS = ROOT / "docs"
# Processes that run at a time. Where there is little time they solve everything, since each takes
# seconds to load the compilers.
AT_ONCE = 2
DATA, PAGE, IMAGES = "benchmarks.json", "benchmarks.md", "images"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure torchjac beside all that computes the same, and write a page of it. "
        "With names, only those are measured, and nothing is written unless --output is given.",
    )
    names = ", ".join([*GROUPS, *PARTS])
    parser.add_argument("names", nargs="*", metavar="name", help=f"default: all; of {names}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer sizes and contenders, meant for five minutes on two idle cores",
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one core and its processor time, not the wall's: for machines that others use",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"where {PAGE}, {DATA} and {IMAGES}/ go (default, without names: docs)",
    )
    parser.add_argument(
        "--render", action="store_true", help=f"measure nothing: write the page anew from {DATA}"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="put what is measured into the page of an earlier run, in place of the same",
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in PARTS and name not in GROUPS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {names}")
    if options.output is None and (options.again or not options.names):
        options.output = DOCS
    return options


def wanted(names: Sequence[str], quick: bool) -> list[str]:
    """What to measure: parts by name, groups as what they consist of; with little time less.

    >>> wanted(["robot", "sparse"], quick=True)[:2]
    ['robot', 'brusselator']
    """
    everything = [part for part in PARTS if not (quick and part in LONG)]
    parts = [part for name in names or everything for part in GROUPS.get(name, (name,))]
    return list(dict.fromkeys(parts))


def measure_all(parts: Sequence[str], quick: bool, cpu_time: bool) -> Run:
    """Measure, and print each row when it is done.

    Args:
        parts: What, of `PARTS`.
        quick: Whether there is little time.
        cpu_time: Whether processor time counts.

    Returns:
        Everything that was found.
    """
    run = Run(machine(cpu_time), quick)
    with tempfile.TemporaryDirectory() as folder:
        turns = Turns(str(Path(folder) / "turns"))
        sides = Sides(Path(folder), missing(), lambda line: print(line, file=sys.stderr))
        families = [part for part in parts if part in workloads.FAMILIES]
        asked = list(workloads.rows(families, quick))
        more = list(workloads.scaling(quick)) if SCALING in parts else []
        solved = _solved(sides, [*asked, *more], Request((), quick, cpu_time, turns))
        rows = [row for number, row in sorted(solved.items()) if number < len(asked)]
        scaled = [row for number, row in sorted(solved.items()) if number >= len(asked)]
        run = replace(run, rows=tuple(rows), scaling=tuple(scaled))
        failures = sides.failures
    for part, measure in ((MEMORY, _memory), (PLANNING, _planning)):
        if part in parts:
            try:
                run = measure(run)
            except (WrongAnswerError, ValueError, subprocess.CalledProcessError) as error:
                failures.append(f"{part}: {error}")
    return replace(run, failures=tuple(failures))


def _solved(sides: Sides, asked: Sequence[Asked], request: Request) -> dict[int, Row]:
    """Rows for all that is asked, by its number: with little time in few processes, else in many.

    Two processes at a time prepare, and nothing else runs while one is timed.
    """
    if not asked:
        return {}
    sides.warm_up(request)
    every = [[number] for number in range(len(asked))]
    numbers = workloads.dealt(asked, min(AT_ONCE, len(asked))) if request.quick else every

    def solve(mine: Sequence[int]) -> dict[int, Row]:
        rows = sides.solve(replace(request, asked=tuple([asked[number] for number in mine])))
        return {mine[place]: row for place, row in rows.items()}

    found: dict[int, Row] = {}
    with ThreadPoolExecutor(1 if request.cpu_time else AT_ONCE) as pool:
        for rows in pool.map(solve, numbers):
            found |= rows
            for row in rows.values():
                show(printed(row))
    return found


def _memory(run: Run) -> Run:
    repeats, budgets = (1, memory.BUDGETS[:1]) if run.quick else (3, (None, *memory.BUDGETS))
    return replace(run, growths=tuple(memory.growths(repeats, budgets)))


def _planning(run: Run) -> Run:
    command = [str(OWN), "-m", "benchmarks.planning"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment({})
    )
    found = tuple([Planning(**found) for found in json.loads(done.stdout)])
    return replace(run, planning=found)


def write(run: Run, folder: Path) -> None:
    """Write the page, its plots and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder / DATA, run)
    images = draw(run, folder / IMAGES)
    (folder / PAGE).write_text(render(run, images), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Args:
        arguments: The command line, None for that of the process.

    Returns:
        The exit status: 1 where an answer is wrong or a process failed. A missed target is only
        reported, since times depend on the machine.
    """
    options = parse(arguments)
    if options.render:
        write(read_run(options.output / DATA), options.output)
        return 0
    began = time.perf_counter()
    run = measure_all(wanted(options.names, options.quick), options.quick, options.cpu_time)
    if options.again:
        run = read_run(options.output / DATA).renewed(run)
    verdicts = judge(run)
    missed = [f"  {v.where}, {v.promise}: {v}" for v in verdicts if not v.met]
    wrong = [f"  {row.label}, {who}: {why}" for row in run.rows for who, why in row.wrong.items()]
    show([f"promises: {len(verdicts) - len(missed)} of {len(verdicts)} kept", *missed])
    if wrong or run.failures:
        show(["FAILED:", *wrong, *run.failures])
    if options.output is not None:
        write(run, options.output)
        show([f"written: {options.output / PAGE}, in {duration(time.perf_counter() - began)}"])
    return 1 if wrong or run.failures else 0


def machine(cpu_time: bool) -> dict[str, str]:
    """With what and where a run is made; nothing that names the machine."""
    threads = 1 if cpu_time else torch.get_num_threads()
    told = {
        "torchjac": _version("torchjac"),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "scipy": _version("scipy"),
        **_peer_versions(),
        "Python": platform.python_version(),
        "on": f"{processor()}, {os.cpu_count()} cores, {threads} threads",
    }
    return told | {"by": "processor time" if cpu_time else "wall time"}


def _peer_versions() -> dict[str, str]:
    """Versions of the libraries that live in another environment."""
    python = next(peer.python for peer in ALL_PEERS if peer.library == CASADI)
    code = (
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps({x.name: x.version for x in d()}))"
    )
    if not python.exists():
        return {}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    return {name: found[name] for name in ("asdex", "jax", "casadi") if name in found}


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return "from its sources"


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(lines: Iterable[str]) -> None:
    """Print lines, and an empty one."""
    print(*lines, "", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
