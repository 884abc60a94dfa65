"""SparsityPattern -> Coloring."""

from torchjac._coloring.bidirectional import color_bidirectional
from torchjac._coloring.bounds import forest_bound, longest
from torchjac._coloring.coloring import Coloring, Kind
from torchjac._coloring.distance2 import color_distance2
from torchjac._coloring.forest import color_graph
from torchjac._coloring.graph import adjacency, columns_by_row
from torchjac._coloring.orders import Order, Orders, default_orders
from torchjac._coloring.search import Effort
from torchjac._pattern.pattern import SparsityPattern


def color_pattern(
    pattern: SparsityPattern,
    kind: Kind = "column",
    *,
    substitution: bool = False,
    orders: tuple[Order, ...] | None = None,
    refine_s: float | None = None,
    seed: int = 0,
) -> Coloring:
    """Color a pattern, trusting the arguments, which `torchjac.color` describes and checks."""
    effort = Effort(orders or default_orders(pattern.nnz), refine_s, seed)
    if kind in ("column", "row"):
        return color_one_side(pattern, kind, effort)
    if kind == "bidirectional":
        return color_bidirectional(pattern, effort, substitution=substitution)
    return color_symmetric(pattern, kind, effort)


def color_one_side(pattern: SparsityPattern, kind: Kind, effort: Effort) -> Coloring:
    """Columns or rows at distance 2."""
    by_column = kind == "column"
    oriented = pattern if by_column else pattern.T
    bound = longest(oriented.row_counts, kind)
    found = color_distance2(columns_by_row(oriented), effort)
    return Coloring(
        pattern=pattern,
        kind=kind,
        substitution=False,
        column_colors=found.colors if by_column else None,
        row_colors=None if by_column else found.colors,
        lower_bound=bound.value,
        bound_reason=bound.reason,
        order=found.order,
    )


def color_symmetric(pattern: SparsityPattern, kind: Kind, effort: Effort) -> Coloring:
    """Star or acyclic coloring of a symmetric pattern.

    With a full diagonal a coloring at distance 2 is a star coloring as well; on regular grids it
    is sometimes the better one.

    Args:
        pattern: The pattern.
        kind: "star" or "acyclic".
        effort: How hard to try.

    Returns:
        The coloring.
    """
    graph = adjacency(pattern)
    orders = Orders(graph.hypergraph(), effort.seed)
    bound = forest_bound(graph, orders.smallest_last)
    best = color_graph(graph, orders, bound.value, effort, trees=kind == "acyclic")
    if graph.loops.all() and pattern.row_counts.max(initial=0) < best.count:
        apart = color_distance2(columns_by_row(pattern), effort)
        if apart.count < best.count:
            best = apart
    return Coloring(
        pattern=pattern,
        kind=kind,
        substitution=kind == "acyclic",
        column_colors=best.colors,
        row_colors=None,
        lower_bound=bound.value,
        bound_reason=bound.reason,
        order=best.order,
    )
