"""The fallback ladder: try the fastest way, and on what PyTorch cannot do the next one.

Every way gives the same numbers. What was tried and what PyTorch said is kept, reported by
`torchjac.record`, and warned of where the way that is left is a slow one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torchjac._evaluate.memory import is_out_of_memory
from torchjac._evaluate.report import Refusal
from torchjac.errors import ChangedFunctionError, MemoryBudgetError

Result = TypeVar("Result")
REASON_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Rung(Generic[Result]):
    """One way to compute: the mode, the method, and the computation."""

    mode: str
    method: str
    attempt: Callable[[], Result]

    @property
    def name(self) -> str:
        """Mode and method in one word for messages."""
        return f"{self.mode}/{self.method}"


def climb_down(
    rungs: Sequence[Rung[Result]],
) -> tuple[Rung[Result], Result, tuple[Refusal, ...]]:
    """Take the first rung that holds.

    Args:
        rungs: Ways to compute, fastest first.

    Returns:
        The rung, what it computed, and the rungs above with the reason that each gave.

    Raises:
        MemoryBudgetError: At once: no other way would mend it.
        ChangedFunctionError: At once, likewise.
        Exception: What the last rung raised, if none holds; at once if memory ran out.
    """
    refusals: list[Refusal] = []
    for rung in rungs[:-1]:
        try:
            return rung, rung.attempt(), tuple(refusals)
        except (MemoryBudgetError, ChangedFunctionError):
            raise
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, Warning | NameError):
                raise
            refusals.append(Refusal(rung.name, _first_line(error)))
    return rungs[-1], rungs[-1].attempt(), tuple(refusals)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:REASON_LENGTH]
