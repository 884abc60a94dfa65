"""Problems on grids: differential equations, and what looks like them."""

from math import pi

import numpy as np
import torch
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern
from torchjac.testing.known import ColorCount, Scenario
from torchjac.testing.shapes import FIVE_POINTS, band, cyclic, neighbours, union

MGH = "Moré, Garbow & Hillstrom (1981), ACM Transactions on Mathematical Software 7(1), problem "


def brusselator(n: int) -> Scenario:
    """The Brusselator with diffusion on an n by n periodic grid: two species, 2 n^2 unknowns.

    du0 = a lap(u0) + B + u0^2 u1 - (A + 1) u0 and du1 = a lap(u1) + A u0 - u0^2 u1, with A = 3.4,
    B = 1, a = 10 / dx^2 and dx = 1 / (n - 1).

    Args:
        n: Cells along a side, at least 2.

    Returns:
        The scenario.
    """
    a = 10.0 * (n - 1) ** 2

    def lap(u: Tensor) -> Tensor:
        return u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1) - 4 * u

    def function(x: Tensor) -> Tensor:
        u0, u1 = x.view(n, n, 2).unbind(-1)
        cubic = u0**2 * u1
        du0 = a * lap(u0) + 1.0 + cubic - 4.4 * u0
        du1 = a * lap(u1) + 3.4 * u0 - cubic
        return torch.stack([du0, du1], -1).flatten()

    def pattern() -> SparsityPattern:
        cell, other = neighbours(n, FIVE_POINTS, periodic=True)
        each = np.arange(n * n)
        places = [(2 * cell + s, 2 * other + s) for s in (0, 1)]
        places += [(2 * each, 2 * each + 1), (2 * each + 1, 2 * each)]
        return union((2 * n * n, 2 * n * n), places)

    def derivative(x: Tensor) -> Tensor:
        u0, u1 = x.view(-1, 2).unbind(-1)
        eye = torch.eye(n, dtype=x.dtype)
        line = eye.roll(1, 0) + eye.roll(-1, 0) - 2 * eye
        diffusion = a * (torch.kron(line, eye) + torch.kron(eye, line))
        jac = x.new_zeros(n * n, 2, n * n, 2)
        jac[:, 0, :, 0] = diffusion + torch.diag(2 * u0 * u1 - 4.4)
        jac[:, 0, :, 1] = torch.diag(u0**2)
        jac[:, 1, :, 0] = torch.diag(3.4 - 2 * u0 * u1)
        jac[:, 1, :, 1] = diffusion - torch.diag(u0**2)
        return jac.view(2 * n * n, 2 * n * n)

    return Scenario(
        f"brusselator({n})",
        function,
        lambda: _brusselator_start(n),
        pattern,
        "Hairer & Wanner (1996), Solving Ordinary Differential Equations II, IV.10, periodic",
        derivative=derivative,
        color_counts=(_brusselator_colors(n),),
    )


def _brusselator_start(n: int) -> Tensor:
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    bump = (t * (1 - t)) ** 1.5
    u0, u1 = 22 * bump.expand(n, n) + 0.1, 27 * bump[:, None].expand(n, n) + 0.1
    return torch.stack([u0, u1], -1).flatten()


def _brusselator_colors(n: int) -> ColorCount:
    """Colors (i + 2 j + shift s) mod k; for these k no two columns of a row get the same one."""
    why = "a row holds 5 columns of one species and 1 of the other"
    shift_of = {6: 3, 7: 3, 8: 4}
    k = next((k for k in shift_of if n % k == 0), None)
    if k is None:
        return ColorCount("column", 6 if n > 2 else 4, why)
    i, j, species = np.unravel_index(np.arange(2 * n * n), (n, n, 2))
    colors = (i + 2 * j + shift_of[k] * species) % k
    return ColorCount("column", 6, why, lambda: colors)


def allen_cahn(n: int) -> Scenario:
    """The Allen-Cahn equation on a line, zero outside: lap(u) + u - u^3, n unknowns.

    Args:
        n: Points inside, at least 1.

    Returns:
        The scenario.
    """
    inverse = float(n + 1) ** 2

    def function(u: Tensor) -> Tensor:
        padded = torch.cat([u.new_zeros(1), u, u.new_zeros(1)])
        return (padded[:-2] - 2 * u + padded[2:]) * inverse + u - u**3

    def derivative(u: Tensor) -> Tensor:
        side = torch.full((n - 1,), inverse, dtype=u.dtype)
        middle = -2 * inverse + 1 - 3 * u**2
        return torch.diag(middle) + torch.diag(side, 1) + torch.diag(side, -1)

    return Scenario(
        f"allen_cahn({n})",
        function,
        lambda: torch.sin(pi * torch.arange(n, dtype=torch.float64) / n),
        lambda: band(n, 1, 1),
        "Allen & Cahn (1979), Acta Metallurgica 27(6)",
        derivative=derivative,
        color_counts=(_of_band(n, 3),),
    )


