"""Run requests in processes of their own, torchjac's and those of other libraries."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.listen import listen
from benchmarks.model import (
    ASDEX,
    CASADI,
    FAILED,
    ROW,
    SCIPY,
    TRYING,
    Measured,
    Row,
    row_from,
)
from benchmarks.request import Asked, Request

ROOT = Path(__file__).resolve().parents[1]
# The environment of asdex and CasADi, in which `make bench` leaves a mark when it is complete.
PEERS = ROOT / os.environ.get("TORCHJAC_BENCH_PEERS", ".venv-bench")
OWN = Path(sys.executable)
# Seconds that a process may be silent before it is ended, whatever it is doing: a contender that
# Python can interrupt is stopped before, and one that waits for its turn gets it.
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Peer:
    """A library that solves sparse problems in a process of its own.

    Attributes:
        library: Its name.
        module: What is run.
        needs: What must be importable there, for people.
        python: The interpreter.
        also: Names of problems that are not sparse, which it solves too.
    """

    library: str
    module: str
    needs: str
    python: Path
    also: tuple[str, ...] = ()

    @property
    def absent(self) -> str:
        """Why it cannot be run, or nothing."""
        if self.python.exists():
            words = [str(self.python), "-c", f"import {self.needs}"]
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return ""
        return f"{self.needs} is not installed: `make bench` puts it into {PEERS.name}"

    def takes(self, asked: Asked) -> bool:
        """Whether a problem is given to it: the sparse ones, and where it knows more, those too."""
        return asked.wants(self.library) and (bool(asked.sizes) or asked.name in self.also)


ALL_PEERS = (
    Peer(ASDEX, "benchmarks.asdex_side", "asdex", PEERS / "bin/python"),
    Peer(SCIPY, "benchmarks.scipy_side", "scipy", OWN),
    Peer(
        CASADI, "benchmarks.casadi_side", "casadi", PEERS / "bin/python", ("robot/1", "robot/512")
    ),
)


@dataclass
class Sides:
    """The processes of a run.

    Attributes:
        folder: Where answers and compiled code are kept while it lasts.
        absent: Peers that cannot be run, and why.
        tell: Takes a line on how far things are.
        failures: What went wrong.
    """

    folder: Path
    absent: Mapping[str, str]
    tell: Callable[[str], None] = print
    failures: list[str] = field(default_factory=list)

    def warm_up(self, request: Request) -> None:
        """Let a process do what is done once on a machine: compile headers, gauge it."""
        if why := self._listen(OWN, "benchmarks.torch_side", request, (), lambda _: None):
            self.failures.append(f"warming up: {why}")

    def solve(self, request: Request) -> dict[int, Row]:
        """Solve problems by torchjac and PyTorch, then by whoever else can, one after the other.

        Args:
            request: The problems.

        Returns:
            A row for each that torchjac's process came through, by the number of the problem.
        """
        rows = self._own(request)
        solved = {number: request.asked[number] for number in sorted(rows)}
        for peer in ALL_PEERS:
            self._join(peer, request, solved, rows)
        return rows

    def _own(self, request: Request) -> dict[int, Row]:
        """Rows of torchjac's process, by the number of the problem.

        Whoever takes part when the process dies is left out when it is started again; where nobody
        does, or has before, the problem is.
        """
        rows: dict[int, Row] = {}
        left = dict(enumerate(request.asked))
        while left:
            trying = ""

            def hear(line: dict[str, Any], left: dict[int, Asked] = left) -> None:
                nonlocal trying
                if ROW in line:
                    number = next(iter(left))
                    rows[number] = row_from(line[ROW])
                    self.tell(f"{left.pop(number).title}: torchjac and PyTorch have answered")
                elif FAILED in line:
                    self.failures.append(f"{line[FAILED]}: {line['why']}")
                trying = line.get(TRYING, "")

            why = self._listen(OWN, "benchmarks.torch_side", request, left.values(), hear)
            if not left:
                break
            number, broken = next(iter(left.items()))
            why = why or "its process ended too early"
            self.failures.append(f"{broken.title}, {trying or 'as a whole'}: {why}")
            if trying and trying not in broken.without:
                left[number] = replace(broken, without={**broken.without, trying: why})
            else:
                del left[number]
        return rows

    def _join(
        self, peer: Peer, request: Request, solved: Mapping[int, Asked], rows: dict[int, Row]
    ) -> None:
        """Let one more library solve what it can, and add what it reports to the rows."""
        left = {number: asked for number, asked in solved.items() if peer.takes(asked)}
        absent = self.absent.get(peer.library, "")
        while left and not absent:

            def hear(line: dict[str, Any], left: dict[int, Asked] = left) -> None:
                number = next(iter(left))
                rows[number] = _joined(rows[number], peer.library, line)
                self.tell(f"{left.pop(number).title}: {peer.library} has answered")

            why = self._listen(peer.python, peer.module, request, left.values(), hear)
            if left:
                number = next(iter(left))
                why = why or "its process ended too early"
                rows[number] = _joined(rows[number], peer.library, {"absent": why})
                self.failures.append(f"{left.pop(number).title}, {peer.library}: {why}")
        for number in left:
            rows[number] = _joined(rows[number], peer.library, {"absent": absent})

    def _listen(
        self,
        python: Path,
        module: str,
        request: Request,
        asked: Iterable[Asked],
        hear: Callable[[dict[str, Any]], None],
    ) -> str:
        """Hear what a process says of some of the problems; why it ended, if not well."""
        handle, file = tempfile.mkstemp(".json", dir=self.folder)
        os.close(handle)
        replace(request, asked=tuple(asked)).write(Path(file))
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "compiled")}
        command = [str(python), "-m", module, file, str(self.folder)]
        return listen(command, ROOT, environment(cache), PATIENCE_S, hear)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    return {**os.environ, "PYTHONPATH": path, **more}


def _joined(row: Row, library: str, told: Mapping[str, Any]) -> Row:
    """A row with what one more library reported of it."""
    if "absent" in told:
        return replace(row, absent={**row.absent, library: told["absent"]})
    if "wrong" in told:
        return replace(row, wrong={**row.wrong, library: told["wrong"]})
    return replace(row, measured=(*row.measured, Measured(**told)))


def missing(peers: Sequence[Peer] = ALL_PEERS) -> dict[str, str]:
    """Peers that cannot be run, and why."""
    return {peer.library: peer.absent for peer in peers if peer.absent}
