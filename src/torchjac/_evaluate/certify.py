"""Certificates: a random product of the sparse result against the same product of the function.

J v, taken from the entries, must be J v by forward mode, and J^T u the same by reverse mode. An
entry that the pattern lacks, or that was read from the wrong place, shows in its row and its
column with probability one.
"""

import torch
from torch import Tensor

from torchjac._pattern.pattern import Indices

# Rounding errors of a product, in units of the precision: of its own terms, and of the largest
# row, for intermediate values that cancel. Half precision is capped.
OWN_UNITS = 1000.0
COMMON_UNITS = 8.0
TOLERANCE_CAP = 0.1


def suspects(
    along: Indices, across: Indices, values: Tensor, vector: Tensor, product: Tensor, eps: float
) -> Tensor:
    """Rows in which a sparse matrix times a vector is not what it should be.

    Args:
        along: Row of each entry. With rows and columns exchanged, the columns are compared.
        across: Column of each entry.
        values: The entries.
        vector: v, one number for each column.
        product: J v from another source, one number for each row.
        eps: Precision of the arithmetic.

    Returns:
        Numbers of the rows, in order.

    >>> import numpy as np
    >>> rows, columns = np.array([0, 1]), np.array([0, 1])
    >>> v, values = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0])
    >>> suspects(rows, columns, values, v, torch.tensor([2.0, 4.0]), 1e-7).tolist()
    [1]
    """
    values, vector, product = values.detach(), vector.detach(), product.detach()
    rows = torch.from_numpy(along).to(values.device)
    terms = values * vector.to(values)[torch.from_numpy(across).to(values.device)]
    size = len(product)
    total = terms.new_zeros(size).index_add_(0, rows, terms)
    bound = terms.new_zeros(size).index_add_(0, rows, terms.abs())
    product = product.to(total)
    known = total.isfinite() & product.isfinite() & bound.isfinite()
    bound = torch.where(known, bound, 0)
    off = torch.where(known, (total - product).abs(), 0)
    largest = bound.max() if size else 0.0
    own = min(OWN_UNITS * eps, TOLERANCE_CAP)
    common = min(COMMON_UNITS * eps, TOLERANCE_CAP)
    return (off > own * bound + common * largest).nonzero().view(-1)
