"""Sparsity patterns with known numbers of colors, built from their definitions."""

import numpy as np
from hypothesis import strategies as st
from scipy import sparse

from torchjac._pattern.pattern import SparsityPattern


def of(matrix) -> SparsityPattern:
    """Pattern of the nonzeros of a SciPy matrix."""
    coo = sparse.coo_array(matrix)
    kept = coo.data != 0
    return SparsityPattern.from_coo(coo.shape, coo.row[kept], coo.col[kept])


def band(n: int, reach: int) -> SparsityPattern:
    """Entries (i, j) with |i - j| <= reach."""
    offsets = np.arange(-reach, reach + 1)
    return of(sparse.diags_array(np.ones(len(offsets)), offsets=offsets, shape=(n, n)))


def line(n: int, *, periodic: bool) -> sparse.sparray:
    """Each point of a line or ring with its two neighbors, the point itself left out."""
    matrix = sparse.lil_array((n, n))
    for i in range(n if periodic else n - 1):
        matrix[i, (i + 1) % n] = matrix[(i + 1) % n, i] = 1.0
    return sparse.csr_array(matrix)


def grid(n: int, *, periodic: bool = False) -> SparsityPattern:
    """5-point stencil on n × n points."""
    one, neighbors = sparse.eye_array(n), line(n, periodic=periodic)
    return of(sparse.kron(neighbors, one) + sparse.kron(one, neighbors) + sparse.eye_array(n * n))


def brusselator(n: int) -> SparsityPattern:
    """Two fields on a periodic n × n grid: each its 5-point stencil, and each other's point."""
    one, neighbors = sparse.eye_array(n), line(n, periodic=True)
    stencil = sparse.kron(neighbors, one) + sparse.kron(one, neighbors)
    return of(
        sparse.kron(stencil, sparse.eye_array(2))
        + sparse.kron(sparse.eye_array(n * n), [[1, 1]] * 2)
    )


def convolution(n: int, reach: int) -> SparsityPattern:
    """n × n pixels, each with those at most `reach` away in each direction."""
    offsets = np.arange(-reach, reach + 1)
    near = sparse.diags_array(np.ones(len(offsets)), offsets=offsets, shape=(n, n))
    return of(sparse.kron(near, near))


def random(m: int, n: int, per_row: int, seed: int = 0) -> SparsityPattern:
    """`per_row` entries in each row, anywhere."""
    rng = np.random.default_rng(seed)
    columns = np.concatenate([rng.choice(n, per_row, replace=False) for _ in range(m)])
    return SparsityPattern.from_coo((m, n), np.repeat(np.arange(m), per_row), columns)


def arrow(n: int, reach: int = 0) -> SparsityPattern:
    """A band with a full first row and column."""
    line = np.arange(n)
    head = SparsityPattern.from_coo((n, n), np.append(0 * line, line), np.append(line, 0 * line))
    return band(n, reach) | head


def frame(m: int, n: int) -> SparsityPattern:
    """First and last row, first and last column."""
    dense = np.zeros((m, n), dtype=bool)
    dense[[0, -1]] = dense[:, [0, -1]] = True
    return SparsityPattern.from_dense(dense)


@st.composite
def patterns(draw, most: int = 12) -> SparsityPattern:
    """Any pattern of at most `most` rows and columns, sparse and dense ones alike."""
    m, n = draw(st.integers(1, most)), draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return SparsityPattern.from_dense(rng.random((m, n)) < draw(st.floats(0, 1)))


@st.composite
def symmetric_patterns(draw, most: int = 12) -> SparsityPattern:
    """Any symmetric pattern, with a full, partial or empty diagonal."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lower = np.tril(rng.random((n, n)) < draw(st.floats(0, 1)), -1)
    diagonal = rng.random(n) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return SparsityPattern.from_dense(lower | lower.T | np.diag(diagonal))
