"""What a process says, and how it ends."""

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.listen import listen


def heard(code: str, patience_s: float = 60.0) -> tuple[list[dict[str, Any]], str]:
    """What a program prints, and why it ended."""
    lines: list[dict[str, Any]] = []
    command = [sys.executable, "-c", f"import json, os, sys, time\n{code}"]
    why = listen(command, Path.cwd(), os.environ, patience_s, lines.append)
    return lines, why


def test_lines_are_heard_one_by_one() -> None:
    assert heard("print(json.dumps({'a': 1}))\nprint('{}')") == ([{"a": 1}, {}], "")


def test_the_last_words_of_a_process_that_fails_are_told() -> None:
    lines, why = heard("print('{}', flush=True)\nsys.exit('no\\nmore\\nat\\nall')")
    assert lines == [{}]
    assert why == "its process ended with 1: more / at / all"


def test_a_signal_that_ends_a_process_is_told() -> None:
    assert heard("os.kill(os.getpid(), 9)") == ([], "its process was ended by signal 9")


def test_a_silent_process_is_ended() -> None:
    lines, why = heard("print('{}', flush=True)\ntime.sleep(600)", patience_s=1.0)
    assert lines == [{}]
    assert why == "its process was ended after 1 s without a word"
