"""How the kernels of this folder are compiled.

A kernel that is called with arrays counts references to them, which costs more than a few
operations: what inner loops do again and again is written out there.
"""

from collections.abc import Callable
from typing import Any

import numba
from numpy.typing import NDArray

Array = NDArray[Any]
# indptr, edges, edge_ptr and members of a `torchjac._coloring.graph.Hypergraph`.
Hypergraph = tuple[Array, Array, Array, Array]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, from the cache on disk where there is one."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep a cache in can be written to
        return numba.njit(nogil=True)(function)
