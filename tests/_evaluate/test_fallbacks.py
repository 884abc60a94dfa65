"""Every rung of the ladder, on a function that needs it: same numbers, and a report."""

import gc
import threading
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import torchjac
from torchjac.errors import DisagreementWarning, FallbackWarning, HiddenValueWarning

DTYPES = [torch.float64, torch.float32]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["f64", "f32"])
reference = torch.autograd.functional.jacobian


# -- Functions that need a way out ---------------------------------------------------------------


@torch.library.custom_op("torchjac_fallbacks::square", mutates_args=())
def square(x: Tensor) -> Tensor:
    return x * x


@torch.library.custom_op("torchjac_fallbacks::square_backward", mutates_args=())
def square_backward(x: Tensor, grad: Tensor) -> Tensor:
    return 2 * x * grad


square.register_fake(torch.empty_like)
square_backward.register_fake(lambda x, grad: torch.empty_like(x))
square.register_autograd(
    lambda ctx, grad: square_backward(ctx.saved_tensors[0], grad),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


class _Legacy(Function):
    """x -> x**2 in the old style, without `setup_context`."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x


class ReadsValue(_Legacy):
    @staticmethod
    def backward(ctx, grad):
        if grad.abs().sum().item() == 0:
            return torch.zeros_like(grad)
        return 2 * ctx.saved_tensors[0] * grad


class UsesNumpy(_Legacy):
    @staticmethod
    def backward(ctx, grad):
        slope = 2 * ctx.saved_tensors[0].detach().numpy()
        return torch.from_numpy(slope * grad.detach().numpy())


class WritesInPlace(_Legacy):
    @staticmethod
    def backward(ctx, grad):
        result = torch.zeros_like(ctx.saved_tensors[0])
        result.copy_(grad)
        return result.mul_(2 * ctx.saved_tensors[0])


class SkipsZeros(_Legacy):
    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad if bool(grad.any()) else None


class NoForwardRule(Function):
    """x -> x**2 that can be batched but has no `jvp`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class NoForwardRuleAndOnce(NoForwardRule):
    """Cannot be differentiated twice either."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class WrongForwardRule(NoForwardRule):
    """Its `jvp` is not that of its `backward`."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] * tangent


class NoBackwardRule(NoForwardRule):
    """Forward mode only."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("no backward here")

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0] * tangent


UNBATCHED = {
    "custom op": square,
    "reads a value": ReadsValue.apply,
    "uses numpy": UsesNumpy.apply,
    "writes in place": WritesInPlace.apply,
    "branches on data": SkipsZeros.apply,
}
# What the reason must name, so that the user knows where to look.
REASONS = {
    "reads a value": r"\.item\(\)",
    "uses numpy": "data pointer",
    "writes in place": "in-?place",
    "branches on data": "data-dependent control flow",
}
unbatched = pytest.mark.parametrize("name", UNBATCHED)
refused = pytest.mark.parametrize("name", REASONS)


def point(dtype=torch.float64):
    return torch.tensor([0.5, -1.25, 2.0], dtype=dtype)


def tall_weight(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 3, dtype=torch.float64, generator=generator).to(dtype)


def observed(call):
    """The result, the last report, and the warnings, which must all be torchjac's own."""
    with warnings.catch_warnings(record=True) as caught, torchjac.record() as runs:
        warnings.simplefilter("always")
        result = call()
    for warning in caught:
        assert issubclass(warning.category, torchjac.errors.TorchjacWarning), warning.message
    return result, runs[-1], [(warning.category, str(warning.message)) for warning in caught]


def per_sample(func, x):
    """The Jacobian of every sample, each alone, by PyTorch's loop."""
    return torch.stack([reference(lambda row: func(row[None])[0], row) for row in x])


# -- No batching rule ------------------------------------------------------------------------------


class TestNoBatchingRule:
    """vmap -> loop."""

    @every_dtype
    @refused
    def test_rows_come_from_a_loop(self, name, dtype):
        func, x = UNBATCHED[name], point(dtype)

        result, run, _ = observed(lambda: torchjac.jacobian(lambda x: func(x).sin(), x))

        torch.testing.assert_close(result, torch.diag(2 * x * (x**2).cos()))
        assert result.dtype == dtype
        assert (run.mode, run.method) == ("reverse-mode", "loop")
        assert [refusal.method for refusal in run.refusals] == ["reverse-mode/vmap"]

    @refused
    def test_a_warning_names_the_call_the_way_taken_and_the_reason(self, name):
        func = UNBATCHED[name]

        with pytest.warns(FallbackWarning, match=REASONS[name]) as caught:
            torchjac.jacobian(func, point())

        assert len(caught) == 1
        assert str(caught[0].message).startswith("jacobian: computed by reverse-mode/loop")
        assert caught[0].filename == __file__

    @refused
    def test_the_report_keeps_the_reason(self, name):
        func = UNBATCHED[name]

        _, run, _ = observed(lambda: torchjac.jacobian(func, point()))

        assert len(run.refusals) == 1
        text = str(run).replace("\n", " ")
        assert "not reverse-mode/vmap" in text
        assert run.refusals[0].reason in text

    @refused
    def test_nobody_listening_changes_no_number(self, name):
        func = UNBATCHED[name]

        with pytest.warns(FallbackWarning):
            result = torchjac.jacobian(func, point())

        torch.testing.assert_close(result, torch.diag(2 * point()))

    @every_dtype
    @refused
    def test_rows_of_samples_come_from_a_replicated_batch(self, name, dtype):
        func = UNBATCHED[name]
        x = torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)
        weight = tall_weight(dtype)[:3]

        result, run, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: (func(x) @ weight.T).sin(), x)
        )

        expected = per_sample(lambda x: (x**2 @ weight.T).sin(), x)
        torch.testing.assert_close(result, expected)
        assert (run.mode, run.method) == ("reverse-mode", "replicated batch")
        assert run.refusals[0].method == "reverse-mode/vmap"

    @every_dtype
    @pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"vectorize": True}], ids=str)
    def test_an_op_that_vmap_runs_one_by_one_is_reported(self, options, dtype):
        x, weight = point(dtype), tall_weight(dtype)[:4]

        result, run, caught = observed(
            lambda: torchjac.jacobian(lambda x: weight @ square(x), x, **options)
        )

        torch.testing.assert_close(result, weight * (2 * x))
        assert (run.mode, run.method) == ("reverse-mode", "vmap, some ops one by one")
        assert [refusal.method for refusal in run.refusals] == ["reverse-mode/vmap"]
        assert "square_backward" in run.refusals[0].reason
        ((kind, message),) = caught
        assert kind is FallbackWarning
        assert message.startswith("jacobian: computed by reverse-mode/vmap, some ops one by one")

    @every_dtype
    def test_samples_of_such_an_op_come_from_a_replicated_batch(self, dtype):
        batch = torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)

        result, run, _ = observed(lambda: torchjac.batch_jacobian(square, batch))

        torch.testing.assert_close(result, torch.diag_embed(2 * batch))
        assert run.method == "replicated batch"

    def test_samples_that_cannot_be_replicated_are_batched_but_for_such_an_op(self):
        batch = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        result, run, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: square(x) * torch.ones(4, 1), batch)
        )

        torch.testing.assert_close(result, torch.diag_embed(2 * batch))
        assert run.method == "vmap, some ops one by one"
        assert [refusal.method for refusal in run.refusals] == [
            "reverse-mode/vmap",
            "reverse-mode/replicated batch",
        ]

    def test_rows_of_such_an_op_already_computed(self):
        x = point().requires_grad_()
        output = square(x).sin()

        _, run, _ = observed(lambda: torchjac.jacobian_of(output, x))

        assert run.method == "vmap, some ops one by one"

    def test_a_diagonal_of_such_an_op_is_warned_of(self):
        with pytest.warns(FallbackWarning, match="reverse-mode/vmap, some ops one by one"):
            result = torchjac.diagonal(square, point())

        torch.testing.assert_close(result, 2 * point())

    @every_dtype
    @pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"vectorize": False}], ids=str)
    def test_an_op_that_vmap_runs_one_by_one_is_right_and_pytorch_says_nothing(
        self, options, dtype
    ):
        x, weight = point(dtype), tall_weight(dtype)[:4]
        batch = torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)

        whole, _, _ = observed(
            lambda: torchjac.jacobian(lambda x: weight @ square(x), x, **options)
        )
        samples, _, _ = observed(lambda: torchjac.batch_jacobian(square, batch, **options))

        torch.testing.assert_close(whole, weight * (2 * x))
        torch.testing.assert_close(samples, torch.diag_embed(2 * batch))

    def test_an_op_that_vmap_runs_one_by_one_in_tensors_already_computed(self):
        x = point().requires_grad_()

        result, _, _ = observed(lambda: torchjac.jacobian_of(square(x).sin(), x))

        torch.testing.assert_close(result, torch.diag(2 * x * (x**2).cos()).detach())

    @pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
    @pytest.mark.parametrize("name", ["uses numpy", "writes in place"])
    def test_a_replicated_batch_keeps_to_the_chunk_size(self, name, chunk_size):
        func = UNBATCHED[name]
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        result, run, _ = observed(lambda: torchjac.batch_jacobian(func, x, chunk_size=chunk_size))

        torch.testing.assert_close(result, torch.diag_embed(2 * x))
        assert run.chunk_size == min(chunk_size, 3)

    def test_a_replicated_batch_along_other_axes(self):
        x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 3, 4)

        result, run, _ = observed(
            lambda: torchjac.batch_jacobian(
                lambda x: UsesNumpy.apply(x).movedim(1, 2), x, in_dim=1, out_dim=2
            )
        )

        expected = torch.stack([reference(lambda s: s**2, x[:, b]) for b in range(3)])
        torch.testing.assert_close(result, expected)
        assert run.method == "replicated batch"

    def test_a_replicated_batch_of_several_inputs_and_outputs(self):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)

        def func(x, y):
            return UsesNumpy.apply(x) * y, UsesNumpy.apply(y)

        result, run, _ = observed(lambda: torchjac.batch_jacobian(func, (x, x + 1)))

        assert run.method == "replicated batch"
        torch.testing.assert_close(result[0][0], torch.diag_embed(2 * x * (x + 1)))
        torch.testing.assert_close(result[0][1], torch.diag_embed(x**2))
        assert not result[1][0].any()
        torch.testing.assert_close(result[1][1], torch.diag_embed(2 * (x + 1)))

    def test_a_random_batch_is_not_replicated(self):
        x = torch.linspace(1, 2, 40, dtype=torch.float64).reshape(4, 10)

        def func(x):
            return F.dropout(UsesNumpy.apply(x), 0.5)

        torch.manual_seed(5)
        result, run, _ = observed(lambda: torchjac.batch_jacobian(func, x))
        torch.manual_seed(5)
        mask = F.dropout(torch.ones_like(x), 0.5)

        assert run.method == "loop"
        torch.testing.assert_close(result, torch.diag_embed(2 * x * mask))

    def test_a_function_with_its_batch_size_written_into_it_is_looped(self):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        result, run, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: UsesNumpy.apply(x).reshape(4, -1), x)
        )

        torch.testing.assert_close(result, torch.diag_embed(2 * x))
        assert run.method == "loop"

    def test_a_function_with_a_weight_for_every_sample_is_looped(self):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
        weights = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]

        result, run, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: UsesNumpy.apply(x) * weights, x)
        )

        torch.testing.assert_close(result, torch.diag_embed(2 * x * weights))
        assert run.method == "loop"

    def test_a_function_that_counts_its_samples_is_right_though_copies_are_miscounted(self):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        def func(x):
            return UsesNumpy.apply(x) * torch.arange(1, 1 + x.shape[0])[:, None]

        result, _, _ = observed(lambda: torchjac.batch_jacobian(func, x))

        weights = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
        torch.testing.assert_close(result, torch.diag_embed(2 * x * weights))

    @every_dtype
    @refused
    def test_tensors_already_computed(self, name, dtype):
        x = point(dtype).requires_grad_()
        output = UNBATCHED[name](x).sin()

        result, run, _ = observed(lambda: torchjac.jacobian_of(output, x))

        point_ = x.detach()
        torch.testing.assert_close(result, torch.diag(2 * point_ * (point_**2).cos()))
        assert (run.api, run.method) == ("jacobian_of", "loop")

    @pytest.mark.parametrize("name", ["reads a value", "writes in place"])
    def test_a_loop_is_differentiable(self, name):
        x = point().requires_grad_()

        result, run, _ = observed(lambda: torchjac.jacobian(UNBATCHED[name], x, create_graph=True))
        (grad,) = torch.autograd.grad((result**2).sum(), x)

        assert run.method == "loop"
        torch.testing.assert_close(grad, 8 * x.detach())

    def test_hessians_loop_too(self):
        x = point()

        result, run, _ = observed(
            lambda: torchjac.hessian(lambda x: (WritesInPlace.apply(x) * x).sum(), x)
        )

        torch.testing.assert_close(result, torch.diag(6 * x))
        assert (run.api, run.method) == ("hessian", "loop")

    def test_the_drop_in_falls_back_without_a_word(self):
        for func in UNBATCHED.values():
            torch.testing.assert_close(
                torchjac.functional.jacobian(func, point()), torch.diag(2 * point())
            )

    def test_the_drop_in_lets_no_warning_of_pytorch_through(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for func in UNBATCHED.values():
                torchjac.functional.jacobian(func, point())

        assert caught == []

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode"])
    @pytest.mark.parametrize("name", ["reads a value", "uses numpy", "branches on data"])
    def test_vectorize_true_raises_instead_of_looping(self, name, strategy):
        with pytest.raises(RuntimeError, match=REASONS[name]):
            torchjac.jacobian(UNBATCHED[name], point(), vectorize=True, strategy=strategy)

    def test_vectorize_false_loops_without_trying_anything_else(self):
        result, run, caught = observed(
            lambda: torchjac.jacobian(UsesNumpy.apply, point(), vectorize=False)
        )

        torch.testing.assert_close(result, torch.diag(2 * point()))
        assert (run.method, run.refusals, caught) == ("loop", (), [])

    def test_a_loop_reports_one_pass_for_each_seed(self):
        _, run, _ = observed(lambda: torchjac.jacobian(UsesNumpy.apply, point()))

        assert (run.seeds, run.passes, run.chunk_size) == (3, 3, 1)

    def test_a_loop_inside_vmap(self):
        x = torch.stack([point(), 2 * point()])

        result = torch.func.vmap(
            lambda x: torchjac.jacobian(lambda x: NoForwardRuleAndOnce.apply(x), x)
        )(x)

        torch.testing.assert_close(result, torch.diag_embed(2 * x))


class TestAbsentGradients:
    """A backward pass that returns None for some seeds: those rows are zero."""

    @pytest.mark.parametrize("options", [{}, {"chunk_size": 1}, {"chunk_size": 2}], ids=str)
    @pytest.mark.parametrize("create_graph", [False, True])
    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_rows_that_are_absent_are_zero(self, order, create_graph, options):
        def func(x, y):
            parts = (SkipsZeros.apply(x), 3 * y)
            return torch.cat([parts[i] for i in order])

        x, y = point(), point() + 1

        blocks, _, _ = observed(
            lambda: torchjac.jacobian(func, (x, y), create_graph=create_graph, **options)
        )

        expected = reference(func, (x, y))
        for block, known in zip(blocks, expected, strict=True):
            torch.testing.assert_close(block.detach(), known)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_rows_that_are_absent_are_zero_for_samples(self, order):
        def func(x):
            parts = (SkipsZeros.apply(x), x.detach() + 0 * x)
            return torch.cat([parts[i] for i in order], dim=1)

        x = torch.linspace(1, 2, 4, dtype=torch.float64).reshape(2, 2)

        result, _, _ = observed(lambda: torchjac.batch_jacobian(func, x))

        torch.testing.assert_close(result, per_sample(func, x))


class TestWrongBatchingRule:
    """PyTorch has a batching rule, and it is wrong."""

    @every_dtype
    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("count", [2, 5, 20])
    def test_distances(self, count, strategy, dtype):
        # Of torch.cdist, in torch 2.13: the rule for a backward pass with one batched argument.
        generator = torch.Generator().manual_seed(0)
        centers = torch.randn(count, 3, dtype=torch.float64, generator=generator).to(dtype)
        x = torch.randn(4, 3, dtype=torch.float64, generator=generator).to(dtype)

        result, _, _ = observed(
            lambda: torchjac.jacobian(lambda x: torch.cdist(x, centers), x, strategy=strategy)
        )

        apart = (x[:, None] - centers) / (x[:, None] - centers).norm(dim=2, keepdim=True)
        expected = torch.zeros(4, count, 4, 3, dtype=dtype)
        for i in range(4):
            expected[i, :, i] = apart[i]
        torch.testing.assert_close(result, expected)


class TestRecurrent:
    """LSTM, GRU and RNN, whose fused kernels have some rules and lack others."""

    @every_dtype
    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_jacobian(self, kind, strategy, dtype):
        torch.manual_seed(0)
        module = kind(3, 4, batch_first=True).to(dtype)
        x = torch.randn(2, 3, 3, dtype=dtype)

        result, _, _ = observed(
            lambda: torchjac.jacobian(lambda x: module(x)[0], x, strategy=strategy)
        )

        torch.testing.assert_close(result, reference(lambda x: module(x)[0], x))

    @every_dtype
    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_batch_jacobian(self, kind, strategy, dtype):
        torch.manual_seed(0)
        module = kind(3, 4, batch_first=True).to(dtype)
        x = torch.randn(3, 2, 3, dtype=dtype)

        result, _, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: module(x)[0], x, strategy=strategy)
        )

        torch.testing.assert_close(result, per_sample(lambda x: module(x)[0], x))

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_the_state_comes_along_as_a_tree(self, kind):
        torch.manual_seed(0)
        module = kind(2, 3).double()
        x = torch.randn(2, 1, 2, dtype=torch.float64)

        (output, state), _, _ = observed(lambda: torchjac.jacobian(module, x))

        torch.testing.assert_close(output, reference(lambda x: module(x)[0], x))
        final = state[0] if kind is nn.LSTM else state
        torch.testing.assert_close(final, output[-1:])

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_by_parameters(self, kind):
        torch.manual_seed(0)
        module = kind(2, 2)
        x = torch.randn(2, 1, 2)

        blocks, _, _ = observed(
            lambda: torchjac.jacobian(lambda x: module(x)[0].sum(0), x, wrt=module)
        )

        module(x)[0].sum(0)[0, 1].backward()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(blocks[name][0, 1], parameter.grad)


