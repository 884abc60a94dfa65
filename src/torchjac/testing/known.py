"""A function together with everything about its derivative that is known without computing it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern


@dataclass(frozen=True)
class ColorCount:
    """How many colors a pattern needs.

    Attributes:
        kind: "column" or "row" (partial distance-2), "star" or "acyclic" (of a Hessian).
        lower: A number of colors below which no coloring is valid.
        why: The reason for that bound.
        witness: Makes a valid coloring, an integer for each vertex, or None where none is known
            in closed form.
    """

    kind: str
    lower: int
    why: str
    witness: Callable[[], NDArray[Any]] | None = None


@dataclass(frozen=True)
class Scenario:
    """A function of a flat vector, with its pattern and its derivative from mathematics.

    Nothing here comes from the engine: patterns are derived by hand, so that they can judge it.

    Attributes:
        name: Family and sizes, "burgers(1000)".
        function: Takes a vector of shape (n,), of float64 or float32; returns a vector of shape
            (m,), or a scalar if the Hessian is meant.
        start: Makes the standard starting point, float64, shape (n,).
        derive_pattern: Makes the pattern, shape (m, n) or (n, n).
        source: Where the problem is from.
        hessian: Whether the derivative meant is the Hessian.
        derivative: The dense Jacobian or Hessian at a point, by a formula of its own, where that
            is short.
        color_counts: What is known of its coloring.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    start: Callable[[], Tensor]
    derive_pattern: Callable[[], SparsityPattern]
    source: str
    hessian: bool = False
    derivative: Callable[[Tensor], Tensor] | None = None
    color_counts: tuple[ColorCount, ...] = field(default=())

    def x(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """The starting point.

        Args:
            dtype: Of the tensor.
            device: Of the tensor.

        Returns:
            A new tensor, shape (n,).
        """
        return self.start().to(device, dtype)

    @cached_property
    def pattern(self) -> SparsityPattern:
        """Entries of the Jacobian or Hessian that are nonzero at some point, made on first use."""
        return self.derive_pattern()
