"""Run a process and hear what it prints, line by line, until it ends or falls silent."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

# Lines of what a process said when it failed.
MOST_LINES = 3


def listen(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    patience_s: float,
    hear: Callable[[dict[str, Any]], None],
) -> str:
    """Run a process that prints lines of JSON.

    Args:
        command: What to run.
        folder: Where.
        environment: Its variables.
        patience_s: Seconds between two lines after which it is ended, whatever it is doing.
        hear: Takes each line.

    Returns:
        Why it ended, nothing if it came to its end.
    """
    impatient = False

    def end() -> None:
        nonlocal impatient
        impatient = True
        process.kill()

    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=dict(environment),
        ) as process:
            watchdog = _started(patience_s, end)
            try:
                for line in process.stdout or ():
                    watchdog.cancel()
                    hear(json.loads(line))
                    watchdog = _started(patience_s, end)
                process.wait()
            finally:
                watchdog.cancel()
                process.kill()
        errors.seek(0)
        said = " / ".join(map(str.strip, errors.read().strip().splitlines()[-MOST_LINES:]))
    if impatient:
        return f"its process was ended after {patience_s:.0f} s without a word"
    if process.returncode < 0:
        return f"its process was ended by signal {-process.returncode}"
    return f"its process ended with {process.returncode}: {said}" if process.returncode else ""


def _started(seconds: float, call: Callable[[], None]) -> Timer:
    timer = Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer
