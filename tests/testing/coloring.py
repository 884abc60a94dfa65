"""Coloring by brute force: validity from the definitions, and the least number of colors."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

Valid = Callable[[Sequence[int]], bool]


def conflicts(mask: np.ndarray) -> np.ndarray:
    """Which columns meet in a row."""
    joined = mask.T.astype(int) @ mask.astype(int) > 0
    np.fill_diagonal(joined, False)
    return joined


def is_distance2(mask: np.ndarray, colors: Sequence[int]) -> bool:
    """No two columns of one color meet in a row; of a beginning of the columns."""
    k = len(colors)
    same = np.equal.outer(colors, colors)
    return not (conflicts(mask)[:k, :k] & same).any()


def edges(mask: np.ndarray, k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(i) if mask[i, j]]


def is_acyclic(mask: np.ndarray, colors: Sequence[int]) -> bool:
    """Neighbours differ, and two colors together hold no cycle."""
    found: dict[frozenset[int], dict[int, int]] = {}

    def root(parent: dict[int, int], v: int) -> int:
        while parent.get(v, v) != v:
            v = parent[v]
        return v

    for i, j in edges(mask, len(colors)):
        if colors[i] == colors[j]:
            return False
        parent = found.setdefault(frozenset((colors[i], colors[j])), {})
        a, b = root(parent, i), root(parent, j)
        if a == b:
            return False
        parent[a] = b
    return True


def is_star(mask: np.ndarray, colors: Sequence[int]) -> bool:
    """Neighbours differ, and every path on four vertices has three colors."""
    joined = edges(mask, len(colors))
    if any(colors[i] == colors[j] for i, j in joined):
        return False
    beside = {v: [w for e in joined if v in e for w in e if w != v] for v in range(len(colors))}
    for b, c in joined:
        for a, d in itertools.product(beside[b], beside[c]):
            if a not in (c, d) and d != b and colors[a] == colors[c] and colors[b] == colors[d]:
                return False
    return True


VALID = {
    "column": is_distance2,
    "row": lambda mask, colors: is_distance2(mask.T, colors),
    "star": is_star,
    "acyclic": is_acyclic,
}


def is_colorable(valid: Valid, vertices: int, count: int) -> bool:
    """Whether `count` colors are enough, by trying them vertex by vertex."""

    def extend(colors: list[int]) -> bool:
        if len(colors) == vertices:
            return True
        for color in range(min(count, max(colors, default=-1) + 2)):
            if valid([*colors, color]) and extend([*colors, color]):
                return True
        return False

    return extend([])
