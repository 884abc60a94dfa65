"""The sparse problems in NumPy or JAX: the definitions of `torchjac.testing`, written again.

Each takes the array library, `numpy` or `jax.numpy`, and the sizes, as a user of either would write
them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[[Any], Any]


def brusselator(xp: Any, n: int) -> Function:
    a = 10.0 * (n - 1) ** 2

    def lap(u):
        shifted = xp.roll(u, 1, 0) + xp.roll(u, -1, 0) + xp.roll(u, 1, 1) + xp.roll(u, -1, 1)
        return shifted - 4 * u

    def function(x):
        u = x.reshape(n, n, 2)
        u0, u1 = u[..., 0], u[..., 1]
        cubic = u0**2 * u1
        du0 = a * lap(u0) + 1.0 + cubic - 4.4 * u0
        du1 = a * lap(u1) + 3.4 * u0 - cubic
        return xp.stack([du0, du1], -1).ravel()

    return function


def allen_cahn(xp: Any, n: int) -> Function:
    inverse = float(n + 1) ** 2

    def function(u):
        padded = xp.concatenate([xp.zeros(1, u.dtype), u, xp.zeros(1, u.dtype)])
        return (padded[:-2] - 2 * u + padded[2:]) * inverse + u - u**3

    return function


def burgers(xp: Any, n: int) -> Function:
    first, second = n / 2.0, 0.01 * n**2

    def function(u):
        left, right = xp.roll(u, 1), xp.roll(u, -1)
        return -u * (right - left) * first + (right - 2 * u + left) * second

    return function


def kernels() -> tuple[np.ndarray, np.ndarray]:
    """Weights of the two convolutions."""
    weights = 0.3 * np.sin(1 + np.arange(36.0))
    return weights.reshape(4, 1, 3, 3), weights.reshape(1, 4, 3, 3)


def rosenbrock(xp: Any, _n: int) -> Function:
    return lambda x: xp.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)


def arrow(xp: Any, _n: int) -> Function:
    def function(x):
        rest = x[1:]
        return xp.concatenate([xp.sum(x**2).reshape(1), rest**2 + x[0] * rest])

    return function


def seen(cameras: int, points: int, observations: int) -> tuple[np.ndarray, np.ndarray]:
    """Camera and point of each observation of `bundle`."""
    k = np.arange(observations)
    return k % cameras, k * points // observations


def bundle(xp: Any, cameras: int, points: int, observations: int) -> Function:
    by, of = seen(cameras, points, observations)

    def function(x):
        camera = x[: 9 * cameras].reshape(cameras, 9)[by]
        point = x[9 * cameras :].reshape(points, 3)[of]
        turn, shift, lens = camera[:, :3], camera[:, 3:6], camera[:, 6:]
        angle = xp.sqrt((turn**2).sum(1, keepdims=True))
        axis = turn / angle
        cos, sin = xp.cos(angle), xp.sin(angle)
        along = (axis * point).sum(1, keepdims=True) * axis
        moved = point * cos + xp.cross(axis, point) * sin + along * (1 - cos) + shift
        image = -moved[:, :2] / moved[:, 2:]
        r2 = (image**2).sum(1, keepdims=True)
        focal, first, second = lens[:, :1], lens[:, 1:2], lens[:, 2:]
        return (focal * (1 + first * r2 + second * r2**2) * image).ravel()

    return function


FAMILIES: dict[str, Callable[..., Function]] = {
    family.__name__: family
    for family in (brusselator, allen_cahn, burgers, rosenbrock, arrow, bundle)
}
