"""`jacobian_of`: Jacobians of tensors that are computed already, through their graph."""

import numpy as np
import pytest
import torch

import torchjac
from torchjac.errors import (
    ArgumentError,
    ArgumentTypeError,
    FallbackWarning,
    IndependenceWarning,
    MemoryBudgetError,
    StrictError,
)


def leaf(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


# -- Values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 50])
@pytest.mark.parametrize("vectorize", [None, True, False])
def test_hand_written_values(dtype, chunk_size, vectorize):
    x = leaf(3.0, 4.0, 5.0, dtype=dtype)
    y = torch.stack([x[0] + x[1], x[2] * x[0], x[1] ** 3])

    result = torchjac.jacobian_of(y, x, chunk_size=chunk_size, vectorize=vectorize)

    assert result.dtype == dtype
    assert result.tolist() == [[1.0, 1.0, 0.0], [5.0, 0.0, 3.0], [0.0, 48.0, 0.0]]


def test_shapes_are_output_then_input():
    x = torch.linspace(0, 1, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)

    result = torchjac.jacobian_of(torch.tanh(x @ weight), x)

    expected = torch.autograd.functional.jacobian(lambda x: torch.tanh(x @ weight), x)
    assert result.shape == (2, 4, 2, 3)
    torch.testing.assert_close(result, expected)


def test_scalar_output_gives_the_shape_of_the_input():
    x = leaf(1.0, 2.0)

    assert torchjac.jacobian_of((x**2).sum(), x).tolist() == [2.0, 4.0]


def test_scalar_input_and_output():
    x = torch.tensor(3.0, requires_grad=True)

    result = torchjac.jacobian_of(x**2, x)

    assert result.shape == ()
    assert result.item() == 6.0


def test_an_output_that_is_the_input():
    x = leaf(1.0, 2.0)

    assert torchjac.jacobian_of(x, x).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_view_of_the_input():
    x = torch.zeros(2, 2, requires_grad=True)

    expected = torch.eye(4).reshape(2, 2, 2, 2).transpose(0, 1)
    assert torch.equal(torchjac.jacobian_of(x.T, x), expected)


def test_trees_of_outputs_and_inputs():
    a, b = leaf(1.0, 2.0), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    outputs = {"product": a * b, "rest": [a.sum(), (b**2,)]}

    result = torchjac.jacobian_of(outputs, {"a": a, "b": b})

    assert result["product"]["a"].tolist() == [[3.0, 0.0], [0.0, 3.0]]
    assert result["product"]["b"].tolist() == [1.0, 2.0]
    assert result["rest"][0]["a"].tolist() == [1.0, 1.0]
    assert result["rest"][0]["b"].tolist() == 0.0
    assert result["rest"][1][0]["a"].tolist() == [0.0, 0.0]
    assert result["rest"][1][0]["b"].tolist() == 6.0


def test_several_inputs_as_a_tuple():
    x, y = leaf(0.0, 1.0), leaf(2.0, 3.0)

    by_x, by_y = torchjac.jacobian_of(2 * x.exp() + 3 * y, (x, y))

    torch.testing.assert_close(by_x, torch.diag(2 * x.detach().exp()))
    torch.testing.assert_close(by_y, 3 * torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("count", [2, 4, 5, 9])
def test_outputs_that_share_their_graph(count):
    x = leaf(0.5, 1.5)
    shared = x.exp()  # saves its result: a graph that a backward pass frees

    result = torchjac.jacobian_of([(k + 1) * shared.sin() for k in range(count)], x)

    slope = (shared.cos() * shared).detach()
    assert len(result) == count
    for k, block in enumerate(result):
        torch.testing.assert_close(block, torch.diag((k + 1) * slope))


def test_intermediate_activations_are_inputs_too():
    x = leaf(1.0, 2.0)
    hidden = x.exp()
    y = hidden**2

    result = torchjac.jacobian_of(y, hidden)

    torch.testing.assert_close(result, torch.diag(2 * hidden.detach()))


def test_an_input_and_what_was_computed_from_it():
    x = leaf(1.0, 2.0)
    hidden = 3 * x
    y = hidden**2 + x

    by_x, by_hidden = torchjac.jacobian_of(y, (x, hidden))

    # y depends on x along both paths; on the activation along one.
    torch.testing.assert_close(by_x, torch.diag(18 * x.detach() + 1))
    torch.testing.assert_close(by_hidden, torch.diag(2 * hidden.detach()))


def test_parameters_of_a_module():
    net = torch.nn.Linear(3, 2).double()
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)

    result = torchjac.jacobian_of(net(x)[0], dict(net.named_parameters()))

    expected = torch.zeros(2, 2, 3, dtype=torch.float64)
    expected[0, 0], expected[1, 1] = x[0], x[0]
    assert torch.equal(result["weight"], expected)
    assert torch.equal(result["bias"], torch.eye(2, dtype=torch.float64))


def test_empty_outputs_and_inputs():
    x = leaf(1.0, 2.0)

    assert torchjac.jacobian_of((x.exp(), x[:0]), x)[1].shape == (0, 2)


def test_gradients_of_leaves_stay_untouched():
    x = leaf(1.0, 2.0)
    x.grad = torch.ones(2, dtype=torch.float64)

    torchjac.jacobian_of(x**2, x)

    assert x.grad.tolist() == [1.0, 1.0]


def test_works_under_no_grad():
    x = leaf(1.0, 2.0)
    y = x**2

    with torch.no_grad():
        result = torchjac.jacobian_of(y, x)

    assert result.tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert not result.requires_grad


def test_blocks_have_the_dtype_of_their_input():
    a, b = leaf(1.0, 2.0, dtype=torch.float32), leaf(3.0, 4.0)

    by_a, by_b = torchjac.jacobian_of(a.double() * b, (a, b))

    assert (by_a.dtype, by_b.dtype) == (torch.float32, torch.float64)


# -- Cost --------------------------------------------------------------------------------------


def tall(x):
    return torch.outer(torch.arange(20, dtype=x.dtype), x).sin().flatten()


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("vectorize", [None, False])
def test_tall_jacobians_come_from_reverse_mode_too(chunk_size, vectorize):
    x = leaf(1.0, 2.0)

    with torchjac.record() as runs:
        result = torchjac.jacobian_of(tall(x), x, chunk_size=chunk_size, vectorize=vectorize)

    assert [(run.mode, run.seeds) for run in runs] == [("reverse-mode", 40)]
    torch.testing.assert_close(result, torch.autograd.functional.jacobian(tall, x))


def test_wide_jacobians_come_from_reverse_mode():
    x = torch.ones(40, requires_grad=True)

    with torchjac.record() as runs:
        torchjac.jacobian_of(x[:2].exp(), x)

    assert (runs[0].api, runs[0].mode) == ("jacobian_of", "reverse-mode")
    assert (runs[0].seeds, runs[0].passes) == (2, 1)


def test_tall_with_several_inputs_and_outputs():
    x, y = leaf(1.0, 2.0), leaf(3.0)

    result = torchjac.jacobian_of((tall(x) * y, tall(y)), (x, y))

    expected = torch.autograd.functional.jacobian(lambda x, y: (tall(x) * y, tall(y)), (x, y))
    torch.testing.assert_close(result, expected)


def test_a_result_above_the_budget_is_refused_with_its_size():
    x = torch.zeros(3000, requires_grad=True)

    with pytest.raises(MemoryBudgetError, match=r"jacobian_of: the Jacobian needs 34\.33 MiB"):
        torchjac.jacobian_of(x.sin(), x, memory=2**20)


class NumpySine(torch.autograd.Function):
    """Its backward pass leaves PyTorch, so that it cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(cotangent.numpy() * np.cos(x.detach().numpy()))


@pytest.mark.parametrize("retain_graph", [None, True])
def test_what_cannot_be_batched_is_looped_over(retain_graph):
    x = leaf(0.5, 1.5)
    y = NumpySine.apply(x.exp()).exp()  # the outer exp is freed first, if anything is

    with pytest.warns(FallbackWarning, match="jacobian_of: computed by reverse-mode/loop"):
        result = torchjac.jacobian_of(y, x, retain_graph=retain_graph)

    e = x.detach().exp()
    torch.testing.assert_close(result, torch.diag(e.sin().exp() * e.cos() * e))


class DetachingSine(torch.autograd.Function):
    """Right rows; but its backward pass hides how it depends on the cotangent."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent.detach() * x.cos()


@pytest.mark.filterwarnings("ignore::torchjac.errors.TorchjacWarning")
def test_a_backward_pass_that_has_no_derivative_does_not_make_columns_of_zeros():
    x = leaf(1.0, 2.0)
    steps = torch.arange(20, dtype=torch.float64)

    result = torchjac.jacobian_of(torch.outer(steps, DetachingSine.apply(x)).flatten(), x)

    expected = torch.einsum("k,ij->kij", steps, torch.diag(x.detach().cos())).reshape(40, 2)
    torch.testing.assert_close(result, expected)


# -- The graph ---------------------------------------------------------------------------------


def test_the_graph_is_freed_by_default():
    x = leaf(1.0, 2.0)
    y = x.exp().sin()

    torchjac.jacobian_of(y, x)

    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


def test_retain_graph_keeps_it():
    x = leaf(1.0, 2.0)
    y = x.exp()

    first = torchjac.jacobian_of(y, x, retain_graph=True)
    second = torchjac.jacobian_of(y, x, retain_graph=True)
    y.sum().backward()

    assert torch.equal(first, second)
    torch.testing.assert_close(x.grad, x.detach().exp())


def test_create_graph_keeps_it_too():
    x = leaf(1.0, 2.0)
    y = x.exp()

    torchjac.jacobian_of(y, x, create_graph=True)
    y.sum().backward()

    torch.testing.assert_close(x.grad, x.detach().exp())


def test_a_freed_graph_is_named_as_the_cause():
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.sum().backward()

    with pytest.raises(
        ArgumentError, match=r"jacobian_of: the graph of `outputs` was freed by an earlier backward"
    ):
        torchjac.jacobian_of(y, x)


def test_a_freed_graph_of_a_tall_jacobian_is_named_too():
    x = leaf(1.0, 2.0)
    y = tall(x)
    y.sum().backward()

    with pytest.raises(ArgumentError, match="was freed by an earlier backward"):
        torchjac.jacobian_of(y, x)


def test_a_call_that_fails_on_one_output_does_not_blame_an_earlier_pass():
    x = leaf(1.0, 2.0)
    shared = x.exp()
    outputs = (shared.sin(), shared.cos())

    first, second = torchjac.jacobian_of(outputs, x)

    e = x.detach().exp()
    torch.testing.assert_close(first, torch.diag(e.cos() * e))
    torch.testing.assert_close(second, torch.diag(-e.sin() * e))


@pytest.mark.parametrize("make", [lambda x: x**3, tall])
def test_create_graph_makes_the_result_differentiable(make):
    x = leaf(1.0, 2.0)

    ours = torchjac.jacobian_of(make(x), x, create_graph=True)
    theirs = torch.autograd.functional.jacobian(make, x, create_graph=True)

    weight = torch.arange(ours.numel(), dtype=torch.float64).reshape(ours.shape)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), x),
        torch.autograd.grad((theirs * weight).sum(), x),
    )


