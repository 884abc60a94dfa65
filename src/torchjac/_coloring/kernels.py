"""Compiled kernels of graph coloring, which is sequential by nature.

Two kinds of graph appear. A *hypergraph* has hyperedges of any size: for the columns of a matrix
they are its rows. An *adjacency graph* lists the neighbors of each vertex, with the number of the
edge that joins them, the same from both ends.

Sources:
    Gebremedhin, Manne & Pothen (2005), "What color is your Jacobian?", SIAM Review 47(4).
    Gebremedhin, Tarafdar, Manne & Pothen (2007), "New acyclic and star coloring algorithms with
    application to computing Hessians", SIAM J. Sci. Comput. 29(3).

Deviation: `first_fit` keeps, for each hyperedge, the set of colors already in use as a bitset, so
that a coloring costs O(nnz ⌈k/64⌉) rather than the sum of squared row lengths.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, from the cache on disk where there is one."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep a cache in can be written to
        return numba.njit(nogil=True)(function)


# --- Orders ---------------------------------------------------------------------------


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
def move(v: int, old: int, new: int, head: Array, after: Array, before: Array) -> None:
    """Move a vertex from one doubly linked list to the front of another."""
    if before[v] >= 0:
        after[before[v]] = after[v]
    else:
        head[old] = after[v]
    if after[v] >= 0:
        before[after[v]] = before[v]
    first = head[new]
    before[v] = -1
    after[v] = first
    if first >= 0:
        before[first] = v
    head[new] = v


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
    top = bins - 1
    head = np.full(bins, -1, np.int32)
    after = np.full(n, -1, np.int32)
    before = np.full(n, -1, np.int32)
    seen = np.full(n, -1, np.int32)
    done = np.zeros(n, np.bool_)
    order = np.empty(n, np.int32)
    for i in range(n):
        v = n - 1 - i
        after[v] = head[keys[v]]
        if after[v] >= 0:
            before[after[v]] = v
        head[keys[v]] = v
    for position in range(n):
        while head[top] < 0:
            top -= 1
        v = head[top]
        head[top] = after[v]
        if after[v] >= 0:
            before[after[v]] = -1
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
                move(w, keys[w], keys[w] + step, head, after, before)
                keys[w] += step
                top = max(top, keys[w])
    return order


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

    Source: Brélaz (1979), "New methods to color the vertices of a graph", CACM 22(4).
    """
    n = len(ties)
    head = np.full(64 * words + 1, -1, np.int32)
    after = np.full(n, -1, np.int32)
    before = np.full(n, -1, np.int32)
    keys = np.zeros(n, np.int32)
    taken = np.zeros((n, words), np.int64)
    done = np.zeros(n, np.bool_)
    order = np.empty(n, np.int32)
    for i in range(n - 1):
        after[ties[i]] = ties[i + 1]
        before[ties[i + 1]] = ties[i]
    if n:
        head[0] = ties[0]
    top = 0
    for position in range(n):
        while head[top] < 0:
            top -= 1
        v = head[top]
        head[top] = after[v]
        if after[v] >= 0:
            before[after[v]] = -1
        order[position] = v
        done[v] = True
        word = 0
        while word < words and taken[v, word] == -1:
            word += 1
        if word == words:
            continue
        bit = 0
        while (taken[v, word] >> bit) & 1:
            bit += 1
        for a in range(indptr[v], indptr[v + 1]):
            e = edges[a]
            if edge_ptr[e + 1] - edge_ptr[e] > largest:
                continue
            for b in range(edge_ptr[e], edge_ptr[e + 1]):
                w = members[b]
                if done[w] or (taken[w, word] >> bit) & 1:
                    continue
                taken[w, word] |= 1 << bit
                move(w, keys[w], keys[w] + 1, head, after, before)
                keys[w] += 1
                top = max(top, keys[w])
    return order


# --- Distance 2 -----------------------------------------------------------------------


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
            slot = slots[e]
            if slot >= 0:
                for i in range(width):
                    taken[i] |= used[slot, i]
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
            slot = slots[edges[a]]
            if slot >= 0:
                used[slot, word] |= 1 << bit
    return colors


# --- Star and acyclic -----------------------------------------------------------------


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
        for a in range(indptr[v], indptr[v + 1]):
            w = neighbors[a]
            if colors[w] < 0:
                continue
            joined = False
            for b in range(indptr[w], indptr[w + 1]):
                x = neighbors[b]
                if x != v and colors[x] == mine:
                    star_of[edges[a]] = star_of[edges[b]]
                    hub[star_of[edges[b]]] = w
                    joined = True
                    break
            before = first[colors[w]]
            if not joined and before != a:
                star_of[edges[a]] = star_of[edges[before]]
                hub[star_of[edges[before]]] = v
    return colors


@compiled
def root(parent: Array, e: int) -> int:
    """Representative of the set of `e`, the path to it halved."""
    while parent[e] != e:
        parent[e] = parent[parent[e]]
        e = parent[e]
    return e


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
    seen = np.full(stride * (n + 1), -1, np.int32)
    first = np.zeros(stride * (n + 1), edges.dtype)
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
                tree = root(parent, edges[b])
                if visitor[tree] != v:
                    visitor[tree] = v
                    gate[tree] = w
                elif gate[tree] != w:
                    forbidden[color] = v
        mine = side[v]
        while forbidden[mine] == v:
            mine += stride
        colors[v] = mine
        for a in range(indptr[v], indptr[v + 1]):
            w = neighbors[a]
            if colors[w] < 0:
                continue
            if seen[colors[w]] != v:
                seen[colors[w]] = v
                first[colors[w]] = a
            else:
                other = root(parent, edges[first[colors[w]]])
                parent[root(parent, edges[a])] = other
            for b in range(indptr[w], indptr[w + 1]):
                if neighbors[b] != v and colors[neighbors[b]] == mine:
                    other = root(parent, edges[b])
                    parent[root(parent, edges[a])] = other
    return colors


# --- Two-color trees ------------------------------------------------------------------


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
    ends = len(group)
    left = size.copy()
    last = np.zeros(len(size), np.int64)
    for a in range(ends):
        if group[a] >= 0:
            last[group[a]] ^= a
    queue = np.empty(len(size), reverse.dtype)
    filled = 0
    for g in range(len(size)):
        if left[g] == 1:
            queue[filled] = g
            filled += 1
    read_at = np.empty(ends, reverse.dtype)
    outer = np.empty(ends, reverse.dtype)
    inner = np.full(len(size), -1, reverse.dtype)
    place = np.full(ends, -1, reverse.dtype)
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
