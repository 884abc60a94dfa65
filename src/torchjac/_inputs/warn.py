"""Warnings that point at the user's line."""

import sys
import warnings
from pathlib import Path

import torch

_LIBRARIES = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line that is neither torchjac's nor PyTorch's.

    Args:
        message: What to say.
        category: Kind of warning.
    """
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
