"""Processes that take turns."""

import subprocess
import sys
from pathlib import Path
from select import select

import pytest

from benchmarks.turns import Turns

OTHER = """
import sys
from benchmarks.turns import Turns
with getattr(Turns(sys.argv[1]), sys.argv[2])():
    print("in", flush=True)
    sys.stdin.read()
"""
# More than a process takes to start.
SHORT_S, LONG_S = 1.0, 60.0


def other(file: Path, turn: str) -> subprocess.Popen[str]:
    """Another process, which takes its turn and keeps it until its input ends."""
    command = [sys.executable, "-c", OTHER, str(file), turn]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


@pytest.mark.parametrize(
    ("mine", "theirs", "both"),
    [
        ("among_others", "among_others", True),
        ("among_others", "alone", False),
        ("alone", "among_others", False),
        ("alone", "alone", False),
    ],
)
def test_nobody_works_beside_who_is_alone(
    mine: str, theirs: str, both: bool, tmp_path: Path
) -> None:
    file = tmp_path / "turns"
    with getattr(Turns(str(file)), mine)():
        process = other(file, theirs)
        came_in, _, _ = select([process.stdout], [], [], LONG_S if both else SHORT_S)
        assert bool(came_in) == both
    assert process.communicate()[0] == "in\n"


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    file = tmp_path / "turns"
    with other(file, "alone") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
        process.communicate()
    with Turns(str(file)).alone():
        assert file.exists()


def test_without_a_file_nobody_waits() -> None:
    with Turns().alone(), Turns().alone() as nothing:
        assert nothing is None
