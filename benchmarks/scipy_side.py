"""A process in which SciPy takes finite differences with a known pattern.

`scipy.optimize.least_squares` with `jac_sparsity` is the public way to them: ended after its first
evaluation, it returns the Jacobian at the starting point.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.ndimage import correlate
from scipy.optimize import least_squares

from benchmarks.arrays import FAMILIES, Function, kernels
from benchmarks.model import SCIPY
from benchmarks.peer_process import AbsentError, Solution, serve
from benchmarks.request import Asked

# Forward differences lose half of the digits, and more where large terms cancel.
TOLERANCE = 1e-4
MOST_UNKNOWNS = 1_000_000


def convnet(n: int) -> Function:
    w1, w2 = kernels()

    def function(x):
        image = x.reshape(n, n)
        hidden = [np.tanh(correlate(image, kernel, mode="constant")) for kernel in w1[:, 0]]
        pairs = zip(hidden, w2[0], strict=True)
        return np.tanh(sum(correlate(part, k, mode="constant") for part, k in pairs)).ravel()

    return function


def solve(asked: Asked, x: np.ndarray, expected: Any) -> Solution:
    if x.dtype != np.float64:
        raise AbsentError("works in double precision only")
    if asked.name == "rosenbrock":
        raise AbsentError("no Hessians from differences of values")
    if x.size > MOST_UNKNOWNS:
        raise AbsentError(f"not run above {MOST_UNKNOWNS:,} unknowns")
    is_convnet = asked.name == "convnet"
    function = convnet(*asked.sizes) if is_convnet else FAMILIES[asked.name](np, *asked.sizes)
    pattern = expected.astype(bool).astype(float)
    calls = [0]

    def counted(point: np.ndarray) -> np.ndarray:
        calls[0] += 1
        return function(point)

    def call() -> Any:
        calls[0] = 0
        found = least_squares(counted, x, jac_sparsity=pattern, tr_solver="lsmr", max_nfev=1)
        return found.jac

    call()
    return Solution(
        call=call,
        once={},
        answer=sparse.csr_array,
        work=f"{calls[0]} calls of f",
        tolerance=TOLERANCE,
        note="the pattern was given; columns are grouped in every call",
    )


if __name__ == "__main__":
    serve(SCIPY, "finite differences", solve)
