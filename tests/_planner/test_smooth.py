"""Results of emitted programs that can be differentiated, held against plain Jacobians."""

import pytest
import torch

import torchjac
from torchjac.errors import FallbackWarning

F64 = torch.float64
# A compiled program is kept by PyTorch, whose caches and workers warn of their own affairs.
BACKENDS = [
    "replay",
    pytest.param("inductor", marks=pytest.mark.filterwarnings("ignore")),
]
WEIGHT = torch.tensor([[1.0, 2.0, 0.5], [0.2, 1.5, -1.0], [3.0, 0.4, 1.0]], dtype=F64)


class Cube(torch.autograd.Function):
    """x -> x^3, with a backward pass that hides one x."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * g * x.detach() * x


def point(n=5) -> torch.Tensor:
    return torch.linspace(0.2, 0.9, n, dtype=F64)


def stencil(x):
    return x.roll(1) * x**2 * x.sin()


def frozen(x):
    return x.detach() * x**2


def frozen_by_block(x):
    with torch.no_grad():
        factor = 2 * x
    return factor * x**2


def frozen_beyond(x):
    """Hides something that makes no difference where the plan is made."""
    return torch.relu(x - 5).detach() * x + x**3


def by_data(x):
    return x.data * x**2


def weighed(jacobian: torch.Tensor) -> torch.Tensor:
    """A scalar that every entry has a part in."""
    dense = jacobian.to_dense() if jacobian.layout != torch.strided else jacobian
    weights = torch.linspace(1.0, 2.0, dense.numel(), dtype=dense.dtype)
    return (dense.reshape(-1) * weights).sum()


def derivatives(make, x):
    """Of a weighed Jacobian the first derivative, and of a sum of its squares the second."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(weighed(make(x)), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return first.detach(), second


def by_program(plan, x):
    """Likewise by a plan, which must use its program."""
    with torchjac.record() as reports:
        found = derivatives(lambda at: plan(at, create_graph=True), x)
    return found, [report.mode for report in reports]


def expected(function, x):
    return derivatives(lambda at: torchjac.jacobian(function, at, create_graph=True), x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "function", [stencil, lambda x: torch.cat([2 * x, x**3]), lambda x: x.softmax(0) * x]
)
def test_results_are_differentiated_twice(function, backend) -> None:
    plan = torchjac.plan(function, point(), backend=backend)
    found, modes = by_program(plan, point().flip(0))
    assert modes == ["direct"]
    torch.testing.assert_close(found, expected(function, point().flip(0)))


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo, torch.strided])
def test_results_of_any_layout_are_differentiated(layout) -> None:
    plan = torchjac.plan(stencil, point(), backend="replay", layout=layout)
    torch.testing.assert_close(by_program(plan, point())[0], expected(stencil, point()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backward_pass_fills_grad(backend) -> None:
    x = point().requires_grad_()
    weighed(torchjac.plan(stencil, x, backend=backend)(x, create_graph=True)).backward()
    torch.testing.assert_close(x.grad, expected(stencil, point())[0])


def test_gradients_reach_what_the_input_was_made_of() -> None:
    root = point().requires_grad_()
    plan = torchjac.plan(stencil, point(), backend="replay")
    (found,) = torch.autograd.grad(weighed(plan(3 * root, create_graph=True)), root)
    torch.testing.assert_close(found, 3 * expected(stencil, 3 * point())[0])


def test_several_inputs_each_get_their_gradient() -> None:
    def function(x, y):
        return x**2 * y

    inputs = point().requires_grad_(), point().flip(0).requires_grad_()
    plan = torchjac.plan(function, inputs, backend="replay", flat=True)
    jac = plan(inputs, create_graph=True).to_dense()
    found = torch.autograd.grad(jac.sum(), inputs)
    # d/dx (2 x y + x^2), d/dy (2 x y + x^2)
    x, y = (t.detach() for t in inputs)
    torch.testing.assert_close(found, (2 * y + 2 * x, 2 * x))


def test_an_input_without_a_gradient_gets_none() -> None:
    inputs = point().requires_grad_(), point().flip(0)
    plan = torchjac.plan(lambda x, y: x**2 * y, inputs, backend="replay", flat=True)
    plan(inputs, create_graph=True).to_dense().sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is None


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (frozen, "detach"),
        (frozen_by_block, "no_grad"),
        (frozen_beyond, "detach"),
        (by_data, ".data"),
        (Cube.apply, "an autograd.Function of its own"),
    ],
)
def test_a_function_that_hides_something_is_differentiated_by_passes(function, name) -> None:
    plan = torchjac.plan(function, point(), backend="replay")
    message = f"plan: results with create_graph=True .* backend='replay'.* the function uses {name}"
    x = (10 * point()).requires_grad_()
    with pytest.warns(FallbackWarning, match=message):
        jac = plan(x, create_graph=True)
    (found,) = torch.autograd.grad(weighed(jac), x)
    plain = torchjac.jacobian(function, x, create_graph=True)
    (known,) = torch.autograd.grad(weighed(plain), x)
    torch.testing.assert_close(found, known)


