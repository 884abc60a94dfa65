"""How the kernels of this folder are compiled."""

from collections.abc import Callable
from typing import Any

import numba
from numpy.typing import NDArray

Array = NDArray[Any]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, from the cache on disk where there is one."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep a cache in can be written to
        return numba.njit(nogil=True)(function)
