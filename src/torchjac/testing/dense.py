"""A slow independent checker: patterns from dense derivatives."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import hessian as dense_hessian
from torch.func import jacrev

from torchjac._pattern.pattern import SparsityPattern


def dense_pattern(
    function: Callable[[Tensor], Tensor], x: Tensor, *, hessian: bool = False, points: int = 3
) -> SparsityPattern:
    """Entries of a Jacobian or Hessian that are nonzero at `x` or at random points around it.

    Row by row in double precision by PyTorch's own reverse mode, without any structure: memory
    grows with m n, and an entry that vanishes at every point tried is missed.

    Args:
        function: Takes and returns a tensor; a scalar if the Hessian is meant.
        x: Where, of any shape.
        hessian: Take the Hessian.
        points: Random points beside `x`, each entry moved by about a tenth of 1 + its size.

    Returns:
        The pattern over flattened output and input.

    >>> dense_pattern(lambda x: x * x[0], torch.ones(3)).nnz
    5
    """
    generator = torch.Generator().manual_seed(0)
    middle = x.detach().double().cpu()
    found: NDArray[Any] | None = None
    for k in range(points + 1):
        noise = torch.randn(middle.shape, generator=generator, dtype=torch.float64)
        point = (middle + (0.1 * noise * (1 + middle.abs()) if k else 0)).to(x.device)
        matrix = (dense_hessian if hessian else jacrev)(function)(point)
        nonzero = (matrix.reshape(-1, x.numel()) != 0).cpu().numpy()
        found = nonzero if found is None else found | nonzero
    return SparsityPattern.from_dense(found)
