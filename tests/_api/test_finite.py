"""`finite_difference`: every method, Torch and NumPy functions, steps and error estimates."""

import math

import numpy as np
import pytest
import torch

import torchjac
from torchjac.errors import (
    ArgumentError,
    ArgumentTypeError,
    ChangedShapeError,
    TorchjacError,
)

METHODS = ("forward", "central", "complex")
every_method = pytest.mark.parametrize("method", METHODS)
# What each method reaches in float64 for functions whose values and derivatives are about 1.
ACCURACY = {"forward": 1e-6, "central": 1e-8, "complex": 1e-13}
RAMP = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)


def field(x):
    x, y, z = x
    return torch.stack([x * y, y.sin() * z, x.exp() * z**3])


def field_jacobian(x):
    x, y, z = x.tolist()
    rows = [
        [y, x, 0],
        [0, math.cos(y) * z, math.sin(y)],
        [math.exp(x) * z**3, 0, 3 * z**2 * math.exp(x)],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def close(actual, expected, method):
    torch.testing.assert_close(actual, expected, rtol=0, atol=10 * ACCURACY[method])


# -- Torch functions ---------------------------------------------------------------------------


@every_method
def test_hand_written_jacobian(method):
    x = torch.tensor([0.3, 0.7, 1.1], dtype=torch.float64)

    close(torchjac.finite_difference(field, x, method), field_jacobian(x), method)


@every_method
def test_shapes_are_output_then_input(method):
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    x = RAMP.reshape(2, 3)

    result = torchjac.finite_difference(lambda x: torch.sin(x @ weight.to(x.dtype)), x, method)

    expected = torch.autograd.functional.jacobian(lambda x: torch.sin(x @ weight), x)
    assert result.shape == (2, 4, 2, 3)
    close(result, expected, method)


@every_method
@pytest.mark.parametrize(("shape", "out"), [((), ()), ((1,), ()), ((2, 3), ()), ((0,), ())])
def test_scalars_and_empty_tensors(method, shape, out):
    x = torch.full(shape, 0.5, dtype=torch.float64)

    result = torchjac.finite_difference(lambda x: (x**2).sum().reshape(out), x, method)

    close(result, torch.ones(shape, dtype=torch.float64), method)


@every_method
def test_float32_in_and_out(method):
    x = torch.tensor([0.3, 0.7, 1.1])

    result = torchjac.finite_difference(field, x, method)

    assert result.dtype == torch.float32
    accuracy = {"forward": 5e-3, "central": 5e-4, "complex": 1e-5}[method]
    torch.testing.assert_close(result, field_jacobian(x).float(), rtol=0, atol=accuracy)


@every_method
def test_large_and_small_inputs(method):
    x = torch.tensor([1e6, 1.0, 1e-6], dtype=torch.float64)

    result = torchjac.finite_difference(lambda x: x**2, x, method).diagonal()

    torch.testing.assert_close(result[:2], 2 * x[:2], rtol=1e-6, atol=0)
    assert abs(result[2] - 2e-6) < 1e-7  # the step is absolute below 1


@every_method
@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.reshape(2, 3).T,
        lambda x: x.reshape(1, 2, 3).movedim(1, 2),
        lambda x: x[::2],
        lambda x: x.flip(0),
        lambda x: x.reshape(1, 3, 2, 1).to(memory_format=torch.channels_last),
        lambda x: x[:1].expand(3),
    ],
    ids=["transposed", "moved", "strided", "flipped", "channels last", "expanded"],
)
def test_inputs_in_any_memory_order(method, arrange):
    x = arrange(RAMP)

    result = torchjac.finite_difference(lambda x: x**2, x, method)

    n = x.numel()
    assert result.shape == x.shape + x.shape
    close(result.reshape(n, n), torch.diag(2 * x.reshape(-1)), method)


