"""Normalization layers and running products."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests._local.reading import check_exact, patterns, point

ONE = np.eye(2, dtype=bool)


def test_layer_norm_keeps_samples_apart() -> None:
    for pattern in patterns(lambda x: F.layer_norm(x, (4,)), point(2, 4)).values():
        assert np.array_equal(pattern, np.kron(ONE, np.ones((4, 4))))


def test_layer_norm_over_two_axes() -> None:
    for pattern in patterns(lambda x: F.layer_norm(x, (2, 3)).sin(), point(2, 2, 3)).values():
        assert np.array_equal(pattern, np.kron(ONE, np.ones((6, 6))))


def test_layer_norm_in_its_weight_and_bias() -> None:
    x = point(3, 4, seed=1)
    check_exact(lambda w: F.layer_norm(x, (4,), w[0], w[1]), point(2, 4))


def test_rms_norm() -> None:
    check_exact(lambda x: F.rms_norm(x, (4,)), point(2, 4))


def test_group_norm_keeps_samples_and_groups_apart() -> None:
    for pattern in patterns(lambda x: F.group_norm(x, 2), point(2, 4, 3)).values():
        assert np.array_equal(pattern, np.kron(np.eye(4), np.ones((6, 6))))


def test_group_norm_in_its_weight() -> None:
    x = point(2, 4, 3, seed=1)
    check_exact(lambda w: F.group_norm(x, 2, w), point(4))


def test_instance_norm() -> None:
    for pattern in patterns(lambda x: F.instance_norm(x), point(2, 2, 3)).values():
        assert np.array_equal(pattern, np.kron(np.eye(4), np.ones((3, 3))))


def test_batch_norm_in_training_mixes_the_batch() -> None:
    for pattern in patterns(
        lambda x: F.batch_norm(x, None, None, training=True), point(3, 2)
    ).values():
        assert np.array_equal(pattern, np.kron(np.ones((3, 3)), ONE))


def test_batch_norm_with_given_statistics_mixes_nothing() -> None:
    mean, var = point(2, seed=1), point(2, seed=2).abs()
    for pattern in patterns(lambda x: F.batch_norm(x, mean, var), point(3, 2, 2)).values():
        assert np.array_equal(pattern, np.eye(12))


def test_batch_norm_in_its_weight() -> None:
    x = point(3, 2, 2, seed=1)
    check_exact(lambda w: F.batch_norm(x, None, None, w[0], w[1], training=True), point(2, 2))


def test_local_response_norm_sees_its_neighbors() -> None:
    check_exact(lambda x: F.local_response_norm(x, 3), point(1, 5, 2))


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("f", [torch.cumprod, torch.logcumsumexp, torch.cumsum])
def test_what_runs_along_an_axis(f, dim: int) -> None:
    found = patterns(lambda x: f(x.sin(), dim), point(3, 2))
    if f is torch.cumprod:  # which sums over the whole axis backward, for the sake of zeros
        del found["vjp"]
    triangle = np.tri(3 if dim == 0 else 2, dtype=bool)
    expected = np.kron(triangle, ONE) if dim == 0 else np.kron(np.eye(3), triangle)
    for pattern in found.values():
        assert np.array_equal(pattern, expected)


def test_cumprod_with_a_zero() -> None:
    x = point(4)
    x[1] = 0
    found = patterns(lambda x: torch.cumprod(x, 0), x)
    assert np.array_equal(found["jvp"], np.tri(4, dtype=bool))
    assert (found["vjp"] | ~np.tri(4, dtype=bool)).all()


@pytest.mark.parametrize("f", [torch.softmax, torch.log_softmax, torch.logsumexp, torch.std])
def test_what_mixes_one_axis(f) -> None:
    for pattern in patterns(lambda x: f(x, 1), point(2, 3)).values():
        count = pattern.shape[0] // 2
        assert np.array_equal(pattern, np.kron(ONE, np.ones((count, 3))))


def test_renorm_keeps_the_rows_apart() -> None:
    check_exact(lambda x: torch.renorm(x, 2, 0, 0.1), point(2, 3))


def test_weight_norm() -> None:
    g = point(2, 1, seed=1)
    for pattern in patterns(lambda v: torch._weight_norm(v, g, 0), point(2, 3)).values():
        assert np.array_equal(pattern, np.kron(ONE, np.ones((3, 3))))
