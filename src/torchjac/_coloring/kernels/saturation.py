"""Order by saturation.

Source: Brélaz (1979), "New methods to color the vertices of a graph", CACM 22(4).
"""

import numpy as np

from torchjac._coloring.kernels.compiled import Array, Hypergraph, compiled


@compiled
def saturation_order(ties: Array, graph: Hypergraph, largest: int, words: int) -> Array:
    """Take out the vertex whose colored neighbors have the most colors, again and again.

    Each vertex taken out gets the least color free for it. Colors from 64 `words` on are not
    kept, nor hyperedges of more than `largest` members: the order is then an approximation.
    Vertices are linked as in `greedy_order`.

    Args:
        ties: All vertices, in the order that decides where there is a choice.
        graph: Where the hyperedges of each vertex begin, its hyperedges; where the vertices of each
            hyperedge begin, its vertices.
        largest: Hyperedges with more members are left out.
        words: Words of 64 colors to keep for each vertex.

    Returns:
        The vertices in the order of being taken out.
    """
    indptr, edges, edge_ptr, members = graph
    n = len(ties)
    after = np.arange(n + 64 * words + 1).astype(np.int32)
    before = after.copy()
    nodes = np.append(ties, n)
    after[np.append(n, ties)] = nodes
    before[nodes] = np.append(n, ties)
    keys = np.zeros(n, np.int32)
    taken = np.zeros((n, words), np.int64)
    order = np.empty(n, np.int32)
    top = 0
    for position in range(n):
        while after[n + top] == n + top:
            top -= 1
        v = after[n + top]
        after[n + top], before[after[v]] = after[v], n + top
        order[position] = v
        keys[v] = -1
        color = 0
        while color < 64 * words and (taken[v, color >> 6] >> (color & 63)) & 1:
            color += 1
        word, bit = color >> 6, 1 << (color & 63)
        for a in range(indptr[v], indptr[v + 1] if word < words else indptr[v]):
            e = edges[a]
            if edge_ptr[e + 1] - edge_ptr[e] > largest:
                continue
            for b in range(edge_ptr[e], edge_ptr[e + 1]):
                w = members[b]
                if keys[w] < 0 or taken[w, word] & bit:
                    continue
                taken[w, word] |= bit
                after[before[w]], before[after[w]] = after[w], before[w]
                keys[w] += 1
                bin_ = n + keys[w]
                after[w], before[w] = after[bin_], bin_
                before[after[bin_]] = w
                after[bin_] = w
                top = max(top, keys[w])
    return order
