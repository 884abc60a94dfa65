"""Greedy coloring at distance 2.

Source: Gebremedhin, Manne & Pothen (2005), "What color is your Jacobian?", SIAM Review 47(4).

Deviation: each hyperedge keeps the set of the colors in use as a bitset, so that a coloring costs
O(nnz ⌈k/64⌉) rather than the sum of squared row lengths.
"""

import numpy as np

from torchjac._coloring.kernels.bitset import add, first_free
from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def first_fit(
    order: Array,
    indptr: Array,
    edges: Array,
    edge_ptr: Array,
    members: Array,
    slots: Array,
    words: int,
) -> Array:
    """Give each vertex in turn the least color that no member of its hyperedges has.

    A hyperedge with a slot keeps the colors of its members as a bitset of `words` words of 64;
    the others, slot -1, are walked through.

    Args:
        order: Vertices to color.
        indptr: Where the hyperedges of each vertex begin, shape (vertices + 1,).
        edges: Hyperedges of each vertex.
        edge_ptr: Where the members of each hyperedge begin, shape (hyperedges + 1,).
        members: Vertices of each hyperedge.
        slots: Place of each hyperedge's bitset, or -1.
        words: Length of the bitsets.

    Returns:
        Color of each vertex, -1 if it is not in `order`; empty if 64 `words` colors are too few.
    """
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
                    if colors[members[b]] >= 0:
                        add(taken, colors[members[b]])
        colors[v] = first_free(taken, width)
        if colors[v] == 64 * width:
            width += 1
            if width > words:
                return np.empty(0, np.int32)
        for a in range(indptr[v], indptr[v + 1]):
            if slots[edges[a]] >= 0:
                add(used[slots[edges[a]]], colors[v])
    return colors
