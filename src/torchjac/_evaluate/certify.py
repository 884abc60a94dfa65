"""Certificates: a random product of the sparse result against the same product of the function.

J v, taken from the entries, must be J v by forward mode, and J^T u the same by reverse mode. An
entry that the pattern lacks, or that was read from the wrong place, shows in its row and its
column with probability one.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern

# Rounding errors of a product, in units of the precision: of its own terms, and of the largest
# row, for intermediate values that cancel. Half precision is capped.
OWN_UNITS = 1000.0
COMMON_UNITS = 8.0
TOLERANCE_CAP = 0.1


def suspects(
    pattern: SparsityPattern,
    values: Tensor,
    vector: Tensor,
    product: Tensor,
    eps: float,
    *,
    floor: float = 0.0,
    slack: Tensor | None = None,
    transposed: bool = False,
) -> Tensor:
    """Rows in which a sparse matrix times a vector is not what it should be.

    Args:
        pattern: Places of the entries.
        values: The entries.
        vector: v, one number for each column.
        product: J v from another source, one number for each row.
        eps: Precision of the arithmetic.
        floor: A size of entries that rounding may leave where they should be zero, in units of
            the precision.
        slack: What more is let pass, for each row.
        transposed: Compare J^T with its product instead, column by column.

    Returns:
        Numbers of the rows (columns, if transposed), in order, on the CPU.

    >>> pattern = SparsityPattern.from_dense(np.eye(2))
    >>> v, values = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0])
    >>> suspects(pattern, values, v, torch.tensor([2.0, 4.0]), 1e-7).tolist()
    [1]
    """
    numbers, v, true = _array(values), _array(vector), _array(product)
    with np.errstate(all="ignore"):  # what is not finite is left out below
        total = _times(pattern, numbers, v, transposed=transposed)
        bound = _times(pattern, np.abs(numbers), np.abs(v), transposed=transposed)
        known = np.isfinite(total) & np.isfinite(true) & np.isfinite(bound)
        off = np.where(known, np.abs(total - true), 0.0)
        # Entries that are not finite cannot give a product that is.
        off[np.isfinite(true) & ~np.isfinite(total)] = np.inf
    bound = np.where(known, bound, 0.0)
    own = min(OWN_UNITS * eps, TOLERANCE_CAP)
    common = min(COMMON_UNITS * eps, TOLERANCE_CAP)
    allowed = own * bound + common * bound.max(initial=floor)
    if slack is not None:
        allowed = allowed + _array(slack)
    return torch.from_numpy(np.flatnonzero(off > allowed))


def _times(
    pattern: SparsityPattern,
    values: NDArray[np.float64],
    v: NDArray[np.float64],
    *,
    transposed: bool,
) -> NDArray[np.float64]:
    matrix = pattern.to_scipy(values)
    return (matrix.T if transposed else matrix) @ v


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().to("cpu", torch.float64).numpy()