# -- No forward rule -------------------------------------------------------------------------------


def gridded(x):
    image = torch.arange(16.0, dtype=x.dtype).reshape(1, 1, 4, 4).sin()
    return F.grid_sample(image, x.reshape(1, 2, 2, 2), align_corners=True)


def incomplete_gamma(x):
    return torch.igamma(x.new_tensor(2.0), x + 2)


def bagged(x):
    return F.embedding_bag(torch.tensor([[0, 1], [1, 0]]), x.reshape(2, 4), mode="mean")


def aligned(x):
    logits = x.reshape(4, 1, 2).log_softmax(-1)
    return F.ctc_loss(logits, torch.tensor([[1, 1]]), torch.tensor([4]), torch.tensor([2]))


class TestNoForwardRule:
    """forward -> double-backward -> reverse."""

    @every_dtype
    @pytest.mark.parametrize("func", [gridded, incomplete_gamma])
    def test_columns_come_from_double_backward(self, func, dtype):
        x = torch.linspace(-0.9, 0.8, 8, dtype=dtype)

        result, run, caught = observed(lambda: torchjac.jacobian(func, x, strategy="forward-mode"))

        torch.testing.assert_close(result, reference(func, x))
        assert run.mode == "double-backward"
        assert run.seeds == 8
        assert "forward-mode/vmap" in run.refusals[0].method
        assert [category for category, _ in caught] == [FallbackWarning]
        assert "forward AD" in caught[0][1]

    @every_dtype
    @pytest.mark.parametrize("func", [bagged, aligned], ids=["embedding_bag", "ctc_loss"])
    def test_rows_come_from_reverse_mode_where_double_backward_fails_too(self, func, dtype):
        x = torch.linspace(-1, 1, 8, dtype=dtype)

        result, run, caught = observed(lambda: torchjac.jacobian(func, x, strategy="forward-mode"))

        torch.testing.assert_close(result, reference(func, x))
        assert run.mode == "reverse-mode"
        methods = [refusal.method for refusal in run.refusals]
        assert any(method.startswith("forward-mode") for method in methods)
        assert [category for category, _ in caught] == [FallbackWarning]

    @every_dtype
    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    def test_a_tall_function_takes_double_backward(self, strategy, dtype):
        weight, x = tall_weight(dtype), point(dtype)

        result, run, caught = observed(
            lambda: torchjac.jacobian(
                lambda x: weight @ NoForwardRule.apply(x), x, strategy=strategy
            )
        )

        torch.testing.assert_close(result, weight * (2 * x))
        assert (run.mode, run.method, run.seeds) == ("double-backward", "vmap", 3)
        assert [category for category, _ in caught] == [FallbackWarning]

    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    def test_a_tall_function_that_is_differentiable_once_takes_reverse_mode(self, strategy):
        weight, x = tall_weight(), point()

        result, run, _ = observed(
            lambda: torchjac.jacobian(
                lambda x: weight @ NoForwardRuleAndOnce.apply(x), x, strategy=strategy
            )
        )

        torch.testing.assert_close(result, weight * (2 * x))
        assert (run.mode, run.seeds) == ("reverse-mode", 60)
        assert {r.method.split("/")[0] for r in run.refusals} == {"forward-mode", "double-backward"}

    def test_samples(self):
        weight = tall_weight()
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        result, run, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: NoForwardRule.apply(x) @ weight.T, x)
        )

        torch.testing.assert_close(result, weight * (2 * x)[:, None])
        assert (run.mode, run.seeds) == ("double-backward", 3)

    def test_a_differentiable_result_is_right_twice(self):
        weight, x = tall_weight(), point().requires_grad_()

        result, run, _ = observed(
            lambda: torchjac.jacobian(
                lambda x: weight @ NoForwardRule.apply(x),
                x,
                create_graph=True,
                strategy="forward-mode",
            )
        )
        (grad,) = torch.autograd.grad((result**2).sum(), x)

        torch.testing.assert_close(grad, (8 * weight**2 * x.detach()).sum(0))
        # PyTorch's forward rules are not to be trusted with second derivatives, and the report
        # says so where forward mode was asked for and not taken.
        assert run.mode == "forward-mode" or run.why != "asked for"

    @unbatched
    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    def test_a_tall_function_without_any_rule_is_right(self, name, strategy):
        weight, x = tall_weight(), point()

        result, _, _ = observed(
            lambda: torchjac.jacobian(lambda x: weight @ UNBATCHED[name](x), x, strategy=strategy)
        )

        torch.testing.assert_close(result, weight * (2 * x))

    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    @unbatched
    def test_a_part_without_rules_does_not_spoil_the_rest(self, name, strategy):
        weight, x = tall_weight(), point()

        result, _, _ = observed(
            lambda: torchjac.jacobian(
                lambda x: weight @ (UNBATCHED[name](x) + x), x, strategy=strategy
            )
        )

        torch.testing.assert_close(result, weight * (2 * x + 1))

    @unbatched
    def test_samples_of_a_tall_function_without_any_rule_are_right(self, name):
        weight = tall_weight()
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        result, _, _ = observed(
            lambda: torchjac.batch_jacobian(lambda x: UNBATCHED[name](x) @ weight.T, x)
        )

        torch.testing.assert_close(result, weight * (2 * x)[:, None])

    @pytest.mark.parametrize("name", ["uses numpy", "branches on data"])
    def test_the_drop_in_with_forward_mode_is_right(self, name):
        x = point()

        result = torchjac.functional.jacobian(
            UNBATCHED[name], x, strategy="forward-mode", vectorize=True
        )

        torch.testing.assert_close(result, torch.diag(2 * x))

    def test_tensors_already_computed_are_right(self):
        weight, x = tall_weight(), point().requires_grad_()
        output = weight @ NoForwardRule.apply(x)

        result, _, _ = observed(lambda: torchjac.jacobian_of(output, x))

        torch.testing.assert_close(result, weight * (2 * x.detach()))

    def test_tensors_already_computed_by_numpy_are_right(self):
        weight, x = tall_weight(), point().requires_grad_()
        output = weight @ UsesNumpy.apply(x)

        result, _, _ = observed(lambda: torchjac.jacobian_of(output, x))

        torch.testing.assert_close(result, weight * (2 * x.detach()))


