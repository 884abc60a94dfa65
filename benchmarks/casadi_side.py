"""A process in which CasADi differentiates the problems that its symbols can express."""

from collections.abc import Callable
from functools import partial
from typing import Any

import casadi as ca
import numpy as np
from scipy import sparse

from benchmarks.alone import timed
from benchmarks.arm import ARM
from benchmarks.arrays import seen
from benchmarks.compare import DENSE, SPARSE
from benchmarks.model import CASADI
from benchmarks.peer_process import AbsentError, Solution, serve
from benchmarks.request import Asked

# Unknowns from which on building scalar expressions takes minutes.
MOST_UNKNOWNS = 200_000


def brusselator(n: int) -> ca.Function:
    x = ca.SX.sym("x", 2 * n * n)
    a = 10.0 * (n - 1) ** 2
    # Columns come first in CasADi: cell (i, j) is element (j, i) here, which the stencil ignores.
    both = ca.reshape(x, 2, n * n)
    u0, u1 = ca.reshape(both[0, :], n, n), ca.reshape(both[1, :], n, n)

    def lap(u):
        down, up = ca.vertcat(u[-1, :], u[:-1, :]), ca.vertcat(u[1:, :], u[0, :])
        right, left = ca.horzcat(u[:, -1], u[:, :-1]), ca.horzcat(u[:, 1:], u[:, 0])
        return down + up + right + left - 4 * u

    cubic = u0**2 * u1
    du0 = a * lap(u0) + 1.0 + cubic - 4.4 * u0
    du1 = a * lap(u1) + 3.4 * u0 - cubic
    rows = ca.vertcat(ca.reshape(du0, 1, n * n), ca.reshape(du1, 1, n * n))
    return _jacobian(x, ca.reshape(rows, 2 * n * n, 1))


def allen_cahn(n: int) -> ca.Function:
    u = ca.SX.sym("u", n)
    padded = ca.vertcat(0, u, 0)
    return _jacobian(u, (padded[:-2] - 2 * u + padded[2:]) * float(n + 1) ** 2 + u - u**3)


def burgers(n: int) -> ca.Function:
    u = ca.SX.sym("u", n)
    left, right = ca.vertcat(u[-1], u[:-1]), ca.vertcat(u[1:], u[0])
    slope, bend = (right - left) * (n / 2.0), (right - 2 * u + left) * (0.01 * n**2)
    return _jacobian(u, -u * slope + bend)


def rosenbrock(n: int) -> ca.Function:
    x = ca.SX.sym("x", n)
    value = ca.sum1((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)
    return ca.Function("derivative", [x], [ca.hessian(value, x)[0]])


def arrow(n: int) -> ca.Function:
    x = ca.SX.sym("x", n)
    return _jacobian(x, ca.vertcat(ca.sum1(x**2), x[1:] ** 2 + x[0] * x[1:]))


def bundle(cameras: int, points: int, observations: int) -> ca.Function:
    by, of = seen(cameras, points, observations)
    camera, point = ca.SX.sym("camera", 9), ca.SX.sym("point", 3)
    turn, shift, focal, first, second = ca.vertsplit(camera, [0, 3, 6, 7, 8, 9])
    angle = ca.norm_2(turn)
    axis = turn / angle
    along = ca.dot(axis, point) * axis
    turned = point * ca.cos(angle) + ca.cross(axis, point) * ca.sin(angle)
    moved = turned + along * (1 - ca.cos(angle)) + shift
    image = -moved[:2] / moved[2]
    r2 = ca.sumsqr(image)
    one = ca.Function("one", [camera, point], [focal * (1 + first * r2 + second * r2**2) * image])
    x = ca.MX.sym("x", 9 * cameras + 3 * points)
    all_cameras = ca.reshape(x[: 9 * cameras], 9, cameras)[:, by.tolist()]
    all_points = ca.reshape(x[9 * cameras :], 3, points)[:, of.tolist()]
    return _jacobian(x, ca.vec(one.map(observations)(all_cameras, all_points)))


def robot() -> ca.Function:
    """Positions of the hand by the angles, (3, 6)."""
    q = ca.SX.sym("q", 6)
    pose = ca.SX.eye(4)
    for joint, (twist, length, offset) in enumerate(ARM):
        cos, sin = ca.cos(q[joint]), ca.sin(q[joint])
        level, upright = float(twist == 0), float(twist)
        pose = pose @ ca.vertcat(
            ca.horzcat(cos, -sin * level, sin * upright, length * cos),
            ca.horzcat(sin, cos * level, -cos * upright, length * sin),
            ca.horzcat(0, upright, level, offset),
            ca.horzcat(0, 0, 0, 1),
        )
    return ca.Function("one", [q], [ca.densify(ca.jacobian(pose[:3, 3], q))])


def _jacobian(x: Any, y: Any) -> ca.Function:
    return ca.Function("derivative", [x], [ca.jacobian(y, x)])


SPARSE_ONES: dict[str, Callable[..., ca.Function]] = {
    problem.__name__: problem
    for problem in (brusselator, allen_cahn, burgers, rosenbrock, arrow, bundle)
}


def solve(asked: Asked, x: np.ndarray, expected: Any) -> Solution:
    if asked.name == "convnet":
        raise AbsentError("has no convolution")
    if asked.sizes and x.dtype != np.float64:
        raise AbsentError("works in double precision only")
    if x.size > MOST_UNKNOWNS:
        raise AbsentError(f"not run above {MOST_UNKNOWNS:,} unknowns: its expressions are scalar")
    if asked.sizes:
        make, copies = partial(SPARSE_ONES[asked.name], *asked.sizes), 1
    else:
        make, copies = robot, int(asked.name.partition("/")[2])
    one, made_s = timed(make)
    derivative = one if copies == 1 else one.map(copies)
    places = derivative.sparsity_out(0)
    given, result = np.ascontiguousarray(x, float).ravel(), np.zeros(places.nnz())
    buffer, trigger = derivative.buffer()
    buffer.set_arg(0, memoryview(given))
    buffer.set_res(0, memoryview(result))

    def call(_kept: Any = (derivative, buffer, given)) -> np.ndarray:
        trigger()
        return result

    def answer(values: np.ndarray) -> Any:
        if not asked.sizes:
            return _samples(values.reshape(places.shape, order="F"), expected.shape)
        rows, columns = places.get_triplet()
        return sparse.coo_array((values, (rows, columns)), shape=places.shape).tocsr()

    tolerance = SPARSE["float64"] if asked.sizes else DENSE[str(x.dtype)]
    how = "its own virtual machine, into a buffer"
    return Solution(
        call=call,
        once={"expressions": made_s},
        answer=answer,
        work=f"{one.n_instructions() * copies:,} instructions",
        tolerance=tolerance,
        note=how if asked.sizes else f"{how}, in double precision",
    )


def _samples(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(3, 6 B) -> (B, 3, 6)."""
    return matrix.reshape(3, -1, 6).transpose(1, 0, 2).reshape(shape)


if __name__ == "__main__":
    serve(CASADI, "SX", solve)
