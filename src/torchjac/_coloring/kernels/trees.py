"""The trees that two colors form, by which values are recovered."""

import numpy as np

from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def color_groups(indptr: Array, neighbors: Array, colors: Array) -> tuple[Array, Array]:
    """Group the edges at each vertex by the color of the other end.

    Args:
        indptr: Where the ends at each vertex begin, shape (vertices + 1,).
        neighbors: The vertex at the other end, shape (ends,).
        colors: Color of each vertex, or -1.

    Returns:
        Group of each end, -1 where the other end has no color, and the sizes of the groups.
    """
    n = len(indptr) - 1
    group = np.full(len(neighbors), -1, indptr.dtype)
    size = np.zeros(len(neighbors), np.int32)
    latest = np.full(colors.max() + 1 if n else 0, -1, indptr.dtype)
    count = 0
    for v in range(n):
        start = count
        for a in range(indptr[v], indptr[v + 1]):
            c = colors[neighbors[a]]
            if c < 0:
                continue
            if latest[c] < start:
                latest[c] = count
                count += 1
            group[a] = latest[c]
            size[latest[c]] += 1
    return group, size[:count]


@compiled
def leaves(group: Array, size: Array, reverse: Array) -> tuple[Array, Array, int]:
    """Start of `strip_leaves`.

    Args:
        group: Group of each end, or -1.
        size: Number of ends in each group.
        reverse: The other end of the edge, of each end.

    Returns:
        The exclusive or of the ends of each group, by which the last one left in it is found; a
        queue that begins with the groups of one end; the number of these.
    """
    last = np.zeros(len(size), np.int64)
    for a in range(len(group)):
        if group[a] >= 0:
            last[group[a]] ^= a
    queue = np.empty(len(size), reverse.dtype)
    filled = 0
    for g in range(len(size)):
        if size[g] == 1:
            queue[filled] = g
            filled += 1
    return last, queue, filled


@compiled
def strip_leaves(group: Array, size: Array, reverse: Array) -> tuple[Array, Array, Array]:
    """Take the leaves off all trees of two colors until nothing is left.

    A group of one edge end is a leaf: the edge's value can be read there, less the values of the
    edges that were in the group before.

    Args:
        group: Group of each end, or -1.
        size: Number of ends in each group.
        reverse: The other end of the edge, of each end.

    Returns:
        The end at which each edge is read, in the order of reading; the next edge towards the
        root, or -1, in that order; the place in that order of the edge of each end, -1 if it is
        never read because it lies on a cycle.
    """
    left = size.copy()
    last, queue, filled = leaves(group, size, reverse)
    read_at = np.empty(len(group), reverse.dtype)
    outer = np.empty(len(group), reverse.dtype)
    inner = np.full(len(size), -1, reverse.dtype)
    place = np.full(len(group), -1, reverse.dtype)
    count = 0
    taken = 0
    while taken < filled:
        g = queue[taken]
        taken += 1
        if left[g] != 1:
            continue
        a = last[g]
        left[g] = 0
        inner[g] = count
        other = group[reverse[a]]
        outer[count] = other
        read_at[count] = a
        place[a] = count
        place[reverse[a]] = count
        count += 1
        if other >= 0:
            left[other] -= 1
            last[other] ^= reverse[a]
            if left[other] == 1:
                queue[filled] = other
                filled += 1
    towards_root = np.full(count, -1, reverse.dtype)
    for i in range(count):
        if outer[i] >= 0:
            towards_root[i] = inner[outer[i]]
    return read_at[:count], towards_root, place
