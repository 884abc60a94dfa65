"""`diagonal`, `trace`, `divergence`, `laplacian` and `curl` against derivations by hand."""

import math

import pytest
import torch
from torch import nn

import torchjac
from torchjac.errors import (
    ArgumentError,
    ArgumentTypeError,
    ClosureWarning,
    MixedSamplesError,
    ShapeError,
    TorchjacError,
)

every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
every_chunk = pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
every_batch_dim = pytest.mark.parametrize("batch_dim", [0, 1])
SUMS = {"trace": torchjac.trace, "divergence": torchjac.divergence}
FIRST_ORDER = {"diagonal": torchjac.diagonal, **SUMS}
EVERYTHING = {**FIRST_ORDER, "laplacian": torchjac.laplacian, "curl": torchjac.curl}


def points(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def unbatched(func, x, batch_dim):
    """The answer for each point alone, stacked."""
    return torch.stack([func(point) for point in x.unbind(batch_dim)])


# -- Diagonal ----------------------------------------------------------------------------------


@every_dtype
@every_chunk
def test_diagonal_by_hand(dtype, chunk_size):
    x = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)

    result = torchjac.diagonal(lambda x: x * x.sum(), x, chunk_size=chunk_size)

    # d (x_i s) / d x_i = s + x_i
    assert result.tolist() == [7.0, 8.0, 9.0]
    assert result.dtype == dtype


@every_chunk
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 3)])
def test_diagonal_has_the_shape_of_the_point(shape, chunk_size):
    x = points(*shape)

    def func(x):
        return x.sin() * x.flatten().cumsum(0).reshape(x.shape)

    result = torchjac.diagonal(func, x, chunk_size=chunk_size)

    n = x.numel()
    full = torch.autograd.functional.jacobian(func, x).reshape(n, n)
    torch.testing.assert_close(result, full.diagonal().reshape(shape))


@every_chunk
@pytest.mark.parametrize("batch_dim", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 3, 3), (2, 4, 3)])
def test_diagonal_of_a_batch(shape, batch_dim, chunk_size):
    x = points(*shape)

    def one(point):
        return point.sin() * point.flatten().cumsum(0).reshape(point.shape)

    def whole(x):
        rest = x.movedim(batch_dim, 0)
        summed = rest.flatten(1).cumsum(1).reshape(rest.shape).movedim(0, batch_dim)
        return x.sin() * summed

    result = torchjac.diagonal(whole, x, batch_dim=batch_dim, chunk_size=chunk_size)

    expected = unbatched(lambda point: torchjac.diagonal(one, point), x, batch_dim)
    torch.testing.assert_close(result, expected.movedim(0, batch_dim))


def test_diagonal_of_points_without_axes():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    assert torchjac.diagonal(lambda x: x**3, x, batch_dim=0).tolist() == [3.0, 12.0]


def test_diagonal_does_not_keep_the_rows_it_came_from():
    result = torchjac.diagonal(torch.sin, torch.zeros(500))

    assert result.untyped_storage().nbytes() <= 4 * result.numel() * result.element_size()


def test_diagonal_is_not_confused_by_off_diagonal_terms():
    matrix = torch.arange(16, dtype=torch.float64).reshape(4, 4)

    result = torchjac.diagonal(lambda x: matrix @ x, torch.zeros(4, dtype=torch.float64))

    assert result.tolist() == [0.0, 5.0, 10.0, 15.0]


# -- Trace and divergence ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SUMS)
@every_dtype
@every_chunk
def test_polynomial_field(name, dtype, chunk_size):
    # F = (x^2 y, y^3, x z): div F = 2 x y + 3 y^2 + x
    def field(p):
        x, y, z = p
        return torch.stack([x**2 * y, y**3, x * z])

    p = torch.tensor([2.0, 3.0, 5.0], dtype=dtype)

    result = SUMS[name](field, p, chunk_size=chunk_size)

    assert result.shape == ()
    assert result.dtype == dtype
    assert result.item() == 12.0 + 27.0 + 2.0


