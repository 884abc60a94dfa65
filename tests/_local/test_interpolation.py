"""Interpolation on regular grids."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests._local.reading import check_exact, maps_of, patterns, point, programs


def test_midpoints() -> None:
    found = patterns(
        lambda x: F.interpolate(x, 5, mode="linear", align_corners=True), point(1, 1, 3)
    )
    expected = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]], bool)
    assert np.array_equal(found["jvp"], expected)
    assert np.array_equal(found["vjp"], expected)


def sizes(rank: int) -> list[dict[str, object]]:
    scales = [0.4, 1.7, 2.0]
    return [
        {"size": [3, 9, 7][:rank]},
        {"size": [1] * rank},
        {"scale_factor": scales[:rank], "recompute_scale_factor": False},
        {"scale_factor": scales[::-1][:rank], "recompute_scale_factor": True},
    ]


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_nearest(mode: str, rank: int) -> None:
    for size in sizes(rank):
        check_exact(
            lambda x, s=size: F.interpolate(x, mode=mode, **s), point(1, 2, *[5, 4, 3][:rank])
        )  # type: ignore[misc]


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    ("mode", "rank"), [("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3)]
)
def test_weighted_neighbors(mode: str, rank: int, align: bool) -> None:
    for size in sizes(rank):
        check_exact(
            lambda x, s=size: F.interpolate(x, mode=mode, align_corners=align, **s),  # type: ignore[misc]
            point(1, 2, *[5, 6, 3][:rank]),
        )


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(3, 2), (9, 17), (20, 4)])
def test_antialiasing(mode: str, align: bool, size: tuple[int, int]) -> None:
    check_exact(
        lambda x: F.interpolate(x, size, mode=mode, align_corners=align, antialias=True),
        point(1, 1, 9, 13),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    check_exact(lambda x: F.interpolate(x, 9, mode="linear"), point(1, 1, 5, dtype=dtype))


def test_long_axes() -> None:
    found = patterns(lambda x: F.interpolate(x, 3000, mode="linear"), point(1, 1, 1000))["jvp"]
    rows, columns = found.nonzero()
    near = (rows + 0.5) / 3 - 0.5
    assert (abs(columns - near) < 1).all()
    # Every third lies on an element, or so close to it that rounding decides.
    assert set(found.sum(1)) == {1, 2}
    assert (found.sum(1).reshape(-1, 3)[1:-1, [0, 2]] == 2).all()


def test_composition_with_shared_sets() -> None:
    weight = point(3, 2, 1, 1, seed=1)

    def function(x: Tensor) -> Tensor:
        up = F.interpolate(F.conv2d(x, weight).exp(), scale_factor=2, mode="bilinear")
        return up.sum(1).flip(-1)

    check_exact(function, point(2, 2, 3, 4))


def test_one_matrix_for_each_axis() -> None:
    program = programs(lambda x: F.interpolate(x, (4, 4), mode="bilinear"), point(1, 1, 2, 3))[
        "jvp"
    ]
    assert maps_of(program, torch.ops.aten.upsample_bilinear2d) == ["Matrix", "Matrix"]