class TestNoBackwardRule:
    """Forward mode is all there is."""

    def test_forward_mode_is_not_held_up_by_a_missing_backward_rule(self):
        weight, x = tall_weight(), point()

        result, run, _ = observed(
            lambda: torchjac.jacobian(
                lambda x: weight @ NoBackwardRule.apply(x), x, strategy="forward-mode"
            )
        )

        torch.testing.assert_close(result, weight * (2 * x))
        assert run.mode == "forward-mode"

    def test_reverse_mode_raises_the_functions_own_error(self):
        with pytest.raises(NotImplementedError, match="no backward here"):
            torchjac.jacobian(NoBackwardRule.apply, point())


# -- Two answers -----------------------------------------------------------------------------------


class TestDisagreement:
    """Forward and reverse mode differ: the answer is that of reverse mode, with a warning."""

    @every_dtype
    def test_a_wrong_forward_rule_is_found_out(self, dtype):
        weight, x = tall_weight(dtype), point(dtype)

        with pytest.warns(DisagreementWarning, match=r"^jacobian: forward and reverse mode dis"):
            result = torchjac.jacobian(lambda x: weight @ WrongForwardRule.apply(x), x)

        torch.testing.assert_close(result, weight * (2 * x))

    def test_the_report_ends_with_reverse_mode(self):
        weight = tall_weight()

        _, run, caught = observed(
            lambda: torchjac.jacobian(lambda x: weight @ WrongForwardRule.apply(x), point())
        )

        assert run.mode == "reverse-mode"
        assert "another answer" in run.why
        assert [category for category, _ in caught] == [DisagreementWarning]

    def test_one_wrong_input_among_several_is_found_out(self):
        weight, x = tall_weight(), point()

        blocks, _, caught = observed(
            lambda: torchjac.jacobian(
                lambda x, y: weight @ (x**2 + WrongForwardRule.apply(y)), (x, x)
            )
        )

        torch.testing.assert_close(blocks[0], weight * (2 * x))
        torch.testing.assert_close(blocks[1], weight * (2 * x))
        assert [category for category, _ in caught] == [DisagreementWarning]

    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    def test_samples(self, strategy):
        weight = tall_weight()
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)

        result, run, caught = observed(
            lambda: torchjac.batch_jacobian(
                lambda x: WrongForwardRule.apply(x) @ weight.T, x, strategy=strategy
            )
        )

        torch.testing.assert_close(result, weight * (2 * x)[:, None])
        assert run.mode == "reverse-mode"
        assert DisagreementWarning in [category for category, _ in caught]

    def test_a_differentiable_result_is_that_of_reverse_mode_too(self):
        weight, x = tall_weight(), point().requires_grad_()

        result, _, _ = observed(
            lambda: torchjac.jacobian(
                lambda x: weight @ WrongForwardRule.apply(x), x, create_graph=True
            )
        )
        (grad,) = torch.autograd.grad((result**2).sum(), x)

        torch.testing.assert_close(grad, (8 * weight**2 * x.detach()).sum(0))

    def test_a_gradient_that_a_hook_clips_is_clipped(self):
        weight, x = tall_weight(), point()

        def func(x):
            squared = x**2
            if squared.requires_grad:
                squared.register_hook(lambda grad: grad.clamp(-0.5, 0.5))
            return weight @ squared

        result, _, caught = observed(lambda: torchjac.jacobian(func, x))

        torch.testing.assert_close(result, weight.clamp(-0.5, 0.5) * (2 * x))
        assert DisagreementWarning in [category for category, _ in caught]

    @every_dtype
    def test_rounding_is_no_disagreement(self, dtype):
        # A derivative that is zero but for rounding: relative differences mean nothing.
        x = torch.tensor([0.3, -0.7, 1.9, 0.1, 2.0], dtype=dtype)
        weight = torch.linspace(-1, 1, 64, dtype=dtype)

        result = torchjac.jacobian(lambda x: x.softmax(0).sum() * weight, x)

        torch.testing.assert_close(result, torch.zeros(64, 5, dtype=dtype))

    @pytest.mark.parametrize("inner", [torch.float32, torch.bfloat16])
    def test_less_precision_inside_is_no_disagreement(self, inner):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 200)).to(inner)
        x = torch.randn(8, dtype=torch.float64)

        result = torchjac.jacobian(lambda x: model(x.to(inner)).double(), x)

        expected = reference(lambda x: model(x.to(inner)).double(), x)
        torch.testing.assert_close(result, expected, rtol=0.1, atol=0.05)

    def test_autocast_is_no_disagreement(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 200))
        x = torch.randn(8)

        def func(x):
            with torch.autocast("cpu", torch.bfloat16):
                return model(x).float()

        result = torchjac.jacobian(func, x)

        torch.testing.assert_close(result, reference(func, x), rtol=0.1, atol=0.05)


