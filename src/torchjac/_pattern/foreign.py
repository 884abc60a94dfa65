"""Patterns from what a user has: index arrays, dense arrays, SciPy matrices, PyTorch tensors.

Each function returns (shape, indptr, indices) that hold what `SparsityPattern` promises, in arrays
of their own, or raises an error that names the argument.
"""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from torchjac._pattern.csr import Indices, Shape, compress, index_dtype, of_matrix
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError

Parts = tuple[Shape, Indices, Indices]


def check_shape(api: str, shape: Any) -> Shape:
    """Two sizes, both at least 0."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    is_integer = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in sizes)
    if len(sizes) != 2 or not is_integer or min(sizes) < 0:
        raise ShapeError(f"{api}: `shape` must be two sizes (m, n) of at least 0, got {shape!r}.")
    return int(sizes[0]), int(sizes[1])


def read_indices(api: str, name: str, values: Any) -> Indices:
    """A vector of integers as an array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.ndim != 1:
        raise ShapeError(f"{api}: `{name}` must be a vector, got shape {array.shape}.")
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"{api}: `{name}` must hold integers, got dtype {array.dtype}.")
    return array


def check_range(api: str, name: str, values: Indices, size: int) -> None:
    """Every index lies in 0..size-1."""
    wrong = np.flatnonzero((values < 0) | (values >= size))
    if len(wrong):
        k = wrong[0]
        raise ArgumentError(
            f"{api}: `{name}` must lie in 0..{size - 1} for this shape, "
            f"got {values[k]} at position {k} ({len(wrong)} such in all)."
        )


def from_csr(api: str, shape: Any, indptr: Any, indices: Any) -> Parts:
    """Index arrays of CSR, checked in full."""
    m, n = check_shape(api, shape)
    starts, columns = read_indices(api, "indptr", indptr), read_indices(api, "indices", indices)
    if len(starts) != m + 1:
        raise ShapeError(
            f"{api}: `indptr` needs one entry per row and one more: "
            f"expected {m + 1}, got {len(starts)}."
        )
    lengths = np.diff(starts.astype(np.int64))
    falls = lengths.min(initial=0) < 0
    if starts[0] != 0 or starts[-1] != len(columns) or falls:
        raise ArgumentError(
            f"{api}: `indptr` must rise from 0 to the {len(columns)} entries of `indices`, "
            f"got {starts[0]} to {starts[-1]}{', with falls' if falls else ''}."
        )
    check_range(api, "indices", columns, n)
    _check_order(api, starts, columns)
    dtype = index_dtype((m, n), len(columns))
    return (m, n), starts.astype(dtype), columns.astype(dtype)


def _check_order(api: str, starts: Indices, columns: Indices) -> None:
    """Columns rise within each row."""
    rises = columns[1:] > columns[:-1]
    begins = starts[1:-1]
    rises[begins[(begins > 0) & (begins < len(columns))] - 1] = True
    wrong = np.flatnonzero(~rises)
    if len(wrong):
        k = wrong[0]
        row = int(np.searchsorted(starts, k, side="right")) - 1
        what = "a duplicate" if columns[k] == columns[k + 1] else "unsorted columns"
        raise ArgumentError(
            f"{api}: `indices` must be sorted and unique in each row, got {what} in row {row}: "
            f"{columns[k]} before {columns[k + 1]}. `from_coo` takes entries in any order."
        )


def from_coo(api: str, shape: Any, rows: Any, columns: Any) -> Parts:
    """Positions in any order; those named twice count once."""
    m, n = check_shape(api, shape)
    i, j = read_indices(api, "rows", rows), read_indices(api, "columns", columns)
    if len(i) != len(j):
        raise ShapeError(
            f"{api}: `rows` and `columns` must be equally long, got {len(i)} and {len(j)}."
        )
    check_range(api, "rows", i, m)
    check_range(api, "columns", j, n)
    return (m, n), *compress((m, n), i, j)


def from_dense(api: str, matrix: Any) -> Parts:
    """Entries of a matrix that are not zero (NaN is not)."""
    if isinstance(matrix, Tensor):
        matrix = (matrix.detach() != 0).cpu().numpy()
    array = np.asarray(matrix)
    if array.ndim != 2:
        raise ShapeError(f"{api}: `matrix` must have two dimensions, got shape {array.shape}.")
    if array.dtype.kind not in "biufc":
        raise ArgumentTypeError(f"{api}: `matrix` must hold numbers, got dtype {array.dtype}.")
    mask = array != 0
    shape = (array.shape[0], array.shape[1])
    counts = np.count_nonzero(mask, axis=1)
    dtype = index_dtype(shape, int(counts.sum()))
    indptr = np.zeros(shape[0] + 1, dtype)
    np.cumsum(counts, out=indptr[1:])
    return shape, indptr, np.nonzero(mask)[1].astype(dtype)


def from_scipy(api: str, matrix: Any) -> Parts:
    """Stored entries of a SciPy matrix, explicit zeros included."""
    if not sparse.issparse(matrix) or len(matrix.shape) != 2:
        got = type(matrix).__name__
        if sparse.issparse(matrix):
            got += f" of shape {matrix.shape}"
        raise ArgumentTypeError(f"{api}: `matrix` must be a sparse matrix of SciPy, got {got}.")
    if matrix.format == "dia":  # its conversions drop explicit zeros
        matrix = _dia_as_coo(matrix)
    entries = matrix.tocsr(copy=True)
    entries.sum_duplicates()
    return entries.shape, *of_matrix(entries)


def _dia_as_coo(matrix: Any) -> Any:
    """Every place of the stored diagonals."""
    m, n = matrix.shape
    columns = np.arange(min(n, matrix.data.shape[1]))
    rows = columns[None] - matrix.offsets[:, None]
    which, j = np.nonzero((rows >= 0) & (rows < m))
    places = rows[which, j], columns[j]
    return sparse.coo_array((np.ones(len(j), np.int8), places), shape=(m, n))


def from_torch(api: str, tensor: Any) -> Parts:
    """Nonzero entries of a strided tensor, stored entries of a sparse one."""
    if not isinstance(tensor, Tensor):
        got = type(tensor).__name__
        raise ArgumentTypeError(f"{api}: `tensor` must be a tensor, got {got}.")
    if tensor.layout is torch.strided:
        return from_dense(api, tensor)
    if tensor.ndim != 2 or tensor.dense_dim() != 0:
        raise ShapeError(
            f"{api}: `tensor` must be one sparse matrix, without batch or dense dimensions, "
            f"got shape {tuple(tensor.shape)} with {tensor.dense_dim()} dense dimensions."
        )
    shape = (tensor.shape[0], tensor.shape[1])
    return shape, *compress(shape, *_torch_positions(tensor))


def _torch_positions(tensor: Tensor) -> tuple[Indices, Indices]:
    """Row and column of every stored entry, of every entry of a stored block."""
    if tensor.layout is torch.sparse_coo:
        rows, columns = tensor.detach().coalesce().indices().cpu().numpy()
        return rows, columns
    by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    starts = tensor.crow_indices() if by_row else tensor.ccol_indices()
    inner = (tensor.col_indices() if by_row else tensor.row_indices()).cpu().numpy()
    lengths = np.diff(starts.cpu().numpy())
    outer = np.repeat(np.arange(len(lengths)), lengths)
    rows, columns = (outer, inner) if by_row else (inner, outer)
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc):
        return rows, columns
    height, width = tensor.values().shape[1:]
    down, along = np.divmod(np.arange(height * width), width)
    return (rows[:, None] * height + down).ravel(), (columns[:, None] * width + along).ravel()
