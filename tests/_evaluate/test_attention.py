"""Attention: the fused kernel where it serves, the math kernel where it does not."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import torchjac
from torchjac._evaluate.attention import uses_fused_attention, with_math_attention
from torchjac._inputs.signature import bind
from torchjac._torch import survey_graph
from torchjac.errors import FallbackWarning, TorchjacWarning

B, T, D, HEADS = 2, 3, 4, 2
reference = torch.autograd.functional.jacobian


class Block(nn.Module):
    """Self-attention with two heads, as in every transformer."""

    def __init__(self, causal=False):
        super().__init__()
        self.project = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)
        self.causal = causal

    def forward(self, x):
        heads = [
            part.unflatten(-1, (HEADS, D // HEADS)).transpose(1, 2)
            for part in self.project(x).chunk(3, dim=-1)
        ]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def case(request):
    torch.manual_seed(0)
    return Block().to(request.param), torch.randn(B, T, D, dtype=request.param)


def under_math(compute):
    with sdpa_kernel(SDPBackend.MATH):
        return compute()


def observed(call):
    """The result, the last report, and the warnings, which must all be torchjac's own."""
    with warnings.catch_warnings(record=True) as caught, torchjac.record() as runs:
        warnings.simplefilter("always")
        result = call()
    for warning in caught:
        assert issubclass(warning.category, TorchjacWarning), warning.message
    return result, runs[-1], [(warning.category, str(warning.message)) for warning in caught]


def kernels():
    backends = torch.backends.cuda
    return (
        backends.flash_sdp_enabled(),
        backends.mem_efficient_sdp_enabled(),
        backends.math_sdp_enabled(),
        backends.cudnn_sdp_enabled(),
    )


def test_this_machine_fuses_attention():
    block, x = Block(), torch.randn(B, T, D)

    assert uses_fused_attention(survey_graph([block(x)]).node_names)
    assert not uses_fused_attention(survey_graph([under_math(lambda: block(x))]).node_names)


class TestNames:
    """Fused kernels are known by their nodes."""

    @pytest.mark.parametrize(
        "name",
        [
            "ScaledDotProductFlashAttentionForCpuBackward0",
            "ScaledDotProductFlashAttentionBackward0",
            "ScaledDotProductEfficientAttentionBackward0",
            "ScaledDotProductCudnnAttentionBackward0",
            "ScaledDotProductFusedAttentionOverrideableBackward0",
        ],
    )
    def test_a_fused_kernel_is_known(self, name):
        assert uses_fused_attention({"MulBackward0", name})

    def test_other_nodes_are_not_taken_for_one(self):
        assert not uses_fused_attention({"MulBackward0", "BmmBackward0", "SoftmaxBackward0"})
        assert not uses_fused_attention(set())


class TestMathKernel:
    """The same function by other means."""

    def test_value_and_graph(self, case):
        block, x = case
        signature = bind("jacobian", block, x)

        fused = signature.evaluate([x]).tensors
        plain = with_math_attention(signature).evaluate([x]).tensors
        again = with_math_attention(signature).replay([x]).tensors

        torch.testing.assert_close(plain, fused)
        torch.testing.assert_close(again, fused)
        assert not uses_fused_attention(survey_graph(plain).node_names)
        assert not uses_fused_attention(survey_graph(again).node_names)

    def test_kernels_are_switched_back(self):
        before = kernels()
        block, x = Block(), torch.randn(B, T, D)

        with_math_attention(bind("jacobian", block, x)).evaluate([x])

        assert kernels() == before

    def test_kernels_are_switched_back_after_an_error(self):
        before = kernels()

        def func(x):
            raise KeyError

        with pytest.raises(KeyError):
            with_math_attention(bind("jacobian", func, torch.ones(2))).evaluate([torch.ones(2)])

        assert kernels() == before