@pytest.mark.parametrize("name", SUMS)
@every_batch_dim
@every_chunk
def test_polynomial_field_at_many_points(name, batch_dim, chunk_size):
    p = points(3, 7) if batch_dim else points(7, 3)

    def field(p):
        x, y, z = p.unbind(1 - batch_dim)
        return torch.stack([x**2 * y, y**3, x * z], 1 - batch_dim)

    result = SUMS[name](field, p, batch_dim=batch_dim, chunk_size=chunk_size)

    x, y, _ = p.unbind(1 - batch_dim)
    assert result.shape == (7,)
    torch.testing.assert_close(result, 2 * x * y + 3 * y**2 + x)


def test_radial_field_diverges_as_its_dimension():
    for n in (1, 2, 5):
        assert torchjac.divergence(lambda x: 1.0 * x, torch.ones(n)).item() == n


def test_rotational_field_is_free_of_divergence():
    p = points(6, 2)

    result = torchjac.divergence(lambda p: torch.stack([-p[:, 1], p[:, 0]], 1), p, batch_dim=0)

    assert result.tolist() == [0.0] * 6


def test_inverse_square_field_is_free_of_divergence():
    p = points(6, 3)

    def field(p):
        return p / p.norm(dim=1, keepdim=True) ** 3

    result = torchjac.divergence(field, p, batch_dim=0)

    scale = p.norm(dim=1).pow(-3)
    torch.testing.assert_close(result / scale, torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("shape", [(), (2, 3), (2, 3, 2)])
def test_points_of_any_shape(name, shape):
    x = points(*shape)

    result = SUMS[name](lambda x: x**3, x)

    torch.testing.assert_close(result, (3 * x**2).sum())


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("batch_dim", [0, 1, 2])
def test_batches_of_points_of_any_shape(name, batch_dim):
    x = points(2, 3, 4)

    result = SUMS[name](lambda x: x**3, x, batch_dim=batch_dim)

    rest = tuple(d for d in range(3) if d != batch_dim)
    torch.testing.assert_close(result, (3 * x**2).sum(rest))


def test_linear_fields_have_the_trace_of_their_matrix():
    matrix = points(4, 4)

    result = torchjac.trace(lambda x: x @ matrix.T, points(5, 4, seed=1), batch_dim=0)

    torch.testing.assert_close(result, matrix.trace().expand(5))


@pytest.mark.parametrize("name", [*SUMS, "diagonal"])
def test_constant_fields_have_no_derivative(name):
    result = FIRST_ORDER[name](lambda x: torch.ones_like(x), torch.zeros(3))

    assert not result.any()


# -- Laplacian ---------------------------------------------------------------------------------


@every_dtype
@every_chunk
def test_laplacian_of_a_polynomial(dtype, chunk_size):
    # f = x^3 y + y^2 z^2: 6 x y + 2 z^2 + 2 y^2
    def func(p):
        x, y, z = p
        return x**3 * y + y**2 * z**2

    p = torch.tensor([2.0, 3.0, 5.0], dtype=dtype)

    result = torchjac.laplacian(func, p, chunk_size=chunk_size)

    assert result.dtype == dtype
    assert result.shape == ()
    assert result.item() == 36.0 + 50.0 + 18.0


@every_chunk
def test_laplacian_of_a_gaussian(chunk_size):
    p = points(6, 3)

    result = torchjac.laplacian(
        lambda p: torch.exp(-(p**2).sum(1) / 2), p, batch_dim=0, chunk_size=chunk_size
    )

    # (r^2 - n) exp(-r^2 / 2)
    squared = (p**2).sum(1)
    torch.testing.assert_close(result, (squared - 3) * torch.exp(-squared / 2))


HARMONIC = {
    "saddle": (2, lambda p: p[..., 0] ** 2 - p[..., 1] ** 2),
    "product": (2, lambda p: p[..., 0] * p[..., 1]),
    "cubic": (2, lambda p: p[..., 0] ** 3 - 3 * p[..., 0] * p[..., 1] ** 2),
    "exponential": (2, lambda p: p[..., 0].exp() * p[..., 1].sin()),
    "logarithm": (2, lambda p: p.norm(dim=-1).log()),
    "newtonian": (3, lambda p: 1 / p.norm(dim=-1)),
    "linear": (3, lambda p: p.sum(-1)),
}


@pytest.mark.parametrize("name", HARMONIC)
@pytest.mark.parametrize("is_batch", [False, True])
def test_harmonic_functions_have_laplacian_zero(name, is_batch):
    n, func = HARMONIC[name]
    p = 1 + points(4, n).abs() if is_batch else 1 + points(n).abs()

    result = torchjac.laplacian(func, p, batch_dim=0 if is_batch else None)

    assert result.shape == ((4,) if is_batch else ())
    torch.testing.assert_close(result, torch.zeros_like(result), rtol=0, atol=1e-12)


@every_chunk
def test_vector_laplacian(chunk_size):
    # F = (x^2 y, sin(x) + y^3): (2 y, -sin(x) + 6 y)
    def field(p):
        x, y = p
        return torch.stack([x**2 * y, x.sin() + y**3])

    p = torch.tensor([0.5, 3.0], dtype=torch.float64)

    result = torchjac.laplacian(field, p, chunk_size=chunk_size)

    torch.testing.assert_close(result, torch.stack([2 * p[1], -p[0].sin() + 6 * p[1]]))


@every_batch_dim
@every_chunk
def test_vector_laplacian_of_a_batch(batch_dim, chunk_size):
    p = points(5, 2) if batch_dim == 0 else points(2, 5)

    def field(p):
        x, y = p.unbind(1 - batch_dim)
        return torch.stack([x**2 * y, x.sin() + y**3, x * y], 1 - batch_dim)

    result = torchjac.laplacian(field, p, batch_dim=batch_dim, chunk_size=chunk_size)

    x, y = p.unbind(1 - batch_dim)
    expected = torch.stack([2 * y, -x.sin() + 6 * y, 0 * x], 1 - batch_dim)
    torch.testing.assert_close(result, expected)


def test_laplacian_of_a_field_of_matrices():
    p = points(3)

    result = torchjac.laplacian(lambda p: torch.outer(p, p), p)

    torch.testing.assert_close(result, 2 * torch.eye(3, dtype=torch.float64))


def test_laplacian_at_points_that_are_matrices():
    x = points(2, 3)

    result = torchjac.laplacian(lambda x: (x**4).sum(), x)

    torch.testing.assert_close(result, 12 * (x**2).sum())


@pytest.mark.parametrize("batch_dim", [0, 1, 2])
def test_laplacian_of_a_batch_of_matrices(batch_dim):
    x = points(2, 3, 4)
    rest = tuple(d for d in range(3) if d != batch_dim)

    def whole(x):  # one value per sample, along the axis of samples
        return (x**4).sum(rest, keepdim=True)

    result = torchjac.laplacian(whole, x, batch_dim=batch_dim)

    torch.testing.assert_close(result, 12 * (x**2).sum(rest, keepdim=True))


def test_laplacian_of_a_network_is_the_trace_of_its_hessians():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x = points(5, 3)

    result = torchjac.laplacian(net, x, batch_dim=0)

    hessians = torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(net)))(x)
    torch.testing.assert_close(result, hessians.diagonal(dim1=2, dim2=3).sum(-1))


