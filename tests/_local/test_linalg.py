"""Linear algebra other than products and systems."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests._local.reading import check_exact, patterns, point

ONE = np.eye(2, dtype=bool)


def test_trace() -> None:
    for pattern in patterns(lambda x: torch.trace(x.flip(0)), point(2, 2)).values():
        assert pattern.tolist() == [[False, True, True, False]]


def test_trace_of_a_wide_matrix() -> None:
    check_exact(lambda x: torch.trace(x.sin()), point(2, 4))


def test_matrix_exp_keeps_the_batch_apart() -> None:
    for pattern in patterns(torch.linalg.matrix_exp, point(2, 3, 3)).values():
        assert np.array_equal(pattern, np.kron(ONE, np.ones((9, 9))))


@pytest.mark.parametrize("dim", [0, -2])
def test_cross_product(dim: int) -> None:
    other = point(3, 2, seed=1)
    check_exact(lambda x: torch.linalg.cross(x.sin(), other, dim=dim), point(3, 2))
    check_exact(lambda x: torch.linalg.cross(other, x.sin(), dim=dim), point(3, 2))


def test_cross_product_with_an_axis() -> None:
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for pattern in patterns(lambda x: torch.linalg.cross(x, axis), point(3)).values():
        assert pattern.tolist() == [[False, True, False], [True, False, False], [False] * 3]


def test_cross_product_of_x_with_itself_moved() -> None:
    check_exact(lambda x: torch.linalg.cross(x, x.roll(1, 0)), point(2, 3))


def test_bilinear_form_in_its_inputs() -> None:
    weight, other = point(2, 3, 4, seed=1), point(5, 4, seed=2)
    check_exact(lambda x: F.bilinear(x, other, weight), point(5, 3))
    check_exact(lambda x: F.bilinear(x, x.exp()[:, :3].repeat(1, 2)[:, :4], weight), point(5, 3))


def test_bilinear_form_with_a_sparse_weight() -> None:
    weight = torch.zeros(2, 3, 3, dtype=torch.float64)
    weight[0, 0, 1] = weight[1, 2, 2] = 1
    check_exact(lambda x: F.bilinear(x, x, weight), point(2, 3))


def test_bilinear_form_in_its_weight() -> None:
    a, b = point(5, 3, seed=1), point(5, 4, seed=2)
    check_exact(lambda x: F.bilinear(a, b, x), point(2, 3, 4))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_distances_between_sets(p: float) -> None:
    other = point(2, 4, 3, seed=1)
    check_exact(lambda x: torch.cdist(x, other, p=p), point(2, 5, 3))
    check_exact(lambda x: torch.cdist(other[0], x, p=p), point(2, 5, 3))


def test_distances_of_order_zero_are_constant() -> None:
    other = point(4, 3, seed=1)
    for pattern in patterns(lambda x: torch.cdist(x, other, p=0.0), point(5, 3)).values():
        assert not pattern.any()


@pytest.mark.parametrize("p", [1.5, 2.0])
def test_distances_within_a_set(p: float) -> None:
    check_exact(lambda x: torch.pdist(x, p=p).sin(), point(4, 2))


def test_einsum_of_three() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return torch.einsum("ij,jk,bk->bi", a, a, x)

    check_exact(f, point(3, 2))
