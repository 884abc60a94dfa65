"""`hessian` and `gradient` against hand-written answers and PyTorch's own."""

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from torchjac.errors import (
    ArgumentError,
    ArgumentTypeError,
    IndependenceWarning,
    LayoutError,
    MemoryBudgetError,
    ShapeError,
    StrictError,
)

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
RAMP = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)


def rosenbrock(x):
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def rosenbrock_hessian(x):
    n = len(x)
    expected = torch.zeros(n, n, dtype=x.dtype)
    for i in range(n - 1):
        expected[i, i] += 2 - 400 * (x[i + 1] - 3 * x[i] ** 2)
        expected[i + 1, i + 1] += 200
        expected[i, i + 1] = expected[i + 1, i] = -400 * x[i]
    return expected


# -- Hessians ----------------------------------------------------------------------------------


@every_dtype
@every_strategy
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("vectorize", [None, True, False])
def test_rosenbrock_by_hand(dtype, strategy, chunk_size, vectorize):
    x = RAMP.to(dtype)

    result = torchjac.hessian(
        rosenbrock,
        x,
        outer_jacobian_strategy=strategy,
        chunk_size=chunk_size,
        vectorize=vectorize,
    )

    assert result.dtype == dtype
    torch.testing.assert_close(result, rosenbrock_hessian(x))


@every_strategy
@pytest.mark.parametrize(
    "func",
    [
        lambda x: torch.logsumexp(x.flatten(), 0),
        lambda x: x.prod(),
        lambda x: torch.linalg.slogdet(x @ x.T + torch.eye(2, dtype=x.dtype)).logabsdet,
        lambda x: (x.sin() @ x.cos().T).sum().exp(),
        lambda x: x.norm() ** 3,
    ],
    ids=["logsumexp", "prod", "slogdet", "matmul", "norm"],
)
def test_equals_pytorch(func, strategy):
    x = RAMP.reshape(2, 3)

    result = torchjac.hessian(func, x, outer_jacobian_strategy=strategy)

    assert result.shape == (2, 3, 2, 3)
    torch.testing.assert_close(result, torch.autograd.functional.hessian(func, x))
    torch.testing.assert_close(result, torch.func.hessian(func)(x))


