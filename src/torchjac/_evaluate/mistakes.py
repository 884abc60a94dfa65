"""Errors that are torchjac's own, and those of steps that an answer can do without."""

import traceback
from pathlib import Path

from torchjac._evaluate.memory import is_out_of_memory

REASON_LENGTH = 160
# What a mistake in a program raises, and PyTorch where it cannot do something. Where the adapter
# calls PyTorch the last line is ours all the same.
_MISTAKES = (AssertionError, AttributeError, LookupError, TypeError)
_PACKAGE = Path(__file__).parents[1]
_ADAPTER = _PACKAGE / "_torch.py"


def is_our_own(error: Exception) -> bool:
    """Whether an error is a mistake in a line of torchjac, not in what that called.

    Args:
        error: With its traceback.

    Returns:
        Not for what is raised on purpose.
    """
    if not isinstance(error, _MISTAKES):
        return False
    steps = traceback.extract_tb(error.__traceback__)
    last = Path(steps[-1].filename) if steps else _ADAPTER
    return last.is_relative_to(_PACKAGE) and last != _ADAPTER


def can_be_left_out(error: Exception) -> bool:
    """Whether a step that only makes things faster may be left out for its error.

    Args:
        error: What it raised.

    Returns:
        Not where memory ran out, nor for a warning that was made an error.

    >>> can_be_left_out(KeyError(3)), can_be_left_out(MemoryError())
    (True, False)
    """
    return not (isinstance(error, MemoryError | Warning) or is_out_of_memory(error))


def described(error: Exception) -> str:
    """The kind of an error, and the first line of what it says.

    Args:
        error: Any.

    Returns:
        One line.

    >>> described(KeyError("width"))
    "KeyError: 'width'"
    """
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *[line[:REASON_LENGTH] for line in lines[:1]]])


def left_out(api: str, step: str) -> str:
    """What is said of a step that failed and was left out.

    Args:
        api: Name of the public function.
        step: Its name, and the error; or several.

    Returns:
        The text of a warning.
    """
    return (
        f"{api}: what makes the Jacobian faster failed and is left out: {step}. The answer is the "
        "same, the time may not be. Please report it."
    )
