"""Scalar functions whose Hessian is meant."""

import numpy as np
import torch
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern
from torchjac.testing import shapes
from torchjac.testing.known import ColorCount, Scenario
from torchjac.testing.shapes import band, cyclic

CUTEST = "Gould, Orban & Toint (2015), CUTEst, Computational Optimization and Applications 60(3), "


def rosenbrock(n: int) -> Scenario:
    """Sum of (1 - x_i)^2 + 100 (x_(i+1) - x_i^2)^2, tridiagonal.

    Args:
        n: Unknowns, at least 2.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()

    def derivative(x: Tensor) -> Tensor:
        middle = torch.zeros_like(x)
        middle[:-1] = 2 - 400 * (x[1:] - 3 * x[:-1] ** 2)
        middle[1:] += 200
        side = -400 * x[:-1]
        return torch.diag(middle) + torch.diag(side, 1) + torch.diag(side, -1)

    return Scenario(
        f"rosenbrock({n})",
        function,
        lambda: torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(n // 2 + 1)[:n],
        lambda: band(n, 1, 1),
        "Rosenbrock (1960), The Computer Journal 3(3), chained by Toint (1978)",
        hessian=True,
        derivative=derivative,
        color_counts=_of_chain(n),
    )


def chained_rosenbrock(n: int) -> Scenario:
    """Sum of 16 a_i^2 (x_(i-1) - x_i^2)^2 + (x_i - 1)^2 with a_i = sin(i) + 1.5, tridiagonal.

    Args:
        n: Unknowns, at least 2.

    Returns:
        The scenario.
    """

    def weights(x: Tensor) -> Tensor:
        i = torch.arange(2, n + 1, dtype=x.dtype, device=x.device)
        return 16 * (torch.sin(i) + 1.5) ** 2

    def function(x: Tensor) -> Tensor:
        return (weights(x) * (x[:-1] - x[1:] ** 2) ** 2 + (x[1:] - 1) ** 2).sum()

    def derivative(x: Tensor) -> Tensor:
        w = weights(x)
        middle = torch.zeros_like(x)
        middle[1:] = w * (12 * x[1:] ** 2 - 4 * x[:-1]) + 2
        middle[:-1] += 2 * w
        side = -4 * w * x[1:]
        return torch.diag(middle) + torch.diag(side, 1) + torch.diag(side, -1)

    return Scenario(
        f"chained_rosenbrock({n})",
        function,
        lambda: torch.full((n,), -1.0, dtype=torch.float64),
        lambda: band(n, 1, 1),
        CUTEST + "CHNRSNBM",
        hessian=True,
        derivative=derivative,
        color_counts=_of_chain(n),
    )


def _of_chain(n: int) -> tuple[ColorCount, ColorCount]:
    count = 2 if n < 4 else 3
    star = ColorCount("star", count, "a path on 4 vertices has 3 colors", cyclic(n, count))
    return star, ColorCount("acyclic", 2, "neighbours differ", cyclic(n, 2))


def arrowhead(n: int) -> Scenario:
    """ARROWHEAD: sum over i < n of (x_i^2 + x_n^2)^2 - 4 x_i + 3.

    Args:
        n: Unknowns, at least 2.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        rest, last = x[:-1], x[-1]
        return ((rest**2 + last**2) ** 2 - 4 * rest + 3).sum()

    def derivative(x: Tensor) -> Tensor:
        rest, last = x[:-1], x[-1]
        hess = torch.diag(12 * x**2 + 4 * last**2)
        hess[:-1, -1] = hess[-1, :-1] = 8 * rest * last
        hess[-1, -1] = (4 * rest**2 + 12 * last**2).sum()
        return hess

    return Scenario(
        f"arrowhead({n})",
        function,
        lambda: torch.ones(n, dtype=torch.float64),
        lambda: shapes.arrow(n, n - 1),
        CUTEST + "ARWHEAD",
        hessian=True,
        derivative=derivative,
        color_counts=_of_arrow(n, n - 1),
    )


def liarwhd(n: int) -> Scenario:
    """LIARWHD: sum of 4 (x_i^2 - x_1)^2 + (x_i - 1)^2.

    Args:
        n: Unknowns, at least 2.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        return (4 * (x**2 - x[0]) ** 2 + (x - 1) ** 2).sum()

    def derivative(x: Tensor) -> Tensor:
        hess = torch.diag(48 * x**2 - 16 * x[0] + 2)
        hess[0, 1:] = hess[1:, 0] = -16 * x[1:]
        hess[0, 0] = 8 * (n - 1) + 48 * x[0] ** 2 - 48 * x[0] + 10
        return hess

    return Scenario(
        f"liarwhd({n})",
        function,
        lambda: torch.full((n,), 4.0, dtype=torch.float64),
        lambda: shapes.arrow(n, 0),
        CUTEST + "LIARWHD",
        hessian=True,
        derivative=derivative,
        color_counts=_of_arrow(n, 0),
    )


def _of_arrow(n: int, head: int) -> tuple[ColorCount, ColorCount]:
    def colors() -> np.ndarray:
        return (np.arange(n) == head).astype(int)

    why = "the head and the rest differ"
    return ColorCount("star", 2, why, colors), ColorCount("acyclic", 2, why, colors)


def bdqrtic(n: int) -> Scenario:
    """BDQRTIC: quartics of four neighbours and the last unknown, banded with a dense border.

    Sum over i <= n - 4 of (3 - 4 x_i)^2 + (x_i^2 + 2 x_(i+1)^2 + 3 x_(i+2)^2 + 4 x_(i+3)^2
    + 5 x_n^2)^2.

    Args:
        n: Unknowns, at least 5.

    Returns:
        The scenario.
    """
    terms = n - 4

    def function(x: Tensor) -> Tensor:
        squares = x**2
        inner = sum((k + 1) * squares[k : k + terms] for k in range(4)) + 5 * squares[-1]
        return ((3 - 4 * x[:terms]) ** 2 + inner**2).sum()

    def pattern() -> SparsityPattern:
        within = band(n - 1, 3, 3)
        every, last = np.arange(n), np.full(n, n - 1)
        places = [(within.rows, within.indices), (every, last), (last, every)]
        return shapes.union((n, n), places)

    def derivative(x: Tensor) -> Tensor:
        weights = x.new_zeros(terms, n)
        for k in range(4):
            weights[:, k : k + terms] += (k + 1) * torch.eye(terms, dtype=x.dtype)
        weights[:, -1] += 5
        inner = weights @ x**2
        slopes = 2 * weights * x
        hess = 2 * slopes.T @ slopes + torch.diag(4 * weights.T @ inner)
        hess[range(terms), range(terms)] += 32
        return hess

    def colors() -> np.ndarray:
        return np.append(np.arange(n - 1) % 4, 4)

    why = "four neighbours and the last are all joined"
    return Scenario(
        f"bdqrtic({n})",
        function,
        lambda: torch.ones(n, dtype=torch.float64),
        pattern,
        CUTEST + "BDQRTIC",
        hessian=True,
        derivative=derivative,
        color_counts=(ColorCount("star", 5, why), ColorCount("acyclic", 5, why, colors)),
    )
