"""The mode follows from the sizes, can be overridden, and can be read off."""

import pytest
import torch
from torch import nn

import torchjac
from torchjac._evaluate.choose import choose

DTYPES = [torch.float64, torch.float32]


def mode_of(func, inputs, **options):
    with torchjac.record() as runs:
        torchjac.jacobian(func, inputs, **options)
    return runs[-1].mode


def linear(n_out, n_in, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n_out * 1000 + n_in)
    weight = torch.randn(n_out, n_in, dtype=dtype, generator=generator)
    return lambda x: torch.tanh(weight @ x)


class TestChoice:
    """The rule by itself."""

    @pytest.mark.parametrize(
        ("n_in", "n_out", "mode"),
        [
            (32, 12288, "forward-mode"),  # a decoder
            (1, 1000, "forward-mode"),  # a curve
            (3, 200, "forward-mode"),
            (12288, 10, "reverse-mode"),  # an image classifier
            (1000, 1, "reverse-mode"),  # a loss
            (500, 500, "reverse-mode"),
            (1, 1, "reverse-mode"),
            (2, 6, "reverse-mode"),  # forward saves 4 passes and costs more than that
            (1, 3, "reverse-mode"),
            (0, 5, "reverse-mode"),
            (5, 0, "reverse-mode"),
            (0, 0, "reverse-mode"),
        ],
    )
    def test_fewer_passes_win_where_the_difference_is_worth_it(self, n_in, n_out, mode):
        assert choose("auto", n_in, n_out).mode == mode

    @pytest.mark.parametrize("n_in", [1, 2, 7, 64, 1000])
    def test_more_outputs_never_turn_forward_back_into_reverse(self, n_in):
        modes = [choose("auto", n_in, n_out).mode for n_out in range(1, 8 * n_in + 100)]

        switch = modes.index("forward-mode")
        assert set(modes[:switch]) == {"reverse-mode"}
        assert set(modes[switch:]) == {"forward-mode"}
        assert switch > n_in

    @pytest.mark.parametrize("strategy", ["forward-mode", "reverse-mode"])
    @pytest.mark.parametrize("sizes", [(1, 10000), (10000, 1), (4, 4)])
    def test_a_strategy_that_was_asked_for_is_taken(self, strategy, sizes):
        choice = choose(strategy, *sizes)

        assert choice.mode == strategy
        assert choice.why == "asked for"

    def test_the_reason_names_both_sizes(self):
        assert "12288 outputs, 32 inputs" in choose("auto", 32, 12288).why
        assert "10 outputs, 784 inputs" in choose("auto", 784, 10).why


