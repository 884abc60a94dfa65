"""Independent parts of a matrix: connected components, and equal blocks along the diagonal."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from torchjac._pattern.csr import INT32_MAX, Indices, Shape, first_and_last


@dataclass(frozen=True, eq=False)
class Components:
    """The finest partition of rows and columns that makes a matrix block diagonal.

    Attributes:
        count: Number of components that hold an entry.
        of_row: Component of each row, shape (m,), -1 for rows without entries. They are numbered
            in the order of their first rows.
        of_column: Component of each column, shape (n,), -1 for columns without entries.
    """

    count: int
    of_row: Indices
    of_column: Indices


def find_components(shape: Shape, indptr: Indices, indices: Indices) -> Components:
    """Connected components of the bipartite graph of rows and columns, an edge for each entry."""
    m, n = shape
    nnz = len(indices)
    dtype = np.int32 if max(m + n, nnz) <= INT32_MAX else np.int64
    starts = np.concatenate([indptr.astype(dtype), np.full(n, nnz, dtype)])
    edges = indices.astype(dtype) + dtype(m)
    graph = sparse.csr_array((np.ones(nnz, np.int8), edges, starts), shape=(m + n, m + n))
    _, labels = connected_components(graph, directed=False)
    occupied = np.flatnonzero(indptr[1:] > indptr[:-1])
    found, first = np.unique(labels[occupied], return_index=True)
    # Components that are a lone row or column are in no occupied row, so they keep -1.
    number = np.full(m + n, -1, dtype)
    number[found[np.argsort(first)]] = np.arange(len(found), dtype=dtype)
    numbered = number[labels]
    return Components(len(found), numbered[:m], numbered[m:])


def count_diagonal_blocks(shape: Shape, indptr: Indices, indices: Indices) -> int:
    """Largest b for which all entries lie in b equal blocks (m/b, n/b) along the diagonal."""
    # A cut between the blocks is clean if no entry above it reaches the columns right of it and
    # none below it those left of it; the running maximum of the last columns and the running
    # minimum of the first ones, read from below, answer that for every cut at once.
    m, n = shape
    if not len(indices):
        return 1
    occupied, first, last = first_and_last(indptr, indices)
    reach = np.full(m + 1, -1, dtype=np.int64)
    reach[occupied + 1] = last
    reach = np.maximum.accumulate(reach)
    start = np.full(m + 1, n, dtype=np.int64)
    start[occupied] = first
    start = np.minimum.accumulate(start[::-1])[::-1]
    for blocks in _divisors(int(np.gcd(m, n))):
        cuts = np.arange(1, blocks, dtype=np.int64)
        rows, columns = cuts * (m // blocks), cuts * (n // blocks)
        if np.all(reach[rows] < columns) and np.all(start[rows] >= columns):
            return blocks
    return 1


def _divisors(number: int) -> list[int]:
    """All divisors, largest first."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)}, reverse=True)
