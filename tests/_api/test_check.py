"""`check`: the three numbers, the verdict and the likely cause."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from torchjac.errors import ArgumentError, ArgumentTypeError

POINT = torch.tensor([0.3, 0.7, 1.1, 1.9], dtype=torch.float64)
HIDDEN = "a dependence that autograd does not see"
BACKWARD = "an autograd.Function whose backward is wrong"
FORWARD = "forward rule (jvp) is wrong"


def cube_function(backward_factor=3.0, jvp_factor=3.0):
    """x^3 as an `autograd.Function`, with the factors of its two derivatives (3 is right)."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, cotangent):
            (x,) = ctx.saved_tensors
            return backward_factor * x**2 * cotangent

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return jvp_factor * x**2 * tangent

    return Cube.apply


MATRIX = torch.tensor([[1.0, 2.0, 0.5], [-3.0, 4.0, 1.0], [0.0, 2.5, -1.0]], dtype=torch.float64)


def matrix_function(backward_matrix, jvp_matrix):
    """A linear map with the matrices of its two derivatives (`MATRIX.T` and `MATRIX` are right)."""

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return MATRIX @ x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, cotangent):
            return backward_matrix @ cotangent

        @staticmethod
        def jvp(ctx, tangent):
            return jvp_matrix @ tangent

    return Linear.apply


# -- Functions that are right ------------------------------------------------------------------

RIGHT = {
    "sine": torch.sin,
    "network": nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(),
    "scalar": lambda x: x.prod().exp(),
    "constant": lambda x: torch.ones(3, dtype=torch.float64),
    "identity": lambda x: x,
    "linear": lambda x: 1e6 * x,
    "tiny": lambda x: 1e-9 * x**2,
    "several outputs": lambda x: (x.sin(), {"y": x.sum()}),
    "custom": cube_function(),
    "detached constant": lambda x: x * torch.ones(4).detach(),
    "in place": lambda x: x.mul_(2).sin(),
    "branch": lambda x: x.sin() if x.sum() > 0 else x.cos(),
    "fast": lambda x: torch.sin(30 * x),
    "division": lambda x: 1 / x,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_agree(name):
    report = torchjac.check(RIGHT[name], POINT)

    assert report
    assert report.agrees
    assert report.cause == ""
    assert report.forward == pytest.approx(report.reverse, rel=1e-10, abs=1e-12)
    assert report.difference == pytest.approx(report.reverse, rel=1e-4, abs=1e-7)
    assert report.notes == ()


def test_the_numbers_are_finite_and_not_trivial():
    report = torchjac.check(torch.exp, POINT)

    assert abs(report.reverse) > 0.01
    assert 0 < report.difference_error < 1e-6


def test_float32():
    report = torchjac.check(torch.sin, POINT.float())

    assert report
    assert report.difference == pytest.approx(report.reverse, rel=1e-2)


def test_two_inputs_and_trees():
    inputs = {"a": POINT[:2], "b": [POINT[2:]]}

    assert torchjac.check(lambda t: {"y": t["a"] * t["b"][0]}, inputs)
    assert torchjac.check(lambda x, y: x @ y, (POINT, POINT))


def test_parameters_of_a_module():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()

    assert torchjac.check(net, POINT, wrt=net)


def test_functions_that_leave_the_inputs_and_buffers_alone():
    net = nn.BatchNorm1d(2).double()
    before = torch.outer(torch.linspace(-1, 2, 5, dtype=torch.float64).exp(), POINT[:2]).sin()
    x = before.clone()

    assert torchjac.check(net, x)
    assert torch.equal(x, before)
    assert net.num_batches_tracked.item() == 1  # the one evaluation that the user sees


def test_empty_inputs():
    assert torchjac.check(lambda x: x.sin(), torch.zeros(0, dtype=torch.float64))


def test_works_under_no_grad():
    with torch.no_grad():
        assert torchjac.check(torch.sin, POINT)
        assert not torchjac.check(lambda x: x * x.detach(), POINT)


def test_random_functions_are_noted():
    report = torchjac.check(nn.Dropout(0.5), POINT)

    assert report
    assert report.notes == ("func draws random numbers; all three start from the same",)


def test_rounding_errors_of_a_derivative_that_vanishes_agree():
    # One element over its own norm is 1, whatever it is: only rounding errors are left.
    for value in (0.3, 0.7, 1.9):
        report = torchjac.check(lambda x: x / x.norm(), torch.tensor([value], dtype=torch.float64))
        assert report, str(report)


def test_scales_that_differ_by_far():
    x = torch.tensor([1e6, 1e-3], dtype=torch.float64)

    report = torchjac.check(lambda x: torch.stack([x[0].sqrt(), x[1].log()]), x)

    assert report
    assert report.difference == pytest.approx(report.reverse, rel=1e-4)


# -- Functions that hide something -------------------------------------------------------------

HIDING = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x[0]),
    "tolist": lambda x: x * torch.tensor(x.tolist(), dtype=x.dtype),
    "detach": lambda x: x * x.detach(),
    "data": lambda x: x * x.data,
    "detached output": lambda x: x.detach().sin(),
    "one of several outputs": lambda x: (x.sin(), (x * x.detach()).cos()),
    "straight-through": lambda x: (x.sin() - x).detach() + x,
}