# -- What a fallback must leave alone --------------------------------------------------------------

WAYS = {
    "reverse, vmap": (lambda x: x**2, {}, FallbackWarning),
    "reverse, loop": (UsesNumpy.apply, {}, FallbackWarning),
    "forward": (lambda x: tall_weight() @ x**2, {}, FallbackWarning),
    "double-backward": (lambda x: tall_weight() @ NoForwardRule.apply(x), {}, FallbackWarning),
    "forward -> reverse": (
        lambda x: tall_weight() @ NoForwardRuleAndOnce.apply(x),
        {},
        FallbackWarning,
    ),
    "disagreement": (lambda x: tall_weight() @ WrongForwardRule.apply(x), {}, DisagreementWarning),
}
every_way = pytest.mark.parametrize("way", WAYS)


class TestRandomNumbers:
    """One evaluation draws, the others draw the same again."""

    @every_way
    def test_the_generator_stands_where_one_evaluation_leaves_it(self, way):
        inner = WAYS[way][0]

        def func(x):
            return inner(F.dropout(x, 0.5))

        torch.manual_seed(3)
        observed(lambda: torchjac.jacobian(func, point()))
        after = torch.get_rng_state()

        torch.manual_seed(3)
        func(point())
        assert torch.equal(after, torch.get_rng_state())

    @every_way
    def test_a_function_without_random_numbers_draws_none(self, way):
        before = torch.get_rng_state()

        observed(lambda: torchjac.jacobian(WAYS[way][0], point()))

        assert torch.equal(before, torch.get_rng_state())

    @every_way
    def test_all_evaluations_see_one_mask(self, way):
        inner = WAYS[way][0]
        x = torch.linspace(0.5, 2, 3, dtype=torch.float64)

        def func(x):
            value = inner(F.dropout(x, 0.5) + 1)
            return value, value

        torch.manual_seed(8)
        (first, second), _, _ = observed(lambda: torchjac.jacobian(func, x))
        torch.manual_seed(8)
        mask = F.dropout(torch.ones(3, dtype=torch.float64), 0.5)

        slope = 2 * (x * mask + 1) * mask
        weight = torch.eye(3, dtype=torch.float64) if first.shape[0] == 3 else tall_weight()
        torch.testing.assert_close(first, weight * slope)
        torch.testing.assert_close(second, weight * slope)

    def test_a_checkpoint_with_dropout_recomputes_the_same_mask(self):
        x = torch.linspace(0.5, 2, 6, dtype=torch.float64)

        def func(x):
            return checkpoint(lambda x: F.dropout(x.sin(), 0.5), x, use_reentrant=False)

        torch.manual_seed(4)
        result, _, _ = observed(lambda: torchjac.jacobian(func, x))
        torch.manual_seed(4)

        torch.testing.assert_close(result, reference(func, x))


