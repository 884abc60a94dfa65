"""Cut one large pattern into the blocks of each output and input."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        first, last = int(pattern.indptr[top]), int(pattern.indptr[top + height])
        columns = pattern.indices[first:last]
        lengths = np.diff(pattern.indptr[top : top + height + 1])
        rows = np.repeat(np.arange(height), lengths)
        block = np.searchsorted(ends, columns, side="right")
        order = np.argsort(block, kind="stable")  # stable: entries stay sorted in each block
        bounds = np.searchsorted(block[order], np.arange(len(ends) + 1))
        pieces.append(
            [
                _piece(
                    pattern, (height, int(width)), rows[part], columns[part] - start, part + first
                )
                for width, start, part in zip(
                    widths, starts, np.split(order, bounds[1:-1]), strict=True
                )
            ]
        )
        top += height
    return pieces


def _piece(
    whole: SparsityPattern, shape: tuple[int, int], rows: Indices, columns: Indices, at: Indices
) -> Piece:
    indptr = np.zeros(shape[0] + 1, dtype=whole.indptr.dtype)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    return Piece(SparsityPattern(shape, indptr, columns.astype(whole.indices.dtype)), at)