class TestJacobian:
    """Through a block, by every strategy."""

    @pytest.mark.parametrize("options", [{}, {"vectorize": False}, {"chunk_size": 5}], ids=str)
    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    def test_equals_pytorch(self, case, strategy, options):
        block, x = case

        result, _, _ = observed(lambda: torchjac.jacobian(block, x, strategy=strategy, **options))

        torch.testing.assert_close(result, reference(block, x))

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    def test_samples(self, case, strategy):
        block, x = case

        result, _, _ = observed(lambda: torchjac.batch_jacobian(block, x, strategy=strategy))

        whole = reference(block, x)
        torch.testing.assert_close(result, torch.stack([whole[b, :, :, b] for b in range(B)]))

    def test_a_causal_block(self):
        torch.manual_seed(0)
        block, x = Block(causal=True), torch.randn(1, T, D)

        result, _, _ = observed(lambda: torchjac.jacobian(block, x))

        torch.testing.assert_close(result, reference(block, x))
        for i in range(T):
            assert not result[0, i, :, 0, i + 1 :].any()

    def test_forward_mode_takes_the_math_kernel_and_says_so(self):
        torch.manual_seed(0)
        block, x = Block(), torch.randn(B, T, D)

        _, run, caught = observed(lambda: torchjac.jacobian(block, x, strategy="forward-mode"))

        assert run.mode == "forward-mode"
        assert "math attention" in run.method
        assert [category for category, _ in caught] == [FallbackWarning]
        assert "forward AD with _scaled_dot_product_flash_attention_for_cpu" in caught[0][1]

    def test_a_tall_function_is_differentiated_by_columns(self, case):
        block, x = case
        weight = torch.randn(100, x.numel(), dtype=x.dtype)

        def func(x):
            return weight @ block(x).flatten()

        result, run, _ = observed(lambda: torchjac.jacobian(func, x))

        torch.testing.assert_close(result, reference(func, x), rtol=1e-4, atol=1e-5)
        assert (run.mode, run.seeds) == ("forward-mode", x.numel())

    def test_modules_of_pytorch(self):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(D, HEADS, 8, batch_first=True, dropout=0.0)
        x = torch.randn(B, T, D)

        for training in (True, False):
            layer.train(training)
            for strategy in ("reverse-mode", "forward-mode"):
                result, _, _ = observed(
                    lambda strategy=strategy: torchjac.jacobian(layer, x, strategy=strategy)
                )
                torch.testing.assert_close(result, reference(layer, x))

    def test_multi_head_attention(self):
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
        x = torch.randn(B, T, D)

        def func(x):
            return attention(x, x, x, need_weights=False)[0]

        result, _, _ = observed(lambda: torchjac.jacobian(func, x))

        torch.testing.assert_close(result, reference(func, x))

    def test_by_parameters(self):
        torch.manual_seed(0)
        block, x = Block(), torch.randn(1, T, D)

        blocks, _, _ = observed(lambda: torchjac.jacobian(block, x, wrt=block))

        block(x)[0, 1, 2].backward()
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(blocks[name][0, 1, 2], parameter.grad)

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_attention_dropout_keeps_one_mask(self, strategy):
        torch.manual_seed(0)
        heads = torch.randn(1, 2, 5, 4, dtype=torch.float64)

        def func(x):
            value = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
            return value, value

        (first, second), _, _ = observed(lambda: torchjac.jacobian(func, heads, strategy=strategy))

        torch.testing.assert_close(first, second)

    def test_kernels_are_as_they_were(self):
        before = kernels()
        block, x = Block(), torch.randn(B, T, D)

        for strategy in ("reverse-mode", "forward-mode"):
            observed(lambda strategy=strategy: torchjac.jacobian(block, x, strategy=strategy))
        torchjac.jacobian(block, x, create_graph=True)

        assert kernels() == before

    def test_buffers_are_updated_once(self):
        class Normed(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(T)
                self.block = Block()

            def forward(self, x):
                return self.block(self.norm(x))

        x = torch.randn(B, T, D)
        for options in ({}, {"strategy": "forward-mode"}, {"create_graph": True}):
            model = Normed()
            observed(lambda options=options, model=model: torchjac.jacobian(model, x, **options))
            assert model.norm.num_batches_tracked == 1, options


class TestDifferentiable:
    """`create_graph=True`: the fused kernel can be differentiated once, the math kernel twice."""

    @pytest.mark.parametrize("options", [{}, {"vectorize": False}], ids=str)
    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    def test_the_result_can_be_differentiated(self, case, strategy, options):
        block, x = case
        x = x.requires_grad_()

        result, _, _ = observed(
            lambda: torchjac.jacobian(block, x, create_graph=True, strategy=strategy, **options)
        )
        (grad,) = torch.autograd.grad((result**2).sum(), x)

        def penalty(x):
            return (reference(block, x, create_graph=True) ** 2).sum()

        (expected,) = under_math(lambda: torch.autograd.grad(penalty(x), x))
        torch.testing.assert_close(grad, expected)

    def test_samples_can_be_differentiated(self, case):
        block, x = case
        x = x.requires_grad_()

        result, _, _ = observed(lambda: torchjac.batch_jacobian(block, x, create_graph=True))
        (grad,) = torch.autograd.grad((result**2).sum(), x)

        def penalty(x):
            return (reference(block, x, create_graph=True) ** 2).sum()

        (expected,) = under_math(lambda: torch.autograd.grad(penalty(x), x))
        torch.testing.assert_close(grad, expected)  # samples do not mix: no other blocks

    def test_the_value_is_differentiable_too(self):
        torch.manual_seed(0)
        block, x = Block(), torch.randn(B, T, D, requires_grad=True)

        (value, _), _, _ = observed(
            lambda: torchjac.value_and_jacobian(block, x, create_graph=True)
        )
        (grad,) = torch.autograd.grad(value.sum(), x)

        torch.testing.assert_close(grad, torch.autograd.grad(block(x).sum(), x)[0])

    def test_dropout_draws_once(self):
        torch.manual_seed(0)
        block, x = Block(), torch.randn(B, T, D)

        def func(x):
            return F.dropout(block(x), 0.5)

        torch.manual_seed(7)
        result, _, _ = observed(lambda: torchjac.jacobian(func, x, create_graph=True))
        after = torch.get_rng_state()
        torch.manual_seed(7)
        expected = reference(func, x)

        torch.testing.assert_close(result.detach(), expected)
        assert torch.equal(after, torch.get_rng_state())


class TestHessian:
    """Second derivatives through attention."""

    @pytest.mark.parametrize("options", [{}, {"vectorize": False}, {"create_graph": True}], ids=str)
    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    def test_equals_pytorch_with_the_math_kernel(self, case, strategy, options):
        block, x = case

        def energy(x):
            return (block(x) ** 2).sum()

        result, _, _ = observed(
            lambda: torchjac.hessian(energy, x, outer_jacobian_strategy=strategy, **options)
        )

        expected = under_math(lambda: torch.autograd.functional.hessian(energy, x))
        torch.testing.assert_close(result.detach(), expected)
