"""Sampling at points that a grid names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests._local.reading import check_exact, nonzeros, patterns, point


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_constant_grid_names_neighbors(mode: str, padding: str, align: bool) -> None:
    grid = 1.3 * point(2, 3, 4, 2, seed=3)
    check_exact(
        lambda x: F.grid_sample(x.sin(), grid, mode, padding, align_corners=align),
        point(2, 2, 4, 5),
    )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_three_axes(mode: str, padding: str) -> None:
    grid = 1.2 * point(1, 2, 2, 3, 3, seed=4)
    check_exact(
        lambda x: F.grid_sample(x, grid, mode, padding, align_corners=False), point(1, 2, 3, 4, 2)
    )


def test_points_on_elements_count_both_sides() -> None:
    grid = F.affine_grid(
        torch.eye(2, 3, dtype=torch.float64)[None], [1, 1, 3, 3], align_corners=True
    )

    def function(x: Tensor) -> Tensor:
        return F.grid_sample(x, grid, align_corners=True)

    x = point(1, 1, 3, 3)
    (found,) = patterns(function, x).values()
    assert (found | ~nonzeros(function, x)).all()
    assert found.sum(1).max() <= 9


def test_a_grid_that_depends_on_x_may_name_any_element() -> None:
    image = point(1, 2, 3, 4, seed=1)
    grid = point(1, 2, 2, 2) * 0.5
    (found,) = patterns(lambda g: F.grid_sample(image, g, align_corners=True), grid).values()
    same = np.tile(np.repeat(np.eye(4, dtype=bool), 2, axis=1), (2, 1))
    assert np.array_equal(found, same)

    def function(x: Tensor) -> Tensor:
        return F.grid_sample(image * x.sum(), x.tanh(), align_corners=True)

    (found,) = patterns(function, grid).values()
    assert found.all()


def test_channels_stay_apart_where_the_grid_depends_on_x() -> None:
    x = point(1, 2, 2, 2)

    def function(x: Tensor) -> Tensor:
        return F.grid_sample(x, (x[:, :1].permute(0, 2, 3, 1) * torch.ones(2)).detach() * 0.1,
                             align_corners=True)  # fmt: skip

    (found,) = patterns(function, x).values()
    assert np.array_equal(found, np.kron(np.eye(2, dtype=bool), np.ones((4, 4), bool)))