def test_derivatives_of_any_order():
    x = leaf(2.0)
    first = torchjac.jacobian_of(x**4, x, create_graph=True)
    second = torchjac.jacobian_of(first, x, create_graph=True)
    third = torchjac.jacobian_of(second, x)

    assert (first.item(), second.item(), third.item()) == (32.0, 48.0, 48.0)


def test_a_value_changed_in_place_keeps_the_error_of_pytorch():
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.add_(1)  # the backward pass of exp needs what was overwritten

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torchjac.jacobian_of(y, x)


# -- Inputs and outputs without a path ---------------------------------------------------------


def test_an_unused_input_is_zero_and_warned_of():
    x, unused = leaf(1.0, 2.0), leaf(1.0, 2.0, 3.0)

    with pytest.warns(
        IndependenceWarning, match="jacobian_of: input 1 is not in the graph of `outputs`"
    ):
        by_x, by_unused = torchjac.jacobian_of(x**2, (x, unused))

    assert by_x.tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert by_unused.tolist() == [[0.0] * 3] * 2


def test_a_copy_of_the_input_is_warned_of():
    x = leaf(1.0, 2.0)
    y = x**2

    with pytest.warns(IndependenceWarning, match="not a copy or a view of it made later"):
        result = torchjac.jacobian_of(y, x.clone())

    assert not result.any()