@every_strategy
def test_several_inputs(strategy):
    x, y = RAMP[:2], RAMP[2:5]

    def func(x, y):
        return (x.sum() * y**2).sum()

    result = torchjac.hessian(func, (x, y), outer_jacobian_strategy=strategy)

    (xx, xy), (yx, yy) = result
    assert torch.equal(xx, torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(xy, (2 * y).expand(2, 3))
    torch.testing.assert_close(yx, (2 * y).expand(2, 3).T)
    torch.testing.assert_close(yy, 2 * x.sum() * torch.eye(3, dtype=torch.float64))


def test_trees():
    inputs = {"a": RAMP[:2], "b": [RAMP[2]]}

    result = torchjac.hessian(lambda t: (t["a"] ** 2).sum() * t["b"][0], inputs)

    assert torch.equal(result["a"]["a"], 2 * RAMP[2] * torch.eye(2, dtype=torch.float64))
    assert torch.equal(result["a"]["b"][0], 2 * RAMP[:2])
    assert torch.equal(result["b"][0]["a"], 2 * RAMP[:2])
    assert result["b"][0]["b"][0].item() == 0.0


def test_scalar_input():
    x = torch.tensor(2.0, dtype=torch.float64)

    result = torchjac.hessian(lambda x: x**4, x)

    assert result.shape == ()
    assert result.item() == 48.0


@every_strategy
def test_the_identity_has_no_second_derivative(strategy):
    x = torch.tensor(2.0, dtype=torch.float64)

    assert torchjac.hessian(lambda x: x, x, outer_jacobian_strategy=strategy).item() == 0.0
    assert torchjac.gradient(lambda x: x, x).item() == 1.0


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element_of_any_shape_is_scalar(shape):
    result = torchjac.hessian(lambda x: (x**3).sum().reshape(shape), RAMP)

    torch.testing.assert_close(result, torch.diag(6 * RAMP))


def test_an_output_in_a_tuple_counts_as_the_tensor_in_it():
    result = torchjac.hessian(lambda x: ((x**3).sum(),), RAMP)

    torch.testing.assert_close(result, torch.diag(6 * RAMP))


@every_strategy
def test_parameters_of_a_module(strategy):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = RAMP.reshape(3, 2)

    result = torchjac.hessian(
        lambda x: net(x).square().mean(), x, wrt=net, outer_jacobian_strategy=strategy
    )

    parameters = {name: p.detach() for name, p in net.named_parameters()}
    expected = torch.func.hessian(
        lambda p: torch.func.functional_call(net, p, (x,)).square().mean()
    )(parameters)
    assert set(result) == set(parameters)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("wrt", ["y", 1])
def test_wrt_leaves_the_other_inputs_constant(wrt):
    x, y = RAMP[:2], RAMP[2:4]

    result = torchjac.hessian(lambda x, y: (x * y**3).sum(), (x, y), wrt=wrt)

    torch.testing.assert_close(result, torch.diag(6 * x * y))


@every_strategy
def test_has_aux(strategy):
    result, aux = torchjac.hessian(
        lambda x: ((x**3).sum(), {"value": x.sum(), "name": "f"}),
        RAMP,
        has_aux=True,
        outer_jacobian_strategy=strategy,
    )

    torch.testing.assert_close(result, torch.diag(6 * RAMP))
    assert aux["name"] == "f"
    torch.testing.assert_close(aux["value"].detach(), RAMP.sum())


@every_strategy
def test_linear_functions_have_no_second_derivative(strategy):
    result = torchjac.hessian(lambda x: (3 * x).sum(), RAMP, outer_jacobian_strategy=strategy)

    assert torch.equal(result, torch.zeros(6, 6, dtype=torch.float64))


@every_strategy
def test_constant_functions_have_no_second_derivative(strategy):
    result = torchjac.hessian(
        lambda x: torch.ones((), dtype=torch.float64), RAMP, outer_jacobian_strategy=strategy
    )

    assert torch.equal(result, torch.zeros(6, 6, dtype=torch.float64))


@every_strategy
def test_an_unused_input_has_zero_blocks(strategy):
    (xx, xy), (yx, yy) = torchjac.hessian(
        lambda x, y: (x**3).sum(), (RAMP[:2], RAMP[:3]), outer_jacobian_strategy=strategy
    )

    torch.testing.assert_close(xx, torch.diag(6 * RAMP[:2]))
    assert [t.shape for t in (xy, yx, yy)] == [(2, 3), (3, 2), (3, 3)]
    assert [bool(t.any()) for t in (xy, yx, yy)] == [False, False, False]


@every_strategy
def test_a_no_grad_block_is_constant(strategy):
    def func(x):
        with torch.no_grad():
            weight = x**2
        return (weight * x**2).sum()

    result = torchjac.hessian(func, RAMP, outer_jacobian_strategy=strategy)

    torch.testing.assert_close(result, torch.diag(2 * RAMP**2))


@every_strategy
def test_dropout_is_one_mask_per_call(strategy):
    def func(x):
        return (nn.functional.dropout(x, 0.5) ** 2).sum()

    torch.manual_seed(1)
    result = torchjac.hessian(func, RAMP, outer_jacobian_strategy=strategy, chunk_size=2)
    torch.manual_seed(1)
    mask = nn.functional.dropout(torch.ones_like(RAMP), 0.5)

    torch.testing.assert_close(result, torch.diag(2 * mask**2))


@every_strategy
def test_writing_to_the_argument_in_place(strategy):
    x = RAMP.clone()

    result = torchjac.hessian(lambda x: (x.mul_(2) ** 3).sum(), x, outer_jacobian_strategy=strategy)

    torch.testing.assert_close(result, torch.diag(48 * RAMP))
    assert torch.equal(x, RAMP)


@every_strategy
def test_create_graph_gives_third_derivatives(strategy):
    x = RAMP.clone().requires_grad_()

    result = torchjac.hessian(
        lambda x: (x**4).sum(), x, create_graph=True, outer_jacobian_strategy=strategy
    )
    (third,) = torch.autograd.grad(result.sum(), x)

    torch.testing.assert_close(third, 24 * RAMP)


def test_create_graph_reaches_the_parameters_of_a_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = RAMP[:3]

    ours = torchjac.hessian(net, x, create_graph=True)
    theirs = torch.func.hessian(lambda x: net(x).squeeze())(x)

    parameters = list(net.parameters())[:3]  # the last bias has no part in the Hessian
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), parameters),
        torch.autograd.grad(theirs.square().sum(), parameters),
    )