@every_method
def test_tuples_are_several_arguments(method):
    x, y = RAMP[:2], RAMP[2:3]

    result = torchjac.finite_difference(lambda x, y: (x * y, (y**2).sum()), (x, y), method)

    (xx, xy), (yx, yy) = result
    assert [t.shape for t in (xx, xy, yx, yy)] == [(2, 2), (2, 1), (2,), (1,)]
    close(xx, torch.diag(y.expand(2)), method)
    close(xy, x[:, None], method)
    close(yx, torch.zeros(2, dtype=torch.float64), method)
    close(yy, 2 * y, method)


@every_method
def test_dicts_are_one_argument(method):
    inputs = {"a": RAMP[:2], "b": [RAMP[2:4]]}

    result = torchjac.finite_difference(lambda t: {"y": t["a"] * t["b"][0]}, inputs, method)

    close(result["y"]["a"], torch.diag(RAMP[2:4]), method)
    close(result["y"]["b"][0], torch.diag(RAMP[:2]), method)


def test_functions_that_leave_pytorch():
    def leaves(x):
        return torch.from_numpy(np.sin(x.numpy()) ** 2)

    result = torchjac.finite_difference(leaves, RAMP)

    close(result, torch.diag(2 * RAMP.sin() * RAMP.cos()), "central")


@every_method
def test_parameters_and_tensors_that_require_gradients(method):
    x = torch.nn.Parameter(RAMP)

    result = torchjac.finite_difference(lambda x: x**2, x, method)

    assert not result.requires_grad
    close(result, torch.diag(2 * RAMP), method)


@every_method
def test_writes_in_place_reach_neither_the_input_nor_the_answer(method):
    x = RAMP.clone()

    result = torchjac.finite_difference(lambda x: x.mul_(2) ** 2, x, method)

    assert torch.equal(x, RAMP)
    close(result, torch.diag(8 * RAMP), method)


@every_method
def test_a_result_written_to_one_buffer_again_and_again(method):
    buffer = torch.zeros(6, dtype=torch.complex128 if method == "complex" else torch.float64)

    def func(x):
        buffer.copy_(x**2)
        return buffer if x.is_complex() else buffer.real

    close(torchjac.finite_difference(func, RAMP, method), torch.diag(2 * RAMP), method)


def test_random_functions_start_from_the_same_numbers():
    torch.manual_seed(3)
    mask = torch.rand(6, dtype=torch.float64)
    torch.manual_seed(3)

    result = torchjac.finite_difference(lambda x: x**2 * torch.rand(6, dtype=torch.float64), RAMP)

    close(result, torch.diag(2 * RAMP * mask), "central")


def test_the_generator_of_the_caller_is_left_alone():
    torch.manual_seed(3)
    torchjac.finite_difference(torch.sin, RAMP)
    after = torch.rand(1)
    torch.manual_seed(3)

    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(("method", "count"), [("forward", 4), ("central", 7), ("complex", 7)])
def test_number_of_evaluations(method, count):
    calls = []

    def func(x):
        calls.append(1)
        return x**2

    torchjac.finite_difference(func, torch.ones(3, dtype=torch.float64), method)

    assert len(calls) == count


def test_complex_outputs_of_real_inputs():
    result = torchjac.finite_difference(lambda x: torch.exp(1j * x), RAMP)

    close(result, torch.diag(1j * torch.exp(1j * RAMP)), "central")


# -- NumPy functions ---------------------------------------------------------------------------


@every_method
def test_numpy_arrays_in_and_out(method):
    x = np.array([0.3, 0.7])

    result = torchjac.finite_difference(lambda x: np.array([x[0] * x[1], np.sin(x[0])]), x, method)

    assert isinstance(result, np.ndarray)
    expected = [[0.7, 0.3], [math.cos(0.3), 0.0]]
    np.testing.assert_allclose(result, expected, rtol=0, atol=10 * ACCURACY[method])


@every_method
def test_numpy_scalars_out(method):
    result = torchjac.finite_difference(lambda x: (x**2).sum(), np.array([1.0, 2.0]), method)

    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, [2.0, 4.0], rtol=0, atol=20 * ACCURACY[method])


