"""Fused attention taken apart: the same map, in operations that can be transposed."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests._linearize.test_transpose import applied, assert_mirrored, randn
from torchjac._inputs.signature import bind
from torchjac._linearize.expand import expanded
from torchjac._linearize.linearize import linearize

MASK = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
KINDS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "bool mask": {"attn_mask": MASK},
    "added mask": {"attn_mask": torch.tensor([[0.0, -1, 2]] * 3, dtype=torch.float64)},
}


def attention(x: Tensor, **options) -> Tensor:
    q, k, v = x.reshape(3, 1, 2, 3, 4)
    return F.scaled_dot_product_attention(q, k, v, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_gives_the_same_products(kind) -> None:
    x = randn(72)
    program, _ = linearize(bind("test", lambda x: attention(x, **KINDS[kind]), x))
    apart = expanded(program, [x])
    assert any("attention" in node.name for node in program.linear_nodes)
    assert not any("attention" in node.name for node in apart.linear_nodes)
    seed, elsewhere = randn(1, 2, 3, 4).flip(-1), 2 * x
    (expected,) = applied(program, [elsewhere], [seed])
    (found,) = applied(apart, [elsewhere], [seed])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_can_be_transposed(kind) -> None:
    assert_mirrored(lambda x: attention(x, **KINDS[kind]), randn(72), "vjp")


def test_a_program_without_fused_operations_is_left_alone() -> None:
    x = randn(3)
    program, _ = linearize(bind("test", torch.sin, x))
    assert expanded(program, [x]) is program


def test_heads_that_share_keys_stay_fused() -> None:
    def shared(x: Tensor) -> Tensor:
        q, k = x[:48].reshape(1, 4, 3, 4), x[48:].reshape(1, 2, 3, 4)
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    x = randn(72)
    program, _ = linearize(bind("test", shared, x))
    seed = randn(*program.values[program.tangents[0]].shape)
    (expected,) = applied(program, [x], [seed])
    (found,) = applied(expanded(program, [x]), [x], [seed])
    torch.testing.assert_close(found, expected)
