"""Axes that never mix: where the same index of output and input meet, and no others.

Along such axes the Jacobian is a block of each index: the samples of a batch, the tokens that a
network treats one by one. Reordered by them, it is block diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from torchjac._pattern.csr import Indices
from torchjac._pattern.pattern import SparsityPattern

Pairs = tuple[tuple[int, int], ...]
# Entries that are looked at first: most axes mix, and show it in the first few.
_FEW = 4096


@dataclass(frozen=True)
class DiagonalBlocks:
    """A matrix as equal blocks along the diagonal, once rows and columns are put in order.

    Attributes:
        output: Shape of the output, in which the rows are numbered.
        inputs: Shape of the input, in which the columns are numbered.
        pairs: Axes of output and input that are equal in each block.
    """

    output: tuple[int, ...]
    inputs: tuple[int, ...]
    pairs: Pairs

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, m, n): how many blocks, and the shape of each."""
        count = prod([self.output[a] for a, _ in self.pairs])
        paired = {a for a, _ in self.pairs}, {b for _, b in self.pairs}
        height, width = (
            prod([length for axis, length in enumerate(shape) if axis not in axes])
            for shape, axes in zip((self.output, self.inputs), paired, strict=True)
        )
        return count, height, width

    @property
    def is_in_order(self) -> bool:
        """Whether the blocks lie along the diagonal as it is."""
        leading = tuple((axis, axis) for axis in range(len(self.pairs)))
        return self.pairs == leading

    @property
    def row_numbers(self) -> Indices:
        """Number of each row when the rows of a block follow each other, shape (B m,)."""
        return _numbers(self.output, [a for a, _ in self.pairs])

    @property
    def column_numbers(self) -> Indices:
        """Number of each column when those of a block follow each other, shape (B n,)."""
        return _numbers(self.inputs, [b for _, b in self.pairs])


def separable_axes(
    pattern: SparsityPattern, output: Sequence[int], inputs: Sequence[int]
) -> list[tuple[int, int]]:
    """Pairs of an output axis and an input axis along which the Jacobian is diagonal.

    (a, b) is one of them if J[i, j] can be nonzero only where index a of i equals index b of j:
    the samples of a batch, the tokens that a network treats one by one.

    Args:
        pattern: Of the Jacobian of one output by one input, shape (m, n).
        output: Shape of the output, of m elements.
        inputs: Shape of the input, of n elements.

    Returns:
        The pairs, each axis in one at most.

    >>> import numpy as np
    >>> blocks = np.kron(np.eye(3, dtype=bool), np.ones((2, 4), dtype=bool))
    >>> separable_axes(SparsityPattern.from_dense(blocks), (3, 2), (3, 4))
    [(0, 0)]
    """
    pairs: list[tuple[int, int]] = []
    if not pattern.nnz:
        return pairs
    left = set(range(len(inputs)))
    for a, length in enumerate(output):
        for b in sorted(left):
            if inputs[b] == length > 1 and _is_diagonal(
                pattern, _index(output, a), _index(inputs, b)
            ):
                pairs.append((a, b))
                left.remove(b)
                break
    return pairs


def find_blocks(
    pattern: SparsityPattern, output: Sequence[int], inputs: Sequence[int]
) -> DiagonalBlocks | None:
    """The blocks that hold all entries: of the axes that never mix, or else along the diagonal.

    Axes of length one count as a batch of one where both shapes begin with one. Without entries
    nothing mixes at all: the first axes are paired if they are equally long, and if they are not
    the whole is one block.

    Args:
        pattern: Of the Jacobian of one output by one input, shape (m, n).
        output: Shape of the output, of m elements.
        inputs: Shape of the input, of n elements.

    Returns:
        The blocks, None if the entries lie in no such blocks.

    >>> import numpy as np
    >>> mask = np.kron(np.eye(3, dtype=bool), np.ones((2, 4), dtype=bool))
    >>> find_blocks(SparsityPattern.from_dense(mask), (6,), (3, 4)).shape
    (3, 2, 4)
    """
    output, inputs = tuple(output), tuple(inputs)
    if not pattern.nnz:
        alike = output[:1] == inputs[:1] and output
        return DiagonalBlocks(output, inputs, ((0, 0),) if alike else ())
    pairs = tuple(separable_axes(pattern, output, inputs))
    if pairs:
        return DiagonalBlocks(output, inputs, pairs)
    if output[:1] == inputs[:1] == (1,):
        return DiagonalBlocks(output, inputs, ((0, 0),))
    m, n = pattern.shape
    count = pattern.diagonal_blocks
    if count == 1 and pattern.shape != (1, 1):
        return None
    return DiagonalBlocks((count, m // count), (count, n // count), ((0, 0),))


def _index(shape: Sequence[int], axis: int) -> Indices:
    """Index along one axis of each element, numbered in row-major order."""
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    return np.tile(np.repeat(np.arange(shape[axis], dtype=np.int32), after), before)


def _is_diagonal(pattern: SparsityPattern, of_row: Indices, of_column: Indices) -> bool:
    """Whether row and column of every entry have the same index."""
    few = max(int(np.searchsorted(pattern.indptr, _FEW)), 1)
    return all(
        np.array_equal(
            np.repeat(of_row[:stop], pattern.row_counts[:stop]),
            of_column[pattern.indices[: pattern.indptr[stop]]],
        )
        for stop in (min(few, len(of_row)), len(of_row))
    )


def _numbers(shape: tuple[int, ...], first: Sequence[int]) -> Indices:
    """Number of each element once the axes `first` are moved to the front."""
    rest = [axis for axis in range(len(shape)) if axis not in first]
    order = np.arange(prod(shape)).reshape(shape).transpose(*first, *rest).reshape(-1)
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    return numbers
