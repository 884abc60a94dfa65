"""A process in which asdex and JAX solve the sparse problems, compiled by `jax.jit`."""

from typing import Any

import asdex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.alone import timed
from benchmarks.arrays import FAMILIES, Function, kernels
from benchmarks.compare import SPARSE
from benchmarks.model import ASDEX
from benchmarks.peer_process import AbsentError, Solution, serve
from benchmarks.request import Asked

# Unknowns from which on looking for the pattern takes minutes.
MOST_UNKNOWNS = 1_000_000


def convnet(n: int) -> Function:
    w1, w2 = kernels()

    def conv(image, kernel):
        kernel = jnp.asarray(kernel, image.dtype)
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME")

    def function(x):
        hidden = jnp.tanh(conv(x.reshape(1, 1, n, n), w1))
        return jnp.tanh(conv(hidden, w2)).ravel()

    return function


def solve(asked: Asked, x: np.ndarray, expected: Any) -> Solution:
    if x.size > MOST_UNKNOWNS:
        raise AbsentError(f"not run above {MOST_UNKNOWNS:,} unknowns: its pattern takes minutes")
    jax.config.update("jax_enable_x64", x.dtype == np.float64)
    given = jnp.asarray(x)
    is_convnet = asked.name == "convnet"
    function = convnet(*asked.sizes) if is_convnet else FAMILIES[asked.name](jnp, *asked.sizes)
    if asked.name == "rosenbrock":
        detect, color = asdex.hessian_sparsity, asdex.hessian_coloring_from_sparsity
        derivative = asdex.hessian_from_coloring
    else:
        detect, color = asdex.jacobian_sparsity, asdex.jacobian_coloring_from_sparsity
        derivative = asdex.jacobian_from_coloring
    pattern, pattern_s = timed(lambda: detect(function, given))
    coloring, coloring_s = timed(lambda: color(pattern))
    compiled = jax.jit(derivative(function, coloring))

    def answer(matrix: Any) -> sparse.csr_array:
        places = tuple(np.asarray(matrix.indices).T)
        return sparse.coo_array((np.asarray(matrix.data), places), shape=expected.shape).tocsr()

    return Solution(
        call=lambda: jax.block_until_ready(compiled(given)),
        once={"pattern": pattern_s, "coloring": coloring_s},
        answer=answer,
        work=f"{int(coloring.num_colors)} seeds",
        tolerance=SPARSE[str(x.dtype)],
    )


def warm_up() -> None:
    """Do what a process does once for whatever comes: load and compile the coloring."""
    x = jnp.linspace(0, 1, 8)

    def function(x):
        return x[1:] * x[:-1]

    coloring = asdex.jacobian_coloring_from_sparsity(asdex.jacobian_sparsity(function, x))
    jax.block_until_ready(jax.jit(asdex.jacobian_from_coloring(function, coloring))(x))


if __name__ == "__main__":
    warm_up()
    serve(ASDEX, "jit", solve)
