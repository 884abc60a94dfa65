"""An optional progress bar over seeds."""

from importlib import import_module
from types import TracebackType
from typing import Any

from torchjac.errors import MissingExtraError


def check_progress(*, shown: bool) -> None:
    """Refuse to show a bar that cannot be shown, before any work is done."""
    if shown:
        _rich_progress()


class Progress:
    """Counts seeds; shows a bar where one was asked for."""

    def __init__(self, *, shown: bool, label: str = "") -> None:
        self._bar = _rich_progress().Progress(transient=True) if shown else None
        self._label = label
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """Say how many seeds will come."""
        if self._bar is not None:
            if self._task is not None:  # another way of computing starts anew
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(self._label, total=total)

    def advance(self, count: int) -> None:
        """Say that `count` more seeds are done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)


def _rich_progress() -> Any:
    try:
        return import_module("rich.progress")
    except ImportError:
        raise MissingExtraError(
            "progress=True needs the package `rich`: pip install 'torchjac[rich]'."
        ) from None
