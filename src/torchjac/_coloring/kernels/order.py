"""Orders by degree.

Source: Gebremedhin, Nguyen, Patwary & Pothen (2013), "ColPack: software for graph coloring and
related problems in scientific computing", ACM TOMS 40(1), section 3.
"""

import numpy as np

from torchjac._coloring.kernels.compiled import Array, Hypergraph, compiled


@compiled
def degrees(graph: Hypergraph, largest: int) -> Array:
    """Number of vertices that share a hyperedge of at most `largest` members with each vertex."""
    indptr, edges, edge_ptr, members = graph
    n = len(indptr) - 1
    seen = np.full(n, -1, np.int32)
    degree = np.zeros(n, np.int32)
    for v in range(n):
        seen[v] = v
        count = 0
        for a in range(indptr[v], indptr[v + 1]):
            e = edges[a]
            if edge_ptr[e + 1] - edge_ptr[e] <= largest:
                for b in range(edge_ptr[e], edge_ptr[e + 1]):
                    w = members[b]
                    if seen[w] != v:
                        seen[w] = v
                        count += 1
        degree[v] = count
    return degree


@compiled
def greedy_order(keys: Array, step: int, bins: int, graph: Hypergraph, largest: int) -> Array:
    """Take out the vertex with the largest key again and again; its neighbors' keys gain `step`.

    Keys must stay in 0..bins-1. Vertices with one key form a ring of links in both directions,
    closed by a node for the key, n + key. Among them the one that came last goes first, in the
    beginning the one with the least number.

    Args:
        keys: Key of each vertex, written to, shape (vertices,).
        step: Added to the key of a neighbor of the vertex taken out.
        bins: Number of keys there can be.
        graph: Where the hyperedges of each vertex begin, its hyperedges; where the vertices of each
            hyperedge begin, its vertices.
        largest: Hyperedges with more members are left out.

    Returns:
        The vertices in the order of being taken out.
    """
    indptr, edges, edge_ptr, members = graph
    n = len(keys)
    after = np.arange(n + bins).astype(np.int32)
    before = after.copy()
    for i in range(n):
        v, bin_ = n - 1 - i, n + keys[n - 1 - i]
        after[v], before[v] = after[bin_], bin_
        before[after[bin_]] = v
        after[bin_] = v
    seen = np.full(n, -1, np.int32)
    done = np.zeros(n, np.bool_)
    order = np.empty(n, np.int32)
    top = bins - 1
    for position in range(n):
        while after[n + top] == n + top:
            top -= 1
        v = after[n + top]
        after[n + top], before[after[v]] = after[v], n + top
        order[position] = v
        done[v] = True
        for a in range(indptr[v], indptr[v + 1]):
            e = edges[a]
            if edge_ptr[e + 1] - edge_ptr[e] > largest:
                continue
            for b in range(edge_ptr[e], edge_ptr[e + 1]):
                w = members[b]
                if done[w] or seen[w] == v:
                    continue
                seen[w] = v
                after[before[w]], before[after[w]] = after[w], before[w]
                keys[w] += step
                bin_ = n + keys[w]
                after[w], before[w] = after[bin_], bin_
                before[after[bin_]] = w
                after[bin_] = w
                top = max(top, keys[w])
    return order
