"""Vertices in doubly linked lists, one for each key; all operations take constant time."""

from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def push(v: int, key: int, head: Array, after: Array, before: Array) -> None:
    """Put a vertex in front of the list of a key."""
    first = head[key]
    before[v] = -1
    after[v] = first
    if first >= 0:
        before[first] = v
    head[key] = v


@compiled
def remove(v: int, key: int, head: Array, after: Array, before: Array) -> None:
    """Take a vertex out of the list of its key."""
    if before[v] >= 0:
        after[before[v]] = after[v]
    else:
        head[key] = after[v]
    if after[v] >= 0:
        before[after[v]] = before[v]


@compiled
def pop(top: int, head: Array, after: Array, before: Array) -> int:
    """Take out the first vertex with the largest key, which is at most `top`."""
    while head[top] < 0:
        top -= 1
    v = head[top]
    remove(v, top, head, after, before)
    return v
