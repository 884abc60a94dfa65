"""The command line of the benchmarks."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmarks import problems, sparse
from benchmarks.facts import WrongAnswer
from benchmarks.memory import BUDGETS, Growth, growths
from benchmarks.race import Race, pairs, race
from benchmarks.table import (
    growth_as_data,
    machine,
    race_as_data,
    render,
    render_growths,
    summary,
)
from benchmarks.timing import FULL, QUICK, Effort

MEMORY, SPARSE = "memory", "sparse"
GROUPS = (*problems.GROUPS, MEMORY, SPARSE)
LEGEND = """\
Answers are compared before anything is timed; contenders are timed in turns.
ms      median time of a call; * extrapolated from a part of the answer
+-%     half the distance between the quartiles of the times
/best   time relative to the fastest contender that is not torchjac's, median over the rounds
peak    most bytes of tensors alive during a call, those from before not counted
calls   evaluations of f
error   distance to the answer in double precision, relative, in the Frobenius norm
how     what torchjac.record() says
sparse: each side in a process of its own; start: first use, on a small problem; prepare: pattern
and colors; first: the first evaluation, and compiling for it; floor: reading x, writing nonzeros\
""".splitlines()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure torchjac against torch.func and torch.autograd.functional.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"what to run (default: all): {', '.join(GROUPS)}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, under 2 minutes")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread and its processor time, not the wall's: for machines that others use",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in GROUPS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    return options


@dataclass
class Results:
    """What has been found so far."""

    races: list[Race] = field(default_factory=list)
    growths: list[Growth] = field(default_factory=list)
    comparisons: list[sparse.Comparison] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run_group(self, name: str, effort: Effort) -> None:
        """Run the problems of a group, and print each when it is done."""
        for problem, precise in pairs(name):
            try:
                self.races.append(race(problem, precise, effort))
            except WrongAnswer as error:
                self._fail(str(error))
            else:
                _print_block(render(self.races[-1]))

    def run_memory(self, quick: bool) -> None:
        """Run the processes of the memory benchmark, and print the table when all are done."""
        repeats, budgets = (1, BUDGETS[:1]) if quick else (3, (None, *BUDGETS))
        try:
            for growth in growths(repeats, budgets):
                self.growths.append(growth)
        except WrongAnswer as error:
            self._fail(str(error))
        _print_block(render_growths(self.growths))

    def run_sparse(self, quick: bool) -> None:
        """Run the sparse problems, and print each when both sides are done."""
        for found in sparse.comparisons(quick):
            if isinstance(found, WrongAnswer):
                self._fail(str(found))
            else:
                self.comparisons.append(found)
                _print_block(sparse.render(found))

    def verdicts_on_sparse(self) -> dict[str, list[str]]:
        """Verdicts by problem."""
        return {f"{found.name}, {found.dtype}": found.verdicts for found in self.comparisons}

    def _fail(self, message: str) -> None:
        self.failures.append(message)
        _print_block(["FAILED: " + message])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Args:
        arguments: The command line, None for that of the process.

    Returns:
        The exit status: 1 where an answer is wrong. A missed target is only reported, since times
        depend on the machine.
    """
    options = parse(arguments)
    effort = QUICK if options.quick else FULL
    if options.cpu_time:
        torch.set_num_threads(1)
        effort = replace(effort, clock=time.thread_time)
    where = machine() | {"clock": "processor time" if options.cpu_time else "wall time"}
    _print_block([", ".join(f"{key} {value}" for key, value in where.items()), *LEGEND])
    results = Results()
    for name in dict.fromkeys(options.names or GROUPS):
        if name == MEMORY:
            results.run_memory(options.quick)
        elif name == SPARSE:
            results.run_sparse(options.quick)
        else:
            results.run_group(name, effort)
    told = summary(results.races, results.growths, results.verdicts_on_sparse())
    _print_block([*told, *results.failures])
    if options.json is not None:
        data = {"machine": where, "quick": options.quick, "failures": results.failures}
        data["problems"] = [race_as_data(found) for found in results.races]
        data["sparse"] = [sparse.as_data(found) for found in results.comparisons]
        data["memory"] = [growth_as_data(growth) for growth in results.growths]
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 1 if results.failures else 0


def _print_block(lines: Iterable[str]) -> None:
    print(*lines, "", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
