"""Fused attention and what it is made of."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests._local.reading import patterns, point

BATCH, HEADS, LENGTH, FEATURES = 2, 2, 3, 2
APART = np.eye(BATCH * HEADS, dtype=bool)
TOKENS = np.ones((LENGTH, LENGTH), bool)
CAUSAL = np.tri(LENGTH, dtype=bool)
WHOLE = np.ones((FEATURES, FEATURES), bool)
EACH = np.eye(FEATURES, dtype=bool)

other = point(BATCH, HEADS, LENGTH, FEATURES, seed=1)
mask = torch.ones(LENGTH, LENGTH).tril().bool()
added = torch.zeros(LENGTH, LENGTH, dtype=torch.float64).masked_fill(~mask, -torch.inf)


def fused(f, x: Tensor) -> np.ndarray:
    """The pattern as the backward program has it, which is the fused one."""
    return patterns(f, x)["vjp"]


def inputs() -> Tensor:
    return point(BATCH, HEADS, LENGTH, FEATURES)


def test_a_query_is_seen_by_its_own_row() -> None:
    found = fused(lambda q: F.scaled_dot_product_attention(q, other, other), inputs())
    assert np.array_equal(found, np.kron(APART, np.kron(np.eye(LENGTH), WHOLE)))


def test_a_key_is_seen_by_every_row() -> None:
    found = fused(lambda k: F.scaled_dot_product_attention(other, k, other), inputs())
    assert np.array_equal(found, np.kron(APART, np.kron(TOKENS, WHOLE)))


def test_a_value_is_seen_by_every_row_feature_by_feature() -> None:
    found = fused(lambda v: F.scaled_dot_product_attention(other, other, v), inputs())
    assert np.array_equal(found, np.kron(APART, np.kron(TOKENS, EACH)))


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"attn_mask": mask}, {"attn_mask": added}], ids=str
)
def test_a_causal_mask(options) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **options)

    value = fused(lambda v: attend(other, other, v), inputs())
    assert np.array_equal(value, np.kron(APART, np.kron(CAUSAL, EACH)))
    whole = fused(lambda x: attend(x, x, x), inputs())
    assert np.array_equal(whole, np.kron(APART, np.kron(CAUSAL, WHOLE)))


def test_a_mask_for_each_sample() -> None:
    each = torch.stack([mask, mask.mT])[:, None]

    def f(v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(other, other, v, attn_mask=each)

    blocks = torch.block_diag(*[m.int() for m in (mask, mask, mask.mT, mask.mT)]).numpy()
    assert np.array_equal(fused(f, inputs()), np.kron(blocks, EACH))


def test_a_causal_mask_for_more_keys_than_queries() -> None:
    query = point(1, 1, 2, FEATURES, seed=2)

    def f(v: Tensor) -> Tensor:
        keys = v.detach().sin()
        return F.scaled_dot_product_attention(query, keys, v, is_causal=True)

    expected = np.kron(np.tri(2, 4, dtype=bool), EACH)
    assert np.array_equal(fused(f, point(1, 1, 4, FEATURES)), expected)
