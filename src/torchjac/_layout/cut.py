"""Cut one large pattern into the blocks of each output and input."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from torchjac._pattern.csr import column_view
from torchjac._pattern.pattern import Indices, SparsityPattern


@dataclass(frozen=True, eq=False)
class Piece:
    """The block of one output and one input.

    Attributes:
        pattern: Its entries.
        positions: Where each of them stands among those of the whole, None if it is the whole.
    """

    pattern: SparsityPattern
    positions: Indices | None


def cut(
    pattern: SparsityPattern, heights: Sequence[int], widths: Sequence[int]
) -> list[list[Piece]]:
    """Cut a pattern along rows and columns.

    Args:
        pattern: The whole, shape (sum of heights, sum of widths).
        heights: Rows of each block.
        widths: Columns of each block.

    Returns:
        pieces[i][j], of shape (heights[i], widths[j]).

    >>> whole = SparsityPattern((2, 3), np.array([0, 2, 4]), np.array([0, 2, 1, 2]))
    >>> [[piece.positions.tolist() for piece in row] for row in cut(whole, [1, 1], [1, 2])]
    [[[0], [1]], [[], [2, 3]]]
    """
    if len(heights) == 1 and len(widths) == 1:
        return [[Piece(pattern, None)]]
    ends = np.cumsum(widths)
    starts = ends - np.asarray(widths)
    pieces, top = [], 0
    for height in heights:
        pointers = pattern.indptr[top : top + height + 1]
        first, last = int(pointers[0]), int(pointers[-1])
        columns = pattern.indices[first:last]
        # Each entry as one of the input that it belongs to: sorted by these, and by rows in them.
        owners = np.searchsorted(ends, columns, side="right").astype(columns.dtype)
        view = column_view((height, len(ends)), pointers - first, owners)
        row = []
        for width, start, (begin, end) in zip(
            widths, starts, pairwise(view.indptr.tolist()), strict=True
        ):
            at = view.order[begin:end]
            shape = height, int(width)
            row.append(_piece(shape, view.rows[begin:end], columns[at] - start, at + first))
        pieces.append(row)
        top += height
    return pieces


def _piece(shape: tuple[int, int], rows: Indices, columns: Indices, at: Indices) -> Piece:
    indptr = np.zeros(shape[0] + 1, dtype=rows.dtype)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    return Piece(SparsityPattern(shape, indptr, columns.astype(rows.dtype)), at)
