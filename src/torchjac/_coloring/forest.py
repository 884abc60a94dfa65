"""Star and acyclic coloring of a graph, hubs set apart, and colors that nothing is read from.

Sources:
    Gebremedhin, Tarafdar, Manne & Pothen (2007), SIAM J. Sci. Comput. 29(3).
    Montoison, Dalle & Gebremedhin (2025), "Revisiting sparse matrix coloring and bicoloring",
    arXiv:2505.07308: bicoloring as a coloring of the bipartite graph, and neutral colors.

A vertex with a color of its own lies on no path and no cycle of two colors that repeats a color,
so that a few vertices of very high degree can be set apart at one color each; what is left is
colored as if they were not there.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._coloring.engine import kernels
from torchjac._coloring.graph import Graph
from torchjac._coloring.orders import Orders
from torchjac._coloring.search import Effort, Found, Task, search

Array = NDArray[Any]

# A greedy coloring walks the neighbors of neighbors: steps allowed for each end of an edge.
STEPS_PER_END = 64
FEW_STEPS = 100_000
# Where the sorted degrees fall by this factor, the vertices before the fall are hubs.
FALL = 4
MOST_HUBS = 64


def color_graph(graph: Graph, orders: Orders, bound: int, effort: Effort, *, trees: bool) -> Found:
    """Star coloring of a graph, or acyclic coloring with `trees`; unneeded colors are dropped.

    Args:
        graph: The graph.
        orders: Orders of its vertices.
        bound: No coloring has fewer colors, those dropped not counted.
        effort: How hard to try.
        trees: Whether two colors may form any tree rather than stars only.

    Returns:
        The best coloring; vertices of different sides never share a color.
    """
    degrees = graph.degrees
    falling = np.argsort(-degrees, kind="stable")

    def set_apart(count: int) -> Found:
        wanted = (degrees > 0) | graph.loops
        wanted[falling[:count]] = False
        steps = int(np.sum(degrees[wanted].astype(np.float64) ** 2))
        fit = partial(fit_forest, graph, falling[:count], trees)
        return search(Task(fit, wanted, bound, steps), orders, effort)

    least, more = hub_counts(degrees)
    best = set_apart(least)
    if least < more < best.count and best.count > bound:
        other = set_apart(more)
        if other.count < best.count:
            best = other
    return best


def hub_counts(degrees: Array) -> tuple[int, int]:
    """How many vertices of highest degree must be set apart for speed, and how many stand out."""
    falling = np.sort(degrees).astype(np.float64)[::-1]
    steps = np.append(np.cumsum(falling[::-1] ** 2)[::-1], 0)
    allowed = FEW_STEPS + STEPS_PER_END * falling.sum()
    least = int(np.argmax(steps <= allowed))
    falls = falling[:MOST_HUBS] >= FALL * np.maximum(np.append(falling[1:], 0), 1)[:MOST_HUBS]
    last = int(np.flatnonzero(falls)[-1]) + 1 if falls.any() else 0
    return least, last


def fit_forest(graph: Graph, hubs: Array, trees: bool, order: Array) -> Array:
    """Greedy coloring in one order, a color of its own for each hub."""
    kernel = kernels().acyclic if trees else kernels().star
    colors = kernel(order, graph.indptr, graph.neighbors, graph.edges, graph.side)
    first = int(colors.max(initial=-1)) + 1
    colors[hubs] = np.arange(first, first + len(hubs))
    return drop_unneeded(graph, colors)


def drop_unneeded(graph: Graph, colors: Array) -> Array:
    """Take the colors from which no entry is read, and number the others 0, 1, ...

    A diagonal entry is read from its own color. In a star, the edge from the hub h to s is read
    at s, from the color of h. A tree that is no star needs both its colors, and a single edge one
    of its two, whichever is needed more.

    Args:
        graph: The graph.
        colors: Valid colors, every vertex with an edge or a diagonal entry colored.

    Returns:
        Colors of the vertices, shape (vertices,), -1 for those that need none.
    """
    group, size = kernels().color_groups(graph.indptr, graph.neighbors, colors)
    needed = np.zeros(int(colors.max(initial=-1)) + 1, np.bool_)
    needed[colors[graph.loops]] = True
    here = size[group]
    there = here[graph.reverse]
    theirs = colors[graph.neighbors]
    needed[theirs[there > 1]] = True
    single = (here == 1) & (there == 1)
    mine = np.repeat(colors, graph.degrees)[single]
    cover(needed, mine, theirs[single])
    numbers = np.where(needed, np.cumsum(needed) - 1, -1)
    return np.append(numbers, -1)[colors].astype(np.int32)  # no color, -1, is the last one


def cover(needed: Array, first: Array, second: Array) -> None:
    """Mark colors until each pair has a marked one, the color of most pairs first.

    Args:
        needed: Marks of the colors, written to.
        first: One color of each pair; a pair is there both ways round.
        second: The other.
    """
    unmarked = ~(needed[first] | needed[second])
    pairs = np.unique(first[unmarked].astype(np.int64) * len(needed) + second[unmarked])
    first, second = np.divmod(pairs, max(len(needed), 1))
    while len(first):
        chosen = np.bincount(first).argmax()
        needed[chosen] = True
        unmarked = (first != chosen) & (second != chosen)
        first, second = first[unmarked], second[unmarked]
