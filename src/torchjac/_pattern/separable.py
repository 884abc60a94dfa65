"""Axes that never mix: where the same index of output and input meet, and no others."""

from collections.abc import Sequence

import numpy as np

from torchjac._pattern.pattern import SparsityPattern


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
    rows, columns = pattern.rows, pattern.indices
    left = set(range(len(inputs)))
    for a, length in enumerate(output):
        index = _index(rows, output, a)
        for b in sorted(left):
            if inputs[b] == length > 1 and np.array_equal(index, _index(columns, inputs, b)):
                pairs.append((a, b))
                left.remove(b)
                break
    return pairs


def _index(numbers: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
    """Index along one axis of elements numbered in row-major order."""
    inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
    return numbers // inner % shape[axis]
