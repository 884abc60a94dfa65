"""Run requests in processes of their own, torchjac's and those of other libraries."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Timer
from typing import Any

from benchmarks.model import ASDEX, BROKEN, CASADI, SCIPY, Measured, Row, row_from
from benchmarks.request import Asked, Request

ROOT = Path(__file__).resolve().parents[1]
# The environment of asdex and CasADi, in which `make bench` leaves a mark when it is complete.
PEERS = ROOT / os.environ.get("TORCHJAC_BENCH_PEERS", ".venv-bench")
OWN = Path(sys.executable)
# Seconds a process may take for each problem before it is ended, whatever it is doing.
TIMEOUT_S = 900
# Lines of what a process said when it failed.
MOST_LINES = 3


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

    def solve(self, request: Request) -> list[Row]:
        """Solve problems by torchjac and PyTorch, then by whoever else can, one after the other.

        Args:
            request: The problems.

        Returns:
            A row for each that torchjac's process came through.
        """
        rows: list[Row] = []
        left = list(request.asked)
        while left:
            one = replace(request, asked=tuple(left))
            told = [json.loads(line) for line in self._lines(OWN, "benchmarks.torch_side", one)]
            broken = told.pop() if told and BROKEN in told[-1] else None
            rows += map(row_from, told)
            left = left[len(told) :]
            if broken is None:
                break
            without = {**left[0].without, broken[BROKEN]: broken["why"]}
            left[0] = replace(left[0], without=without)
        if left:
            names = ", ".join(asked.title for asked in left)
            self.failures.append(f"not measured, torchjac's process ended before: {names}")
        for peer in ALL_PEERS:
            self._join(peer, request, rows)
        return rows

    def _join(self, peer: Peer, request: Request, rows: list[Row]) -> None:
        """Let one more library solve what it can, and add what it reports to the rows."""
        places = [k for k, asked in enumerate(request.asked[: len(rows)]) if peer.takes(asked)]
        told: list[Mapping[str, Any]] = []
        why = self.absent.get(peer.library, "")
        if places and not why:
            one = replace(request, asked=tuple([request.asked[k] for k in places]))
            told = [json.loads(line) for line in self._lines(peer.python, peer.module, one)]
            why = "its process ended before the answer: too little memory or time"
        told += [{"absent": why}] * (len(places) - len(told))
        for k, found in zip(places, told, strict=True):
            rows[k] = _joined(rows[k], peer.library, found)

    def _lines(self, python: Path, module: str, request: Request) -> list[str]:
        """What a process prints: a line for each problem, fewer if it fails."""
        file = self.folder / "request.json"
        request.write(file)
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "compiled")}
        command = [str(python), "-m", module, str(file), str(self.folder)]
        lines: list[str] = []
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment(cache),
            )
            watchdog = Timer(TIMEOUT_S * len(request.asked), process.kill)
            watchdog.start()
            try:
                for line in process.stdout or ():
                    lines.append(line)
                    self.tell(f"{module}: {len(lines)} of {len(request.asked)} answered")
                process.wait()
            finally:
                watchdog.cancel()
                if process.poll() is None:
                    process.kill()
                    process.wait()
            errors.seek(0)
            said = " / ".join(errors.read().strip().splitlines()[-MOST_LINES:])
        if process.returncode != 0:
            self.failures.append(f"{module} ended with {process.returncode}: {said}")
        return lines


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
