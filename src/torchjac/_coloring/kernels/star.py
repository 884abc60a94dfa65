"""Greedy star coloring.

Source: Gebremedhin, Tarafdar, Manne & Pothen (2007), "New acyclic and star coloring algorithms with
application to computing Hessians", SIAM J. Sci. Comput. 29(3).
"""

import numpy as np

from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def join_stars(
    v: int,
    indptr: Array,
    neighbors: Array,
    edges: Array,
    colors: Array,
    first: Array,
    star_of: Array,
    hub: Array,
) -> None:
    """Put each edge of a vertex that was just colored into the star it belongs to."""
    for a in range(indptr[v], indptr[v + 1]):
        w = neighbors[a]
        if colors[w] < 0:
            continue
        joined = False
        for b in range(indptr[w], indptr[w + 1]):
            x = neighbors[b]
            if x != v and colors[x] == colors[v]:
                star_of[edges[a]] = star_of[edges[b]]
                hub[star_of[edges[b]]] = w
                joined = True
                break
        before = first[colors[w]]
        if not joined and before != a:
            star_of[edges[a]] = star_of[edges[before]]
            hub[star_of[edges[before]]] = v


@compiled
def star(order: Array, indptr: Array, neighbors: Array, edges: Array, side: Array) -> Array:
    """Greedy star coloring: no path on four vertices has two colors.

    Edges between two colors form stars; a star of two edges or more has a hub. Vertices of side 0
    take even colors and those of side 1 odd ones, unless all are of side 0: then any.

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
    seen = np.full(stride * (n + 1), -1, np.int32)
    first = np.zeros(stride * (n + 1), edges.dtype)
    treated = np.full(n, -1, np.int32)
    star_of = np.arange(len(edges)).astype(edges.dtype)
    hub = np.full(len(edges), -1, np.int32)
    for v in order:
        for a in range(indptr[v], indptr[v + 1]):
            w = neighbors[a]
            color = colors[w]
            if color < 0:
                continue
            forbidden[color] = v
            if seen[color] != v:
                seen[color] = v
                first[color] = a
                for b in range(indptr[w], indptr[w + 1]):
                    x = neighbors[b]
                    if x != v and colors[x] >= 0 and hub[star_of[edges[b]]] == x:
                        forbidden[colors[x]] = v
                continue
            for u in (neighbors[first[color]], w):
                if treated[u] != v:
                    treated[u] = v
                    for b in range(indptr[u], indptr[u + 1]):
                        if colors[neighbors[b]] >= 0:
                            forbidden[colors[neighbors[b]]] = v
        mine = side[v]
        while forbidden[mine] == v:
            mine += stride
        colors[v] = mine
        join_stars(v, indptr, neighbors, edges, colors, first, star_of, hub)
    return colors