class TestBuffers:
    """A module's running statistics move once, however often it is evaluated."""

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    @pytest.mark.parametrize(
        "function",
        [lambda x: x**2, NoForwardRule.apply, NoForwardRuleAndOnce.apply, UsesNumpy.apply],
        ids=["forward", "double-backward", "reverse", "loop"],
    )
    def test_running_statistics_are_updated_once(self, function, strategy):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(2).double()
                self.expand = nn.Linear(2, 50).double()

            def forward(self, x):
                return self.expand(function(self.norm(x)))

        torch.manual_seed(0)
        model = Model()
        x = torch.randn(4, 2, dtype=torch.float64)

        observed(lambda: torchjac.jacobian(model, x, strategy=strategy))

        assert model.norm.num_batches_tracked == 1
        torch.testing.assert_close(model.norm.running_mean, 0.1 * x.mean(0))


class TestMemory:
    """Nothing is held after the call."""

    @pytest.mark.parametrize("call", ["jacobian", "value_and_jacobian", "jacobian_of", "drop-in"])
    @every_way
    def test_outputs_and_intermediates_are_let_go_without_the_garbage_collector(self, way, call):
        inner = WAYS[way][0]
        held = []

        def func(x):
            middle = x * 2
            output = inner(middle)
            held.extend([weakref.ref(middle), weakref.ref(output)])
            return output

        x = point().requires_grad_()

        def run():
            if call == "jacobian_of":
                return torchjac.jacobian_of(func(x), x)
            if call == "drop-in":
                return torchjac.functional.jacobian(func, x)
            return getattr(torchjac, call)(func, x)

        observed(run)  # caches fill
        held.clear()
        gc.collect()
        gc.disable()
        try:
            result, _, _ = observed(run)
            held.append(weakref.ref(result if isinstance(result, Tensor) else result[1]))
            del result
            alive = [reference for reference in held if reference() is not None]
        finally:
            gc.enable()

        assert alive == []

    def test_a_call_that_failed_holds_nothing_once_its_error_is_gone(self):
        held = []

        class Fails(_Legacy):
            @staticmethod
            def backward(ctx, grad):
                raise KeyError("backward")

        def func(x):
            output = Fails.apply(x)
            held.append(weakref.ref(output))
            return output

        gc.collect()
        gc.disable()
        try:
            with pytest.raises(KeyError):
                torchjac.jacobian(func, point())
            alive = [reference for reference in held if reference() is not None]
        finally:
            gc.enable()

        assert len(held) == 1
        assert alive == []


