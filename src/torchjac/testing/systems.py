"""Problems without a grid: dense rows, blocks, and entries gathered by index."""

from math import sqrt

import numpy as np
import torch
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern
from torchjac.testing import shapes
from torchjac.testing.known import ColorCount, Scenario
from torchjac.testing.shapes import cyclic
from torchjac.testing.stencils import MGH


def arrow(n: int) -> Scenario:
    """f_0 = sum of x_i^2 and f_i = x_i^2 + x_0 x_i: a dense row and a dense column.

    Args:
        n: Unknowns, at least 2.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        rest = x[1:]
        return torch.cat([(x**2).sum().reshape(1), rest**2 + x[0] * rest])

    def derivative(x: Tensor) -> Tensor:
        jac = torch.diag(2 * x + x[0])
        jac[:, 0], jac[0] = x, 2 * x
        return jac

    return Scenario(
        f"arrow({n})",
        function,
        lambda: torch.linspace(1, 2, n, dtype=torch.float64),
        lambda: shapes.arrow(n, 0),
        "an arrow: either side alone needs n colors, both together 3",
        derivative=derivative,
        color_counts=(
            ColorCount("column", n, "the first row is dense", cyclic(n, n)),
            ColorCount("row", n, "the first column is dense", cyclic(n, n)),
        ),
    )


def bundle(cameras: int, points: int, observations: int) -> Scenario:
    """Bundle adjustment: points seen by cameras, projected into their images.

    A camera has 9 numbers: rotation vector, translation, focal length and two terms of radial
    distortion; a point has 3. Observation k is of point k p // o by camera k mod c. The unknowns
    are all cameras, then all points; the outputs are the image coordinates of each observation.

    Args:
        cameras: How many, c.
        points: How many, p.
        observations: How many, o, at most min(o // p, c) distinct cameras for each point.

    Returns:
        The scenario, 9 c + 3 p unknowns and 2 o outputs.
    """
    k = np.arange(observations)
    seen_by, seen = k % cameras, k * points // observations
    by, of = torch.from_numpy(seen_by), torch.from_numpy(seen)

    def function(x: Tensor) -> Tensor:
        rows = x[: 9 * cameras].view(cameras, 9)[by.to(x.device)]
        places = x[9 * cameras :].view(points, 3)[of.to(x.device)]
        return _project(rows, places).flatten()

    def start() -> Tensor:
        c = torch.arange(cameras, dtype=torch.float64)[:, None]
        p = torch.arange(points, dtype=torch.float64)[:, None]
        three = torch.arange(3, dtype=torch.float64)
        turns = 0.1 + 0.05 * torch.sin(c + three)
        shifts = 0.2 * torch.cos(2 * c + three) - torch.tensor([0.0, 0.0, 5.0])
        lens = torch.tensor([1.5, 0.05, 0.01], dtype=torch.float64) + 0.01 * torch.sin(c)
        where = torch.sin(1 + 3 * p + 2 * three)
        return torch.cat([torch.cat([turns, shifts, lens], 1).flatten(), where.flatten()])

    def pattern() -> SparsityPattern:
        unknowns = np.concatenate(
            [9 * seen_by[:, None] + np.arange(9), 9 * cameras + 3 * seen[:, None] + np.arange(3)], 1
        )
        shape = (2 * observations, 9 * cameras + 3 * points)
        columns = np.repeat(unknowns, 2, axis=0)
        return SparsityPattern.from_coo(shape, np.repeat(np.arange(shape[0]), 12), columns.ravel())

    return Scenario(
        f"bundle({cameras}, {points}, {observations})",
        function,
        start,
        pattern,
        "Agarwal, Snavely, Seitz & Szeliski (2010), Bundle adjustment in the large, ECCV",
        color_counts=(ColorCount("column", 12, "a row holds a camera and a point"),),
    )


def _project(camera: Tensor, point: Tensor) -> Tensor:
    """Image coordinates, shape (o, 2), of points (o, 3) in cameras (o, 9) that look down -z."""
    turn, shift, lens = camera[:, :3], camera[:, 3:6], camera[:, 6:]
    angle = (turn**2).sum(1, keepdim=True).sqrt()
    axis = turn / angle
    cos, sin = torch.cos(angle), torch.sin(angle)
    along = (axis * point).sum(1, keepdim=True) * axis
    turned = point * cos + torch.linalg.cross(axis, point) * sin + along * (1 - cos)
    moved = turned + shift
    image = -moved[:, :2] / moved[:, 2:]
    r2 = (image**2).sum(1, keepdim=True)
    focal, first, second = lens.split(1, dim=1)
    return focal * (1 + first * r2 + second * r2**2) * image


def extended_rosenbrock(n: int) -> Scenario:
    """f_(2i-1) = 10 (x_(2i) - x_(2i-1)^2) and f_(2i) = 1 - x_(2i-1).

    Args:
        n: Unknowns, a multiple of 2.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        odd, even = x.view(-1, 2).unbind(1)
        return torch.stack([10 * (even - odd**2), 1 - odd], 1).flatten()

    def pattern() -> SparsityPattern:
        odd = np.arange(0, n, 2)
        return shapes.union((n, n), [(odd, odd), (odd, odd + 1), (odd + 1, odd)])

    def derivative(x: Tensor) -> Tensor:
        ten, one = torch.full_like(x[::2], 10.0), torch.full_like(x[::2], -1.0)
        blocks = torch.stack([-20 * x[::2], ten, one, 0 * one], 1).view(-1, 2, 2)
        return torch.block_diag(*blocks)

    return Scenario(
        f"extended_rosenbrock({n})",
        function,
        lambda: torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(n // 2),
        pattern,
        MGH + "21",
        derivative=derivative,
        color_counts=(ColorCount("column", 2, "a row holds 2 columns", cyclic(n, 2)),),
    )


def extended_powell(n: int) -> Scenario:
    """Powell's singular function, four unknowns at a time.

    x_1 + 10 x_2, sqrt(5) (x_3 - x_4), (x_2 - 2 x_3)^2, sqrt(10) (x_1 - x_4)^2

    Args:
        n: Unknowns, a multiple of 4.

    Returns:
        The scenario.
    """

    def function(x: Tensor) -> Tensor:
        x1, x2, x3, x4 = x.view(-1, 4).unbind(1)
        f1, f2 = x1 + 10 * x2, sqrt(5) * (x3 - x4)
        f3, f4 = (x2 - 2 * x3) ** 2, sqrt(10) * (x1 - x4) ** 2
        return torch.stack([f1, f2, f3, f4], 1).flatten()

    def pattern() -> SparsityPattern:
        rows, columns = np.repeat(np.arange(4), 2), np.array([0, 1, 2, 3, 1, 2, 0, 3])
        firsts = np.arange(0, n, 4)[:, None]
        return SparsityPattern.from_coo((n, n), (firsts + rows).ravel(), (firsts + columns).ravel())

    def derivative(x: Tensor) -> Tensor:
        jac = x.new_zeros(n // 4, 4, 4)
        x1, x2, x3, x4 = x.view(-1, 4).unbind(1)
        jac[:, 0, :2] = torch.tensor([1.0, 10.0], dtype=x.dtype)
        jac[:, 1, 2:] = torch.tensor([sqrt(5), -sqrt(5)], dtype=x.dtype)
        inner, outer = 2 * (x2 - 2 * x3), 2 * sqrt(10) * (x1 - x4)
        jac[:, 2, 1], jac[:, 2, 2] = inner, -2 * inner
        jac[:, 3, 0], jac[:, 3, 3] = outer, -outer
        return torch.block_diag(*jac)

    def colors() -> np.ndarray:
        return np.tile([0, 1, 0, 1], n // 4)

    return Scenario(
        f"extended_powell({n})",
        function,
        lambda: torch.tensor([3.0, -1.0, 0.0, 1.0], dtype=torch.float64).repeat(n // 4),
        pattern,
        MGH + "22",
        derivative=derivative,
        color_counts=(ColorCount("column", 2, "a row holds 2 columns", colors),),
    )


def variably_dimensioned(n: int) -> Scenario:
    """x_j - 1 for each j, the sum s of j (x_j - 1), and s^2: n + 2 outputs, two rows dense.

    Args:
        n: Unknowns, at least 1.

    Returns:
        The scenario.
    """

    def numbers(x: Tensor) -> Tensor:
        return torch.arange(1, n + 1, dtype=x.dtype, device=x.device)

    def function(x: Tensor) -> Tensor:
        total = (numbers(x) * (x - 1)).sum().reshape(1)
        return torch.cat([x - 1, total, total**2])

    def pattern() -> SparsityPattern:
        each = np.arange(n)
        dense = [(np.full(n, row), each) for row in (n, n + 1)]
        return shapes.union((n + 2, n), [(each, each), *dense])

    def derivative(x: Tensor) -> Tensor:
        j = numbers(x)
        return torch.cat([torch.eye(n, dtype=x.dtype), j[None], (2 * (j @ (x - 1)) * j)[None]])

    def colors() -> np.ndarray:
        return np.concatenate([np.zeros(n, int), [1, 2]])

    return Scenario(
        f"variably_dimensioned({n})",
        function,
        lambda: 1 - torch.arange(1, n + 1, dtype=torch.float64) / n,
        pattern,
        MGH + "25",
        derivative=derivative,
        color_counts=(
            ColorCount("column", n, "two rows are dense", cyclic(n, n)),
            ColorCount("row", 3, "a column meets the diagonal and two dense rows", colors),
        ),
    )


def chandrasekhar(n: int) -> Scenario:
    """The discretised H equation H_i = 1 / (1 - c/(2n) sum of mu_i H_j / (mu_i + mu_j)), c = .9.

    With mu_i = (i - 1/2) / n; every entry of the Jacobian is nonzero.

    Args:
        n: Unknowns, at least 1.

    Returns:
        The scenario.
    """

    def kernel(x: Tensor) -> Tensor:
        mu = (torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n
        return 0.9 / (2 * n) * mu[:, None] / (mu[:, None] + mu)

    def function(x: Tensor) -> Tensor:
        return x - 1 / (1 - kernel(x) @ x)

    def derivative(x: Tensor) -> Tensor:
        a = kernel(x)
        return torch.eye(n, dtype=x.dtype) - a / (1 - a @ x)[:, None] ** 2

    return Scenario(
        f"chandrasekhar({n})",
        function,
        lambda: torch.ones(n, dtype=torch.float64),
        lambda: shapes.full(n, n),
        "Kelley (1995), Iterative Methods for Linear and Nonlinear Equations, section 5.6",
        derivative=derivative,
        color_counts=(ColorCount("column", n, "every row is dense", cyclic(n, n)),),
    )
