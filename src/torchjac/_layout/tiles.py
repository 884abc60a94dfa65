"""Cut a pattern into equal tiles, the blocks of the BSR layout, of which some hold no entry."""

from dataclasses import dataclass
from math import gcd, prod

import numpy as np
from scipy import sparse

from torchjac._pattern.csr import index_dtype
from torchjac._pattern.pattern import Indices, SparsityPattern

# Larger tiles than these gain nothing more, but for whole blocks along the diagonal.
MAX_SIDE = 32


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles that hold an entry, row by row.

    Attributes:
        indptr: Where each row of tiles begins in `columns`.
        columns: Column of tiles of each, sorted in a row.
        entries: The entry at each place of each tile, -1 for a zero, raveled.
    """

    indptr: Indices
    columns: Indices
    entries: Indices


def tiled(pattern: SparsityPattern, size: tuple[int, int]) -> Tiles:
    """Cut a pattern into tiles.

    Args:
        pattern: The pattern.
        size: (height, width) of a tile; they divide the sides of the pattern.

    Returns:
        The tiles.

    >>> tiled(SparsityPattern.from_dense([[1, 0, 0], [1, 1, 0]]), (2, 1)).entries.tolist()
    [0, 1, -1, 2]
    """
    numbers = np.arange(1, pattern.nnz + 1)  # for zero is where there is no entry
    if 0 in pattern.shape or not pattern.nnz:
        rows = pattern.shape[0] // size[0]
        return Tiles(np.zeros(rows + 1, dtype=np.int64), numbers, numbers)
    matrix = sparse.csr_array((numbers, pattern.indices, pattern.indptr), shape=pattern.shape)
    blocks = matrix.tobsr(blocksize=size)
    blocks.sort_indices()
    return Tiles(blocks.indptr, blocks.indices, blocks.data.reshape(-1) - 1)


def choose_blocksize(pattern: SparsityPattern) -> tuple[int, int]:
    """The tiles that take the least memory, the larger ones of those that take the same.

    A stored value counts as much as an index, so that tiles may hold some zeros where that saves
    indices; more than half of what is stored are entries. Only sizes that divide both sides are
    possible in PyTorch. Tried are squares, oblongs with the proportions of the matrix, and the
    largest number of blocks along the diagonal.

    Args:
        pattern: The pattern.

    Returns:
        (height, width) of the tiles.

    >>> choose_blocksize(SparsityPattern.from_dense(np.kron(np.eye(3), np.ones((2, 4)))))
    (2, 4)
    """
    best, least = (1, 1), _taken(pattern, (1, 1), pattern.nnz)
    if not pattern.nnz:
        return best
    # The largest ones first, since full ones leave nothing to be found by smaller ones.
    for size in sorted(_candidates(pattern), key=lambda size: (prod(size), size), reverse=True):
        if _taken(pattern, size, pattern.nnz / prod(size)) > least:
            continue
        count = count_tiles(pattern, size)
        taken = _taken(pattern, size, count)
        is_better = taken < least or (taken == least and best == (1, 1))
        if is_better and count * prod(size) < 2 * pattern.nnz:
            best, least = size, taken
    return best


def _taken(pattern: SparsityPattern, size: tuple[int, int], count: float) -> float:
    """Numbers that are stored: values, a column for each tile, pointers."""
    return count * (prod(size) + 1) + pattern.shape[0] // size[0]


def _candidates(pattern: SparsityPattern) -> set[tuple[int, int]]:
    m, n = pattern.shape
    common = gcd(m, n)
    tall, wide = m // common, n // common
    sizes = [k for k in range(1, min(common, MAX_SIDE) + 1) if common % k == 0]
    squares = {(k, k) for k in sizes}
    alike = {(k * tall, k * wide) for k in sizes if k * max(tall, wide) <= MAX_SIDE}
    count = pattern.diagonal_blocks
    whole = {(m // count, n // count)} if count > 1 else set()
    return (squares | alike | whole) - {(1, 1)}


def count_tiles(pattern: SparsityPattern, size: tuple[int, int]) -> int:
    """How many tiles hold an entry.

    Args:
        pattern: The pattern.
        size: (height, width) of a tile; they divide the sides of the pattern.

    Returns:
        The number.

    >>> count_tiles(SparsityPattern.from_dense(np.eye(4)), (2, 2))
    2
    """
    (m, n), (height, width) = pattern.shape, size
    if not pattern.nnz:
        return 0
    # Rows of a tile follow each other, so that their entries do: tiles by rows, named repeatedly.
    # A counting sort by columns brings equal ones together.
    dtype = index_dtype(pattern.shape, pattern.nnz)
    starts = pattern.indptr[::height].astype(dtype, copy=False)
    columns = (pattern.indices // width).astype(dtype, copy=False)
    ones = np.ones(pattern.nnz, dtype=np.int8)
    view = sparse.csr_array((ones, columns, starts), shape=(m // height, n // width)).tocsc()
    is_new = np.ones(pattern.nnz, dtype=bool)  # another row than that of the entry before
    is_new[1:] = view.indices[1:] != view.indices[:-1]
    is_new[view.indptr[:-1][np.diff(view.indptr) > 0]] = True
    return int(np.count_nonzero(is_new))