def backward_raises(error):
    class Raises(_Legacy):
        @staticmethod
        def backward(ctx, grad):
            raise error

    return Raises.apply


def forward_raises(error):
    def func(x):
        raise error

    return func


class TestErrors:
    """The user's errors are the user's to see, and leave nothing behind."""

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("raising", [backward_raises, forward_raises])
    @pytest.mark.parametrize(
        "error",
        [KeyError("mine"), ZeroDivisionError("mine"), AssertionError("mine"), OSError("mine")],
        ids=lambda e: type(e).__name__,
    )
    def test_an_error_of_the_function_reaches_the_caller(self, error, raising, strategy):
        with pytest.raises(type(error), match="mine"):
            torchjac.jacobian(raising(error), point(), strategy=strategy)

    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    @pytest.mark.parametrize("raising", [backward_raises, forward_raises])
    def test_an_interrupt_is_not_survived(self, raising, strategy):
        with pytest.raises(KeyboardInterrupt):
            torchjac.jacobian(raising(KeyboardInterrupt()), point(), strategy=strategy)

    def test_an_interrupt_in_a_replay_is_not_survived(self):
        calls = []

        def func(x):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return tall_weight() @ x**2

        with pytest.raises(KeyboardInterrupt):
            torchjac.jacobian(func, point())

        assert len(calls) == 2

    @pytest.mark.parametrize("api", ["jacobian", "batch_jacobian", "hessian"])
    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("raising", [backward_raises, forward_raises])
    def test_transforms_and_autograd_work_after_an_error(self, raising, strategy, api):
        x = point() if api != "batch_jacobian" else point()[None]
        key = "outer_jacobian_strategy" if api == "hessian" else "strategy"

        def func(x):
            value = raising(KeyError("mine"))(x)
            return value.sum() if api == "hessian" else value

        with pytest.raises(KeyError):
            getattr(torchjac, api)(func, x, **{key: strategy})

        assert torch._C._functorch.peek_interpreter_stack() is None
        assert torch.is_grad_enabled()
        assert torch._C._is_fwd_grad_enabled()
        assert torch.vmap(torch.sin)(torch.zeros(3)).tolist() == [0, 0, 0]
        assert torch.func.jacfwd(torch.sin)(torch.zeros(2)).tolist() == [[1, 0], [0, 1]]
        assert torch.autograd.functional.jacobian(torch.sin, torch.zeros(1)).tolist() == [[1]]
        y = torch.zeros(2, requires_grad=True)
        y.sin().sum().backward()
        assert y.grad.tolist() == [1, 1]

    @every_way
    def test_grad_mode_is_as_it_was(self, way):
        for mode in (True, False):
            with torch.set_grad_enabled(mode):
                observed(lambda: torchjac.jacobian(WAYS[way][0], point()))
                assert torch.is_grad_enabled() is mode
        assert torch._C._is_fwd_grad_enabled()

    @every_way
    def test_the_answer_is_right_under_no_grad(self, way):
        with torch.no_grad():
            result, _, _ = observed(lambda: torchjac.jacobian(WAYS[way][0], point()))

        weight = torch.eye(3, dtype=torch.float64) if result.shape[0] == 3 else tall_weight()
        torch.testing.assert_close(result, weight * (2 * point()))

    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    def test_a_warning_made_an_error_is_not_taken_for_a_refusal(self, strategy):
        weight = tall_weight()

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(HiddenValueWarning):
                torchjac.jacobian(
                    lambda x: weight @ (x * x.sum().item()), point(), strategy=strategy
                )