@pytest.mark.parametrize("method", ["forward", "central"])
def test_python_numbers_out_keep_their_precision(method):
    from_numpy = torchjac.finite_difference(
        lambda x: float((x**2).sum()), np.array([1.0, 2.0]), method
    )
    from_torch = torchjac.finite_difference(lambda x: (x**2).sum().item(), RAMP, method)

    np.testing.assert_allclose(from_numpy, [2.0, 4.0], rtol=0, atol=20 * ACCURACY[method])
    close(from_torch.double(), 2 * RAMP, method)


def test_lists_of_python_numbers_out_keep_their_precision():
    result = torchjac.finite_difference(
        lambda x: [float(x[0] * x[1]), math.sin(x[0])], np.array([0.3, 0.7])
    )

    np.testing.assert_allclose(result[0], [0.7, 0.3], rtol=0, atol=1e-7)
    np.testing.assert_allclose(result[1], [math.cos(0.3), 0.0], rtol=0, atol=1e-7)


def test_a_python_number_in_keeps_its_precision():
    result = torchjac.finite_difference(math.sin, 0.5)

    assert abs(float(result) - math.cos(0.5)) < 1e-8


def test_numpy_trees():
    inputs = {"a": np.array([1.0, 2.0]), "b": np.array(3.0)}

    result = torchjac.finite_difference(lambda t: (t["a"] * t["b"], t["b"] ** 2), inputs)

    np.testing.assert_allclose(result[0]["a"], 3 * np.eye(2), atol=1e-7)
    np.testing.assert_allclose(result[0]["b"], [1.0, 2.0], atol=1e-7)
    np.testing.assert_allclose(result[1]["a"], [0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(result[1]["b"], 6.0, atol=1e-7)


def test_several_numpy_arguments():
    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])

    by_x, by_y = torchjac.finite_difference(lambda x, y: x * y, (x, y))

    np.testing.assert_allclose(by_x, np.diag(y), atol=1e-7)
    np.testing.assert_allclose(by_y, np.diag(x), atol=1e-7)


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays_in_any_memory_order(order):
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], order=order)

    result = torchjac.finite_difference(lambda x: x**2, x)

    assert result.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(result.reshape(6, 6), np.diag(2 * x.reshape(-1)), atol=1e-6)


@every_method
def test_a_numpy_function_with_an_out_buffer(method):
    buffer = np.zeros(2, dtype=complex if method == "complex" else float)

    def func(x):
        if method == "complex" and not np.iscomplexobj(x):
            return x * x
        return np.multiply(x, x, out=buffer)

    result = torchjac.finite_difference(func, np.array([1.0, 2.0]), method)

    np.testing.assert_allclose(result, np.diag([2.0, 4.0]), atol=20 * ACCURACY[method])