def test_without_create_graph_the_result_has_no_history():
    assert not torchjac.hessian(rosenbrock, RAMP.clone().requires_grad_()).requires_grad


def test_inside_vmap():
    x = RAMP.reshape(2, 3)

    result = torch.func.vmap(lambda point: torchjac.hessian(rosenbrock, point))(x)

    torch.testing.assert_close(result, torch.stack([rosenbrock_hessian(p) for p in x]))


def test_inside_vmap_writing_to_the_argument_in_place():
    x = RAMP.reshape(2, 3)

    result = torch.func.vmap(lambda p: torchjac.hessian(lambda x: (x.mul_(2) ** 3).sum(), p))(x)

    torch.testing.assert_close(result, torch.diag_embed(48 * x))


def test_gradient_of_a_hessian_by_torch_func():
    third = torch.func.grad(lambda x: torchjac.hessian(lambda x: (x**4).sum(), x).sum())(RAMP)

    torch.testing.assert_close(third, 24 * RAMP)


def test_rows_and_passes():
    with torchjac.record() as runs:
        torchjac.hessian(rosenbrock, RAMP, chunk_size=4)

    assert (runs[0].api, runs[0].seeds, runs[0].passes) == ("hessian", 6, 2)


def test_forward_mode_can_be_asked_for():
    with torchjac.record() as runs:
        torchjac.hessian(rosenbrock, RAMP, outer_jacobian_strategy="forward-mode")

    assert (runs[0].mode, runs[0].method, runs[0].refusals) == ("forward-mode", "vmap", ())


def test_a_small_budget_means_more_passes_and_the_same_hessian():
    x = torch.linspace(0, 1, 40, dtype=torch.float64)
    slope = torch.linspace(1, 2, 20_000, dtype=torch.float64)

    def func(x):  # a pass of its gradient takes much more than the result
        return torch.outer(x, slope).sin().sum()

    with torchjac.record() as runs:
        result = torchjac.hessian(func, x, memory=100 * 2**20)

    assert runs[0].passes > 2
    torch.testing.assert_close(result, torch.diag(-(slope**2 * torch.outer(x, slope).sin()).sum(1)))


def test_a_result_above_the_budget_is_refused_with_its_size():
    with pytest.raises(MemoryBudgetError, match=r"hessian: the Jacobian needs 68\.66 MiB"):
        torchjac.hessian(lambda x: (x**3).sum(), torch.zeros(3000).double(), memory=2**20)


def test_a_small_result_above_a_smaller_budget_is_refused_too():
    with pytest.raises(MemoryBudgetError, match="hessian: the Jacobian needs"):
        torchjac.hessian(rosenbrock, RAMP, memory=100)


@pytest.mark.parametrize("func", [lambda x: x**2, lambda x: x[:0], lambda x: (x.sum(), x.sum())])
def test_more_or_less_than_one_element_is_refused(func):
    with pytest.raises(ShapeError, match="hessian: `func` must return one tensor with one element"):
        torchjac.hessian(func, RAMP)


def test_strict_refuses_a_function_without_a_graph():
    with pytest.raises(
        StrictError, match="Output 0 of the user-provided function does not require"
    ):
        torchjac.hessian(lambda x: torch.ones(()), RAMP, strict=True)


def test_strict_refuses_a_linear_function():
    with pytest.raises(StrictError, match=r"While computing the hessian.*input 0 is independent"):
        torchjac.hessian(lambda x: (3 * x).sum(), RAMP, strict=True)


