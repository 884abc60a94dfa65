"""Probes take a true product, by the fastest way that PyTorch can go."""

import pytest
import torch

from torchjac._evaluate.compressed import Passes
from torchjac._evaluate.options import Options
from torchjac._inputs.signature import bind
from torchjac._planner.probe import FORWARD, REVERSE, probe

X = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


class NoForward(torch.autograd.Function):
    """x^2 without a forward rule, whose backward pass takes one seed at a time."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        g.sum().item()
        return 2 * ctx.saved_tensors[0] * g


def passes(func, **options):
    return Passes.begin(bind("test", func, X), [X], Options(**options))


@pytest.mark.parametrize("mode", [FORWARD, REVERSE])
def test_the_product_is_that_of_the_function(mode):
    known = probe(passes(lambda x: x**2), mode)
    torch.testing.assert_close(known.product, 2 * X * known.vector)
    assert known.method == "vmap"
    assert known.first_s > 0
    assert known.next_s >= 0


def test_a_slower_way_is_taken_and_told():
    known = probe(passes(NoForward.apply), REVERSE)
    assert known.method == "loop"
    assert known.refusals[0].method == "reverse-mode/vmap"
    torch.testing.assert_close(known.product, 2 * X * known.vector)


def test_a_mode_without_a_rule_raises_what_pytorch_says():
    with pytest.raises(RuntimeError, match="jvp"):
        probe(passes(NoForward.apply), FORWARD)


def test_vectorize_false_asks_for_loops():
    assert probe(passes(lambda x: x**2, vectorize=False), FORWARD).method == "loop"