def test_an_unused_input_of_a_tall_jacobian_is_zero_and_warned_of():
    x, unused = leaf(1.0, 2.0), leaf(1.0)

    with pytest.warns(IndependenceWarning, match="input 1 is not in the graph"):
        by_x, by_unused = torchjac.jacobian_of(tall(x), (x, unused))

    torch.testing.assert_close(by_x, torch.autograd.functional.jacobian(tall, x))
    assert by_unused.shape == (40, 1)
    assert not by_unused.any()


def test_an_input_used_by_one_output_only_is_not_warned_of():
    x, y = leaf(1.0, 2.0), leaf(3.0)

    (_, zero), (other, _) = torchjac.jacobian_of((x**2, y**2), (x, y))

    assert not zero.any()
    assert not other.any()
    assert (zero.shape, other.shape) == ((2, 1), (1, 2))


def test_an_output_without_a_graph_beside_one_with():
    x = leaf(1.0, 2.0)

    with_graph, without = torchjac.jacobian_of((x**2, torch.ones(3)), x)

    assert with_graph.tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert without.tolist() == [[0.0, 0.0]] * 3


def test_an_empty_input_is_not_warned_of():
    x = torch.zeros(0, requires_grad=True)

    assert torchjac.jacobian_of(x.exp(), x).shape == (0, 0)


