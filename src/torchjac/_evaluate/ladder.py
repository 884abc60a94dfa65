"""The fallback ladder: try the fastest way, and on what PyTorch cannot do the next one.

Every way gives the same numbers. What was tried and what PyTorch said is kept, reported by
`torchjac.record`, and warned of where the way that is left is a slow one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torchjac._evaluate.memory import is_out_of_memory
from torchjac._evaluate.mistakes import REASON_LENGTH, is_our_own
from torchjac._evaluate.report import Refusal
from torchjac._torch import NO_BATCHING_RULE, BatchingRulesOnly
from torchjac.errors import ChangedFunctionError, MemoryBudgetError

Result = TypeVar("Result")
VMAP, PARTLY, LOOP = "vmap", "vmap, some ops one by one", "loop"


@dataclass(frozen=True, slots=True)
class Rung(Generic[Result]):
    """One way to compute.

    Attributes:
        mode: "reverse-mode", "forward-mode" or "double-backward".
        method: How seeds are run, "vmap" say.
        attempt: The computation.
        after: Part of the reason that a rung above must have given, empty for any: another
            would keep this one from working as well.
    """

    mode: str
    method: str
    attempt: Callable[[], Result]
    after: str = ""

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
        Exception: What the last rung raised, if none holds; at once if memory ran out, or if it
            is a mistake of torchjac's own.
    """
    refusals: list[Refusal] = []
    left = list(rungs)
    while True:
        rung = left.pop(0)
        try:
            return rung, rung.attempt(), tuple(refusals)
        except (MemoryBudgetError, ChangedFunctionError):
            raise
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, Warning | NameError):
                raise
            if is_our_own(error):
                raise
            refusals.append(Refusal(rung.name, _first_line(error)))
            left = [r for r in left if any([r.after in refusal.reason for refusal in refusals])]
            if not left:
                raise


def batchings(
    mode: str, stackings: Sequence[bool], compute: Callable[[bool], Result]
) -> list[Rung[Result]]:
    """Ways to run seeds: together, with some ops one by one, one after the other.

    Args:
        mode: The mode.
        stackings: Whether to batch, in the order to try.
        compute: The computation, told whether to batch.

    Returns:
        A rung each.
    """

    def by_rules() -> Result:
        with BatchingRulesOnly():
            return compute(True)

    rungs: list[Rung[Result]] = []
    for stacked in stackings:
        if stacked:
            rungs.append(Rung(mode, VMAP, by_rules))
            rungs.append(Rung(mode, PARTLY, lambda: compute(True), NO_BATCHING_RULE))
        else:
            rungs.append(Rung(mode, LOOP, lambda: compute(False)))
    return rungs


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:REASON_LENGTH]
