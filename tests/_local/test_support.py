"""Coefficients that depend on x and have zeros all the same."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests._local.reading import check_exact, patterns, point

MASK = torch.ones(3, 3).tril().bool()


@pytest.mark.parametrize(
    "matrix",
    [
        torch.diag,
        lambda x: torch.diag(x.sin() * 2) + torch.diag(x[1:], 1),
        lambda x: torch.block_diag(x[:1, None], x[1:, None] * x[None, 1:]),
        lambda x: (x[:, None] * x).tril(),
        lambda x: F.pad(x[:1, None] * x[:2], (1, 0, 0, 2)) / 3,
        lambda x: torch.where(MASK, x[:, None] + x, 0.0),
        lambda x: (x[:, None] + x).masked_fill(~MASK, 0.0),
        lambda x: torch.stack([torch.stack([x[0], 0 * x[0]]), x[1:]]).repeat(2, 2)[:3, :3],
    ],
)
def test_a_matrix_of_x_times_a_vector_of_x(matrix) -> None:
    check_exact(lambda x: matrix(x) @ x.roll(1), point(3), point(3, seed=1))


@pytest.mark.parametrize(
    "masked",
    [
        lambda s: s.masked_fill(~MASK, -torch.inf),
        lambda s: torch.where(MASK, s, -torch.inf) / 2,
        lambda s: s + torch.zeros(3, 3, dtype=s.dtype).masked_fill(~MASK, -torch.inf),
    ],
)
@pytest.mark.parametrize("normalize", [lambda s: s.softmax(-1), torch.exp])
def test_causal_attention_written_out(masked, normalize) -> None:
    def f(x: Tensor) -> Tensor:
        return normalize(masked(x @ x.mT)) @ x

    expected = np.kron(np.eye(2), np.kron(np.tri(3, dtype=bool), np.ones((2, 2), bool)))
    assert np.array_equal(patterns(f, point(2, 3, 2))["jvp"], expected)


def test_a_cholesky_factor_of_x_is_triangular() -> None:
    def f(x: Tensor) -> Tensor:
        matrix = x.detach()[:, None] * x.detach() + 3 * torch.eye(3, dtype=x.dtype)
        return torch.linalg.cholesky(matrix) @ x

    for pattern in patterns(f, point(3)).values():
        assert np.array_equal(pattern, np.tri(3, dtype=bool))


def test_the_upper_factors() -> None:
    def f(x: Tensor) -> Tensor:
        matrix = x.detach()[:, None] * x.detach() + 3 * torch.eye(3, dtype=x.dtype)
        return torch.linalg.cholesky(matrix, upper=True) @ x + torch.linalg.qr(matrix).R @ x

    for pattern in patterns(f, point(3)).values():
        assert np.array_equal(pattern, np.tri(3, dtype=bool).T)


def test_a_mask_that_depends_on_x_hides_nothing() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.0) * x.sum()

    for pattern in patterns(f, point(3)).values():
        assert pattern.all()


def test_a_long_chain_is_not_followed_to_its_end() -> None:
    def f(x: Tensor) -> Tensor:
        matrix = torch.diag(x)
        for _ in range(3000):
            matrix = -matrix
        return matrix @ x

    for pattern in patterns(f, point(3)).values():
        assert pattern.any()


def test_a_complex_factor_is_no_obstacle() -> None:
    check_exact(lambda x: (1j * x).exp().real * x, point(3), point(3, seed=1))