@pytest.mark.parametrize("name", HIDING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_hidden_dependences_are_found(name, dtype):
    report = torchjac.check(HIDING[name], POINT.to(dtype))

    assert not report
    assert report.cause.startswith(HIDDEN)


def test_numpy_inside_is_found():
    report = torchjac.check(
        lambda x: x * torch.from_numpy(np.sin(x.detach().numpy().copy())), POINT
    )

    assert not report
    assert HIDDEN in report.cause or report.forward is None


def test_only_what_wrt_names_is_checked():
    def hides_y(x, y):
        return x * y.detach()

    assert torchjac.check(hides_y, (POINT, POINT), wrt="x")
    assert not torchjac.check(hides_y, (POINT, POINT), wrt="y")
    assert not torchjac.check(hides_y, (POINT, POINT))


def test_hidden_parameters_are_found():
    net = nn.Linear(4, 4).double()

    assert not torchjac.check(lambda x: net(x) * net.weight.detach().sum(), POINT, wrt=net)


def test_no_grad_blocks_are_found():
    def func(x):
        with torch.no_grad():
            weight = x**2
        return weight * x

    report = torchjac.check(func, POINT)

    assert not report
    assert "no_grad" in report.cause


# -- Wrong derivative rules --------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, -3.0, 3.01, 0.0])
def test_a_wrong_backward_is_found(factor):
    report = torchjac.check(cube_function(backward_factor=factor), POINT)

    assert not report
    assert BACKWARD in report.cause


@pytest.mark.parametrize("factor", [1.0, -3.0, 3.01, 0.0])
def test_a_wrong_jvp_is_found(factor):
    report = torchjac.check(cube_function(jvp_factor=factor), POINT)

    assert not report
    assert FORWARD in report.cause


def test_both_wrong_in_the_same_way_are_found():
    report = torchjac.check(cube_function(2.0, 2.0), POINT)

    assert not report
    assert report.cause.startswith(HIDDEN)


def test_both_wrong_in_different_ways_are_found():
    report = torchjac.check(cube_function(2.0, 5.0), POINT)

    assert not report
    assert report.cause.startswith("several of:")


def test_a_right_linear_rule_agrees():
    assert torchjac.check(matrix_function(MATRIX.T, MATRIX), POINT[:3])


def test_a_backward_that_forgot_to_transpose_is_found():
    report = torchjac.check(matrix_function(MATRIX, MATRIX), POINT[:3])

    assert not report
    assert BACKWARD in report.cause


def test_a_jvp_that_transposes_is_found():
    report = torchjac.check(matrix_function(MATRIX.T, MATRIX.T), POINT[:3])

    assert not report
    assert FORWARD in report.cause


def test_both_rules_transposed_are_found():
    report = torchjac.check(matrix_function(MATRIX, MATRIX.T), POINT[:3])

    assert not report
    assert report.cause.startswith(HIDDEN)


def swapping_function():
    """(sin x, cos y), with the gradients of x and y swapped."""

    class Swapped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x.sin() + y.cos()

        @staticmethod
        def backward(ctx, cotangent):
            x, y = ctx.saved_tensors
            return -cotangent * y.sin(), cotangent * x.cos()

    return Swapped.apply


def test_gradients_of_two_inputs_that_are_swapped_are_found():
    report = torchjac.check(swapping_function(), (POINT, POINT.flip(0)))

    assert not report


def swapped_outputs_function():
    """(sin x, x^2), whose backward pass takes one cotangent for the other."""

    class Swapped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin(), x**2

        @staticmethod
        def backward(ctx, first, second):
            (x,) = ctx.saved_tensors
            return second * x.cos() + first * 2 * x

    return Swapped.apply


def test_cotangents_of_two_outputs_that_are_swapped_are_found():
    assert not torchjac.check(swapped_outputs_function(), POINT)


class SineWithoutForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent * x.cos()


def test_no_forward_rule_is_noted():
    report = torchjac.check(SineWithoutForward.apply, POINT)

    assert report
    assert report.forward is None
    assert len(report.notes) == 1
    assert report.notes[0].startswith("no forward mode: ")


def test_without_a_forward_rule_a_hidden_dependence_is_still_found():
    report = torchjac.check(lambda x: SineWithoutForward.apply(x) * x.detach(), POINT)

    assert not report
    assert report.forward is None
    assert report.cause.startswith(HIDDEN)


# -- Points where the function is not smooth, and numbers that say nothing ---------------------

KINKS = {
    "relu": torch.relu,
    "abs": torch.abs,
    "norm": lambda x: x.norm(),
    "clamp": lambda x: x.clamp(min=0),
    "maximum": lambda x: torch.maximum(x, 2 * x),
    "hidden abs": lambda x: (x + x.abs()).exp(),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_are_found(name):
    report = torchjac.check(KINKS[name], torch.zeros(4, dtype=torch.float64))

    assert not report
    assert "not differentiable" in report.cause


@pytest.mark.parametrize("name", KINKS)
def test_beside_the_kink_all_is_well(name):
    assert torchjac.check(KINKS[name], POINT)


def test_jumps_are_found():
    report = torchjac.check(lambda x: x.round(), torch.full((4,), 0.5, dtype=torch.float64))

    assert not report


def test_a_point_at_the_edge_of_the_domain_is_not_certified():
    # Every difference leaves the domain: nothing was compared, and the derivative is wrong.
    report = torchjac.check(
        lambda x: x.sqrt() * x.detach(), torch.full((4,), 1e-12, dtype=torch.float64)
    )

    assert not report


def test_no_number_that_is_not_finite_is_certified():
    report = torchjac.check(torch.sqrt, torch.zeros(4, dtype=torch.float64))

    assert not report
    assert "jvp" not in report.cause  # forward mode is as right as reverse mode


def test_small_positive_points_are_checked_by_smaller_steps():
    report = torchjac.check(torch.log, torch.full((4,), 1e-9, dtype=torch.float64))

    assert report
    assert report.difference == pytest.approx(report.reverse, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_certify_what_is_wrong_by_half(dtype):
    report = torchjac.check(lambda x: x * x.detach(), POINT.to(dtype))

    assert not report


# -- The text ----------------------------------------------------------------------------------


def test_the_text_of_an_agreement():
    lines = str(torchjac.check(lambda x: 2 * x, POINT)).splitlines()

    assert lines[0] == "check: the numbers agree"
    assert lines[1].startswith("  forward mode       u·(J v)   ")
    assert lines[2].startswith("  reverse mode       (Jᵀu)·v   ")
    assert lines[3].startswith("  finite difference            ")
    assert " ± " in lines[3]
    assert len(lines) == 4
    numbers = [float(line.split("  ")[-1].split(" ± ")[0]) for line in lines[1:4]]
    assert numbers[0] == pytest.approx(numbers[1])
    assert numbers[0] == pytest.approx(numbers[2], rel=1e-6)


def test_the_text_of_a_disagreement():
    text = str(torchjac.check(lambda x: x * x.detach(), POINT))

    assert text.splitlines()[0] == "check: THE NUMBERS DISAGREE"
    assert f"  likely cause: {HIDDEN}" in text


def test_the_text_without_a_forward_rule():
    text = str(torchjac.check(SineWithoutForward.apply, POINT))

    assert "  forward mode       u·(J v)   not available" in text
    assert "  note: no forward mode: " in text


# -- Errors ------------------------------------------------------------------------------------


def test_something_that_cannot_be_called():
    with pytest.raises(ArgumentTypeError, match="check: `func` must be callable"):
        torchjac.check(POINT, POINT)


def test_integer_inputs():
    with pytest.raises(ArgumentTypeError, match=r"check: `inputs` has dtype torch\.int64"):
        torchjac.check(torch.sin, torch.arange(3))


def test_outputs_that_are_no_tensors():
    with pytest.raises(ArgumentTypeError, match=r"check: output 0 of `func` must be a Tensor"):
        torchjac.check(lambda x: (1.0,), POINT)


def test_the_argument_of_a_module_has_its_name():
    assert torchjac.check(nn.Linear(4, 3).double(), POINT, wrt="input")


def test_a_name_that_is_no_argument():
    with pytest.raises(ArgumentError, match="check: `wrt` names 'z'"):
        torchjac.check(lambda x: x, POINT, wrt="z")


def test_partials_are_functions_too():
    assert torchjac.check(functools.partial(torch.pow, exponent=3), POINT)
