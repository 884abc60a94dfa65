"""The sparsity pattern of a matrix."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[Any]


@dataclass(frozen=True, eq=False)
class SparsityPattern:
    """Positions of the entries of a matrix that can be nonzero, row by row (CSR).

    Attributes:
        shape: (m, n).
        indptr: Where each row begins in `indices`, shape (m + 1,), int32 or int64.
        indices: Columns of the entries, shape (nnz,), int32 or int64, sorted and unique in a row.
    """

    shape: tuple[int, int]
    indptr: Indices
    indices: Indices

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.indices)

    @cached_property
    def rows(self) -> Indices:
        """Row of each entry, shape (nnz,)."""
        lengths = np.diff(self.indptr)
        return np.repeat(np.arange(self.shape[0], dtype=self.indices.dtype), lengths)
