"""Bicoloring: some entries are read from column sums, the others from row sums.

Sources:
    Coleman & Verma (1998), "The efficient computation of sparse Jacobian matrices using automatic
    differentiation", SIAM J. Sci. Comput. 19(4): dense rows apart from the rest.
    Montoison, Dalle & Gebremedhin (2025), arXiv:2505.07308: star and acyclic coloring of the
    bipartite graph.

Two families of colorings are searched. In the first, the rows with more than t entries are read by
rows and the rest by columns, each a coloring at distance 2, for several t, and the same with rows
and columns exchanged. In the second, rows and columns are colored as vertices of one graph.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._coloring.bounds import value_bound
from torchjac._coloring.coloring import Coloring
from torchjac._coloring.distance2 import color_distance2
from torchjac._coloring.forest import color_graph
from torchjac._coloring.graph import bipartite, columns_by_row
from torchjac._coloring.orders import Orders
from torchjac._coloring.search import Effort, Found
from torchjac._pattern.pattern import SparsityPattern

Array = NDArray[Any]

# Thresholds tried in each direction, the most promising first.
MOST_THRESHOLDS = 6


def color_bidirectional(
    pattern: SparsityPattern, effort: Effort, *, substitution: bool
) -> Coloring:
    """Bicoloring with the fewest colors in all that either family holds."""
    m = pattern.shape[0]
    graph = bipartite(pattern)
    orders = Orders(graph.hypergraph(), effort.seed)
    bound = value_bound(graph, orders.smallest_last)
    best = split_by_rows(pattern, bound.value, effort)
    mirrored = split_by_rows(pattern.T, bound.value, effort)
    if mirrored.count < best.count:
        best = Found(np.roll(mirrored.colors, m), mirrored.order)
    if best.count > bound.value:
        joint = color_graph(graph, orders, bound.value, effort, trees=substitution)
        if joint.count < best.count:
            best = joint
    return Coloring(
        pattern=pattern,
        kind="bidirectional",
        substitution=substitution,
        column_colors=renumbered(best.colors[m:]),
        row_colors=renumbered(best.colors[:m]),
        lower_bound=bound.value,
        bound_reason=bound.reason,
        order=best.order,
    )


def split_by_rows(pattern: SparsityPattern, bound: int, effort: Effort) -> Found:
    """Best split into long rows, read by rows, and at least one short row, read by columns."""
    if not pattern.nnz:
        return Found(np.full(sum(pattern.shape), -1, np.int32), "natural")
    (limit, _), *others = thresholds(pattern)
    best = split_at(pattern, limit, effort)
    for limit, promise in others:
        if best.count <= bound or promise >= best.count:
            break
        found = split_at(pattern, limit, effort)
        if found.count < best.count:
            best = found
    return best


def split_at(pattern: SparsityPattern, limit: int, effort: Effort) -> Found:
    """Read rows of more than `limit` entries by rows and the others by columns.

    Args:
        pattern: Shape (m, n).
        limit: Number of entries.
        effort: How hard to try.

    Returns:
        Colors of rows and columns, shape (m + n,), the two never the same.
    """
    by_row = pattern.row_counts > limit
    columns = color_distance2(columns_by_row(rows_of(pattern, ~by_row)), effort)
    rows = color_distance2(columns_by_row(rows_of(pattern, by_row).T), effort)
    shifted = np.where(rows.colors >= 0, rows.colors + columns.count, -1)
    apart = f"rows above {limit} entries apart, " if rows.count else ""
    colors = np.concatenate([shifted, columns.colors]).astype(np.int32)
    return Found(colors, apart + columns.order)


def thresholds(pattern: SparsityPattern) -> list[tuple[int, int]]:
    """(row length at which to split, fewest colors that can give), the most promising first."""
    lengths = pattern.row_counts
    limits = np.unique(lengths[lengths > 0])
    # A column read by rows needs as many colors as it has entries in long rows: counted by going
    # through the entries of each column from the longest row to the shortest.
    view = pattern.csc
    owner = lengths[view.rows]
    columns = np.repeat(np.arange(pattern.shape[1]), np.diff(view.indptr))
    by_length = np.lexsort((-owner, columns))
    rank = np.arange(1, len(owner) + 1) - view.indptr[columns]
    deepest = np.zeros(int(limits[-1]) + 2, np.int64)
    np.maximum.at(deepest, owner[by_length], rank)
    by_rows = np.maximum.accumulate(deepest[::-1])[::-1]
    promises = limits + by_rows[limits + 1]
    chosen = np.argsort(promises, kind="stable")[:MOST_THRESHOLDS]
    return list(zip(limits[chosen].tolist(), promises[chosen].tolist(), strict=True))


def rows_of(pattern: SparsityPattern, kept: Array) -> SparsityPattern:
    """The same pattern with the rows that are not kept emptied."""
    lengths = np.where(kept, pattern.row_counts, 0)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(pattern.indptr.dtype)
    return SparsityPattern(pattern.shape, indptr, pattern.indices[kept[pattern.rows]])


def renumbered(colors: Array) -> Array:
    """The same classes numbered 0, 1, ..., -1 staying -1."""
    values, numbers = np.unique(colors, return_inverse=True)
    return (numbers - (len(values) > 0 and values[0] < 0)).astype(np.int32)
