"""Orders by degree.

Source: Gebremedhin, Nguyen, Patwary & Pothen (2013), "ColPack: software for graph coloring and
related problems in scientific computing", ACM TOMS 40(1), section 3.
"""

import numpy as np

from torchjac._coloring.kernels.buckets import pop, push, remove
from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def degrees(indptr: Array, edges: Array, edge_ptr: Array, members: Array, largest: int) -> Array:
    """Number of vertices that share a hyperedge of at most `largest` members with each vertex."""
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
def greedy_order(
    keys: Array,
    step: int,
    bins: int,
    indptr: Array,
    edges: Array,
    edge_ptr: Array,
    members: Array,
    largest: int,
) -> Array:
    """Take out the vertex with the largest key again and again; its neighbors' keys gain `step`.

    Keys must stay in 0..bins-1. Vertices with one key form a doubly linked list;
    among them the one that came last goes first, in the beginning the one with the least number.

    Args:
        keys: Key of each vertex, written to, shape (vertices,).
        step: Added to the key of a neighbor of the vertex taken out.
        bins: Number of keys there can be.
        indptr: Where the hyperedges of each vertex begin, shape (vertices + 1,).
        edges: Hyperedges of each vertex.
        edge_ptr: Where the members of each hyperedge begin, shape (hyperedges + 1,).
        members: Vertices of each hyperedge.
        largest: Hyperedges with more members are left out.

    Returns:
        The vertices in the order of being taken out.
    """
    n = len(keys)
    head = np.full(bins, -1, np.int32)
    after = np.empty(n, np.int32)
    before = np.empty(n, np.int32)
    for i in range(n):
        push(n - 1 - i, keys[n - 1 - i], head, after, before)
    seen = np.full(n, -1, np.int32)
    done = np.zeros(n, np.bool_)
    order = np.empty(n, np.int32)
    top = bins - 1
    for position in range(n):
        v = pop(top, head, after, before)
        top = keys[v]
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
                remove(w, keys[w], head, after, before)
                keys[w] += step
                push(w, keys[w], head, after, before)
                top = max(top, keys[w])
    return order
