"""The problems of `benchmarks.sparse` in JAX, solved by asdex in a process of its own.

Run by the interpreter of an environment that holds asdex and jax. The definitions are those of
`torchjac.testing`, written again as a user of JAX would.
"""

from collections.abc import Callable
from typing import Any

import asdex
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.alone import Side, serve

Function = Callable[[Any], Any]


def brusselator(n: int) -> Function:
    a = 10.0 * (n - 1) ** 2

    def lap(u):
        shifted = jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1)
        return shifted - 4 * u

    def function(x):
        u = x.reshape(n, n, 2)
        u0, u1 = u[..., 0], u[..., 1]
        cubic = u0**2 * u1
        du0 = a * lap(u0) + 1.0 + cubic - 4.4 * u0
        du1 = a * lap(u1) + 3.4 * u0 - cubic
        return jnp.stack([du0, du1], -1).ravel()

    return function


def allen_cahn(n: int) -> Function:
    inverse = float(n + 1) ** 2

    def function(u):
        padded = jnp.concatenate([jnp.zeros(1, u.dtype), u, jnp.zeros(1, u.dtype)])
        return (padded[:-2] - 2 * u + padded[2:]) * inverse + u - u**3

    return function


def burgers(n: int) -> Function:
    first, second = n / 2.0, 0.01 * n**2

    def function(u):
        left, right = jnp.roll(u, 1), jnp.roll(u, -1)
        return -u * (right - left) * first + (right - 2 * u + left) * second

    return function


def convnet(n: int) -> Function:
    weights = 0.3 * np.sin(1 + np.arange(36.0))
    w1, w2 = weights.reshape(4, 1, 3, 3), weights.reshape(1, 4, 3, 3)

    def conv(image, kernel):
        kernel = jnp.asarray(kernel, image.dtype)
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME")

    def function(x):
        hidden = jnp.tanh(conv(x.reshape(1, 1, n, n), w1))
        return jnp.tanh(conv(hidden, w2)).ravel()

    return function


def rosenbrock(_n: int) -> Function:
    return lambda x: ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def arrow(_n: int) -> Function:
    def function(x):
        rest = x[1:]
        return jnp.concatenate([(x**2).sum().reshape(1), rest**2 + x[0] * rest])

    return function


def bundle(cameras: int, points: int, observations: int) -> Function:
    k = np.arange(observations)
    by, of = k % cameras, k * points // observations

    def function(x):
        camera = x[: 9 * cameras].reshape(cameras, 9)[by]
        point = x[9 * cameras :].reshape(points, 3)[of]
        turn, shift, lens = camera[:, :3], camera[:, 3:6], camera[:, 6:]
        angle = jnp.sqrt((turn**2).sum(1, keepdims=True))
        axis = turn / angle
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        along = (axis * point).sum(1, keepdims=True) * axis
        moved = point * cos + jnp.cross(axis, point) * sin + along * (1 - cos) + shift
        image = -moved[:, :2] / moved[:, 2:]
        r2 = (image**2).sum(1, keepdims=True)
        focal, first, second = lens[:, :1], lens[:, 1:2], lens[:, 2:]
        return (focal * (1 + first * r2 + second * r2**2) * image).ravel()

    return function


PROBLEMS = (brusselator, allen_cahn, burgers, convnet, rosenbrock, arrow, bundle)
HESSIANS = {"rosenbrock"}


def asdex_side(name: str) -> Side:
    if name in HESSIANS:
        detect, color = asdex.hessian_sparsity, asdex.hessian_coloring_from_sparsity
        derivative = asdex.hessian_from_coloring
    else:
        detect, color = asdex.jacobian_sparsity, asdex.jacobian_coloring_from_sparsity
        derivative = asdex.jacobian_from_coloring
    return Side(
        problem={problem.__name__: problem for problem in PROBLEMS}[name],
        array=_array,
        prepare=lambda problem, x: color(detect(problem, x)),
        evaluator=lambda problem, coloring: _compiled(derivative(problem, coloring)),
        function=_compiled,
        entries=lambda matrix: (*np.asarray(matrix.indices).T, np.asarray(matrix.data)),
        facts=lambda coloring: {"passes": int(coloring.num_colors), "how": "jit"},
    )


def _array(start: np.ndarray) -> jax.Array:
    jax.config.update("jax_enable_x64", start.dtype == np.float64)
    return jnp.asarray(start)


def _compiled(function: Function) -> Function:
    compiled = jax.jit(function)
    return lambda x: jax.block_until_ready(compiled(x))


if __name__ == "__main__":
    serve(asdex_side)