def _of_band(n: int, width: int) -> ColorCount:
    count = min(n, width)
    return ColorCount("column", count, "a row holds that many columns", cyclic(n, count))


def burgers(n: int) -> Scenario:
    """Burgers' equation on a circle: -u u' + .01 u'' by central differences, n unknowns.

    Args:
        n: Points, at least 3.

    Returns:
        The scenario.
    """
    first, second = n / 2.0, 0.01 * n**2

    def function(u: Tensor) -> Tensor:
        left, right = u.roll(1), u.roll(-1)
        return -u * (right - left) * first + (right - 2 * u + left) * second

    def pattern() -> SparsityPattern:
        i = np.arange(n)
        return union((n, n), [(i, (i + k) % n) for k in (-1, 0, 1)])

    def derivative(u: Tensor) -> Tensor:
        eye = torch.eye(n, dtype=u.dtype)
        left, right = eye.roll(-1, 1), eye.roll(1, 1)
        slope = (u.roll(-1) - u.roll(1)) * first
        sides = (second - u * first)[:, None] * right + (second + u * first)[:, None] * left
        return sides - torch.diag(slope + 2 * second)

    return Scenario(
        f"burgers({n})",
        function,
        lambda: torch.sin(2 * pi * torch.arange(n, dtype=torch.float64) / n) + 1.5,
        pattern,
        "Burgers (1948), Advances in Applied Mechanics 1",
        derivative=derivative,
        color_counts=(_of_circle(n),),
    )


