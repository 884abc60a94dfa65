"""Numbers of colors below which no coloring exists.

Each bound holds for a part of the matrix too, so the largest over the parts left when vertices are
taken away smallest-last counts: those are the densest ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._coloring.graph import Graph

Array = NDArray[Any]


@dataclass(frozen=True)
class LowerBound:
    """A number of colors that every coloring needs.

    Attributes:
        value: The number.
        reason: How it was obtained.
    """

    value: int
    reason: str


def longest(counts: Array, kind: str) -> LowerBound:
    """Columns that meet in a row need different colors, and so do rows in a column."""
    line = "row" if kind == "column" else "column"
    return LowerBound(int(counts.max(initial=0)), f"the most entries in a {line}")


def forest_bound(graph: Graph, smallest_last: Array) -> LowerBound:
    """Bound for star and acyclic colorings of a graph.

    Two colors with a and b vertices form a forest, at most a + b - 1 edges. Summed over the pairs
    of k colors, t vertices have at most (k - 1) t - k (k - 1)/2 edges. Vertices without a diagonal
    entry may go without a color, as if that were one more.

    Args:
        graph: Of a symmetric pattern.
        smallest_last: Its vertices in that order.

    Returns:
        The bound.
    """
    reason = "two colors form a forest, which limits the edges of the densest part"
    if not len(graph.edges):
        return LowerBound(int(graph.loops.any()), reason)
    t = np.arange(1, graph.size + 1, dtype=np.float64)
    edges = edges_before(graph, smallest_last)
    # The smaller root of k² - (2t + 1) k + 2 (t + edges), without cancellation.
    least = 4 * (t + edges) / (2 * t + 1 + np.sqrt((2 * t - 1) ** 2 - 8 * edges))
    best = int(least.argmax())
    size, inside = best + 1, int(edges[best])
    k = int(np.ceil(least[best]))
    while k > 1 and (k - 2) * size - (k - 1) * (k - 2) // 2 >= inside:
        k -= 1
    uncolored = bool(np.any(~graph.loops & (graph.degrees > 0)))
    return LowerBound(max(k - uncolored, 1), reason)


def value_bound(graph: Graph, smallest_last: Array) -> LowerBound:
    """Bound for bicolorings: a column color gives m numbers, a row color n, all entries wanted."""
    reason = "the entries of the densest part over the longer of its sides"
    if not len(graph.edges):
        return LowerBound(0, reason)
    rows = np.cumsum(graph.side[smallest_last] == 0)
    longer = np.maximum(rows, np.arange(1, graph.size + 1) - rows)
    return LowerBound(int(np.max(-(-edges_before(graph, smallest_last) // longer))), reason)


def edges_before(graph: Graph, order: Array) -> Array:
    """Number of edges among the first 1, 2, ... vertices of an order, shape (vertices,)."""
    place = np.empty(graph.size, np.int64)
    place[order] = np.arange(graph.size)
    ends = np.repeat(place, graph.degrees)
    later = ends > place[graph.neighbors]
    return np.cumsum(np.bincount(ends[later], minlength=graph.size))
