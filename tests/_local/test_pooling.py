"""Pooling: windows of means, and windows that something is chosen from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests._local.reading import check_exact, patterns, point

Function = Callable[[Tensor], Tensor]


def windows(mean: Function, x: Tensor) -> np.ndarray:
    """The windows of a pooling, by the means of its windows."""
    jacobian = torch.autograd.functional.jacobian(mean, x)
    return (jacobian.reshape(-1, x.numel()) != 0).numpy()


def test_means_of_pairs() -> None:
    found = patterns(lambda x: F.avg_pool1d(x, 2), point(1, 1, 4))
    expected = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    assert np.array_equal(found["jvp"], expected)
    assert np.array_equal(found["vjp"], expected)


@pytest.mark.parametrize(
    ("run", "shape"),
    [
        (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 2, 7)),
        (lambda x: F.avg_pool1d(x, 3, 2, ceil_mode=True), (2, 6)),
        (lambda x: F.avg_pool2d(x, 2), (1, 2, 5, 4)),
        (lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)), (2, 1, 5, 4)),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (1, 1, 6, 7)),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), (2, 4, 4)),
        (lambda x: F.avg_pool3d(x, 2, 1, 1), (1, 2, 2, 3, 2)),
        (lambda x: F.avg_pool3d(x, (1, 2, 2), ceil_mode=True), (2, 2, 3, 3)),
        (lambda x: F.adaptive_avg_pool1d(x, 3), (1, 2, 7)),
        (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (2, 1, 5, 7)),
        (lambda x: F.adaptive_avg_pool2d(x, (4, None)), (2, 2, 3)),
        (lambda x: F.adaptive_avg_pool3d(x, 2), (1, 1, 3, 2, 5)),
        (lambda x: F.lp_pool1d(x.abs() + 1, 2, 2), (1, 1, 6)),
    ],
)
def test_means_of_windows(run: Function, shape: tuple[int, ...]) -> None:
    check_exact(run, point(*shape))
    check_exact(lambda x: run(x.sin()).roll(1, -1).exp(), point(*shape))


@pytest.mark.parametrize(
    ("largest", "mean", "shape"),
    [
        (lambda x: F.max_pool1d(x, 2), lambda x: F.avg_pool1d(x, 2), (2, 2, 5)),
        (
            lambda x: F.max_pool2d(x, 3, 2, 1),
            lambda x: F.avg_pool2d(x, 3, 2, 1),
            (1, 2, 5, 4),
        ),
        (
            lambda x: F.max_pool2d(x, (2, 3), (2, 1), ceil_mode=True),
            lambda x: F.avg_pool2d(x, (2, 3), (2, 1), ceil_mode=True),
            (2, 5, 4),
        ),
        (lambda x: F.max_pool3d(x, 2, 1), lambda x: F.avg_pool3d(x, 2, 1), (1, 1, 3, 2, 3)),
        (
            lambda x: F.adaptive_max_pool1d(x, 3),
            lambda x: F.adaptive_avg_pool1d(x, 3),
            (1, 2, 7),
        ),
        (
            lambda x: F.adaptive_max_pool2d(x, (3, 2)),
            lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
            (1, 2, 5, 3),
        ),
        (
            lambda x: F.adaptive_max_pool3d(x, 2),
            lambda x: F.adaptive_avg_pool3d(x, 2),
            (1, 1, 3, 2, 5),
        ),
    ],
)
def test_a_maximum_may_be_any_of_its_window(
    largest: Function, mean: Function, shape: tuple[int, ...]
) -> None:
    x = point(*shape)
    found = patterns(largest, x)
    assert set(found) == {"jvp", "vjp"}
    for pattern in found.values():
        assert np.array_equal(pattern, windows(mean, x))
    check_exact(lambda x: largest(x).exp(), x, scope="local")


def test_windows_with_gaps() -> None:
    found = patterns(lambda x: F.max_pool1d(x, 2, 1, dilation=2), point(1, 1, 5))
    expected = np.eye(3, 5, dtype=bool) | np.eye(3, 5, 2, dtype=bool)
    assert all(np.array_equal(pattern, expected) for pattern in found.values())


def test_where_fractional_windows_lie_is_random() -> None:
    x = point(1, 2, 5, 4)

    def function(x: Tensor) -> Tensor:
        return F.fractional_max_pool2d(x, 2, (2, 3))

    expected = np.kron(np.eye(2, dtype=bool), np.ones((6, 20), bool))
    for pattern in patterns(function, x).values():
        assert np.array_equal(pattern, expected)


def test_what_was_chosen_goes_back_to_its_window() -> None:
    def function(x: Tensor) -> Tensor:
        return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)

    x = point(1, 2, 4, 4)
    row, column = np.indices((4, 4)).reshape(2, -1) // 2
    plane = (row[:, None] == row) & (column[:, None] == column)
    expected = np.kron(np.eye(2, dtype=bool), plane)
    for pattern in patterns(function, x).values():
        assert np.array_equal(pattern, expected)
    check_exact(function, x, scope="local")


def test_unpooling_to_a_larger_plane_may_go_anywhere() -> None:
    def function(x: Tensor) -> Tensor:
        largest, index = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(largest, index, 2, output_size=(5, 5))

    x = point(1, 1, 4, 4)
    for pattern in patterns(function, x).values():
        assert pattern.all()


def test_unpooling_by_a_constant_index() -> None:
    index = torch.tensor([[[3, 0, 5]]])
    check_exact(lambda x: F.max_unpool1d(x, index, 2), point(1, 1, 3))
    planes = torch.tensor([0, 6]).reshape(1, 1, 1, 1, 2)
    check_exact(lambda x: F.max_unpool3d(x, planes, (1, 2, 2)), point(1, 1, 1, 1, 2))


def test_several_layers() -> None:
    weight = point(2, 1, 3, 3, seed=1)

    def means(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.conv2d(x, weight, padding=1).exp(), 2)

    check_exact(means, point(1, 1, 4, 6))

    def maxima(x: Tensor) -> Tensor:
        return F.max_pool2d(F.conv2d(x, weight, padding=1).tanh(), 2)

    x = point(1, 1, 4, 6)
    for pattern in patterns(maxima, x).values():
        assert np.array_equal(pattern, windows(means, x))


def test_an_index_of_windows_that_is_used_elsewhere_mixes_the_plane() -> None:
    def function(x: Tensor) -> Tensor:
        index = F.max_pool2d(x, 2, return_indices=True)[1]
        return x.flatten(1).gather(1, index.flatten(1))

    x = point(1, 2, 4, 4)  # both channels in one line of 32, of which the index names the first 16
    found = patterns(function, x)
    assert all(pattern.all() for pattern in found.values())


def test_empty_batch() -> None:
    for run in (F.avg_pool2d, F.max_pool2d):
        for pattern in patterns(lambda x, run=run: run(x, 2), point(0, 1, 4, 4)).values():  # type: ignore[misc]
            assert pattern.shape == (0, 0)
