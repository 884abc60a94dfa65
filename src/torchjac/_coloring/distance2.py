"""Partial distance-2 coloring: vertices that share a hyperedge get different colors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._coloring.engine import kernels
from torchjac._coloring.graph import Hypergraph
from torchjac._coloring.orders import Orders
from torchjac._coloring.search import Effort, Found, Task, search

Array = NDArray[Any]


def color_distance2(hypergraph: Hypergraph, effort: Effort) -> Found:
    """Color the vertices that lie in a hyperedge; the others get no color."""
    wanted = np.diff(hypergraph.indptr) > 0
    sizes = np.diff(hypergraph.edge_ptr)
    bound = int(sizes.max(initial=0))
    if bound == wanted.sum():
        # One hyperedge holds them all.
        return Found(np.where(wanted, np.cumsum(wanted) - 1, -1).astype(np.int32), "natural")

    def fit(order: Array) -> Array:
        return first_fit(hypergraph, order, sizes, bound)

    task = Task(fit, wanted, bound, len(hypergraph.members))
    return search(task, Orders(hypergraph, effort.seed), effort)


def first_fit(hypergraph: Hypergraph, order: Array, sizes: Array, bound: int) -> Array:
    """Least color that fits, vertex by vertex; the bitsets grow until the colors fit."""
    words = (bound + bound // 4) // 64 + 1
    while True:
        # A bitset is worth it where it is shorter than a walk; so it takes O(nnz) memory in all.
        has_slot = sizes >= words
        slots = np.where(has_slot, np.cumsum(has_slot) - 1, -1).astype(np.int32)
        colors = kernels().first_fit(order, hypergraph.arrays, slots, words)
        if len(colors) == hypergraph.size:
            return colors
        words *= 2
