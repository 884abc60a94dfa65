"""The compiled kernels, loaded when the first coloring is asked for.

numba takes a third of a second to import, which nobody should pay who asks for no coloring.
"""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def kernels() -> Any:
    """The module of compiled kernels."""
    return import_module("torchjac._coloring.kernels")
