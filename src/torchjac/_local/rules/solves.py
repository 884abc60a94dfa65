"""Linear systems: the tangent on the right-hand side, multiplied by the inverse of a matrix.

Where the matrix is a constant with zeros, so is its inverse: element (i, j) of it can differ from
zero only if the graph of the matrix has a path from i to j. (By Cayley and Hamilton the inverse is
a polynomial in the matrix.) The graph of a matrix that depends on x counts as complete, or as
complete on its triangle.

Source of the method: Gilbert (1994), "Predicting structure in sparse matrix computations", SIAM
J. Matrix Anal. Appl. 15(1).
"""

from math import ceil, log2, prod

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import LinearMap, Mix, Scale, Scan, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten
# Multiplications that looking for paths may take.
_MOST_WORK = 1_000_000_000


@rule(aten.linalg_solve_triangular, aten.triangular_solve)
def solve_triangular(call: Call) -> dict[int, Terms]:
    """Substitution: each element depends on those before it, or after it.

    linalg_solve_triangular(c, t, upper=False)  ->  t: Scan(-2)
    """
    if "B" in call.arguments:
        matrix, right, left = call["self"], call["B"], call["left"]
        is_upper, is_transposed = call["upper"], False
    else:
        matrix, right, left = call["A"], call["self"], True
        is_upper, is_transposed = call["upper"], call["transpose"]
    if call.is_tangent(matrix):
        return NotImplemented
    dim = len(call.out_shape()) - (2 if left else 1)
    scan = Scan(dim, reverse=(is_upper != is_transposed) == left)
    known = call.constant(matrix)
    nonzero = None if known is None else paths(_triangle(known != 0, upper=is_upper))
    if nonzero is None or bool((nonzero == _triangle(torch.ones_like(nonzero), is_upper)).all()):
        return {0: [_solved(call, right, scan)]}
    forward = left != is_transposed
    return {0: [_solved(call, right, _mix(call, nonzero, dim, forward=forward))]}


@rule(aten._linalg_solve_ex)
def solve(call: Call) -> dict[int, Terms]:
    """The inverse of a matrix times the tangent.

    _linalg_solve_ex(a, t)  ->  0, t: Mix(-2)
    """
    matrix, right = call["A"], call["B"]
    if call.is_tangent(matrix):
        return NotImplemented
    known = call.constant(matrix)
    nonzero = None if known is None else paths(known != 0)
    a, b = call.shape(matrix), call.shape(right)
    is_vector = len(b) == 1 or b == a[:-1]
    dim = len(call.out_shape()) - (1 if is_vector or not call["left"] else 2)
    mix = _mix(call, nonzero, dim, forward=call["left"])
    return {0: [_solved(call, right, mix)]}


@rule(aten.linalg_lu_solve, aten.lu_solve)
def lu_solve(call: Call) -> Terms:
    """The same from factors: P L U = A.

    linalg_lu_solve(lu, pivots, t)  ->  t: Mix(-2)
    """
    if "B" in call.arguments:
        factors, pivots, right = call["LU"], call["pivots"], call["B"]
        left, is_adjoint = call["left"], call["adjoint"]
    else:
        factors, pivots, right = call["LU_data"], call["LU_pivots"], call["self"]
        left, is_adjoint = True, False
    if call.is_tangent(factors):
        return NotImplemented
    known = _known_factors(call, factors, pivots)
    nonzero = None if known is None else _of_lu(*known)
    dim = len(call.out_shape()) - (2 if left else 1)
    return [_solved(call, right, _mix(call, nonzero, dim, forward=left != is_adjoint))]


def _known_factors(call: Call, factors: Ref, pivots: Ref) -> tuple[Tensor, Tensor] | None:
    """Factors of a constant matrix, also if they are a by-product of solving with it."""
    known, order = call.constant(factors), call.constant(pivots)
    if known is not None and order is not None:
        return known, order
    maker = call.program.makers.get(factors.number)
    if maker is None or getattr(maker.op, "overloadpacket", None) is not aten._linalg_solve_ex:
        return None
    matrix = call.constant(maker.args[0])
    if matrix is None:
        return None
    _, factored, order, _ = aten._linalg_solve_ex(matrix, torch.zeros_like(matrix))
    return factored, order


def _of_lu(factors: Tensor, pivots: Tensor) -> Tensor | None:
    lower = paths(_triangle(factors != 0, upper=False))
    upper = paths(_triangle(factors != 0, upper=True))
    if lower is None or upper is None:
        return None
    permutation = torch.lu_unpack(factors, pivots, unpack_data=False)[0].real.float()
    return upper.float() @ lower.float() @ permutation.mT > 0


@rule(aten.cholesky_solve)
def cholesky_solve(call: Call) -> Terms:
    """The same from one factor: L L^T = A.

    cholesky_solve(t, l)  ->  t: Mix(-2)
    """
    right, factor = call["self"], call["input2"]
    if call.is_tangent(factor):
        return NotImplemented
    known = call.constant(factor)
    lower = None
    if known is not None:
        lower = paths(_triangle((known.mT if call["upper"] else known) != 0, upper=False))
    nonzero = None if lower is None else lower.mT.float() @ lower.float() > 0
    dim = len(call.out_shape()) - 2
    return [_solved(call, right, _mix(call, nonzero, dim, forward=True))]


@rule(aten.ormqr)
def ormqr(call: Call) -> Terms:
    """An orthogonal matrix, given by reflections, times the tangent.

    ormqr(a, tau, t)  ->  t: Mix(-2)
    """
    right = call["input3"]
    if call.is_tangent(call["self"]) or call.is_tangent(call["input2"]):
        return NotImplemented
    dim = len(call.out_shape()) - (2 if call["left"] else 1)
    return [_solved(call, right, Mix((dim,), call.out_shape()))]


def _solved(call: Call, right: Ref, across: LinearMap) -> Term:
    """`across` after broadcasting to the batch of the matrix."""
    shape = call.out_shape()
    return Term(right, [across] if call.shape(right) == shape else [Scale(shape), across])


def _mix(call: Call, nonzero: Tensor | None, dim: int, *, forward: bool) -> Mix:
    """A product with the inverse from the left, or with its transpose."""
    if nonzero is None or bool(nonzero.all()):
        return Mix((dim,), call.out_shape())
    return Mix((dim,), call.out_shape(), nonzero if forward else nonzero.mT)


def _triangle(nonzero: Tensor, upper: bool) -> Tensor:
    return nonzero.triu() if upper else nonzero.tril()


def paths(nonzero: Tensor) -> Tensor | None:
    """Which elements of the inverse of a matrix can differ from zero.

    Args:
        nonzero: Which elements of the matrix do, bool, shape (*batch, n, n).

    Returns:
        bool, shape (*batch, n, n), or None if that takes too long to tell.

    >>> paths(torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]]) != 0).int().tolist()
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    size = nonzero.shape[-1]
    if bool(nonzero.all()):
        return nonzero
    steps = ceil(log2(size))
    if prod(nonzero.shape) * size * steps > _MOST_WORK:
        return _components(nonzero) if nonzero.ndim == 2 else None
    reached = (nonzero | torch.eye(size, dtype=torch.bool, device=nonzero.device)).float()
    for _ in range(steps):  # paths of twice the length
        reached = (reached @ reached > 0).float()
    return reached > 0


def _components(nonzero: Tensor) -> Tensor:
    """Pairs that are connected at all, whatever the direction."""
    _, label = connected_components(csr_array(nonzero.cpu().numpy()), directed=False)
    labels = torch.from_numpy(label).to(nonzero.device)
    return labels[:, None] == labels
