"""Which elements of one cut depend on which of another, read from the parts between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from torchjac._linearize.program import LinearProgram
from torchjac._pattern.sets import IndexSets
from torchjac._pattern.walk import walk

# A product of patterns that takes more steps is taken as full.
_MOST_STEPS = 20_000_000


@dataclass(frozen=True, eq=False)
class Relation:
    """A sparsity pattern of which equal rows are kept once.

    Attributes:
        of: Kind of each row, shape (m,).
        table: The kinds of rows, a CSR matrix of bool, shape (kinds, n).
    """

    of: NDArray[Any]
    table: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self.of), self.table.shape[1]

    @cached_property
    def _lengths(self) -> NDArray[Any]:
        return np.diff(self.table.indptr)

    @cached_property
    def entries(self) -> int:
        """Number of entries."""
        return int(self._lengths[self.of].sum(dtype=np.int64))

    @cached_property
    def longest_row(self) -> int:
        """Most entries of a row."""
        return int(self._lengths[self.of].max(initial=0))

    @cached_property
    def longest_column(self) -> int:
        """Most entries of a column."""
        times = np.bincount(self.of, minlength=self.table.shape[0])
        weights = np.repeat(times, self._lengths)
        counts = np.bincount(self.table.indices, weights, minlength=self.table.shape[1])
        return int(counts.max(initial=0))

    def after(self, first: "Relation") -> "Relation":
        """The pattern of a product, this one being the factor on the left.

        Args:
            first: The factor on the right.

        Returns:
            Of the product.
        """
        mid = self.table.shape[1]
        kinds = sp.csr_array(
            (np.ones(mid, np.int32), (np.arange(mid), first.of)),
            shape=(mid, first.table.shape[0]),
        )
        between: Any = self.table.astype(np.int32) @ kinds
        if between.nnz * first.table.nnz / max(first.table.shape[0], 1) > _MOST_STEPS:
            return full(len(self.of), first.table.shape[1])
        table: Any = (between.astype(bool) @ first.table).astype(bool).tocsr()
        return Relation(self.of, table)

    def rows(self) -> Any:
        """All rows, a CSR matrix of bool, shape (m, n), its columns in order."""
        matrix = self.table[self.of].tocsr()
        matrix.sort_indices()
        return matrix


def full(rows: int, columns: int) -> Relation:
    """All elements depend on all.

    Args:
        rows: Number of elements.
        columns: Number of those that they depend on.

    Returns:
        The pattern.
    """
    return Relation(np.zeros(rows, np.int64), sp.csr_array(np.ones((1, columns), bool)))


class Reading:
    """What a walk through a part found.

    Attributes:
        relation: Of its results and its tangents.
        slices: Most inputs of an element, of each tensor that depends on a tangent.
    """

    relation: Relation
    slices: Mapping[int, int]

    def __init__(self, part: LinearProgram, scope: str) -> None:
        made = [n for node in part.linear_nodes for n in node.outputs if n is not None]
        numbers = tuple(dict.fromkeys([*part.tangents, *made]))
        found = walk(replace(part, outputs=numbers), scope).results
        sets = {n: s for n, s in zip(numbers, found, strict=True) if s is not None}
        self.slices = {n: _most(s) for n, s in sets.items()}
        self.relation = _stacked([sets[n] for n in part.outputs if n is not None])


def _most(sets: IndexSets) -> int:
    return int(np.diff(sets.table.indptr)[sets.of.ravel()].max(initial=0))


def _stacked(sets: Sequence[IndexSets]) -> Relation:
    starts = np.cumsum([0, *[s.table.shape[0] for s in sets]])
    of = [s.of.ravel().astype(np.int64) + start for s, start in zip(sets, starts, strict=False)]
    return Relation(np.concatenate(of), sp.vstack([s.table for s in sets], format="csr"))
