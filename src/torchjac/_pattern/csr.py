"""Index sets of a matrix in compressed sparse rows (CSR), and what can be done to them.

Everything here takes and returns NumPy arrays and walks the entries in compiled loops only. The
sparse kernels are SciPy's; entries are carried as ones of a single byte.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

Indices = NDArray[Any]
Shape = tuple[int, int]

INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class ColumnView:
    """The entries of a pattern column by column (CSC).

    Attributes:
        indptr: Where each column begins in `rows`, shape (n + 1,).
        rows: Rows of the entries, shape (nnz,), sorted and unique in a column.
        order: Position of each of these entries in the order row by row, shape (nnz,): with
            `values` of a CSR matrix, `values[order]` are those of the CSC matrix.
    """

    indptr: Indices
    rows: Indices
    order: Indices


def index_dtype(shape: Shape, nnz: int) -> DTypeLike:
    """int32, or int64 where the sizes need it."""
    return np.int32 if max(*shape, nnz) <= INT32_MAX else np.int64


def as_matrix(
    shape: Shape, indptr: Indices, indices: Indices, values: NDArray[Any] | None = None
) -> Any:
    """A SciPy matrix over the same index arrays, of ones of one byte if there are no values."""
    data = np.ones(len(indices), dtype=np.int8) if values is None else values
    matrix = sparse.csr_array((data, indices, indptr), shape=shape)
    matrix.has_canonical_format = True  # a promise, which saves SciPy a look at every entry
    return matrix


def of_matrix(matrix: Any) -> tuple[Indices, Indices]:
    """(indptr, indices) of a SciPy CSR matrix without duplicates."""
    matrix.sort_indices()
    dtype = index_dtype(matrix.shape, matrix.nnz)
    return matrix.indptr.astype(dtype, copy=False), matrix.indices.astype(dtype, copy=False)


def compress(shape: Shape, rows: Indices, columns: Indices) -> tuple[Indices, Indices]:
    """(indptr, indices) of entries in any order; those named twice count once."""
    dtype = index_dtype(shape, len(rows))
    places = rows.astype(dtype, copy=False), columns.astype(dtype, copy=False)
    ones = np.ones(len(rows), dtype=np.int8)
    matrix = sparse.coo_array((ones, places), shape=shape).tocsr()
    matrix.sum_duplicates()
    return of_matrix(matrix)


def column_view(shape: Shape, indptr: Indices, indices: Indices) -> ColumnView:
    """The same entries column by column, by a counting sort."""
    positions = np.arange(len(indices), dtype=indices.dtype)
    matrix = sparse.csr_array((positions, indices, indptr), shape=shape).tocsc()
    starts, rows = (a.astype(indices.dtype, copy=False) for a in (matrix.indptr, matrix.indices))
    return ColumnView(starts, rows, matrix.data)


def full_column_view(shape: Shape, dtype: DTypeLike) -> ColumnView:
    """That of a matrix without zeros: its transposed numbers, without sorting."""
    m, n = shape
    order = np.arange(m * n, dtype=dtype).reshape(m, n).T.reshape(-1)
    return ColumnView(
        np.arange(0, m * n + 1, m, dtype=dtype), np.tile(np.arange(m, dtype=dtype), n), order
    )


def first_and_last(indptr: Indices, indices: Indices) -> tuple[Indices, Indices, Indices]:
    """Rows that hold an entry, and the first and the last column of each of them."""
    occupied = np.flatnonzero(indptr[1:] > indptr[:-1])
    return occupied, indices[indptr[occupied]], indices[indptr[occupied + 1] - 1]
