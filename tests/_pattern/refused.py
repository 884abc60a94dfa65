"""What is no pattern and no file of one: a call, the error and its message.

`tests/test_messages.py` runs them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from torchjac import errors
from torchjac._pattern.archive import write_archive
from torchjac._pattern.pattern import FILE_KIND, FILE_VERSION, SparsityPattern

Refusal = tuple[Callable[[], object], type[Exception], str]

DENSE = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=bool)


def wide() -> SparsityPattern:
    return SparsityPattern.from_dense(DENSE)


def loaded(write: Callable[[Path], object]) -> SparsityPattern:
    """What is read from a file that `write` made."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pattern.npz")
        write(path)
        return SparsityPattern.load(path)


def of_parts(**arrays: Any) -> Callable[[Path], object]:
    """A file with the header of a pattern and any arrays."""
    return lambda path: write_archive(
        path, FILE_KIND, FILE_VERSION, {name: np.array(value) for name, value in arrays.items()}
    )


def with_pickle(path: Path) -> None:
    np.savez(path, kind=np.array([object()], dtype=object))


def with_wrong_sum(path: Path) -> None:
    wide().save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **(arrays | {"indices": arrays["indices"][::-1]}))


REFUSED: list[Refusal] = [
    (
        lambda: SparsityPattern.from_csr((-1, 2), [0], []),
        errors.ShapeError,
        "from_csr: `shape` must be two sizes (m, n) of at least 0, got (-1, 2)",
    ),
    (
        lambda: SparsityPattern.from_csr(3, [0], []),
        errors.ShapeError,
        "from_csr: `shape` must be two sizes (m, n) of at least 0, got 3",
    ),
    (
        lambda: SparsityPattern.from_csr((2.0, 2), [0], []),
        errors.ShapeError,
        "from_csr: `shape` must be two sizes (m, n) of at least 0, got (2.0, 2)",
    ),
    (
        lambda: SparsityPattern.from_csr((3, 2), [0, 1], [0]),
        errors.ShapeError,
        "from_csr: `indptr` needs one entry per row and one more: expected 4, got 2",
    ),
    (
        lambda: SparsityPattern.from_csr((1, 2), [0, 3], [0, 1]),
        errors.ArgumentError,
        "`indptr` must rise from 0 to the 2 entries of `indices`, got 0 to 3.",
    ),
    (
        lambda: SparsityPattern.from_csr((2, 2), [0, 2, 1], [0]),
        errors.ArgumentError,
        "`indptr` must rise from 0 to the 1 entries of `indices`, got 0 to 1, with falls.",
    ),
    (
        lambda: SparsityPattern.from_csr((2, 2), [0, 1, 2], [0, 2]),
        errors.ArgumentError,
        "from_csr: `indices` must lie in 0..1 for this shape, got 2 at position 1 (1 such in all)",
    ),
    (
        lambda: SparsityPattern.from_csr((3, 3), [0, 1, 1, 3], [2, 1, 0]),
        errors.ArgumentError,
        "sorted and unique in each row, got unsorted columns in row 2: 1 before 0. `from_coo`",
    ),
    (
        lambda: SparsityPattern.from_csr((1, 3), [0, 3], [0, 2, 2]),
        errors.ArgumentError,
        "sorted and unique in each row, got a duplicate in row 0: 2 before 2",
    ),
    (
        lambda: SparsityPattern.from_csr((1, 3), [[0, 3]], [0]),
        errors.ShapeError,
        "from_csr: `indptr` must be a vector, got shape (1, 2)",
    ),
    (
        lambda: SparsityPattern.from_csr((1, 3), [0, 1], [0.5]),
        errors.ArgumentTypeError,
        "from_csr: `indices` must hold integers, got dtype float64",
    ),
    (
        lambda: SparsityPattern.from_coo((2, 2), [0, 1], [0]),
        errors.ShapeError,
        "from_coo: `rows` and `columns` must be equally long, got 2 and 1",
    ),
    (
        lambda: SparsityPattern.from_coo((2, 2), [0, -1], [0, 0]),
        errors.ArgumentError,
        "from_coo: `rows` must lie in 0..1 for this shape, got -1 at position 1",
    ),
    (
        lambda: SparsityPattern.from_coo((2, 2), [0, 0], [7, 8]),
        errors.ArgumentError,
        "from_coo: `columns` must lie in 0..1 for this shape, got 7 at position 0 (2 such in all)",
    ),
    (
        lambda: SparsityPattern.from_coo((2, 2), torch.ones(1), torch.ones(1)),
        errors.ArgumentTypeError,
        "from_coo: `rows` must hold integers, got dtype float32",
    ),
    (
        lambda: SparsityPattern.from_dense([1, 2]),
        errors.ShapeError,
        "from_dense: `matrix` must have two dimensions, got shape (2,)",
    ),
    (
        lambda: SparsityPattern.from_dense([["a"]]),
        errors.ArgumentTypeError,
        "from_dense: `matrix` must hold numbers, got dtype <U1",
    ),
    (
        lambda: SparsityPattern.from_scipy(DENSE),
        errors.ArgumentTypeError,
        "from_scipy: `matrix` must be a sparse matrix of SciPy, got ndarray",
    ),
    (
        lambda: SparsityPattern.from_scipy(sparse.coo_array(np.ones(3))),
        errors.ArgumentTypeError,
        "from_scipy: `matrix` must be a sparse matrix of SciPy, got coo_array of shape (3,)",
    ),
    (
        lambda: SparsityPattern.from_torch(DENSE),
        errors.ArgumentTypeError,
        "from_torch: `tensor` must be a tensor, got ndarray",
    ),
    (
        lambda: SparsityPattern.from_torch(torch.ones(2, 3, 4).to_sparse()),
        errors.ShapeError,
        "from_torch: `tensor` must be one sparse matrix, without batch or dense dimensions, "
        "got shape (2, 3, 4) with 0 dense dimensions",
    ),
    (
        lambda: SparsityPattern.from_torch(torch.ones(3, 4).to_sparse(1)),
        errors.ShapeError,
        "got shape (3, 4) with 1 dense dimensions",
    ),
    (
        lambda: wide() | wide().T,
        errors.ShapeError,
        "SparsityPattern: `|` expected patterns of one shape, got (3, 4) and (4, 3)",
    ),
    (
        lambda: wide() & wide().T,
        errors.ShapeError,
        "SparsityPattern: `&` expected patterns of one shape",
    ),
    (
        lambda: wide() - wide().T,
        errors.ShapeError,
        "SparsityPattern: `-` expected patterns of one shape",
    ),
    (
        lambda: wide().issubset(wide().T),
        errors.ShapeError,
        "SparsityPattern: `issubset` expected patterns of one shape",
    ),
    (
        lambda: wide().symmetrized(),
        errors.ShapeError,
        "symmetrized: expected a square pattern, got shape (3, 4)",
    ),
    (
        lambda: wide().to_scipy(np.ones(4)),
        errors.ShapeError,
        "to_scipy: `values` needs one number per entry: expected shape (5,), got (4,)",
    ),
    (
        lambda: wide().to_torch(torch.ones(5, 1)),
        errors.ShapeError,
        "to_torch: `values` needs one number per entry: expected shape (5,), got (5, 1)",
    ),
    (
        lambda: wide().to_torch(layout=torch.strided),
        errors.ArgumentError,
        "to_torch: `layout` must be torch.sparse_csr, torch.sparse_csc or torch.sparse_coo, "
        "got torch.strided",
    ),
    (
        lambda: loaded(lambda path: path.write_bytes(b"not an archive")),
        errors.FileContentError,
        "is damaged or was not written by torchjac: it is no npz archive",
    ),
    (
        lambda: loaded(lambda path: np.savez(path, shape=[1, 1])),
        errors.FileContentError,
        "was not written by torchjac: it has no header",
    ),
    (lambda: loaded(with_pickle), errors.FileContentError, "is damaged: Object arrays cannot be"),
    (
        lambda: loaded(with_wrong_sum),
        errors.FileContentError,
        "is damaged: its checksum does not match",
    ),
    (
        lambda: loaded(lambda path: write_archive(path, "torchjac coloring", 1, {})),
        errors.FileContentError,
        "holds a torchjac coloring, expected a torchjac sparsity pattern",
    ),
    (
        lambda: loaded(lambda path: write_archive(path, FILE_KIND, FILE_VERSION + 1, {})),
        errors.FileContentError,
        f"has format {FILE_VERSION + 1}, and this torchjac reads formats up to {FILE_VERSION}: "
        "a newer one wrote it",
    ),
    (
        lambda: loaded(of_parts(shape=[2, 2])),
        errors.FileContentError,
        "holds no valid pattern: 'indptr'",
    ),
    (
        lambda: loaded(of_parts(shape=[2, 2], indptr=[0, 1], indices=[0])),
        errors.FileContentError,
        "holds no valid pattern: SparsityPattern.load: `indptr` needs one entry per row",
    ),
    (
        lambda: loaded(of_parts(shape=[1, 2], indptr=[0, 1], indices=[2])),
        errors.FileContentError,
        "holds no valid pattern: SparsityPattern.load: `indices` must lie in 0..1",
    ),
]
