"""Patterns as the graphs that are colored."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._pattern import csr
from torchjac._pattern.pattern import SparsityPattern

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Hypergraph:
    """Vertices, and hyperedges of any number of them.

    Attributes:
        indptr: Where the hyperedges of each vertex begin in `edges`, shape (vertices + 1,).
        edges: Hyperedges of each vertex.
        edge_ptr: Where the vertices of each hyperedge begin in `members`, shape (edges + 1,).
        members: Vertices of each hyperedge.
    """

    indptr: Array
    edges: Array
    edge_ptr: Array
    members: Array

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """As the kernels take them."""
        return self.indptr, self.edges, self.edge_ptr, self.members

    @property
    def size(self) -> int:
        """Number of vertices."""
        return len(self.indptr) - 1


@dataclass(frozen=True, eq=False)
class Graph:
    """Vertices, and edges between two of them; each edge has two ends, one in each vertex's list.

    Attributes:
        indptr: Where the ends at each vertex begin, shape (vertices + 1,).
        neighbors: The vertex at the other end, shape (ends,).
        edges: Number of the edge, shape (ends,), the same at both ends.
        reverse: The other end, shape (ends,).
        entries: Entry of the pattern that each end stands for, shape (ends,).
        side: 0 or 1 of each vertex if every edge joins a 0 and a 1, else all 0, shape (vertices,).
        loops: Whether each vertex has a diagonal entry, shape (vertices,).
    """

    indptr: Array
    neighbors: Array
    edges: Array
    reverse: Array
    entries: Array
    side: Array
    loops: Array

    @property
    def size(self) -> int:
        """Number of vertices."""
        return len(self.indptr) - 1

    @property
    def degrees(self) -> Array:
        """Number of neighbors of each vertex."""
        return np.diff(self.indptr)

    def hypergraph(self) -> Hypergraph:
        """The same graph with each edge as a hyperedge of two vertices."""
        count = len(self.edges) // 2
        members = np.empty((count, 2), self.neighbors.dtype)
        vertices = np.repeat(np.arange(self.size, dtype=members.dtype), self.degrees)
        lower = np.arange(len(self.edges)) < self.reverse
        members[self.edges[lower], 0] = vertices[lower]
        members[self.edges[lower], 1] = self.neighbors[lower]
        edge_ptr = 2 * np.arange(count + 1, dtype=self.indptr.dtype)
        return Hypergraph(self.indptr, self.edges, edge_ptr, members.ravel())


def narrow(pattern: SparsityPattern) -> SparsityPattern:
    """The same pattern with 32-bit indices where they are enough, which the kernels like best."""
    dtype = csr.index_dtype(pattern.shape, pattern.nnz)
    arrays = pattern.indptr.astype(dtype, copy=False), pattern.indices.astype(dtype, copy=False)
    same = arrays[0] is pattern.indptr and arrays[1] is pattern.indices
    return pattern if same else SparsityPattern(pattern.shape, *arrays)


def columns_by_row(pattern: SparsityPattern) -> Hypergraph:
    """The columns as vertices; a row is a hyperedge of the columns it has entries in."""
    pattern = narrow(pattern)
    view = pattern.csc
    return Hypergraph(view.indptr, view.rows, pattern.indptr, pattern.indices)


def adjacency(pattern: SparsityPattern) -> Graph:
    """Graph of a symmetric pattern: an edge for each pair of entries (i, j) and (j, i), i != j."""
    pattern = narrow(pattern)
    n = pattern.shape[0]
    rows = pattern.rows
    on_diagonal = rows == pattern.indices
    loops = np.zeros(n, np.bool_)
    loops[rows[on_diagonal]] = True
    entries = np.flatnonzero(~on_diagonal).astype(pattern.indices.dtype)
    ends = np.cumsum(~on_diagonal, dtype=entries.dtype) - 1
    # In a symmetric pattern the k-th entry by columns is the mirror image of the k-th by rows.
    reverse = ends[pattern.csc.order[entries]]
    neighbors = pattern.indices[entries]
    indptr = pattern.indptr - np.concatenate([[0], np.cumsum(loops)]).astype(pattern.indptr.dtype)
    edges = np.empty_like(reverse)
    lower = np.flatnonzero(np.arange(len(reverse)) < reverse)
    edges[lower] = edges[reverse[lower]] = np.arange(len(lower))
    return Graph(indptr, neighbors, edges, reverse, entries, np.zeros(n, np.int32), loops)


def bipartite(pattern: SparsityPattern) -> Graph:
    """Graph with an edge between row i and column j, vertex m + j, for each entry (i, j)."""
    (m, n), nnz = pattern.shape, pattern.nnz
    view = pattern.csc
    dtype = csr.index_dtype((m + n, 1), 2 * nnz)
    entries = np.concatenate([np.arange(nnz, dtype=dtype), view.order])
    by_column = np.empty(nnz, dtype)
    by_column[view.order] = np.arange(nnz, 2 * nnz)
    return Graph(
        indptr=np.concatenate([pattern.indptr, view.indptr[1:].astype(dtype) + nnz], dtype=dtype),
        neighbors=np.concatenate([pattern.indices.astype(dtype) + m, view.rows], dtype=dtype),
        edges=entries,
        reverse=np.concatenate([by_column, view.order], dtype=dtype),
        entries=entries,
        side=np.repeat(np.array([0, 1], np.int32), (m, n)),
        loops=np.zeros(m + n, np.bool_),
    )
