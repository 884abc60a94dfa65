"""A coloring as a value."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern

Array = NDArray[Any]
Kind = Literal["column", "row", "star", "acyclic", "bidirectional"]


@dataclass(frozen=True, eq=False, repr=False)
class Coloring:
    """Groups of columns and rows of a matrix, each of which can share one pass.

    A seed of a column color is the sum of the unit vectors of its columns; its pass gives the sum
    of these columns of the matrix. Row colors likewise, with rows.

    Attributes:
        pattern: The pattern that was colored, shape (m, n).
        kind: "column", "row", "star", "acyclic" or "bidirectional".
        substitution: Whether entries are solved for one after the other rather than read.
        column_colors: Color of each column, int32, shape (n,), -1 where no seed needs the column;
            None for the kind "row". For star and acyclic colorings those of the vertices.
        row_colors: Color of each row, int32, shape (m,), -1 where no seed needs the row; None but
            for the kinds "row" and "bidirectional".
        lower_bound: No coloring of this kind has fewer colors.
        bound_reason: How that was obtained.
        order: How the coloring was found.
    """

    pattern: SparsityPattern
    kind: Kind
    substitution: bool
    column_colors: Array | None
    row_colors: Array | None
    lower_bound: int
    bound_reason: str
    order: str

    @property
    def num_column_colors(self) -> int:
        """Number of column colors, one forward pass each."""
        return count(self.column_colors)

    @property
    def num_row_colors(self) -> int:
        """Number of row colors, one reverse pass each."""
        return count(self.row_colors)

    @property
    def num_colors(self) -> int:
        """Number of colors of both sides."""
        return self.num_column_colors + self.num_row_colors

    def column_seeds(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Seeds of the column colors start, ..., stop - 1, to be multiplied from the right.

        Args:
            start: First color.
            stop: Color after the last one. None: to the end.
            dtype: Of the seeds. None: the default of PyTorch.
            device: Of the seeds. None: the default of PyTorch.

        Returns:
            Zeros and ones, shape (stop - start, n).
        """
        return seeds(self.column_colors, self.pattern.shape[1], start, stop, dtype, device)

    def row_seeds(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Seeds of the row colors start, ..., stop - 1, to be multiplied from the left.

        Args:
            start: First color.
            stop: Color after the last one. None: to the end.
            dtype: Of the seeds. None: the default of PyTorch.
            device: Of the seeds. None: the default of PyTorch.

        Returns:
            Zeros and ones, shape (stop - start, m).
        """
        return seeds(self.row_colors, self.pattern.shape[0], start, stop, dtype, device)

    @property
    def summary(self) -> str:
        """Kind, number of colors, lower bound and order, in one line."""
        decoding = " by substitution" if self.substitution else ""
        plural = "" if self.num_colors == 1 else "s"
        split = ""
        if self.kind == "bidirectional":
            split = f" ({self.num_column_colors} of columns, {self.num_row_colors} of rows)"
        bound = (
            "the least possible"
            if self.num_colors == self.lower_bound
            else f"at least {self.lower_bound}"
        )
        m, n = self.pattern.shape
        return (
            f"Coloring {m:,} × {n:,}, {self.kind}{decoding}: {self.num_colors} color{plural}"
            f"{split}, {bound} ({self.bound_reason}), found by {self.order}"
        )

    def __repr__(self) -> str:
        return f"Coloring(kind={self.kind!r}, num_colors={self.num_colors})"

    def __str__(self) -> str:
        return self.summary


def count(colors: Array | None) -> int:
    """Number of colors of vertices numbered 0, 1, ..., none where there are no vertices."""
    return 0 if colors is None else int(colors.max(initial=-1)) + 1


def seeds(
    colors: Array | None,
    size: int,
    start: int,
    stop: int | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    """One row for each color, with ones at its vertices; only these colors take memory."""
    last = count(colors) if stop is None else stop
    result = torch.zeros((last - start, size), dtype=dtype, device=device)
    if colors is not None:
        vertices = np.flatnonzero((colors >= start) & (colors < last))
        places = (colors[vertices].astype(np.int64) - start) * size + vertices
        result.view(-1)[torch.from_numpy(places).to(result.device)] = 1
    return result