def test_a_derivative_of_a_forward_rule_that_is_wrong_is_found_by_products() -> None:
    """PyTorch's forward rule of layer_norm has a wrong derivative."""

    def function(x):
        return torch.nn.functional.layer_norm(x, (5,)) * x

    plan = torchjac.plan(function, point(), backend="replay")
    x = (point() ** 2).requires_grad_()
    with pytest.warns(FallbackWarning, match="its first derivative is another one"):
        jac = plan(x, create_graph=True)
    (found,) = torch.autograd.grad(weighed(jac), x)
    torch.testing.assert_close(found, expected(function, point() ** 2)[0])


def test_the_reason_is_said_once() -> None:
    plan = torchjac.plan(frozen, point(), backend="replay")
    with pytest.warns(FallbackWarning):
        plan(point(), create_graph=True)
    with torchjac.record() as reports:
        plan(point(), create_graph=True)
    assert [report.mode for report in reports] == ["reverse-mode"]


@pytest.mark.parametrize(
    "function", [lambda x, w: torch.tanh(w @ x), lambda x, w: w @ x], ids=["curved", "linear"]
)
def test_weights_that_the_function_holds_get_their_gradients(function) -> None:
    weight = WEIGHT.clone().requires_grad_()
    plan = torchjac.plan(lambda x: function(x, weight), point(3), backend="replay")
    (found,) = torch.autograd.grad(weighed(plan(point(3), create_graph=True)), weight)
    plain = torchjac.jacobian(lambda x: function(x, weight), point(3), create_graph=True)
    (known,) = torch.autograd.grad(weighed(plain), weight)
    torch.testing.assert_close(found, known)


def test_weights_that_begin_to_require_gradients_get_them() -> None:
    weight = WEIGHT.clone()
    plan = torchjac.plan(lambda x: torch.tanh(weight @ x), point(3), backend="replay")
    plan(point(3), create_graph=True)
    weight.requires_grad_()
    jac = plan(point(3), create_graph=True)
    assert torch.autograd.grad(weighed(jac), weight)[0].abs().min() > 0


def test_a_hessian_is_differentiated() -> None:
    def function(x):
        return (x[1:] ** 2 * x[:-1].sin()).sum()

    plan = torchjac.plan(function, point(), order=2, backend="replay")
    x = point().requires_grad_()
    (found,) = torch.autograd.grad(weighed(plan(x, create_graph=True)), x)
    plain = torchjac.hessian(function, x, create_graph=True)
    (known,) = torch.autograd.grad(weighed(plain), x)
    torch.testing.assert_close(found, known)


