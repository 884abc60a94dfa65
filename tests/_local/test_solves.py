"""Linear systems with the tangent on the right-hand side."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._local.reading import check_exact, patterns, point
from torchjac._local.rules.solves import paths

LOWER = np.tri(4, dtype=bool)
ONE = np.eye(2, dtype=bool)


def definite(*batch: int, size: int = 4) -> Tensor:
    a = point(*batch, size, size, seed=1)
    return a @ a.mT + torch.eye(size, dtype=a.dtype)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unitriangular", [False, True])
def test_substitution_runs_along_the_triangle(upper: bool, left: bool, unitriangular: bool) -> None:
    a = definite()
    a = a.triu() if upper else a.tril()

    def f(x: Tensor) -> Tensor:
        b = x if left else x.mT
        options = {"upper": upper, "left": left, "unitriangular": unitriangular}
        return torch.linalg.solve_triangular(a, b, **options).sin()

    check_exact(f, point(4, 2))


def test_substitution_forward() -> None:
    a = definite().tril()
    found = patterns(lambda x: torch.linalg.solve_triangular(a, x, upper=False), point(4, 2))
    for pattern in found.values():
        assert np.array_equal(pattern, np.kron(LOWER, ONE))


@pytest.mark.parametrize("transpose", [False, True])
def test_old_triangular_solve(transpose: bool) -> None:
    a = definite()
    check_exact(
        lambda x: torch.triangular_solve(x, a, upper=True, transpose=transpose)[0], point(4, 1)
    )


def test_a_bidiagonal_matrix_of_blocks_stays_in_its_blocks() -> None:
    a = torch.eye(4, dtype=torch.float64) + torch.diag(torch.tensor([1.0, 0.0, 2.0]), -1)
    found = patterns(lambda x: torch.linalg.solve_triangular(a, x, upper=False), point(4, 1))
    for pattern in found.values():
        assert np.array_equal(pattern, np.kron(ONE, np.tri(2, dtype=bool)))


def test_entries_beyond_the_triangle_do_not_count() -> None:
    a = torch.ones(3, 3, dtype=torch.float64).triu() + 0
    found = patterns(lambda x: torch.linalg.solve_triangular(a, x, upper=False), point(3, 1))
    for pattern in found.values():
        assert np.array_equal(pattern, np.eye(3, dtype=bool))


@pytest.mark.parametrize("left", [False, True])
def test_a_matrix_of_x_keeps_batches_and_columns_apart(left: bool) -> None:
    def f(x: Tensor) -> Tensor:
        a = torch.eye(3, dtype=x.dtype) * 5 + x.detach().mean()
        return torch.linalg.solve(a, x, left=left)

    expected = np.kron(np.ones((3, 3)), np.eye(3)) if left else np.kron(np.eye(3), np.ones((3, 3)))
    for pattern in patterns(f, point(2, 3, 3)).values():
        assert np.array_equal(pattern, np.kron(ONE, expected))


def test_a_constant_batch_of_matrices_and_one_right_hand_side() -> None:
    a = definite(3)
    check_exact(lambda x: torch.linalg.solve(a, x.sin()), point(4, 2))


def test_a_vector_on_the_right() -> None:
    a = torch.block_diag(definite(size=2), definite(size=2))
    check_exact(lambda x: torch.linalg.solve(a, x.sin()), point(4))


def test_blocks_of_a_constant_matrix_stay_apart() -> None:
    a = torch.block_diag(definite(size=2), definite(size=3))
    expected = np.kron(torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).numpy(), ONE)
    for pattern in patterns(lambda x: torch.linalg.solve(a, x), point(5, 2)).values():
        assert np.array_equal(pattern, expected)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_factors_of_a_constant_matrix(adjoint: bool, left: bool) -> None:
    a = torch.tensor([[0.0, 0.0, 2.0], [0.0, 3.0, 0.0], [4.0, 0.0, 1.0]], dtype=torch.float64)
    factors, pivots = torch.linalg.lu_factor(a)
    check_exact(
        lambda x: torch.linalg.lu_solve(factors, pivots, x, left=left, adjoint=adjoint), point(3, 3)
    )


@pytest.mark.parametrize("upper", [False, True])
def test_a_cholesky_factor(upper: bool) -> None:
    a = torch.block_diag(definite(size=2), definite(size=2))
    factor = torch.linalg.cholesky(a, upper=upper)
    check_exact(lambda x: torch.cholesky_solve(x, factor, upper=upper), point(4, 2))


def test_a_cholesky_factor_of_x() -> None:
    check_exact(lambda x: torch.cholesky_solve(x.sin(), x.detach().abs() + 1), point(3, 3))


def test_reflections() -> None:
    reflectors, tau = torch.geqrf(point(4, 2))
    check_exact(lambda x: torch.ormqr(reflectors, tau, x), point(4, 3))


def test_the_inverse_of_x_keeps_the_batch_apart() -> None:
    check_exact(lambda x: torch.linalg.inv(x + 4 * torch.eye(3, dtype=x.dtype)), point(2, 3, 3))


@pytest.mark.parametrize("f", [torch.linalg.det, torch.linalg.eigvalsh, torch.linalg.svdvals])
def test_numbers_of_a_matrix_keep_the_batch_apart(f) -> None:
    for pattern in patterns(f, point(2, 3, 3)).values():
        assert np.array_equal(pattern, np.kron(ONE, np.ones((pattern.shape[0] // 2, 9))))


def test_paths_of_a_large_matrix_are_its_components() -> None:
    size = 1100
    chain = torch.eye(size, dtype=torch.bool) | torch.eye(size, dtype=torch.bool).roll(1, 0)
    chain[0, size - 1] = chain[600, 599] = False
    reached = paths(chain)
    assert reached is not None
    assert int(reached.sum()) == 600**2 + 500**2
