"""Order by saturation.

Source: Brélaz (1979), "New methods to color the vertices of a graph", CACM 22(4).
"""

import numpy as np

from torchjac._coloring.kernels.bitset import add, first_free, has
from torchjac._coloring.kernels.buckets import pop, push, remove
from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def saturation_order(
    ties: Array,
    indptr: Array,
    edges: Array,
    edge_ptr: Array,
    members: Array,
    largest: int,
    words: int,
) -> Array:
    """Take out the vertex whose colored neighbors have the most colors, again and again.

    Each vertex taken out gets the least color free for it. Colors from 64 `words` on are not
    kept, nor hyperedges of more than `largest` members: the order is then an approximation.

    Args:
        ties: All vertices, in the order that decides where there is a choice.
        indptr: Where the hyperedges of each vertex begin, shape (vertices + 1,).
        edges: Hyperedges of each vertex.
        edge_ptr: Where the members of each hyperedge begin, shape (hyperedges + 1,).
        members: Vertices of each hyperedge.
        largest: Hyperedges with more members are left out.
        words: Words of 64 colors to keep for each vertex.

    Returns:
        The vertices in the order of being taken out.
    """
    n = len(ties)
    head = np.full(64 * words + 1, -1, np.int32)
    after = np.empty(n, np.int32)
    before = np.empty(n, np.int32)
    for v in ties[::-1]:
        push(v, 0, head, after, before)
    keys = np.zeros(n, np.int32)
    taken = np.zeros((n, words), np.int64)
    order = np.empty(n, np.int32)
    top = 0
    for position in range(n):
        v = pop(top, head, after, before)
        top = keys[v]
        keys[v] = -1
        order[position] = v
        color = first_free(taken[v], words)
        stop = indptr[v + 1] if color < 64 * words else indptr[v]
        for a in range(indptr[v], stop):
            e = edges[a]
            if edge_ptr[e + 1] - edge_ptr[e] > largest:
                continue
            for b in range(edge_ptr[e], edge_ptr[e + 1]):
                w = members[b]
                if keys[w] < 0 or has(taken[w], color):
                    continue
                add(taken[w], color)
                remove(w, keys[w], head, after, before)
                keys[w] += 1
                push(w, keys[w], head, after, before)
                top = max(top, keys[w])
    return order
