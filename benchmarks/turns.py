"""Who may work while others do: many prepare at once, but who is timed is alone.

Processes that know nothing of each other but a file take turns by locks on it, which the system
gives back where one dies. The standard library alone.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Turns:
    """Turns of all processes that hold the same file.

    Attributes:
        file: The file, empty for a process that takes no turns with others.
    """

    file: str = ""

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Work while others may, but nobody is timed."""
        with self._held(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work while nobody else does."""
        with self._held(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _held(self, kind: int) -> Iterator[None]:
        if not self.file:
            yield
            return
        file = Path(self.file)
        # Who waits to be alone keeps others from coming in: all queue up at the door.
        with file.open("a") as room, file.with_suffix(".door").open("a") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, kind)
            fcntl.flock(door, fcntl.LOCK_UN)
            yield