def test_strict_refuses_an_unused_input():
    with pytest.raises(StrictError, match="user-provided function is independent of input 1"):
        torchjac.hessian(lambda x, y: (x**3).sum(), (RAMP, RAMP), strict=True)


def test_strict_lets_curved_functions_pass():
    result = torchjac.hessian(lambda x: (x**3).sum(), RAMP, strict=True)

    torch.testing.assert_close(result, torch.diag(6 * RAMP))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_jacobian_strategy": "best"}, "`outer_jacobian_strategy` must be one of"),
        ({"chunk_size": 0}, "`chunk_size` must be a positive integer"),
        ({"memory": 0}, "`memory` must be a number of bytes"),
        ({"vectorize": 1.5}, "`vectorize` must be one of"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=f"hessian: {message}"):
        torchjac.hessian(rosenbrock, RAMP, **options)


def test_a_layout_without_an_engine_is_refused():
    with pytest.raises(LayoutError, match=r"hessian: `layout` must be one of"):
        torchjac.hessian(rosenbrock, RAMP, layout=torch.sparse_bsc)


def test_complex_inputs_are_refused():
    with pytest.raises(ArgumentTypeError, match="hessian: `inputs` is complex"):
        torchjac.hessian(lambda x: x.abs().sum(), torch.ones(2, dtype=torch.complex128))


# -- Second derivatives of vector functions, by nesting ----------------------------------------

# Differentiating PyTorch's forward rules of these once more, in either mode, gives wrong numbers
# (torch 2.13): its second derivatives are right only where the inner one is by reverse mode.
EYE = torch.eye(4, dtype=torch.float64)
TREACHEROUS = {
    "layer norm": lambda x: torch.layer_norm(x, x.shape),
    "instance norm": lambda x: torch.nn.functional.instance_norm(x.reshape(1, 1, -1)).flatten(),
    "cumulative product": lambda x: x.sin().cumprod(0),
    "solve": lambda x: torch.linalg.solve(3 * EYE + torch.outer(x, x.sin()), x),
    "log-determinant": lambda x: x * torch.logdet(3 * EYE + torch.outer(x, x.sin())),
}
every_treacherous = pytest.mark.parametrize("name", TREACHEROUS)


def heightened(name):
    """A function with 4 inputs and 48 outputs, for which columns are fewer than rows."""
    return lambda x: torch.outer(torch.linspace(1, 2, 12).double(), TREACHEROUS[name](x)).flatten()


@every_treacherous
@every_strategy
def test_a_differentiable_jacobian_has_the_right_derivative(name, strategy):
    func, x = heightened(name), RAMP[:4].clone().requires_grad_()

    ours = torchjac.jacobian(func, x, create_graph=True, strategy=strategy)
    theirs = torch.func.jacrev(func)(x)

    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), x), torch.autograd.grad(theirs.square().sum(), x)
    )


@pytest.mark.parametrize("memory", [None, 4000])
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_differentiable_determinants_where_singular_values_are_equal(memory):
    x = RAMP[:4].clone().requires_grad_()

    def func(x):
        return x * torch.det(EYE + torch.outer(x, x))

    found = torchjac.jacobian(func, x, create_graph=True, memory=memory)
    known = torchjac.jacobian(lambda x: x * (1 + x.square().sum()), x, create_graph=True)

    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), x), torch.autograd.grad(known.square().sum(), x)
    )


@every_treacherous
@every_strategy
@pytest.mark.filterwarnings("ignore::torchjac.errors.DisagreementWarning")
def test_a_jacobian_of_a_jacobian_is_the_second_derivative(name, strategy):
    func, x = heightened(name), RAMP[:4]

    result = torchjac.jacobian(
        lambda x: torchjac.jacobian(func, x, create_graph=True, strategy=strategy), x
    )

    torch.testing.assert_close(result, torch.func.jacrev(torch.func.jacrev(func))(x))


