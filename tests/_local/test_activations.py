"""Gated linear units."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests._local.reading import check_exact, patterns, point


def test_each_half_has_a_part() -> None:
    expected = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], bool)
    for pattern in patterns(lambda x: F.glu(x, 0), point(4)).values():
        assert np.array_equal(pattern, expected)


@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_along_any_axis(dim: int) -> None:
    check_exact(lambda x: F.glu(x.exp(), dim).flip(0), point(4, 6))


def test_the_derivative_of_the_derivative() -> None:
    def energy(x: Tensor) -> Tensor:
        return F.glu(x, 1).sin().sum()

    check_exact(torch.func.grad(energy), point(2, 4))