class TestJacobian:
    """The rule at work."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_decoder_is_differentiated_by_forward_mode(self, dtype):
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 3000)).to(dtype)
        x = torch.randn(32, dtype=dtype)

        with torchjac.record() as runs:
            result = torchjac.jacobian(decoder, x)

        assert runs[0].mode == "forward-mode"
        assert runs[0].seeds == 32
        assert "3000 outputs, 32 inputs" in runs[0].why
        torch.testing.assert_close(result, torch.func.jacrev(decoder)(x))

    @pytest.mark.parametrize(
        ("n_out", "n_in"), [(4, 2), (2, 4), (3, 3), (1, 50), (10, 100), (50, 50)]
    )
    def test_few_outputs_stay_with_reverse_mode(self, n_out, n_in):
        x = torch.linspace(-1, 1, n_in, dtype=torch.float64)

        assert mode_of(linear(n_out, n_in), x) == "reverse-mode"

    def test_sizes_are_counted_over_all_inputs_and_outputs(self):
        tall = linear(100, 2)
        x, y = torch.ones(2, dtype=torch.float64), torch.ones(300, dtype=torch.float64)

        assert mode_of(lambda x: (tall(x), tall(2 * x)), x) == "forward-mode"
        assert mode_of(lambda x, y: (tall(x), y.sum()), (x, y)) == "reverse-mode"

    @pytest.mark.parametrize("strategy", ["forward-mode", "reverse-mode"])
    @pytest.mark.parametrize("shape", [(100, 2), (2, 100), (3, 3)])
    def test_the_choice_can_be_overridden_without_changing_the_answer(self, strategy, shape):
        func, x = linear(*shape), torch.linspace(-1, 1, shape[1], dtype=torch.float64)

        with torchjac.record() as runs:
            result = torchjac.jacobian(func, x, strategy=strategy)

        assert (runs[0].mode, runs[0].why) == (strategy, "asked for")
        torch.testing.assert_close(result, torch.autograd.functional.jacobian(func, x))

    def test_seeds_are_rows_in_reverse_and_columns_in_forward_mode(self):
        func, x = linear(20, 12), torch.ones(12, dtype=torch.float64)

        with torchjac.record() as runs:
            torchjac.jacobian(func, x, strategy="reverse-mode")
            torchjac.jacobian(func, x, strategy="forward-mode")

        assert [run.seeds for run in runs] == [20, 12]

    def test_a_batch_is_judged_by_the_sizes_of_one_sample(self):
        weight = torch.randn(3, 60, dtype=torch.float64)
        x = torch.randn(50, 3, dtype=torch.float64)

        with torchjac.record() as runs:
            torchjac.batch_jacobian(lambda x: torch.tanh(x @ weight), x)
            torchjac.batch_jacobian(lambda x: torch.tanh(x @ weight[:, :5]), x)

        assert [(run.mode, run.seeds) for run in runs] == [("forward-mode", 3), ("reverse-mode", 5)]

    def test_a_complex_function_stays_with_reverse_mode(self):
        weight = torch.randn(50, 2, dtype=torch.complex128)
        z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128)

        with torchjac.record() as runs:
            result = torchjac.jacobian(lambda z: weight @ z**2, z, holomorphic=True)

        assert runs[0].mode == "reverse-mode"
        torch.testing.assert_close(result, weight * (2 * z))

    @pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
    def test_a_differentiable_result_stands_on_backward_passes(self, strategy):
        # PyTorch's forward rules of solve, det, layer_norm and others have a wrong derivative.
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(40, 4, dtype=torch.float64, generator=generator)
        x = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)

        def func(x):
            return weight @ torch.nn.functional.layer_norm(x, (4,))

        with torchjac.record() as runs:
            result = torchjac.jacobian(func, x, create_graph=True, strategy=strategy)
        (grad,) = torch.autograd.grad((result**2).sum(), x)

        reference = torch.autograd.functional.jacobian(func, x, create_graph=True)
        (expected,) = torch.autograd.grad((reference**2).sum(), x)
        assert runs[0].mode in ("reverse-mode", "double-backward")
        assert "rows are no more than columns" not in runs[0].why
        torch.testing.assert_close(grad, expected)

    def test_a_hessian_is_square_and_stays_with_reverse_mode(self):
        with torchjac.record() as runs:
            torchjac.hessian(lambda x: (x**3).sum(), torch.ones(40))

        assert runs[0].mode == "reverse-mode"


class TestDtype:
    """What comes out does not tell which mode was chosen."""

    @pytest.mark.parametrize("inner", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_auto_returns_the_dtype_of_the_input_whatever_the_mode(self, dtype, inner):
        weight = torch.linspace(-1, 1, 300).reshape(100, 3).to(inner)
        x = torch.tensor([0.25, -0.5, 1.0], dtype=dtype)

        tall = torchjac.jacobian(lambda x: weight @ x.to(inner), x)
        wide = torchjac.jacobian(lambda x: weight[:3] @ x.to(inner), x)

        assert mode_of(lambda x: weight @ x.to(inner), x) == "forward-mode"
        assert mode_of(lambda x: weight[:3] @ x.to(inner), x) == "reverse-mode"
        assert tall.dtype == wide.dtype == dtype
        torch.testing.assert_close(tall, weight.to(dtype))
        torch.testing.assert_close(wide, weight[:3].to(dtype))

    def test_auto_returns_the_dtype_of_each_input(self):
        x, y = torch.ones(2), torch.ones(2, dtype=torch.float64)

        blocks = torchjac.jacobian(lambda x, y: (x.double() * y).repeat(50), (x, y))

        assert [block.dtype for block in blocks] == [torch.float32, torch.float64]

    def test_auto_returns_the_dtype_of_the_input_for_batches(self):
        weight = torch.randn(3, 60, dtype=torch.float64)
        x = torch.randn(5, 3)

        tall = torchjac.batch_jacobian(lambda x: x.double() @ weight, x)
        wide = torchjac.batch_jacobian(lambda x: x.double() @ weight[:, :2], x)

        assert tall.dtype == wide.dtype == torch.float32