@pytest.mark.parametrize("func", [lambda x: 3 * x, lambda x: 3 * x.sum()])
def test_laplacian_of_linear_functions_is_zero(func):
    result = torchjac.laplacian(func, points(3))

    assert not result.any()


@pytest.mark.parametrize("shape", [(), (3,)])
def test_laplacian_of_constants_is_zero(shape):
    result = torchjac.laplacian(lambda x: torch.ones(shape), torch.zeros(3))

    assert result.shape == shape
    assert not result.any()


@pytest.mark.parametrize("count", [1, 2])
def test_laplacian_takes_a_no_grad_block_for_constant(count):
    # Whether there is one output or several must not decide what is a constant.
    def func(x):
        with torch.no_grad():
            weight = x**2
        return torch.stack([(weight * x**2).sum()] * count)

    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    assert torchjac.laplacian(func, x).tolist() == [10.0] * count


@pytest.mark.parametrize("reduce", [torch.sum, lambda y: y], ids=["scalar", "vector"])
@every_chunk
def test_laplacian_of_a_random_function_draws_its_numbers_once(reduce, chunk_size):
    x = torch.linspace(1, 2, 8, dtype=torch.float64)

    torch.manual_seed(1)
    result = torchjac.laplacian(
        lambda x: reduce(nn.functional.dropout(x, 0.5) ** 2), x, chunk_size=chunk_size
    )
    torch.manual_seed(1)
    mask = nn.functional.dropout(torch.ones_like(x), 0.5)

    torch.testing.assert_close(result, reduce(2 * mask**2))


