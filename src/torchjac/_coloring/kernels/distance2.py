"""Greedy coloring at distance 2.

Source: Gebremedhin, Manne & Pothen (2005), "What color is your Jacobian?", SIAM Review 47(4).

Deviation: each hyperedge keeps the set of the colors in use as a bitset, so that a coloring costs
O(nnz ⌈k/64⌉) rather than the sum of squared row lengths.
"""

import numpy as np

from torchjac._coloring.kernels.compiled import Array, Hypergraph, compiled


@compiled
def first_fit(order: Array, graph: Hypergraph, slots: Array, words: int) -> Array:
    """Give each vertex in turn the least color that no member of its hyperedges has.

    A hyperedge with a slot keeps the colors of its members as a bitset of `words` words of 64;
    the others, slot -1, are walked through.

    Args:
        order: Vertices to color.
        graph: Where the hyperedges of each vertex begin, its hyperedges; where the vertices of each
            hyperedge begin, its vertices.
        slots: Place of each hyperedge's bitset, or -1.
        words: Length of the bitsets.

    Returns:
        Color of each vertex, -1 if it is not in `order`; empty if 64 `words` colors are too few.
    """
    indptr, edges, edge_ptr, members = graph
    colors = np.full(len(indptr) - 1, -1, np.int32)
    used = np.zeros((slots.max() + 1 if len(slots) else 0, words), np.int64)
    taken = np.zeros(words, np.int64)
    width = 1
    for v in order:
        taken[:width] = 0
        for a in range(indptr[v], indptr[v + 1]):
            e = edges[a]
            if slots[e] >= 0:
                for i in range(width):
                    taken[i] |= used[slots[e], i]
            else:
                for b in range(edge_ptr[e], edge_ptr[e + 1]):
                    c = colors[members[b]]
                    if c >= 0:
                        taken[c >> 6] |= 1 << (c & 63)
        word = 0
        while word < width and taken[word] == -1:
            word += 1
        if word == width:
            width += 1
            if width > words:
                return np.empty(0, np.int32)
            taken[word] = 0
        bit = 0
        while (taken[word] >> bit) & 1:
            bit += 1
        colors[v] = 64 * word + bit
        for a in range(indptr[v], indptr[v + 1]):
            if slots[edges[a]] >= 0:
                used[slots[edges[a]], word] |= 1 << bit
    return colors