def _of_circle(n: int) -> ColorCount:
    """Columns at distance 1 or 2 on a circle differ: threes, and a four for each one left over."""
    fours = n % 3
    threes = (n - 4 * fours) // 3
    why = "columns of one color are 3 apart on the circle, so at most n // 3 of n share one"
    colors = np.concatenate([np.tile(np.arange(3), max(threes, 0)), np.tile(np.arange(4), fours)])
    return ColorCount(
        "column", -(-n // (n // 3)), why, (lambda: colors) if threes >= 0 else cyclic(n, n)
    )


def convnet(n: int) -> Scenario:
    """Two 3 by 3 convolutions of an n by n image, 1 to 4 to 1 channels, each followed by tanh.

    Args:
        n: Pixels along a side, at least 1.

    Returns:
        The scenario.
    """
    weights = 0.3 * torch.sin(1 + torch.arange(36, dtype=torch.float64))
    w1, w2 = weights.view(4, 1, 3, 3), weights.view(1, 4, 3, 3)

    def function(x: Tensor) -> Tensor:
        image = x.view(1, 1, n, n)
        hidden = torch.tanh(torch.conv2d(image, w1.to(x.device, x.dtype), padding=1))
        result = torch.conv2d(hidden, w2.to(x.device, x.dtype), padding=1)
        return torch.tanh(result).flatten()

    window = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    side = min(n, 5)

    def colors() -> np.ndarray:
        i, j = np.divmod(np.arange(n * n), n)
        return i % side * side + j % side

    return Scenario(
        f"convnet({n})",
        function,
        lambda: torch.cos(0.1 * torch.arange(n * n, dtype=torch.float64)),
        lambda: SparsityPattern.from_coo((n * n, n * n), *neighbours(n, window)),
        "a convolutional network, weights .3 sin(1 + index)",
        color_counts=(ColorCount("column", side**2, "an output sees 5 by 5 pixels", colors),),
    )


def bratu(n: int) -> Scenario:
    """The solid fuel ignition problem -lap(u) = 5 exp(u) on a square, zero outside, times h^2.

    Args:
        n: Points inside along a side, at least 1.

    Returns:
        The scenario, n^2 unknowns.
    """
    h2 = 1.0 / (n + 1) ** 2

    def function(x: Tensor) -> Tensor:
        u = torch.nn.functional.pad(x.view(n, n), (1, 1, 1, 1))
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        return (4 * u[1:-1, 1:-1] - around).flatten() - 5 * h2 * torch.exp(x)

    def derivative(x: Tensor) -> Tensor:
        eye = torch.eye(n, dtype=x.dtype)
        line = 2 * eye - torch.diag(eye.new_ones(n - 1), 1) - torch.diag(eye.new_ones(n - 1), -1)
        laplacian = torch.kron(line, eye) + torch.kron(eye, line)
        return laplacian - torch.diag(5 * h2 * torch.exp(x))

    def colors() -> np.ndarray:
        i, j = np.divmod(np.arange(n * n), n)
        return (i + 2 * j) % 5

    lower = {1: 1, 2: 4}.get(n, 5)
    known = colors if n > 2 else cyclic(n * n, n * n)
    why = "a row inside holds 5 columns; of 2 by 2 points any two are neighbours of one"
    return Scenario(
        f"bratu({n})",
        function,
        lambda: torch.zeros(n * n, dtype=torch.float64),
        lambda: SparsityPattern.from_coo((n * n, n * n), *neighbours(n, FIVE_POINTS)),
        "Moré (1990), A collection of nonlinear model problems; Averick et al. (1992), MINPACK-2",
        derivative=derivative,
        color_counts=(ColorCount("column", lower, why, known),),
    )


def discrete_boundary_value(n: int) -> Scenario:
    """A two-point boundary value problem: 2 x_i - x_(i-1) - x_(i+1) + h^2 (x_i + t_i + 1)^3 / 2.

    Args:
        n: Unknowns, at least 1.

    Returns:
        The scenario.
    """
    h = 1.0 / (n + 1)

    def times(x: Tensor) -> Tensor:
        return h * torch.arange(1, n + 1, dtype=x.dtype, device=x.device)

    def function(x: Tensor) -> Tensor:
        left = torch.cat([x.new_zeros(1), x[:-1]])
        right = torch.cat([x[1:], x.new_zeros(1)])
        return 2 * x - left - right + h**2 * (x + times(x) + 1) ** 3 / 2

    def derivative(x: Tensor) -> Tensor:
        side = torch.full((n - 1,), -1.0, dtype=x.dtype)
        middle = 2 + 1.5 * h**2 * (x + times(x) + 1) ** 2
        return torch.diag(middle) + torch.diag(side, 1) + torch.diag(side, -1)

    def start() -> Tensor:
        t = h * torch.arange(1, n + 1, dtype=torch.float64)
        return t * (t - 1)

    return Scenario(
        f"discrete_boundary_value({n})",
        function,
        start,
        lambda: band(n, 1, 1),
        MGH + "28",
        derivative=derivative,
        color_counts=(_of_band(n, 3),),
    )


def broyden_tridiagonal(n: int) -> Scenario:
    """(3 - 2 x_i) x_i - x_(i-1) - 2 x_(i+1) + 1.

    Args:
        n: Unknowns, at least 1.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (1, 1))
        return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1

    def derivative(x: Tensor) -> Tensor:
        side = torch.full((n - 1,), -1.0, dtype=x.dtype)
        return torch.diag(3 - 4 * x) + torch.diag(side, -1) + torch.diag(2 * side, 1)

    return Scenario(
        f"broyden_tridiagonal({n})",
        function,
        lambda: torch.full((n,), -1.0, dtype=torch.float64),
        lambda: band(n, 1, 1),
        MGH + "30",
        derivative=derivative,
        color_counts=(_of_band(n, 3),),
    )


def broyden_banded(n: int) -> Scenario:
    """x_i (2 + 5 x_i^2) + 1 - sum of x_j (1 + x_j) over the five j before i and the one after.

    Args:
        n: Unknowns, at least 1.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        terms = torch.nn.functional.pad(x * (1 + x), (5, 1))
        around = sum(terms[k : k + n] for k in (0, 1, 2, 3, 4, 6))
        return x * (2 + 5 * x**2) + 1 - around

    def derivative(x: Tensor) -> Tensor:
        ones = torch.ones(n, n, dtype=x.dtype)
        beside = ones.triu(-5).tril(1) - torch.diag(ones[0])
        return torch.diag(2 + 15 * x**2) - beside * (1 + 2 * x)

    return Scenario(
        f"broyden_banded({n})",
        function,
        lambda: torch.full((n,), -1.0, dtype=torch.float64),
        lambda: band(n, 5, 1),
        MGH + "31",
        derivative=derivative,
        color_counts=(_of_band(n, 7),),
    )
