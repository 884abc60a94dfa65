"""Orders in which the vertices of a hypergraph are colored greedily.

Sources:
    Gebremedhin, Nguyen, Patwary & Pothen (2013), "ColPack: software for graph coloring and related
    problems in scientific computing", ACM TOMS 40(1), section 3.
    Brélaz (1979), "New methods to color the vertices of a graph", CACM 22(4).

Limit: the orders look at the neighbors of neighbors, at a cost of the squared sizes of the
hyperedges. The largest hyperedges are left out where they would make that more than 32 steps for
each entry; this changes the order, never the validity of a coloring.
"""

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from torchjac._coloring.engine import kernels
from torchjac._coloring.graph import Hypergraph

Array = NDArray[Any]
Order = Literal[
    "natural",
    "random",
    "largest-first",
    "smallest-last",
    "incidence-degree",
    "dynamic-largest-first",
    "saturation",
]
ORDERS: tuple[Order, ...] = get_args(Order)
# What is tried when no order is named, the cheapest first; the best coloring is kept.
DEFAULT_ORDERS: tuple[Order, ...] = (
    "natural",
    "saturation",
    "dynamic-largest-first",
    "smallest-last",
    "largest-first",
    "incidence-degree",
)
# In large matrices each order costs as much as finding the pattern did: the two that win most.
MANY_ENTRIES = 200_000
ORDERS_FOR_MANY: tuple[Order, ...] = ("natural", "saturation")
STEPS_PER_ENTRY = 32
FEW_STEPS = 1_000_000
# Colors that the saturation order keeps for each vertex, in words of 64.
MOST_WORDS = 8


def default_orders(nnz: int) -> tuple[Order, ...]:
    """Orders to try where none is named."""
    return DEFAULT_ORDERS if nnz <= MANY_ENTRIES else ORDERS_FOR_MANY


class Orders:
    """The orders of one hypergraph, which share the degrees of its vertices."""

    def __init__(self, hypergraph: Hypergraph, seed: int) -> None:
        self._hypergraph = hypergraph
        self._seed = seed

    def __getitem__(self, order: Order) -> Array:
        """All vertices in the order of that name, shape (vertices,)."""
        n = self._hypergraph.size
        match order:
            case "natural":
                return np.arange(n, dtype=np.int32)
            case "random":
                return np.random.default_rng(self._seed).permutation(n).astype(np.int32)
            case "largest-first":
                return self._largest_first
            case "smallest-last":
                return self.smallest_last
            case "incidence-degree":
                return self._greedy(np.zeros_like(self._degrees), 1)
            case "dynamic-largest-first":
                return self._greedy(self._degrees.copy(), -1)
            case "saturation":
                words = min(MOST_WORDS, self._most // 64 + 1)
                ties = self._largest_first
                graph = self._hypergraph.arrays
                return kernels().saturation_order(ties, graph, self._largest, words)

    @cached_property
    def smallest_last(self) -> Array:
        """Each vertex has the least number of neighbors before it that any choice would have."""
        return self._greedy(self._most - self._degrees, 1)[::-1].copy()

    @cached_property
    def _largest(self) -> int:
        """Size of the largest hyperedges that are looked at."""
        sizes = np.diff(self._hypergraph.edge_ptr)
        counts = np.bincount(sizes, minlength=1).astype(np.float64)
        steps = np.cumsum(counts * np.arange(len(counts), dtype=np.float64) ** 2)
        allowed = FEW_STEPS + STEPS_PER_ENTRY * len(self._hypergraph.members)
        return int(np.searchsorted(steps, allowed, side="right")) - 1

    @cached_property
    def _degrees(self) -> Array:
        return kernels().degrees(self._hypergraph.arrays, self._largest)

    @property
    def _most(self) -> int:
        return int(self._degrees.max(initial=0))

    @cached_property
    def _largest_first(self) -> Array:
        return np.argsort(-self._degrees, kind="stable").astype(np.int32)

    def _greedy(self, keys: Array, step: int) -> Array:
        bins, graph = self._most + 1, self._hypergraph.arrays
        return kernels().greedy_order(keys, step, bins, graph, self._largest)