class TestHessian:
    """Forward mode over a gradient."""

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    def test_parameters_that_require_gradients_do_no_harm(self, strategy):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        x = point()

        result = torchjac.hessian(lambda x: model(x).sum(), x, outer_jacobian_strategy=strategy)

        expected = torch.autograd.functional.hessian(lambda x: model(x).sum(), x)
        torch.testing.assert_close(result, expected)

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("name", ["reads a value", "writes in place", "branches on data"])
    def test_functions_without_rules(self, name, strategy):
        x = point()

        result, _, _ = observed(
            lambda: torchjac.hessian(
                lambda x: (UNBATCHED[name](x) * x).sum(), x, outer_jacobian_strategy=strategy
            )
        )

        torch.testing.assert_close(result, torch.diag(6 * x))


class TestThreads:
    """Several Jacobians at once."""

    def test_forward_mode_is_right_while_another_thread_uses_it(self):
        # The other thread enters forward mode first and leaves it while this one is inside.
        # (torch.func.jvp of torch 2.13 then drops the tangents of this one without a word.)
        weight, x = tall_weight(), point()
        first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
        calls = {"first": 0, "second": 0}
        results = {}

        def first(x):
            calls["first"] += 1
            if calls["first"] == 2:
                first_is_in.set()
                second_is_in.wait(0.5)
            return weight @ x**2

        def second(x):
            calls["second"] += 1
            squared = x**2
            if calls["second"] == 2:
                second_is_in.set()
                first_is_out.wait(0.5)
            return weight @ squared

        def run_first():
            results["first"] = torchjac.jacobian(first, x, strategy="forward-mode")
            first_is_out.set()

        def run_second():
            first_is_in.wait(5)
            results["second"] = torchjac.jacobian(second, x, strategy="forward-mode")

        threads = [threading.Thread(target=run) for run in (run_first, run_second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        torch.testing.assert_close(results["first"], weight * (2 * x))
        torch.testing.assert_close(results["second"], weight * (2 * x))

    @pytest.mark.parametrize("strategy", ["auto", "reverse-mode"])
    def test_many_threads_give_the_answers_of_one(self, strategy):
        weight = tall_weight()[:4]
        points = [point() * k for k in range(1, 9)]
        results = {}

        def run(k):
            for _ in range(5):
                results[k] = torchjac.jacobian(
                    lambda x: torch.sin(weight @ x**2), points[k], strategy=strategy
                )

        threads = [threading.Thread(target=run, args=(k,)) for k in range(len(points))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        for k, x in enumerate(points):
            expected = (weight @ x**2).cos()[:, None] * weight * (2 * x)
            torch.testing.assert_close(results[k], expected)

    def test_a_thread_that_draws_is_not_set_back_by_a_function_that_does_not(self):
        weight, drawn, calls = tall_weight(), [], []

        def func(x):
            calls.append(1)
            if len(calls) == 2:
                thread = threading.Thread(target=lambda: drawn.append(torch.rand(4)))
                thread.start()
                thread.join()
            return weight @ x**2

        torchjac.jacobian(func, point(), strategy="forward-mode")

        assert len(drawn) == 1
        assert not torch.equal(drawn[0], torch.rand(4))
