"""Colorings of sparsity patterns, as a public call."""

import math
from numbers import Integral, Real
from typing import get_args

from torchjac._coloring.coloring import Coloring, Kind
from torchjac._coloring.orders import ORDERS, Order
from torchjac._coloring.select import color_pattern
from torchjac._pattern.pattern import SparsityPattern
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError

KINDS: tuple[Kind, ...] = get_args(Kind)


def color(
    pattern: SparsityPattern,
    kind: Kind = "column",
    *,
    substitution: bool = False,
    order: Order | tuple[Order, ...] | None = None,
    refine_s: float | None = None,
    seed: int = 0,
) -> Coloring:
    """Group the columns or rows of a matrix so that each group shares one pass.

    Kinds, and what the colors of each must keep apart:

    - "column": two columns that meet in a row (one forward pass a color).
    - "row": two rows that meet in a column (one reverse pass a color).
    - "star": symmetric patterns, each entry read from one of its two places; no path on four
      vertices of the adjacency graph has two colors.
    - "acyclic": symmetric patterns, solved by substitution along trees; no cycle has two colors.
    - "bidirectional": some entries from column groups, the others from row groups, which is what
      a matrix with dense rows and dense columns needs. With `substitution` the two sides may
      form trees rather than stars.

    Columns and rows that need no color have -1. All kinds are NP-hard to color with the fewest
    colors; this is greedy, in several orders, then refined by coloring again class by class.

    Args:
        pattern: Where the matrix can be nonzero, shape (m, n).
        kind: One of the five above.
        substitution: For "bidirectional": whether entries may depend on one another.
        order: Name of the order of the greedy coloring, or several, of which the best is kept:
            "natural", "random", "largest-first", "smallest-last", "incidence-degree",
            "dynamic-largest-first", "saturation". None: all but "random"; "natural" and
            "saturation" for more than 200,000 entries.
        refine_s: Seconds for refinement; less are used when the lower bound is reached or a
            thousand rounds bring nothing. None: a few rounds, the same on every machine.
        seed: Of the random order and of the refinement.

    Returns:
        The coloring, with a lower bound on the number of colors of its kind.

    Raises:
        ArgumentError: An unknown kind or order, a negative time, or a pattern that is not
            symmetric for the kinds "star" and "acyclic".
        ArgumentTypeError: `pattern` is no `SparsityPattern`, or another argument has a wrong type.
        ShapeError: The pattern is not square for the kinds "star" and "acyclic".

    Source: Gebremedhin, Manne & Pothen (2005), SIAM Review 47(4); Gebremedhin, Tarafdar, Manne &
    Pothen (2007), SIAM J. Sci. Comput. 29(3); Montoison, Dalle & Gebremedhin (2025),
    arXiv:2505.07308.

    >>> arrow = SparsityPattern.from_dense([[1, 1, 1], [1, 1, 0], [1, 0, 1]])
    >>> print(color(arrow))
    Coloring 3 × 3, column: 3 colors, the least possible (the most entries in a row), ...
    >>> color(arrow, "star").column_colors.tolist()
    [0, 1, 1]
    """
    check_options(kind, substitution, refine_s, seed)
    check_pattern(pattern, kind)
    return color_pattern(
        pattern,
        kind,
        substitution=substitution,
        orders=checked_orders(order),
        refine_s=refine_s,
        seed=seed,
    )


def check_options(kind: object, substitution: bool, refine_s: object, seed: object) -> None:
    """Refuse what no coloring can be asked for."""
    if kind not in KINDS:
        raise ArgumentError(f"color: `kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
    if substitution and kind != "bidirectional":
        raise ArgumentError(
            f'color: `substitution` goes with kind="bidirectional", got kind={kind!r}. For '
            'symmetric patterns use kind="acyclic".'
        )
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ArgumentTypeError(f"color: `seed` must be an integer, got {seed!r}.")
    if int(seed) < 0:
        raise ArgumentError(f"color: `seed` must not be negative, got {seed!r}.")
    if refine_s is None:
        return
    if isinstance(refine_s, bool) or not isinstance(refine_s, Real):
        raise ArgumentTypeError(f"color: `refine_s` must be seconds or None, got {refine_s!r}.")
    if math.isnan(refine_s) or refine_s < 0:
        raise ArgumentError(f"color: `refine_s` must not be negative, got {refine_s!r}.")


def checked_orders(order: Order | tuple[Order, ...] | None) -> tuple[Order, ...] | None:
    """The orders to try, all of them known."""
    if order is None:
        return None
    orders = order if isinstance(order, tuple) else (order,)
    if not orders or any(name not in ORDERS for name in orders):
        raise ArgumentError(
            f"color: `order` must be one or several of {', '.join(ORDERS)}, got {order!r}."
        )
    return orders


def check_pattern(pattern: object, kind: Kind) -> None:
    """Refuse what is no pattern, and unsymmetric ones for the symmetric kinds."""
    if not isinstance(pattern, SparsityPattern):
        raise ArgumentTypeError(
            "color: `pattern` must be a SparsityPattern, got "
            f"{type(pattern).__name__}. Make one with SparsityPattern.from_scipy, from_torch or "
            "from_dense."
        )
    if kind not in ("star", "acyclic"):
        return
    if pattern.shape[0] != pattern.shape[1]:
        raise ShapeError(
            f"color: kind={kind!r} needs a square `pattern`, got shape {pattern.shape}."
        )
    if not pattern.is_symmetric:
        raise ArgumentError(
            f"color: kind={kind!r} needs a symmetric `pattern`, got one with "
            f"{(pattern - pattern.T).nnz} entries without a mirror image. Use "
            'pattern.symmetrized(), or kind="bidirectional".'
        )