@pytest.mark.parametrize("reduce", [torch.sum, lambda y: y], ids=["scalar", "vector"])
def test_laplacian_of_a_function_that_writes_in_place(reduce):
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    result = torchjac.laplacian(lambda x: reduce(x.mul_(2) ** 3), x)

    torch.testing.assert_close(result, reduce(48 * x))
    assert x.tolist() == [1.0, 2.0]


# Forward mode over forward mode of these is wrong in PyTorch (torch 2.13).
EYE = torch.eye(4, dtype=torch.float64)
TREACHEROUS = {
    "layer norm": lambda x: torch.layer_norm(x, x.shape),
    "instance norm": lambda x: nn.functional.instance_norm(x.reshape(1, 1, -1)).flatten(),
    "cumulative product": lambda x: x.sin().cumprod(0),
    "solve": lambda x: torch.linalg.solve(3 * EYE + torch.outer(x, x.sin()), x),
    "log-determinant": lambda x: x * torch.logdet(3 * EYE + torch.outer(x, x.sin())),
}


@pytest.mark.parametrize("name", TREACHEROUS)
@pytest.mark.filterwarnings("ignore::torchjac.errors.TorchjacWarning")
def test_laplacian_is_not_deceived_by_second_derivatives_of_forward_rules(name):
    func, x = TREACHEROUS[name], points(4).sigmoid() + 0.5

    result = torchjac.laplacian(func, x)

    hessians = torch.func.jacrev(torch.func.jacrev(func))(x)
    torch.testing.assert_close(result, hessians.diagonal(dim1=1, dim2=2).sum(-1))


@pytest.mark.filterwarnings("ignore::torchjac.errors.TorchjacWarning")
def test_laplacian_of_a_network_with_layer_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).double()
    x = points(5, 3)

    result = torchjac.laplacian(net, x, batch_dim=0)

    hessians = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(net)))(x)
    torch.testing.assert_close(result, hessians.diagonal(dim1=2, dim2=3).sum(-1))