@every_treacherous
@every_strategy
def test_hessians_are_right_where_forward_rules_are_not(name, strategy):
    def func(x):
        return (TREACHEROUS[name](x) * torch.arange(4)).sum()

    result = torchjac.hessian(func, RAMP[:4], outer_jacobian_strategy=strategy)

    torch.testing.assert_close(result, torch.func.jacrev(torch.func.jacrev(func))(RAMP[:4]))


# -- Gradients ---------------------------------------------------------------------------------


@every_dtype
def test_gradient_by_hand(dtype):
    x = torch.tensor([3.0, 4.0], dtype=dtype)

    result = torchjac.gradient(lambda x: x.norm(), x)

    torch.testing.assert_close(result, torch.tensor([0.6, 0.8], dtype=dtype))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_gradient_has_the_shape_of_the_input(shape):
    x = RAMP.reshape(2, 3)

    result = torchjac.gradient(lambda x: (x**2).sum().reshape(shape), x)

    torch.testing.assert_close(result, 2 * x)


def test_gradient_of_trees():
    result = torchjac.gradient(
        lambda t: (t["a"] * t["b"][0]).sum(), {"a": RAMP[:2], "b": [RAMP[2:4]]}
    )

    assert torch.equal(result["a"], RAMP[2:4])
    assert torch.equal(result["b"][0], RAMP[:2])


def test_gradient_of_several_inputs_is_a_tuple():
    result = torchjac.gradient(lambda x, y: (x * y).sum(), (RAMP, 2 * RAMP))

    assert isinstance(result, tuple)
    torch.testing.assert_close(result, (2 * RAMP, RAMP))


def test_gradient_by_the_parameters_of_a_module():
    torch.manual_seed(0)
    net = nn.Linear(3, 1).double()
    x = RAMP.reshape(2, 3)

    result = torchjac.gradient(lambda x: net(x).sum(), x, wrt=net)

    torch.testing.assert_close(result["weight"], x.sum(0, keepdim=True))
    assert result["bias"].tolist() == [2.0]
    assert net.weight.grad is None


def test_gradient_has_aux():
    result, aux = torchjac.gradient(lambda x: ((x**2).sum(), "aux"), RAMP, has_aux=True)

    torch.testing.assert_close(result, 2 * RAMP)
    assert aux == "aux"


def test_gradient_create_graph():
    x = RAMP.clone().requires_grad_()

    result = torchjac.gradient(lambda x: (x**3).sum(), x, create_graph=True)

    torch.testing.assert_close(torch.autograd.grad(result.sum(), x)[0], 6 * RAMP)


def test_gradient_inside_vmap():
    x = RAMP.reshape(2, 3)

    result = torch.func.vmap(lambda x: torchjac.gradient(lambda x: (x**3).sum(), x))(x)

    torch.testing.assert_close(result, 3 * x**2)


def test_gradient_of_a_constant_is_zero_and_warned_of():
    with pytest.warns(IndependenceWarning, match="gradient: output 0 of `func` carries no"):
        result = torchjac.gradient(lambda x: torch.ones(()), RAMP)

    assert torch.equal(result, torch.zeros_like(RAMP))


def test_gradient_strict():
    with pytest.raises(StrictError, match="is independent of input 1"):
        torchjac.gradient(lambda x, y: x.sum(), (RAMP, RAMP), strict=True)


@pytest.mark.parametrize("func", [lambda x: x**2, lambda x: x[:0], lambda x: (x.sum(), x.sum())])
def test_gradient_of_more_or_less_than_one_element_is_refused(func):
    with pytest.raises(
        ShapeError, match=r"gradient: `func` must return one tensor with one.*`torchjac\.jacobian`"
    ):
        torchjac.gradient(func, RAMP)


def test_gradient_of_a_function_that_writes_in_place():
    result = torchjac.gradient(lambda x: (x.mul_(2) ** 2).sum(), RAMP)

    torch.testing.assert_close(result, 8 * RAMP)


def test_gradient_of_numpy_arrays_is_refused():
    with pytest.raises(ArgumentTypeError, match="gradient: `inputs` must be a Tensor"):
        torchjac.gradient(lambda x: x.sum(), np.ones(2))
