"""Bags of embeddings, and segments of an axis."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests._local.reading import check_exact, nonzeros, patterns, point

BAGS = torch.tensor([3, 1, 1, 0, 3])
OFFSETS = torch.tensor([0, 2, 2])


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_bag_holds_some_rows(mode: str) -> None:
    check_exact(lambda x: F.embedding_bag(BAGS, x, OFFSETS, mode=mode).exp(), point(4, 2))
    check_exact(lambda x: F.embedding_bag(BAGS[:4].reshape(2, 2), x, mode=mode), point(4, 2))
    check_exact(lambda x: F.embedding_bag(BAGS, x, OFFSETS, mode=mode, padding_idx=1), point(4, 2))
    ends = torch.tensor([0, 2, 5])
    check_exact(
        lambda x: F.embedding_bag(BAGS, x, ends, mode=mode, include_last_offset=True), point(4, 2)
    )


def test_the_largest_of_a_bag_may_be_any_of_its_rows() -> None:
    x = point(4, 2)
    (largest,) = patterns(lambda x: F.embedding_bag(BAGS, x, OFFSETS, mode="max"), x).values()
    expected = nonzeros(lambda x: F.embedding_bag(BAGS, x, OFFSETS, mode="sum"), x)
    assert np.array_equal(largest, expected)


def test_in_local_scope_the_largest_of_a_bag_is_that_at_this_x() -> None:
    ends = torch.tensor([0, 2, 4])
    check_exact(lambda x: F.embedding_bag(BAGS, x, ends, mode="max"), point(4, 2), scope="local")


def test_weights_of_the_samples_of_a_bag() -> None:
    table = point(4, 2, seed=1)

    def function(w: torch.Tensor) -> torch.Tensor:
        return F.embedding_bag(BAGS, table * w.sum(), OFFSETS, per_sample_weights=w, mode="sum")

    check_exact(function, point(5))
    check_exact(
        lambda w: F.embedding_bag(BAGS, table, OFFSETS, per_sample_weights=w, mode="sum"), point(5)
    )


def test_weights_that_are_zero_drop_out() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    check_exact(
        lambda x: F.embedding_bag(BAGS, x, OFFSETS, per_sample_weights=weights, mode="sum"),
        point(4, 2),
    )


@pytest.mark.parametrize("reduce", ["sum", "mean", "prod"])
def test_segments(reduce: str) -> None:
    lengths = torch.tensor([2, 0, 3])
    check_exact(lambda x: torch.segment_reduce(x.exp(), reduce, lengths=lengths), point(5, 2))
    ends = torch.tensor([0, 2, 2, 5])
    check_exact(lambda x: torch.segment_reduce(x, reduce, offsets=ends), point(5))


def test_segments_of_each_sample() -> None:
    lengths = torch.tensor([[1, 2], [3, 0]])
    check_exact(lambda x: torch.segment_reduce(x, "sum", lengths=lengths, axis=1), point(2, 3, 2))


def test_the_largest_of_a_segment_may_be_any_of_it() -> None:
    lengths = torch.tensor([2, 3])
    (largest,) = patterns(
        lambda x: torch.segment_reduce(x, "max", lengths=lengths), point(5)
    ).values()
    assert np.array_equal(largest, np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], bool))
