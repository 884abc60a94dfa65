"""A Jacobian that is the same everywhere: kept, and held against one product on every use."""

from torch import Tensor

from torchjac._evaluate.certify import suspects
from torchjac._pattern.pattern import SparsityPattern


def still_holds(
    pattern: SparsityPattern,
    values: Tensor,
    vector: Tensor,
    product: Tensor,
    eps: float,
    *,
    transposed: bool,
) -> bool:
    """Whether entries that were computed once are those of the function as it is now.

    A coefficient that the function holds may have been changed since, which only the function
    itself can tell; one product costs less than all columns.

    Args:
        pattern: Places of the entries.
        values: The entries.
        vector: v, or u.
        product: J v, or J^T u, taken now.
        eps: Precision of the function.
        transposed: Whether it is the latter.

    Returns:
        Whether they agree.
    """
    along, across = pattern.rows, pattern.indices
    if transposed:
        along, across = across, along
    return len(suspects(along, across, values, vector, product, eps)) == 0
