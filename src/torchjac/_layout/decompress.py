"""Compressed values -> the values of the entries.

Every entry of a direct coloring stands alone in one of the compressed values: recovering them is
one gather. By substitution, the entries between two colors form trees. A leaf stands alone; any
other entry x[e] stands in a sum b[e] with the entries of its child edges, so that

    x = b - P x = (I - P + P² - ...) b = (I - P) (I + P²) (I + P⁴) ... b,

where (P x)[e] is the sum of x over the children of e. P to the power 2^s sends a value to its
ancestor 2^s edges up: a tree of depth d takes about log2(d) steps, with sums as short and errors
as small as those of pairwise summation. The unknowns are numbered from the deepest to the roots,
so that those with an ancestor so far up are the first ones.

Sources:
    Gebremedhin, Pothen, Tarafdar & Walther (2009), "Efficient computation of sparse Hessians using
    coloring and automatic differentiation", INFORMS J. Comput. 21(2): substitution along trees.
    Hillis & Steele (1986), "Data parallel algorithms", CACM 29(12): steps of doubled length.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._coloring.coloring import Coloring
from torchjac._coloring.engine import kernels
from torchjac._coloring.graph import Graph, adjacency, bipartite
from torchjac._layout.slices import Slices, as_slices
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError

Array = NDArray[Any]
GRAPH_KINDS = ("star", "acyclic", "bidirectional")


@dataclass(frozen=True)
class Places:
    """Index tensors of a decompressor on one device.

    Attributes:
        read: Where each unknown's sum lies among the compressed values, slices of them where that
            is regular, as for full matrices and full blocks.
        parents: The next unknown towards the root, of each unknown but the roots, which come last.
        unknowns: The unknown of each entry, shape (nnz,); None where `read` is by entry already.
    """

    read: Tensor | Slices
    parents: Tensor | None = None
    unknowns: Tensor | None = None

    def to(self, device: torch.device) -> "Places":
        """The same on another device."""
        read = self.read if isinstance(self.read, Slices) else self.read.to(device)
        further = (self.parents, self.unknowns)
        return Places(read, *(None if t is None else t.to(device) for t in further))


@dataclass(frozen=True, eq=False)
class Decompressor:
    """Recovers the entries of a matrix from its products with the seeds of a coloring.

    Attributes:
        column_shape: Shape expected of the products J S, one row for each column color: (k, m).
        row_shape: Shape expected of the products Sᵀ J, one row for each row color: (k, n).
        counts: How many unknowns have an ancestor 1, 2, 4, ... edges up; empty if direct.
        places: Index tensors on the CPU.
    """

    column_shape: tuple[int, int]
    row_shape: tuple[int, int]
    counts: tuple[int, ...]
    places: Places
    _by_device: dict[torch.device, Places] = field(default_factory=dict, repr=False)

    def __call__(self, columns: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Values of the entries in CSR order; differentiable in both arguments.

        Args:
            columns: J S transposed, shape (column colors, m). May be left out if there are none.
            rows: Sᵀ J, shape (row colors, n). May be left out if there are none.

        Returns:
            The values, shape (nnz,), both triangles of a symmetric matrix, with the dtype and
            device of the arguments.

        Raises:
            ArgumentError: The side that is needed is missing.
            ShapeError: A shape does not fit the coloring.
            ArgumentTypeError: The two differ in dtype or device.
        """
        values = self._joined(columns, rows)
        places = self._on(values.device)
        if isinstance(places.read, Slices):
            found = places.read.view(values.contiguous()).reshape(-1)
        else:
            found = values.index_select(0, places.read)
        if places.parents is not None and places.unknowns is not None:
            found = substituted(found, places.parents, self.counts)
            found = found.index_select(0, places.unknowns)
        return found

    def _joined(self, columns: Tensor | None, rows: Tensor | None) -> Tensor:
        """All compressed values in one dimension."""
        given = []
        for name, tensor, shape in (
            ("columns", columns, self.column_shape),
            ("rows", rows, self.row_shape),
        ):
            if tensor is None and shape[0]:
                raise ArgumentError(
                    f"decompress: `{name}` is needed: expected shape {shape}, got None."
                )
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ShapeError(
                    f"decompress: `{name}` needs one row for each color: expected shape {shape}, "
                    f"got {tuple(tensor.shape)}."
                )
            if tensor is not None:
                given.append(tensor)
        if len({(t.dtype, t.device) for t in given}) > 1:
            raise ArgumentTypeError(
                "decompress: `columns` and `rows` must agree in dtype and device, got "
                + " and ".join(f"{t.dtype} on {t.device}" for t in given)
                + "."
            )
        if not given:
            return torch.empty(0)
        held = [tensor.reshape(-1) for tensor in given if tensor.shape[0]]
        return held[0] if len(held) == 1 else torch.cat(held or [given[0].reshape(-1)])

    def _on(self, device: torch.device) -> Places:
        if device.type == "cpu":
            return self.places
        if device not in self._by_device:
            self._by_device[device] = self.places.to(device)
        return self._by_device[device]