def test_strict_refuses_an_unused_input():
    x, unused = leaf(1.0, 2.0), leaf(1.0)

    with pytest.raises(
        StrictError, match="Output 0 of the user-provided function is independent of input 1"
    ):
        torchjac.jacobian_of(x**2, (x, unused), strict=True)


def test_strict_refuses_an_output_without_a_graph():
    x = leaf(1.0, 2.0)

    with pytest.raises(
        StrictError, match="Output 1 of the user-provided function does not require"
    ):
        torchjac.jacobian_of((x**2, torch.ones(3)), x, strict=True)


def test_strict_lets_dependent_outputs_pass():
    x = leaf(1.0, 2.0)

    assert torchjac.jacobian_of(x**2, x, strict=True).tolist() == [[2.0, 0.0], [0.0, 4.0]]


# -- Errors ------------------------------------------------------------------------------------


def test_an_input_that_requires_no_gradients():
    x = leaf(1.0, 2.0)

    with pytest.raises(ArgumentError, match=r"jacobian_of: input 1 does not require gradients"):
        torchjac.jacobian_of(x**2, (x, torch.ones(2)))


def test_outputs_without_any_graph():
    with pytest.raises(ArgumentError, match="jacobian_of: no output has a graph"):
        torchjac.jacobian_of(torch.ones(2), leaf(1.0))


def test_outputs_computed_under_no_grad():
    x = leaf(1.0, 2.0)
    with torch.no_grad():
        y = x**2

    with pytest.raises(
        ArgumentError, match="computed under no_grad or inference_mode, or detached"
    ):
        torchjac.jacobian_of(y, x)


@pytest.mark.parametrize("value", [1.0, torch.arange(2), torch.ones(2, dtype=torch.complex64)])
def test_outputs_that_are_no_floating_point_tensors(value):
    with pytest.raises(
        ArgumentTypeError, match=r"jacobian_of: `outputs` 0 must be a floating-point Tensor, got"
    ):
        torchjac.jacobian_of(value, leaf(1.0))


def test_inputs_that_are_no_floating_point_tensors():
    with pytest.raises(
        ArgumentTypeError, match=r"jacobian_of: `inputs` 1 must be a floating-point Tensor, got"
    ):
        torchjac.jacobian_of(leaf(1.0) ** 2, (leaf(1.0), 3))


@pytest.mark.parametrize(("outputs", "name"), [((), "outputs"), ({"y": ()}, "outputs")])
def test_trees_without_tensors(outputs, name):
    with pytest.raises(ArgumentError, match=f"jacobian_of: `{name}` holds no tensor"):
        torchjac.jacobian_of(outputs, leaf(1.0))


def test_no_inputs():
    with pytest.raises(ArgumentError, match="jacobian_of: `inputs` holds no tensor"):
        torchjac.jacobian_of(leaf(1.0) ** 2, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": -1}, "`chunk_size` must be a positive integer"),
        ({"memory": "1 GiB"}, "`memory` must be a number of bytes"),
        ({"vectorize": 2}, "`vectorize` must be one of"),
    ],
)
def test_options_out_of_range(options, message):
    x = leaf(1.0)

    with pytest.raises(ArgumentError, match=f"jacobian_of: {message}"):
        torchjac.jacobian_of(x**2, x, **options)
