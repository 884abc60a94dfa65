"""Losses of classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests._local.reading import check_exact, patterns, point

TARGET = torch.tensor([2, 0, -100, 1])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)])
def test_only_the_target_class_counts(reduction: str, weight: torch.Tensor | None) -> None:
    check_exact(lambda x: F.nll_loss(x.sin(), TARGET, weight, reduction=reduction), point(4, 3))
    check_exact(
        lambda x: F.nll_loss(x[0], torch.tensor(2), weight, reduction=reduction), point(4, 3)
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_of_images(reduction: str) -> None:
    target = torch.tensor([[[0, 1], [2, 2]]])
    check_exact(
        lambda x: F.nll_loss(x, target, ignore_index=1, reduction=reduction), point(1, 3, 2, 2)
    )


def test_a_target_that_depends_on_x_may_be_any_class() -> None:
    expected = np.kron(np.eye(2, dtype=bool), np.ones((1, 3), bool))
    for pattern in patterns(
        lambda x: F.nll_loss(x, x.argmax(1), reduction="none"), point(2, 3)
    ).values():
        assert np.array_equal(pattern, expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_margins_mix_the_classes_of_a_sample(reduction: str) -> None:
    target = torch.tensor([2, 0])
    found = patterns(lambda x: F.multi_margin_loss(x, target, reduction=reduction), point(2, 3))
    several = np.kron(np.eye(2, dtype=bool), np.ones((1, 3), bool))
    expected = several if reduction == "none" else several.any(0, keepdims=True)
    assert np.array_equal(found["vjp"], expected)
    alone = patterns(
        lambda x: F.multilabel_margin_loss(x, torch.tensor([1, -1, 0]), reduction=reduction),
        point(3),
    )
    assert alone["vjp"].all()


def test_a_single_class_has_no_margin() -> None:
    found = patterns(lambda x: F.multi_margin_loss(x, torch.tensor([0, 0])), point(2, 1))
    assert not found["vjp"].any()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "loss",
    [
        F.mse_loss,
        F.l1_loss,
        lambda x, y, reduction: F.smooth_l1_loss(x, y, reduction=reduction, beta=9.0),
        lambda x, y, reduction: F.huber_loss(x, y, reduction=reduction, delta=9.0),
        lambda x, y, reduction: F.binary_cross_entropy(
            x.sigmoid(), y.sigmoid(), reduction=reduction
        ),
        lambda x, y, reduction: F.binary_cross_entropy_with_logits(x, y, reduction=reduction),
        lambda x, y, reduction: F.soft_margin_loss(x, y.sign(), reduction=reduction),
        lambda x, y, reduction: F.poisson_nll_loss(x, y, reduction=reduction),
        lambda x, y, reduction: F.gaussian_nll_loss(x, y, y**2 + 1, reduction=reduction),
    ],
)
def test_losses_of_elements(loss: object, reduction: str) -> None:
    other = point(2, 3, seed=1)
    check_exact(lambda x: loss(x, other, reduction=reduction), point(2, 3))  # type: ignore[operator]


def test_a_ctc_loss_mixes_all_times_and_classes_of_a_sample() -> None:
    targets = torch.tensor([[1, 2], [2, 1]])
    lengths = torch.tensor([3, 3]), torch.tensor([2, 2])
    found = patterns(
        lambda x: F.ctc_loss(x.log_softmax(2), targets, *lengths, reduction="none"), point(3, 2, 3)
    )
    sample = np.indices((3, 2, 3))[1].ravel()
    assert np.array_equal(found["vjp"], np.arange(2)[:, None] == sample)


def test_cross_entropy_mixes_the_classes() -> None:
    check_exact(lambda x: F.cross_entropy(x, torch.tensor([1, 0]), reduction="none"), point(2, 3))


def test_float32() -> None:
    check_exact(lambda x: F.nll_loss(x, TARGET, reduction="none"), point(4, 3, dtype=torch.float32))