def decompressor(coloring: Coloring) -> Decompressor:
    """Work out where each entry is to be found among the compressed values.

    Args:
        coloring: Of any kind.

    Returns:
        The decompressor.

    Raises:
        ArgumentError: The coloring is not valid: an entry cannot be recovered.
    """
    m, n = coloring.pattern.shape
    places, counts = find(coloring) if coloring.kind in GRAPH_KINDS else (find_lines(coloring), ())
    return Decompressor(
        column_shape=(coloring.num_column_colors, m),
        row_shape=(coloring.num_row_colors, n),
        counts=counts,
        places=places,
    )


def substituted(sums: Tensor, parents: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Solve x + P x = sums.

    Args:
        sums: Right-hand side, shape (unknowns,).
        parents: Targets of P, shape (counts[0],).
        counts: How many unknowns have an ancestor 1, 2, 4, ... edges up.

    Returns:
        x, shape (unknowns,).
    """
    x, ancestors = sums, parents
    for step, count in enumerate(counts):
        if step:
            ancestors = ancestors.index_select(0, ancestors[:count])
        moved = x[:count] if step else -x[:count]
        x = x.scatter_add(0, ancestors, moved)
    return x


def find_lines(coloring: Coloring) -> Places:
    """Entry (i, j) is at (color of j, i), or at (color of i, j)."""
    pattern = coloring.pattern
    m, n = pattern.shape
    if coloring.column_colors is not None:
        read = flat(coloring.column_colors[pattern.indices], pattern.rows, m)
    else:
        colors = coloring.row_colors if coloring.row_colors is not None else np.empty(0, np.int32)
        read = flat(colors[pattern.rows], pattern.indices, n)
    return Places(as_slices(read) or index_tensor(read))


def find(coloring: Coloring) -> tuple[Places, tuple[int, ...]]:
    """For the kinds that color a graph, by taking the leaves off its two-color trees."""
    graph, colors = as_graph(coloring)
    m, n = coloring.pattern.shape
    group, size = kernels().color_groups(graph.indptr, graph.neighbors, colors)
    read_at, parents, order = kernels().strip_leaves(group, size, graph.reverse)
    diagonal = np.flatnonzero(graph.loops)
    if order.min(initial=0) < 0 or colors[diagonal].min(initial=0) < 0:
        raise ArgumentError("decompress: an entry cannot be recovered: the coloring is not valid.")
    # Edges first, in the order of reading, then the diagonal. A row reads column colors.
    vertices = np.repeat(np.arange(graph.size), graph.degrees)[read_at]
    by_column = graph.side[vertices] == 1
    at_row = flat(colors[graph.neighbors[read_at]], vertices, m)
    at_column = flat(colors[graph.neighbors[read_at]], vertices - m, n)
    edges = np.where(by_column, coloring.num_column_colors * m + at_column, at_row)
    read = np.concatenate([edges, flat(colors[diagonal], diagonal, n)])
    unknowns = np.empty(coloring.pattern.nnz, np.int64)
    unknowns[graph.entries] = order
    on_diagonal = coloring.pattern.rows == coloring.pattern.indices
    if len(diagonal):
        unknowns[on_diagonal] = np.arange(len(edges), len(read))
    depths = depth(np.append(parents, np.full(len(diagonal), -1, parents.dtype)))
    if not depths.any():
        return Places(index_tensor(read[unknowns])), ()
    deepest_first = np.argsort(-depths, kind="stable")
    number = np.empty_like(deepest_first)
    number[deepest_first] = np.arange(len(number))
    inner = np.count_nonzero(depths)
    places = Places(
        index_tensor(read[deepest_first]),
        index_tensor(number[parents[deepest_first[:inner]]]),
        index_tensor(number[unknowns]),
    )
    lengths = 2 ** np.arange(int(depths.max()).bit_length())
    return places, tuple(int(np.count_nonzero(depths >= length)) for length in lengths)


def as_graph(coloring: Coloring) -> tuple[Graph, Array]:
    """The colored graph, and the colors of its vertices."""
    columns, rows = coloring.column_colors, coloring.row_colors
    if columns is None:
        raise ArgumentError("decompress: the coloring is not valid: it has no column colors.")
    if coloring.kind != "bidirectional":
        return adjacency(coloring.pattern), columns
    if rows is None:
        raise ArgumentError("decompress: the coloring is not valid: it has no row colors.")
    return bipartite(coloring.pattern), np.concatenate([rows, columns])


def depth(parents: Array) -> Array:
    """Number of ancestors of each node of a forest, by steps of doubled length."""
    depths = (parents >= 0).astype(np.int64)
    above = parents
    while len(inner := np.flatnonzero(above >= 0)):
        depths[inner] += depths[above[inner]]
        further = np.full_like(above, -1)
        further[inner] = above[above[inner]]
        above = further
    return depths


def flat(lines: Array, positions: Array, width: int) -> Array:
    """Index of (line, position) in a table of that width laid out line by line."""
    return lines.astype(np.int64) * width + positions


def index_tensor(index: Array) -> Tensor:
    """Index tensor; PyTorch gathers by 64 bits faster than by 32, and adds up by 64 only."""
    return torch.from_numpy(np.ascontiguousarray(index, np.int64))