class SineWithoutForward(torch.autograd.Function):
    """No forward rule: only double-backward leads to a second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent * x.cos()


@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_laplacian_without_a_forward_rule():
    x = torch.linspace(0, 1, 3, dtype=torch.float64)

    result = torchjac.laplacian(SineWithoutForward.apply, x)

    torch.testing.assert_close(result, -x.sin())


class CubeWithWrongForward(torch.autograd.Function):
    """Its jvp lacks the factor 3 that its backward has."""

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
        return cotangent * 3 * x**2

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return tangent * x**2


@pytest.mark.filterwarnings("ignore::torchjac.errors.DisagreementWarning")
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_laplacian_is_not_deceived_by_a_wrong_forward_rule():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    result = torchjac.laplacian(CubeWithWrongForward.apply, x)

    assert result.tolist() == [6.0, 12.0]  # as by its backward pass, like `jacobian`


# -- Curl --------------------------------------------------------------------------------------


@every_dtype
def test_curl_in_three_dimensions(dtype):
    # F = (y z, x^2, x y z): (x z, y - y z, 2 x - z)
    def field(p):
        x, y, z = p
        return torch.stack([y * z, x**2, x * y * z])

    p = torch.tensor([2.0, 3.0, 5.0], dtype=dtype)

    result = torchjac.curl(field, p)

    assert result.dtype == dtype
    assert result.tolist() == [10.0, 3.0 - 15.0, 4.0 - 5.0]


@every_batch_dim
def test_curl_at_many_points(batch_dim):
    p = points(3, 6) if batch_dim else points(6, 3)
    axis = 1 - batch_dim

    def field(p):
        x, y, z = p.unbind(axis)
        return torch.stack([y * z, x**2, x * y * z], axis)

    result = torchjac.curl(field, p, batch_dim=batch_dim)

    x, y, z = p.unbind(axis)
    torch.testing.assert_close(result, torch.stack([x * z, y - y * z, 2 * x - z], axis))


def test_curl_of_as_many_points_as_coordinates():
    p = points(3, 3)

    def field(p):
        x, y, z = p
        return torch.stack([y * z, x**2, x * y * z])

    result = torchjac.curl(field, p, batch_dim=1)

    x, y, z = p
    torch.testing.assert_close(result, torch.stack([x * z, y - y * z, 2 * x - z]))


def test_curl_in_the_plane_has_one_component():
    # F = (-y^2, x y): d(xy)/dx - d(-y^2)/dy = y + 2 y
    p = torch.tensor([2.0, 3.0], dtype=torch.float64)

    result = torchjac.curl(lambda p: torch.stack([-(p[1] ** 2), p[0] * p[1]]), p)

    assert result.shape == ()
    assert result.item() == 9.0


@every_batch_dim
def test_curl_in_the_plane_of_a_batch(batch_dim):
    p = points(2, 5) if batch_dim else points(5, 2)
    axis = 1 - batch_dim

    def field(p):
        x, y = p.unbind(axis)
        return torch.stack([-(y**2), x * y], axis)

    result = torchjac.curl(field, p, batch_dim=batch_dim)

    torch.testing.assert_close(result, 3 * p.select(axis, 1))


def test_rigid_rotation_curls_by_twice_its_speed():
    omega = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    result = torchjac.curl(lambda p: torch.linalg.cross(omega, p), points(3))

    assert result.tolist() == [2.0, -4.0, 1.0]


def test_gradient_fields_are_free_of_curl():
    def potential(p):
        return p[0] ** 2 * p[1] + p[2].sin() * p[0]

    result = torchjac.curl(torch.func.grad(potential), points(3))

    torch.testing.assert_close(result, torch.zeros(3, dtype=torch.float64))


def test_curls_are_free_of_divergence():
    def field(p):
        x, y, z = p
        return torch.stack([(y * z).sin(), x**2 * z, x * y * z])

    result = torchjac.divergence(lambda p: torchjac.curl(field, p, create_graph=True), points(3))

    torch.testing.assert_close(result, torch.zeros((), dtype=torch.float64))


# -- Differentiable results --------------------------------------------------------------------


@pytest.mark.parametrize("batch_dim", [None, 0])
@every_chunk
def test_divergence_trains_its_field(batch_dim, chunk_size):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = points(3) if batch_dim is None else points(4, 3)

    ours = torchjac.divergence(
        net, x, batch_dim=batch_dim, create_graph=True, chunk_size=chunk_size
    )
    jac = torch.func.jacrev(net)
    theirs = jac(x) if batch_dim is None else torch.func.vmap(jac)(x)
    theirs = theirs.diagonal(dim1=-2, dim2=-1).sum(-1)

    parameters = list(net.parameters())[:3]  # the last bias has no part in it
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), parameters),
        torch.autograd.grad(theirs.square().sum(), parameters),
    )


@pytest.mark.parametrize("outputs", [1, 2])
@every_chunk
def test_laplacian_trains_its_function(outputs, chunk_size):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    x = points(4, 2)

    ours = torchjac.laplacian(net, x, batch_dim=0, create_graph=True, chunk_size=chunk_size)
    hessians = torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(net)))(x)
    theirs = hessians.diagonal(dim1=2, dim2=3).sum(-1)

    parameters = list(net.parameters())[:3]
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), parameters),
        torch.autograd.grad(theirs.square().sum(), parameters),
    )


def test_a_training_step_through_a_laplacian_lowers_the_residual():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    x = points(16, 2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (torchjac.laplacian(net, x, batch_dim=0, create_graph=True) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[2] < losses[1] < losses[0]


def test_curl_is_differentiable():
    p = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)

    result = torchjac.curl(lambda p: torch.stack([-(p[1] ** 2), p[0] * p[1]]), p, create_graph=True)

    assert torch.autograd.grad(result, p)[0].tolist() == [0.0, 3.0]


@pytest.mark.parametrize("name", EVERYTHING)
def test_without_create_graph_there_is_no_history(name):
    x = points(3).requires_grad_()

    assert not EVERYTHING[name](torch.sin, x).requires_grad


def test_laplacian_of_a_laplacian():
    # The biharmonic operator on r^4 in two dimensions: Laplacian 16 r^2, twice 64.
    def quartic(p):
        return (p**2).sum() ** 2

    result = torchjac.laplacian(
        lambda p: torchjac.laplacian(quartic, p, create_graph=True), points(2)
    )

    torch.testing.assert_close(result, torch.tensor(64.0, dtype=torch.float64))


# -- Inside transforms -------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERYTHING)
@every_chunk
def test_inside_vmap(name, chunk_size):
    x = points(4, 3)
    options = {} if name == "curl" else {"chunk_size": chunk_size}

    def func(p):
        return p.sin() * p.prod()

    result = torch.func.vmap(lambda p: EVERYTHING[name](func, p, **options))(x)

    torch.testing.assert_close(result, unbatched(lambda p: EVERYTHING[name](func, p), x, 0))


def test_laplacian_of_a_scalar_field_inside_vmap():
    x = points(4, 3)

    result = torch.func.vmap(lambda p: torchjac.laplacian(lambda p: (p**3).sum(), p))(x)

    torch.testing.assert_close(result, 6 * x.sum(1))


def test_gradient_of_a_divergence_by_torch_func():
    x = points(3)

    result = torch.func.grad(lambda p: torchjac.divergence(lambda p: p**3, p))(x)

    torch.testing.assert_close(result, 6 * x)


@pytest.mark.parametrize("name", EVERYTHING)
def test_batches_inside_vmap_are_right_or_refused_clearly(name):
    x = points(2, 4, 3)

    def compute(batch):
        return EVERYTHING[name](torch.sin, batch, batch_dim=0)

    refusal = ""
    try:
        result = torch.func.vmap(compute)(x)
    except TorchjacError as error:
        refusal = str(error)

    if refusal:
        assert refusal.startswith(f"{name}: ")
    else:
        torch.testing.assert_close(result, unbatched(compute, x, 0))


# -- Samples that mix --------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERYTHING)
def test_points_that_mix_are_refused(name):
    with pytest.raises(MixedSamplesError, match=f"^{name}: the samples are not independent"):
        EVERYTHING[name](lambda x: x**2 - (x**2).mean(0), points(4, 3), batch_dim=0)


@pytest.mark.parametrize("name", EVERYTHING)
def test_points_taken_along_the_wrong_axis_are_refused(name):
    x = points(3, 3)

    with pytest.raises(MixedSamplesError):
        EVERYTHING[name](lambda x: x * x.sum(1, keepdim=True), x, batch_dim=1)


@pytest.mark.parametrize("name", EVERYTHING)
def test_batch_norm_in_training_mode_is_named(name):
    net = nn.BatchNorm1d(3).double()

    with pytest.raises(MixedSamplesError, match=r"batch normalisation in training mode \(Batch"):
        EVERYTHING[name](net, points(4, 3), batch_dim=0)


@pytest.mark.parametrize("outputs", [1, 2])
def test_laplacian_refuses_points_that_mix_in_second_order_alone(outputs):
    # The mean is zero here, and so is its part in every first derivative.
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)

    with pytest.raises(MixedSamplesError, match=r"^laplacian: the samples are not independent"):
        torchjac.laplacian(lambda x: (x.mean(0) ** 2).expand(2, outputs), x, batch_dim=0)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_point_with_a_large_derivative_does_not_hide_the_mixing_of_others(name):
    x = torch.tensor([[0.0], [1.0], [40.0]], dtype=torch.float64)

    with pytest.raises(MixedSamplesError):
        FIRST_ORDER[name](lambda x: x.exp() + x.mean(0), x, batch_dim=0)


@pytest.mark.parametrize("name", EVERYTHING)
def test_one_point_in_a_batch(name):
    x = points(1, 3)

    result = EVERYTHING[name](lambda x: x.sin() * x.cos(), x, batch_dim=0)

    expected = EVERYTHING[name](lambda x: x.sin() * x.cos(), x[0])
    torch.testing.assert_close(result[0], expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("diagonal", (0, 3)), ("trace", (0,)), ("divergence", (0,)), ("laplacian", (0, 3)),
     ("curl", (0, 3))],
)  # fmt: skip
def test_no_points(name, shape):
    result = EVERYTHING[name](torch.sin, torch.zeros(0, 3), batch_dim=0)

    assert result.shape == shape


def test_laplacian_of_a_scalar_field_at_no_points():
    result = torchjac.laplacian(lambda x: (x**2).sum(1), torch.zeros(0, 3), batch_dim=0)

    assert result.shape == (0,)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_points_without_coordinates(name):
    result = FIRST_ORDER[name](torch.sin, torch.zeros(4, 0), batch_dim=0)

    assert result.shape == ((4, 0) if name == "diagonal" else (4,))
    assert not result.any()


# -- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIRST_ORDER)
@pytest.mark.parametrize("func", [torch.sum, lambda x: x[:2], lambda x: (x, x), lambda x: x[None]])
def test_an_output_of_another_shape_is_refused(name, func):
    with pytest.raises(
        ShapeError,
        match=rf"^{name}: `func` must return one tensor with the shape of its input, \(3,\)",
    ):
        FIRST_ORDER[name](func, points(3))


@pytest.mark.parametrize(
    "func", [torch.sum, lambda x: x[:2], lambda x: (x, x), lambda x: torch.stack([x, x])]
)
def test_curl_refuses_an_output_of_another_shape(func):
    with pytest.raises(ShapeError, match=r"^curl: `func` must return one tensor with the shape of"):
        torchjac.curl(func, points(3))


@pytest.mark.parametrize("shape", [(4,), (1,), (), (3, 3)])
def test_curl_refuses_points_of_another_dimension(shape):
    with pytest.raises(ShapeError, match=r"^curl: a point must have shape \(3,\) or \(2,\), got"):
        torchjac.curl(torch.sin, points(*shape))


def test_curl_refuses_batches_of_points_of_another_dimension():
    with pytest.raises(ShapeError, match=r"got \(4,\) from `inputs` of shape \(4, 3\)"):
        torchjac.curl(torch.sin, points(4, 3), batch_dim=1)


def test_laplacian_refuses_several_outputs():
    with pytest.raises(ShapeError, match=r"^laplacian: `func` must return one tensor, got 2"):
        torchjac.laplacian(lambda x: (x, x), points(3))


@pytest.mark.parametrize("func", [torch.sum, lambda x: x.sum(0), lambda x: (x**2).sum(0)])
def test_laplacian_refuses_outputs_without_the_axis_of_points(func):
    with pytest.raises(ShapeError, match=r"^laplacian: .*batch_dim=0"):
        torchjac.laplacian(func, points(4, 3), batch_dim=0)


def test_laplacian_refuses_outputs_that_lack_axis_one():
    with pytest.raises(ShapeError, match=r"^laplacian: .*batch_dim=1"):
        torchjac.laplacian(lambda x: (x**2).sum(0), points(3, 4), batch_dim=1)


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("value", [-1, True, 0.0, "0"])
def test_batch_dim_must_be_a_number(name, value):
    with pytest.raises(ArgumentError, match=f"^{name}: `batch_dim` must be None or an axis number"):
        EVERYTHING[name](torch.sin, points(4, 3), batch_dim=value)


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_missing_axis_of_points(name):
    with pytest.raises(ShapeError, match=rf"^{name}: `inputs` has no axis batch_dim=2.*\(4, 3\)"):
        EVERYTHING[name](torch.sin, points(4, 3), batch_dim=2)


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("inputs", [(torch.ones(3), torch.ones(3)), {"x": torch.ones(3)}, 1.0])
def test_one_tensor_is_wanted(name, inputs):
    with pytest.raises(ArgumentTypeError, match=f"^{name}: `inputs` must be one Tensor, got"):
        EVERYTHING[name](torch.sin, inputs)


@pytest.mark.parametrize("name", EVERYTHING)
def test_integer_points_are_refused(name):
    with pytest.raises(ArgumentTypeError, match=rf"^{name}: `inputs` has dtype torch\.int64"):
        EVERYTHING[name](torch.sin, torch.arange(3))


@pytest.mark.parametrize("name", [*FIRST_ORDER, "laplacian"])
def test_chunk_size_out_of_range(name):
    with pytest.raises(ArgumentError, match=f"^{name}: `chunk_size` must be a positive integer"):
        EVERYTHING[name](torch.sin, points(3), chunk_size=0)


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_held_point_is_warned_of_once_under_the_name_that_was_called(name):
    x = points(3)

    with pytest.warns(ClosureWarning) as caught:
        EVERYTHING[name](lambda p: p * x, x)

    assert [str(warning.message).split(":")[0] for warning in caught] == [name]


def test_inputs_are_left_as_they_are():
    x = points(3).requires_grad_()
    before = x.detach().clone()

    for compute in EVERYTHING.values():
        compute(lambda p: p.mul_(2).sin(), x)

    assert torch.equal(x, before)
    assert x.grad is None


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("batch_dim", [None, 0])
def test_the_identity(name, batch_dim):
    x = torch.ones(3) if batch_dim is None else torch.ones(2, 3)

    result = EVERYTHING[name](lambda x: x, x, batch_dim=batch_dim)

    expected = {"diagonal": 1.0, "trace": 3.0, "divergence": 3.0, "laplacian": 0.0, "curl": 0.0}
    assert torch.equal(result, torch.full_like(result, expected[name]))


@pytest.mark.parametrize("name", EVERYTHING)
def test_works_under_no_grad_and_inference_mode(name):
    x = points(3)
    expected = EVERYTHING[name](lambda x: x.sin() * x.sum(), x)

    for switch in (torch.no_grad(), torch.inference_mode()):
        with switch:
            result = EVERYTHING[name](lambda x: x.sin() * x.sum(), x)
        torch.testing.assert_close(result.clone(), expected)


def test_non_contiguous_points():
    x = points(3, 4).T

    result = torchjac.divergence(lambda x: x**3, x, batch_dim=0)

    torch.testing.assert_close(result, 3 * (x**2).sum(1))


def test_wide_points_are_summed_accurately():
    x = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)

    result = torchjac.divergence(torch.sin, x, chunk_size=7)

    torch.testing.assert_close(result, x.cos().sum())
