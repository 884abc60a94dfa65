"""Greedy acyclic coloring.

Source: Gebremedhin, Tarafdar, Manne & Pothen (2007), "New acyclic and star coloring algorithms with
application to computing Hessians", SIAM J. Sci. Comput. 29(3).
"""

import numpy as np

from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def root(parent: Array, e: int) -> int:
    """Representative of the set of `e`, the path to it halved."""
    while parent[e] != e:
        parent[e] = parent[parent[e]]
        e = parent[e]
    return e


@compiled
def join_trees(
    v: int,
    indptr: Array,
    neighbors: Array,
    edges: Array,
    colors: Array,
    latest: Array,
    parent: Array,
) -> None:
    """Join each edge of a vertex that was just colored with the trees it touches."""
    for a in range(indptr[v], indptr[v + 1]):
        w = neighbors[a]
        if colors[w] < 0:
            continue
        before = latest[colors[w]]
        if indptr[v] <= before < a:
            parent[root(parent, edges[a])] = root(parent, edges[before])
        latest[colors[w]] = a
        for b in range(indptr[w], indptr[w + 1]):
            if neighbors[b] != v and colors[neighbors[b]] == colors[v]:
                parent[root(parent, edges[a])] = root(parent, edges[b])


@compiled
def acyclic(order: Array, indptr: Array, neighbors: Array, edges: Array, side: Array) -> Array:
    """Greedy acyclic coloring: no cycle has two colors. Sides and order as in `star`.

    The trees of two colors are disjoint sets of edges. A vertex that reaches one tree through two
    neighbors may not take the tree's other color.

    Args:
        order: Vertices to color; the others count as if they were not there.
        indptr: Where the ends at each vertex begin, shape (vertices + 1,).
        neighbors: The vertex at the other end, shape (ends,).
        edges: Number of the edge, shape (ends,), the same at both ends.
        side: 0 or 1 of each vertex.

    Returns:
        Color of each vertex, -1 if it is not in `order`.
    """
    n = len(indptr) - 1
    stride = side.max() + 1 if n else 1
    colors = np.full(n, -1, np.int32)
    forbidden = np.full(stride * (n + 1), -1, np.int32)
    latest = np.full(stride * (n + 1), -1, edges.dtype)
    parent = np.arange(len(edges)).astype(edges.dtype)
    visitor = np.full(len(edges), -1, np.int32)
    gate = np.zeros(len(edges), np.int32)
    for v in order:
        for a in range(indptr[v], indptr[v + 1]):
            if colors[neighbors[a]] >= 0:
                forbidden[colors[neighbors[a]]] = v
        for a in range(indptr[v], indptr[v + 1]):
            w = neighbors[a]
            if colors[w] < 0:
                continue
            for b in range(indptr[w], indptr[w + 1]):
                color = colors[neighbors[b]]
                if color < 0 or forbidden[color] == v:
                    continue
                tree = edges[b]
                while parent[tree] != tree:
                    parent[tree] = parent[parent[tree]]
                    tree = parent[tree]
                if visitor[tree] != v:
                    visitor[tree] = v
                    gate[tree] = w
                elif gate[tree] != w:
                    forbidden[color] = v
        mine = side[v]
        while forbidden[mine] == v:
            mine += stride
        colors[v] = mine
        join_trees(v, indptr, neighbors, edges, colors, latest, parent)
    return colors
