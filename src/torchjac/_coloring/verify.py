"""A slow check of a coloring, straight from the definitions and apart from the code that colors.

Sources:
    Gebremedhin, Manne & Pothen (2005), SIAM Review 47(4): distance-2, star, acyclic, bicoloring.
    Montoison, Dalle & Gebremedhin (2025), arXiv:2505.07308: neutral colors.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator

from torchjac._coloring.coloring import Array, Coloring
from torchjac._pattern.pattern import SparsityPattern

# A vertex is a row or a column, or both where the matrix is symmetric; a color belongs to a side.
Vertex = tuple[str, int]
Color = tuple[str, int]
Neighbors = dict[Vertex, set[Vertex]]
Colors = dict[Vertex, Color]
# A number that a pass gives, and the unknowns that it is the sum of.
Readings = dict[Hashable, set[Hashable]]


def problems(coloring: Coloring) -> list[str]:
    """What is wrong with a coloring: which definition fails where, which entries are lost.

    Args:
        coloring: Of any kind.

    Returns:
        One line for each problem; none if the coloring is valid.
    """
    found = list(numbering(coloring))
    if found:
        return found
    if coloring.kind == "column":
        found += distance2(coloring.pattern, color_list(coloring.column_colors), "row", "columns")
    elif coloring.kind == "row":
        found += distance2(coloring.pattern.T, color_list(coloring.row_colors), "column", "rows")
    else:
        neighbors, colors = as_graph(coloring)
        found += neutral(neighbors, colors)
        found += proper(neighbors, colors)
        check = cycles if coloring.substitution else paths
        found += check(neighbors, colors)
    return found + list(lost(coloring))


def color_list(colors: Array | None) -> list[int]:
    """Colors as Python numbers."""
    return [] if colors is None else colors.tolist()


def entries(pattern: SparsityPattern) -> Iterator[tuple[int, int]]:
    """(row, column) of each entry."""
    for i in range(pattern.shape[0]):
        for j in pattern.indices[pattern.indptr[i] : pattern.indptr[i + 1]].tolist():
            yield i, j


def numbering(coloring: Coloring) -> Iterator[str]:
    """One color for each row or column, numbered without gaps."""
    m, n = coloring.pattern.shape
    for name, colors, size in (
        ("column", coloring.column_colors, n),
        ("row", coloring.row_colors, m),
    ):
        if colors is None:
            continue
        used = set(colors.tolist()) - {-1}
        if len(colors) != size or used != set(range(len(used))):
            yield f"{name} colors are not numbers -1, 0, 1, ... of all {size} {name}s"


def distance2(
    pattern: SparsityPattern, colors: list[int], line: str, vertices: str
) -> Iterator[str]:
    """No two columns that meet in a row have one color, and each has one."""
    for i in range(pattern.shape[0]):
        seen: dict[int, int] = {}
        for j in pattern.indices[pattern.indptr[i] : pattern.indptr[i + 1]].tolist():
            if colors[j] < 0:
                yield f"{vertices}: {j} has an entry and no color"
            elif colors[j] in seen:
                yield f"{vertices}: {seen[colors[j]]} and {j} share a color and meet in {line} {i}"
            seen[colors[j]] = j


def as_graph(coloring: Coloring) -> tuple[Neighbors, Colors]:
    """Neighbors of each vertex, a diagonal entry making it its own; colors, none where neutral."""
    symmetric = coloring.kind in ("star", "acyclic")
    row_side = "column" if symmetric else "row"
    neighbors: Neighbors = {}
    for i, j in entries(coloring.pattern):
        neighbors.setdefault((row_side, i), set()).add(("column", j))
        neighbors.setdefault(("column", j), set()).add((row_side, i))
    colors = {
        (side, v): (side, color)
        for side, given in (("column", coloring.column_colors), ("row", coloring.row_colors))
        for v, color in enumerate(color_list(given))
        if color >= 0
    }
    return neighbors, colors


def neutral(neighbors: Neighbors, colors: Colors) -> Iterator[str]:
    """Each entry of a vertex without a color is read at it, alone in the other end's color."""
    for v, around in neighbors.items():
        if v in colors:
            continue
        if any(w not in colors for w in around):
            yield f"neutral: {v} and a neighbor both have no color"
        if any(times > 1 for times in Counter(colors.get(w) for w in around).values()):
            yield f"neutral: {v} has no color and two neighbors of one color"


def proper(neighbors: Neighbors, colors: Colors) -> Iterator[str]:
    """Two neighbors have different colors."""
    for v, around in neighbors.items():
        for w in around:
            if v < w and v in colors and colors[v] == colors.get(w):
                yield f"proper: the neighbors {v} and {w} share a color"


def paths(neighbors: Neighbors, colors: Colors) -> Iterator[str]:
    """No path on four vertices has two colors."""
    for v, around in neighbors.items():
        for w in around:
            if not (v < w and v in colors and w in colors):
                continue
            before = [u for u in around - {v, w} if colors.get(u) == colors[w]]
            after = [x for x in neighbors[w] - {v, w} if colors.get(x) == colors[v]]
            for u in before:
                for x in after:
                    if u != x:
                        yield f"star: the path {u}, {v}, {w}, {x} has two colors"


def cycles(neighbors: Neighbors, colors: Colors) -> Iterator[str]:
    """No cycle has two colors: for each pair of colors, edges are taken into a growing forest."""
    forests: dict[frozenset[Color], dict[Vertex, Vertex]] = {}

    def top(parents: dict[Vertex, Vertex], v: Vertex) -> Vertex:
        while parents.get(v, v) != v:
            v = parents[v]
        return v

    for v, around in neighbors.items():
        for w in around:
            if v < w and v in colors and w in colors:
                parents = forests.setdefault(frozenset((colors[v], colors[w])), {})
                first, second = top(parents, v), top(parents, w)
                if first == second:
                    yield f"acyclic: the edge from {v} to {w} closes a cycle of two colors"
                parents[first] = second


def readings(coloring: Coloring) -> Readings:
    """The numbers that the passes give, each as the set of the unknowns it sums."""
    symmetric = coloring.kind in ("star", "acyclic")
    columns, rows = color_list(coloring.column_colors), color_list(coloring.row_colors)
    sums: Readings = {}
    for i, j in entries(coloring.pattern):
        unknown = (min(i, j), max(i, j)) if symmetric else (i, j)
        if columns and columns[j] >= 0:
            sums.setdefault(("column color", columns[j], i), set()).add(unknown)
        if rows and rows[i] >= 0:
            sums.setdefault(("row color", rows[i], j), set()).add(unknown)
    return sums


def lost(coloring: Coloring) -> Iterator[str]:
    """Entries that cannot be recovered: read where they stand alone, one after the other."""
    symmetric = coloring.kind in ("star", "acyclic")
    unknown: set[Hashable] = {
        (min(i, j), max(i, j)) if symmetric else (i, j) for i, j in entries(coloring.pattern)
    }
    sums = list(readings(coloring).values())
    known = alone(sums)
    while coloring.substitution:
        fresh = alone(terms - known for terms in sums)
        if not fresh:
            break
        known |= fresh
    for entry in sorted(unknown - known, key=repr):
        yield f"lost: entry {entry} cannot be recovered"


def alone(sums: Iterable[set[Hashable]]) -> set[Hashable]:
    """Unknowns that are the only one of some sum."""
    return {next(iter(terms)) for terms in sums if len(terms) == 1}
