"""The sparsity pattern of a matrix."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchjac._pattern import blocks, csr, foreign, picture
from torchjac._pattern.archive import read_archive, write_archive
from torchjac._pattern.csr import ColumnView, Indices
from torchjac.errors import ArgumentError, FileContentError, ShapeError

FILE_KIND, FILE_VERSION = "torchjac sparsity pattern", 1


@dataclass(frozen=True, eq=False, repr=False)
class SparsityPattern:
    """Positions of the entries of a matrix that can be nonzero, row by row (CSR).

    The constructor trusts its arguments; `from_csr` checks them. A pattern is a value: its arrays
    may be shared and must not be written to. Two patterns are equal if they have the same shape
    and the same entries; `a | b`, `a & b` and `a - b` treat them as sets of entries.

    Attributes:
        shape: (m, n).
        indptr: Where each row begins in `indices`, shape (m + 1,), int32 or int64.
        indices: Columns of the entries, shape (nnz,), int32 or int64, sorted and unique in a row.

    >>> pattern = SparsityPattern.from_coo((3, 3), [0, 1, 2, 2], [0, 1, 0, 2])
    >>> print(pattern)
    SparsityPattern 3 × 3, 4 entries (44.4 %), 1 to 2 in a row, bandwidth 2 below and 0 above
    │⠕⠄│
    >>> pattern.T.indices.tolist(), (pattern | pattern.T).nnz
    ([0, 2, 1, 2], 5)
    """

    shape: tuple[int, int]
    indptr: Indices
    indices: Indices

    # --- Made from other things -------------------------------------------------------

    @classmethod
    def from_csr(
        cls,
        shape: tuple[int, int],
        indptr: Sequence[int] | Indices | Tensor,
        indices: Sequence[int] | Indices | Tensor,
    ) -> "SparsityPattern":
        """Pattern of index arrays in compressed sparse rows, which are checked and copied.

        Args:
            shape: (m, n).
            indptr: Where each row begins in `indices`, shape (m + 1,).
            indices: Columns, shape (nnz,), sorted and unique in each row.

        Returns:
            The pattern.

        Raises:
            ShapeError: A size is negative, or an array has the wrong length.
            ArgumentError: A column is out of range, unsorted or there twice, or `indptr` falls.
            ArgumentTypeError: An array does not hold integers.

        >>> SparsityPattern.from_csr((2, 3), [0, 2, 3], [0, 2, 1]).rows.tolist()
        [0, 0, 1]
        """
        return cls(*foreign.from_csr("SparsityPattern.from_csr", shape, indptr, indices))

    @classmethod
    def from_coo(
        cls,
        shape: tuple[int, int],
        rows: Sequence[int] | Indices | Tensor,
        columns: Sequence[int] | Indices | Tensor,
    ) -> "SparsityPattern":
        """Pattern of positions in any order; a position given twice counts once.

        Args:
            shape: (m, n).
            rows: Row of each entry, shape (k,).
            columns: Column of each entry, shape (k,).

        Returns:
            The pattern.

        Raises:
            ShapeError: A size is negative, or the arrays differ in length.
            ArgumentError: A row or column is out of range.
            ArgumentTypeError: An array does not hold integers.

        >>> SparsityPattern.from_coo((2, 2), [1, 0, 1], [0, 1, 0])
        SparsityPattern(shape=(2, 2), nnz=2)
        """
        return cls(*foreign.from_coo("SparsityPattern.from_coo", shape, rows, columns))

    @classmethod
    def from_dense(cls, matrix: Any) -> "SparsityPattern":
        """Pattern of the entries of a matrix that are not zero (NaN is not).

        Args:
            matrix: Tensor, array or nested lists of booleans or numbers, shape (m, n).

        Returns:
            The pattern.

        Raises:
            ShapeError: It has not two dimensions.
            ArgumentTypeError: It does not hold numbers.

        >>> SparsityPattern.from_dense([[1.0, 0.0], [0.0, 2.0]]).indices.tolist()
        [0, 1]
        """
        return cls(*foreign.from_dense("SparsityPattern.from_dense", matrix))

    @classmethod
    def from_scipy(cls, matrix: Any) -> "SparsityPattern":
        """Pattern of the stored entries of a SciPy sparse matrix, explicit zeros included.

        Args:
            matrix: Sparse matrix or array of SciPy in any format, shape (m, n).

        Returns:
            The pattern.

        Raises:
            ArgumentTypeError: It is not sparse, or not two-dimensional.

        >>> from scipy import sparse
        >>> SparsityPattern.from_scipy(sparse.eye_array(3)).indices.tolist()
        [0, 1, 2]
        """
        return cls(*foreign.from_scipy("SparsityPattern.from_scipy", matrix))

    @classmethod
    def from_torch(cls, tensor: Tensor) -> "SparsityPattern":
        """Pattern of a tensor: its nonzeros if it is strided, its stored entries if it is sparse.

        Every entry of a stored block of a BSR or BSC tensor counts.

        Args:
            tensor: Strided, COO, CSR, CSC, BSR or BSC tensor on any device, shape (m, n).

        Returns:
            The pattern.

        Raises:
            ShapeError: It has not two dimensions, or a sparse one has batch or dense dimensions.
            ArgumentTypeError: It is no tensor.

        >>> SparsityPattern.from_torch(torch.eye(3).to_sparse()).indices.tolist()
        [0, 1, 2]
        """
        return cls(*foreign.from_torch("SparsityPattern.from_torch", tensor))

    # --- Counts -----------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.indices)

    @property
    def density(self) -> float:
        """Entries as a part of m n, 0 for a matrix without room for any."""
        m, n = self.shape
        return self.nnz / (m * n) if m and n else 0.0

    @cached_property
    def rows(self) -> Indices:
        """Row of each entry, shape (nnz,)."""
        lengths = np.diff(self.indptr)
        return np.repeat(np.arange(self.shape[0], dtype=self.indices.dtype), lengths)

    @property
    def row_counts(self) -> Indices:
        """Number of entries of each row, shape (m,)."""
        return np.diff(self.indptr)

    @property
    def column_counts(self) -> Indices:
        """Number of entries of each column, shape (n,)."""
        return np.bincount(self.indices, minlength=self.shape[1])

    @property
    def occupied_rows(self) -> Indices:
        """Rows that hold an entry, in order."""
        return np.flatnonzero(self.indptr[1:] > self.indptr[:-1])

    # --- By columns -------------------------------------------------------------------

    @cached_property
    def csc(self) -> ColumnView:
        """The same entries column by column, with their order."""
        if self.nnz and self.nnz == self.shape[0] * self.shape[1]:
            return csr.full_column_view(self.shape, self.indices.dtype)
        return csr.column_view(self.shape, self.indptr, self.indices)

    @cached_property
    def T(self) -> "SparsityPattern":
        """The transposed pattern, shape (n, m)."""
        m, n = self.shape
        return SparsityPattern((n, m), self.csc.indptr, self.csc.rows)

    # --- Structure --------------------------------------------------------------------

    @cached_property
    def bandwidth(self) -> tuple[int, int]:
        """(lower, upper): how far entries lie below and above the diagonal, at least 0."""
        rows, first, last = csr.first_and_last(self.indptr, self.indices)
        return int((rows - first).max(initial=0)), int((last - rows).max(initial=0))

    @cached_property
    def is_symmetric(self) -> bool:
        """Whether (j, i) is an entry for every entry (i, j)."""
        return self.shape[0] == self.shape[1] and self == self.T

    @cached_property
    def components(self) -> blocks.Components:
        """The finest partition of rows and columns that makes the matrix block diagonal."""
        return blocks.find_components(self.shape, self.indptr, self.indices)

    @cached_property
    def diagonal_blocks(self) -> int:
        """Largest b for which all entries lie in b equal blocks (m/b, n/b) along the diagonal."""
        return blocks.count_diagonal_blocks(self.shape, self.indptr, self.indices)

    # --- Sets of entries --------------------------------------------------------------

    def __or__(self, other: object) -> "SparsityPattern":
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        self._check_same_shape(other, "|")
        return self._of(self._matrix + other._matrix)

    def __and__(self, other: object) -> "SparsityPattern":
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        self._check_same_shape(other, "&")
        return self._of(self._matrix.multiply(other._matrix))

    def __sub__(self, other: object) -> "SparsityPattern":
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        self._check_same_shape(other, "-")
        return self._of(self._matrix > other._matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        return self is other or (
            self.shape == other.shape
            and np.array_equal(self.indptr, other.indptr)
            and np.array_equal(self.indices, other.indices)
        )

    def __hash__(self) -> int:
        return self._hash

    def issubset(self, other: "SparsityPattern") -> bool:
        """Whether every entry is also one of `other`; `self - other` holds those that are not.

        Args:
            other: Pattern of the same shape.

        Returns:
            Whether it is.

        Raises:
            ShapeError: The shapes differ.

        >>> a = SparsityPattern.from_dense([[1, 1], [0, 1]])
        >>> b = SparsityPattern.from_dense([[1, 0], [1, 1]])
        >>> a.issubset(b), a.issubset(a | b), (a - b).occupied_rows.tolist()
        (False, True, [0])
        """
        self._check_same_shape(other, "issubset")
        return self.nnz <= other.nnz and (self - other).nnz == 0

    def symmetrized(self) -> "SparsityPattern":
        """The smallest symmetric pattern that holds this one: itself and its transpose.

        Returns:
            The pattern, itself if it is symmetric.

        Raises:
            ShapeError: It is not square.

        >>> SparsityPattern.from_coo((2, 2), [0], [1]).symmetrized().indices.tolist()
        [1, 0]
        """
        m, n = self.shape
        if m != n:
            raise ShapeError(
                f"SparsityPattern.symmetrized: expected a square pattern, got shape {self.shape}."
            )
        return self if self.is_symmetric else self | self.T

    # --- Turned into other things -----------------------------------------------------

    def to_scipy(self, values: Any = None) -> Any:
        """SciPy CSR array with these entries; the index arrays are shared where SciPy allows it.

        Args:
            values: Numbers in the order of the entries, shape (nnz,). None: ones.

        Returns:
            `scipy.sparse.csr_array`, shape (m, n).

        Raises:
            ShapeError: `values` has not one number per entry.

        >>> SparsityPattern.from_dense([[0, 3], [0, 0]]).to_scipy([5.0]).toarray().tolist()
        [[0.0, 5.0], [0.0, 0.0]]
        """
        given = np.ones(self.nnz) if values is None else np.asarray(values)
        self._check_values("to_scipy", given.shape)
        return csr.as_matrix(self.shape, self.indptr, self.indices, given)

    def to_torch(
        self, values: Tensor | None = None, layout: torch.layout = torch.sparse_csr
    ) -> Tensor:
        """Sparse tensor with these entries, on the device of `values`.

        Args:
            values: Numbers in the order of the entries, shape (nnz,). None: ones.
            layout: `torch.sparse_csr`, `torch.sparse_csc` or `torch.sparse_coo`.

        Returns:
            The tensor, shape (m, n), differentiable in `values`.

        Raises:
            ShapeError: `values` has not one number per entry.
            ArgumentError: Another layout.

        >>> SparsityPattern.from_dense([[0, 3], [0, 0]]).to_torch(torch.tensor([5.0])).to_dense()
        tensor([[0., 5.],
                [0., 0.]])
        """
        given = torch.ones(self.nnz) if values is None else values
        self._check_values("to_torch", tuple(given.shape))

        def index(array: Indices) -> Tensor:  # a pattern keeps what PyTorch would check again
            return torch.from_numpy(array).to(given.device)

        if layout is torch.sparse_csr:
            places = index(self.indptr), index(self.indices)
            return torch.sparse_csr_tensor(*places, given, self.shape, check_invariants=False)
        if layout is torch.sparse_csc:
            view = self.csc
            ordered = given[index(view.order)]
            places = index(view.indptr), index(view.rows)
            return torch.sparse_csc_tensor(*places, ordered, self.shape, check_invariants=False)
        if layout is torch.sparse_coo:
            places = torch.stack([index(self.rows), index(self.indices)])
            return torch.sparse_coo_tensor(
                places, given, self.shape, is_coalesced=True, check_invariants=False
            )
        raise ArgumentError(
            "SparsityPattern.to_torch: `layout` must be torch.sparse_csr, torch.sparse_csc or "
            f"torch.sparse_coo, got {layout}."
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a file (npz without pickles, checksummed), which appears whole or not at all.

        Args:
            path: The file, replaced if there is one.

        >>> import tempfile, pathlib
        >>> pattern = SparsityPattern.from_dense([[0, 3], [0, 0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pattern.save(pathlib.Path(folder, "pattern.npz"))
        ...     SparsityPattern.load(pathlib.Path(folder, "pattern.npz")) == pattern
        True
        """
        arrays = {"shape": np.array(self.shape), "indptr": self.indptr, "indices": self.indices}
        write_archive(path, FILE_KIND, FILE_VERSION, arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "SparsityPattern":
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The pattern.

        Raises:
            FileContentError: The file is damaged, something else, or of a newer format.
            OSError: It cannot be read at all.
        """
        api = "SparsityPattern.load"
        arrays = read_archive(api, path, FILE_KIND, FILE_VERSION)
        try:
            shape = tuple(arrays["shape"].tolist())
            return cls(*foreign.from_csr(api, shape, arrays["indptr"], arrays["indices"]))
        except (KeyError, ArgumentError) as error:
            raise FileContentError(
                f"{api}: {str(path)!r} holds no valid pattern: {error}"
            ) from None

    # --- Shown ------------------------------------------------------------------------

    @property
    def summary(self) -> str:
        """Size, density, row lengths and bandwidth, in one line."""
        m, n = self.shape
        percent = 100 * self.density
        parts = [f"SparsityPattern {m:,} × {n:,}", f"{self.nnz:,} entries ({percent:.3g} %)"]
        if self.nnz:
            counts = self.row_counts
            lower, upper = self.bandwidth
            parts.append(f"{counts.min()} to {counts.max()} in a row")
            parts.append(f"bandwidth {lower:,} below and {upper:,} above")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"SparsityPattern(shape={self.shape}, nnz={self.nnz})"

    def __str__(self) -> str:
        drawn = picture.braille(self.shape, self.indptr, self.indices)
        return f"{self.summary}\n{drawn}" if drawn else self.summary

    def _repr_html_(self) -> str:
        drawn = picture.svg(self.shape, self.indptr, self.indices)
        return f"<div><div>{self.summary}</div>{drawn}</div>"

    # --- Inside -----------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the entries alone, not what was derived from them."""
        return SparsityPattern, (self.shape, self.indptr, self.indices)

    @cached_property
    def _hash(self) -> int:
        # Equal patterns may have index arrays of different width.
        return hash(
            (
                self.shape,
                *(zlib.crc32(a.astype(np.int64).data) for a in (self.indptr, self.indices)),
            )
        )

    @property
    def _matrix(self) -> Any:
        return csr.as_matrix(self.shape, self.indptr, self.indices)

    @staticmethod
    def _of(matrix: Any) -> "SparsityPattern":
        return SparsityPattern(matrix.shape, *csr.of_matrix(matrix))

    def _check_same_shape(self, other: "SparsityPattern", operator: str) -> None:
        if self.shape != other.shape:
            raise ShapeError(
                f"SparsityPattern: `{operator}` expected patterns of one shape, "
                f"got {self.shape} and {other.shape}."
            )

    def _check_values(self, method: str, shape: tuple[int, ...]) -> None:
        if shape != (self.nnz,):
            raise ShapeError(
                f"SparsityPattern.{method}: `values` needs one number per entry: "
                f"expected shape ({self.nnz},), got {shape}."
            )