def test_the_global_numbers_of_numpy_start_anew_too():
    np.random.seed(3)  # noqa: NPY002 - the legacy generator is what functions draw from unasked
    mask = np.random.rand(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002

    result = torchjac.finite_difference(
        lambda x: x * np.random.rand(2),  # noqa: NPY002
        np.array([1.0, 2.0]),
    )

    np.testing.assert_allclose(result, np.diag(mask), atol=1e-7)


# -- Steps and error estimates -----------------------------------------------------------------


def test_a_given_step_is_used_as_it_is():
    x = torch.tensor([2.0], dtype=torch.float64)

    forward = torchjac.finite_difference(lambda x: x**2, x, "forward", step=0.5)
    central = torchjac.finite_difference(lambda x: x**3, x, "central", step=0.5)

    assert forward.item() == 4.5  # (2.5^2 - 2^2) / 0.5
    assert central.item() == 12.25  # (2.5^3 - 1.5^3) / 1


def test_a_given_complex_step():
    x = torch.tensor([2.0], dtype=torch.float64)

    result = torchjac.finite_difference(lambda x: x**3, x, "complex", step=0.5)

    assert result.item() == pytest.approx(11.75)  # Im (2 + i/2)^3 / (1/2)


def test_errors_shrink_with_the_order_of_the_method():
    x = torch.tensor([1.0], dtype=torch.float64)

    def error(method, step):
        result = torchjac.finite_difference(torch.exp, x, method, step=step)
        return abs(result.item() - math.e)

    assert error("forward", 1e-3) / error("forward", 5e-4) == pytest.approx(2, rel=0.01)
    assert error("central", 1e-2) / error("central", 5e-3) == pytest.approx(4, rel=0.01)


SMOOTH = {
    "sine": (torch.sin, torch.cos),
    "exponential": (torch.exp, torch.exp),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "reciprocal": (torch.reciprocal, lambda x: -1 / x**2),
    "fast sine": (lambda x: torch.sin(50 * x), lambda x: 50 * torch.cos(50 * x)),
    "linear": (lambda x: 3 * x, lambda x: torch.full_like(x, 3)),
}


# Rounding inside the function, of 50 x, is beyond what one complex step can tell.
ESTIMATED = [(m, n) for m in METHODS for n in SMOOTH if (m, n) != ("complex", "fast sine")]


@pytest.mark.parametrize(("method", "name"), ESTIMATED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_the_error_estimate_covers_the_true_error(method, name, dtype):
    func, slope = SMOOTH[name]
    x = torch.linspace(0.31, 3.7, 101, dtype=dtype)

    result, errors = torchjac.finite_difference(func, x, method, error_estimate=True)

    true = (result.double() - torch.diag(slope(x.double()))).abs().diagonal()
    estimate = errors.double().diagonal()
    assert result.shape == errors.shape
    assert (true <= 2 * estimate).all()
    # An estimate that covers everything would be of no use.
    assert estimate.median() <= 100 * (true.max() + torch.finfo(dtype).eps)


def test_the_error_estimate_tells_a_step_that_is_too_large():
    x = torch.tensor([1.0], dtype=torch.float64)

    _, errors = torchjac.finite_difference(torch.exp, x, step=0.5, error_estimate=True)

    # Truncation: h^2 / 6 e
    assert errors.item() == pytest.approx(0.25 / 6 * math.e, rel=0.1)


def test_the_error_estimate_tells_a_step_that_is_too_small():
    x = torch.tensor([1.0], dtype=torch.float64)

    result, errors = torchjac.finite_difference(torch.exp, x, step=2.0**-50, error_estimate=True)

    assert abs(result.item() - math.e) <= errors.item()
    assert errors.item() > 0.1


def test_error_estimates_nest_as_the_jacobian_does():
    inputs = {"a": np.array([1.0, 2.0]), "b": np.array(3.0)}

    result, errors = torchjac.finite_difference(
        lambda t: (t["a"] * t["b"],), inputs, error_estimate=True
    )

    assert errors[0]["a"].shape == result[0]["a"].shape == (2, 2)
    assert errors[0]["b"].shape == result[0]["b"].shape == (2,)
    assert isinstance(errors[0]["a"], np.ndarray)


# -- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "func", [torch.abs, lambda x: x.real, lambda x: x.abs().sqrt()], ids=["abs", "real", "sqrt"]
)
def test_the_complex_step_refuses_functions_that_return_real_numbers(func):
    with pytest.raises(ArgumentTypeError, match=r'finite_difference: .*use method="central"'):
        torchjac.finite_difference(func, RAMP, "complex")


@pytest.mark.parametrize(
    "func",
    [lambda x: x.abs() * x, lambda x: x * x.conj(), lambda x: x * x.real],
    ids=["abs", "conj", "real"],
)
def test_the_complex_step_refuses_functions_that_are_not_analytic(func):
    with pytest.raises(TorchjacError, match='use method="central"'):
        torchjac.finite_difference(func, RAMP, "complex")


def test_the_complex_step_refuses_functions_that_are_complex_at_real_points():
    with pytest.raises(TorchjacError, match=r"finite_difference: .*complex"):
        torchjac.finite_difference(lambda x: torch.exp(1j * x), RAMP, "complex")


def test_numpy_functions_that_drop_the_imaginary_part_are_refused():
    with pytest.raises(ArgumentTypeError, match=r'came back as torch\.float64.*"central"'):
        torchjac.finite_difference(np.abs, np.array([1.0, 2.0]), "complex")


@pytest.mark.parametrize("method", ["forward", "central"])
def test_shapes_that_change(method):
    with pytest.raises(
        ChangedShapeError,
        match=r"finite_difference: `func` returned shapes \[\(2,\)\] at a neighbouring point",
    ):
        torchjac.finite_difference(
            lambda x: x[x > 1], torch.tensor([1.0, 2.0], dtype=torch.float64), method
        )


def test_shapes_that_change_with_complex_inputs():
    with pytest.raises(ChangedShapeError, match="the shapes must not depend on the values"):
        torchjac.finite_difference(lambda x: x if x.is_complex() else x[:1], RAMP, "complex")


def test_a_number_of_outputs_that_changes():
    with pytest.raises(ChangedShapeError, match="the shapes must not depend on the values"):
        torchjac.finite_difference(
            lambda x: (x,) if x[0] <= 1 else (x, x), torch.ones(2, dtype=torch.float64)
        )


@pytest.mark.parametrize("method", ["backward", "", None, 2])
def test_unknown_methods(method):
    with pytest.raises(
        ArgumentError, match="finite_difference: `method` must be one of 'forward', 'central', 'com"
    ):
        torchjac.finite_difference(torch.sin, RAMP, method)


@pytest.mark.parametrize("step", [0, -1.0, float("nan"), float("inf"), "small", True])
def test_steps_out_of_range(step):
    with pytest.raises(
        ArgumentError, match="finite_difference: `step` must be a positive number or None"
    ):
        torchjac.finite_difference(torch.sin, RAMP, step=step)


@pytest.mark.parametrize("method", ["forward", "central"])
def test_a_step_that_vanishes_beside_the_input_is_refused(method):
    with pytest.raises(ArgumentError, match=r"finite_difference: .*step"):
        torchjac.finite_difference(torch.sin, torch.tensor([1.0, 2.0]), method, step=1e-12)


def test_something_that_cannot_be_called():
    with pytest.raises(ArgumentTypeError, match="finite_difference: `func` must be callable"):
        torchjac.finite_difference(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("x", [torch.arange(3), np.arange(3), torch.ones(2, dtype=torch.bool)])
def test_inputs_that_are_not_floating_point(x):
    with pytest.raises(ArgumentTypeError, match="finite_difference: input 0 has dtype torch"):
        torchjac.finite_difference(lambda x: x, x)


@pytest.mark.parametrize("second", [2, None, "y"])
def test_inputs_that_are_no_tensors(second):
    with pytest.raises(ArgumentTypeError, match="finite_difference: input 1 must be a Tensor"):
        torchjac.finite_difference(lambda x, y: x, (RAMP, second))


def test_complex_inputs():
    with pytest.raises(ArgumentTypeError, match="finite_difference: input 0 is complex"):
        torchjac.finite_difference(lambda x: x, torch.ones(2, dtype=torch.complex128))


@pytest.mark.parametrize("func", [lambda x: None, lambda x: "y", lambda x: x.long(), lambda x: 1])
def test_outputs_that_are_not_floating_point(func):
    with pytest.raises(
        ArgumentTypeError, match="output 0 of `func` must be a floating-point Tensor, array or"
    ):
        torchjac.finite_difference(func, RAMP)


def test_no_inputs():
    with pytest.raises(ArgumentError, match=r"finite_difference: .*inputs.* no tensor"):
        torchjac.finite_difference(lambda: torch.ones(2), ())