def test_a_certified_result_can_be_differentiated() -> None:
    plan = torchjac.plan(stencil, point(), backend="replay")
    found = derivatives(lambda at: plan(at, create_graph=True, check=True), point())
    torch.testing.assert_close(found, expected(stencil, point()))


def holed(requires_grad: bool) -> torch.Tensor:
    weight = WEIGHT.clone()
    weight[0, 1] = weight[2, 2] = 0.0
    return weight.requires_grad_(requires_grad)


def gradient_by(weight, jacobian):
    total = (jacobian.to_dense() * torch.linspace(1.0, 2.0, 9, dtype=F64).view(3, 3)).sum()
    return torch.autograd.grad(total, weight)[0]


@pytest.mark.parametrize("backend", ["eager", "replay"])
def test_derivatives_by_weights_that_are_zero(backend):
    weight, x = holed(True), point(3)

    def layer(x):
        return torch.tanh(weight @ x)

    made = torchjac.plan(layer, x, backend=backend)
    dense = torchjac.jacobian(layer, x, create_graph=True)
    found = gradient_by(weight, made(x, create_graph=True))
    torch.testing.assert_close(found, gradient_by(weight, dense))


@pytest.mark.parametrize("backend", ["eager", "replay"])
def test_a_weight_that_requires_gradients_only_later(backend):
    weight, x = holed(False), point(3)

    def layer(x):
        return torch.tanh(weight @ x)

    made = torchjac.plan(layer, x, backend=backend)
    weight.requires_grad_()
    with pytest.warns(torchjac.errors.BranchWarning, match="what it holds has changed"):
        found = gradient_by(weight, made(x, create_graph=True))
    dense = torchjac.jacobian(layer, x, create_graph=True)
    torch.testing.assert_close(found, gradient_by(weight, dense))
    again = made(x, create_graph=True)  # kept: no warning any more
    torch.testing.assert_close(gradient_by(weight, again), found)


def test_another_input_that_requires_gradients_only_later():
    x = point(3)

    def layer(x, weight):
        return torch.tanh(weight @ x)

    made = torchjac.plan(layer, (x, holed(False)), wrt=0)
    weight = holed(True)
    found = gradient_by(weight, made((x, weight), create_graph=True))
    dense = torchjac.jacobian(layer, (x, weight), wrt=0, create_graph=True)
    torch.testing.assert_close(found, gradient_by(weight, dense))


def test_training_needs_no_other_pattern():
    weight, x = holed(True), point(3)
    made = torchjac.plan(lambda x: torch.tanh(weight @ x), x)
    made(x, create_graph=True)
    with torch.no_grad():
        weight.mul_(2.0)
        weight[0, 1] = 0.5
    found = made(x, create_graph=True)
    dense = torchjac.jacobian(lambda x: torch.tanh(weight @ x), x, create_graph=True)
    torch.testing.assert_close(found.to_dense(), dense)


def test_a_constant_jacobian_has_derivatives_by_weights():
    layer = torch.nn.Linear(3, 3, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(holed(False))
    found = torchjac.plan(layer, point(3))(point(3), create_graph=True)
    expected = torch.linspace(1.0, 2.0, 9, dtype=F64).view(3, 3)
    torch.testing.assert_close(gradient_by(layer.weight, found), expected)


def determinants(x):
    """Of a matrix with equal singular values: 1 + x^2, times x."""
    return x * torch.det(torch.outer(x, x) + torch.eye(len(x), dtype=x.dtype))


@pytest.mark.parametrize("backend", ["eager", "replay"])
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_determinants_have_a_second_derivative_where_singular_values_are_equal(backend):
    x = point(4).requires_grad_()
    made = torchjac.plan(determinants, x.detach(), layout=torch.strided, backend=backend)
    found = torch.autograd.grad(weighed(made(x, create_graph=True)), x)
    known = torch.func.jacrev(lambda x: x * (1 + x.square().sum()))(x)
    torch.testing.assert_close(found, torch.autograd.grad(weighed(known), x))
