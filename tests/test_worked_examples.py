"""Worked examples of the PyTorch documentation and of common tutorials, with what they print."""

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from torchjac import func, functional


def forward_mode(f, x):
    return torchjac.jacobian(f, x, strategy="forward-mode")


def argument_numbers(x):
    return tuple(range(len(x))) if isinstance(x, tuple) else 0


def by_jacrev(f, x):
    return func.jacrev(f, argument_numbers(x))(*(x if isinstance(x, tuple) else (x,)))


def by_jacfwd(f, x):
    return func.jacfwd(f, argument_numbers(x))(*(x if isinstance(x, tuple) else (x,)))


def by_value_and_jacobian(f, x):
    return torchjac.value_and_jacobian(f, x)[1]


def by_jacobian_of(f, x):
    leaves = [t.clone().requires_grad_() for t in (x if isinstance(x, tuple) else (x,))]
    return torchjac.jacobian_of(f(*leaves), tuple(leaves) if isinstance(x, tuple) else leaves[0])


# Every way in which a full Jacobian can be asked for. Each must print the same.
WAYS = {
    "jacobian": torchjac.jacobian,
    "forward mode": forward_mode,
    "value_and_jacobian": by_value_and_jacobian,
    "jacobian_of": by_jacobian_of,
    "functional.jacobian": functional.jacobian,
    "func.jacrev": by_jacrev,
    "func.jacfwd": by_jacfwd,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def printed(value):
    return str(value).splitlines()


# -- The sum of a matrix -----------------------------------------------------------------------


@every_way
def test_sum_of_a_2_by_2_matrix(way):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert printed(way(torch.sum, x)) == [
        "tensor([[1., 1.],",
        "        [1., 1.]])",
    ]


@every_way
def test_sum_of_a_3_by_2_matrix(way):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    assert printed(way(torch.sum, x)) == [
        "tensor([[1., 1.],",
        "        [1., 1.],",
        "        [1., 1.]])",
    ]


@every_way
def test_sum_of_a_2_by_3_matrix_from_numpy(way):
    x = torch.from_numpy(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))

    assert printed(way(torch.sum, x)) == [
        "tensor([[1., 1., 1.],",
        "        [1., 1., 1.]], dtype=torch.float64)",
    ]


@every_way
def test_exponential_summed_over_rows(way):
    x = torch.tensor([[0.4, 0.2], [0.1, 0.6]])

    result = way(lambda x: x.exp().sum(dim=1), x)

    assert printed(result) == [
        "tensor([[[1.4918, 1.2214],",
        "         [0.0000, 0.0000]],",
        "",
        "        [[0.0000, 0.0000],",
        "         [1.1052, 1.8221]]])",
    ]


# -- Matrix products ---------------------------------------------------------------------------


@every_way
def test_product_of_a_constant_and_the_input(way):
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    x = torch.tensor([[5.0, 6.0], [7.0, 8.0]])

    result = way(lambda x: torch.mm(a, x), x)

    # d (A x)[i, j] / d x[k, l] = A[i, k] [j = l]
    assert result.shape == (2, 2, 2, 2)
    assert result.tolist() == [
        [[[1, 0], [2, 0]], [[0, 1], [0, 2]]],
        [[[3, 0], [4, 0]], [[0, 3], [0, 4]]],
    ]


@every_way
def test_square_of_a_matrix(way):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    result = way(lambda x: torch.mm(x, x), x)

    # d (x x)[i, j] / d x[k, l] = [i = k] x[l, j] + x[i, k] [j = l]
    assert result.shape == (2, 2, 2, 2)
    assert result.tolist() == [
        [[[2, 3], [2, 0]], [[2, 5], [0, 2]]],
        [[[3, 0], [5, 3]], [[0, 3], [2, 8]]],
    ]


@every_way
def test_square_of_a_matrix_prints_four_axes(way):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert printed(way(lambda x: torch.mm(x, x), x)) == [
        "tensor([[[[2., 3.],",
        "          [2., 0.]],",
        "",
        "         [[2., 5.],",
        "          [0., 2.]]],",
        "",
        "",
        "        [[[3., 0.],",
        "          [5., 3.]],",
        "",
        "         [[0., 3.],",
        "          [2., 8.]]]])",
    ]


# -- Several scalars, several inputs -----------------------------------------------------------


def three_scalars(x1, x2, x3):
    return x1 + x2, x3 * x1, x2**3


@every_way
def test_three_functions_of_three_scalars(way):
    point = (torch.tensor(3.0), torch.tensor(4.0), torch.tensor(5.0))

    result = way(three_scalars, point)

    assert isinstance(result, tuple)
    assert [[block.item() for block in row] for row in result] == [
        [1.0, 1.0, 0.0],
        [5.0, 0.0, 3.0],
        [0.0, 48.0, 0.0],
    ]


@every_way
def test_three_functions_of_three_scalars_print_as_tuples_of_tensors(way):
    point = (torch.tensor(3.0), torch.tensor(4.0), torch.tensor(5.0))

    assert str(way(three_scalars, point)) == (
        "((tensor(1.), tensor(1.), tensor(0.)), (tensor(5.), tensor(0.), tensor(3.)), "
        "(tensor(0.), tensor(48.), tensor(0.)))"
    )


@every_way
def test_three_functions_of_one_vector(way):
    result = way(lambda x: torch.stack(three_scalars(*x)), torch.tensor([3.0, 4.0, 5.0]))

    assert printed(result) == [
        "tensor([[ 1.,  1.,  0.],",
        "        [ 5.,  0.,  3.],",
        "        [ 0., 48.,  0.]])",
    ]


@every_way
def test_exponential_and_linear_part_of_two_inputs(way):
    x, y = torch.tensor([0.4, 0.2]), torch.tensor([0.1, 0.6])

    result = way(lambda x, y: 2 * x.exp() + 3 * y, (x, y))

    assert [printed(block) for block in result] == [
        ["tensor([[2.9836, 0.0000],", "        [0.0000, 2.4428]])"],
        ["tensor([[3., 0.],", "        [0., 3.]])"],
    ]


# -- A linear layer ----------------------------------------------------------------------------

X = torch.tensor([1.0, 2.0, 3.0])
W = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
B = torch.tensor([1.0, 2.0])


def layer(x):
    return x @ W.T + B


def test_linear_layer_value_and_gradient_for_weights_of_one():
    value, gradient = functional.vjp(layer, X, torch.ones(2))

    assert value.tolist() == [15.0, 1.0]
    assert gradient.tolist() == [1.0, 3.0, 2.0]
    assert torchjac.gradient(lambda x: layer(x).sum(), X).tolist() == [1.0, 3.0, 2.0]


@every_way
def test_linear_layer_has_its_weight_as_jacobian(way):
    assert printed(way(layer, X)) == [
        "tensor([[ 1.,  2.,  3.],",
        "        [ 0.,  1., -1.]])",
    ]


def test_linear_layer_times_a_tangent():
    assert functional.jvp(layer, X, torch.tensor([1.0, 0.0, 1.0]))[1].tolist() == [4.0, -1.0]


def test_linear_layer_by_its_parameters():
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(W)
        module.bias.copy_(B)

    result = torchjac.jacobian(module, X, wrt=module)

    assert result["weight"].tolist() == [
        [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]],
    ]
    assert result["bias"].tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("compute", [torchjac.divergence, torchjac.trace])
def test_divergence_of_the_square_part_of_the_layer(compute):
    def field(x):
        return x @ W[:, :2].T + B

    assert str(compute(field, X[:2])) == "tensor(2.)"


def test_divergence_at_many_points():
    def field(x):  # (x1 x2, x2^2)
        return torch.stack([x[:, 0] * x[:, 1], x[:, 1] ** 2], 1)

    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert str(torchjac.divergence(field, points, batch_dim=0)) == "tensor([ 6., 12.])"


def test_laplacian_of_a_scalar_field():
    # |W x + b|^2 has the Hessian 2 W^T W, whose trace is 2 |W|^2.
    assert str(torchjac.laplacian(lambda x: (layer(x) ** 2).sum(), X)) == "tensor(32.)"


@pytest.mark.parametrize(
    "compute",
    [torchjac.hessian, functional.hessian, lambda f, x: func.hessian(f)(x)],
    ids=["hessian", "functional.hessian", "func.hessian"],
)
def test_hessian_of_a_scalar_field(compute):
    assert printed(compute(lambda x: (layer(x) ** 2).sum(), X)) == [
        "tensor([[ 2.,  4.,  6.],",
        "        [ 4., 10., 10.],",
        "        [ 6., 10., 20.]])",
    ]


@pytest.mark.parametrize(
    "compute",
    [torchjac.hessian, functional.hessian, lambda f, x: func.hessian(f)(x)],
    ids=["hessian", "functional.hessian", "func.hessian"],
)
def test_hessian_of_the_sum_of_cubes(compute):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    result = compute(lambda x: x.pow(3).sum(), x)

    assert result.shape == (2, 2, 2, 2)
    assert result.reshape(4, 4).tolist() == torch.diag(6 * x.flatten()).tolist()


def test_hessian_of_two_inputs():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])

    for compute in (torchjac.hessian, functional.hessian):
        result = compute(lambda x, y: (3 * x + 2 * y**2).sum(), (x, y))

        assert [[block.tolist() for block in row] for row in result] == [
            [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]],
            [[[0.0, 0.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 4.0]]],
        ]


def test_products_of_the_documentation():
    x, v = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2)

    value, product = functional.vhp(lambda x: x.pow(3).sum(), x, v)

    assert value.item() == 100.0
    assert product.tolist() == [[6.0, 12.0], [18.0, 24.0]]
    assert functional.hvp(lambda x: x.pow(3).sum(), x, v)[1].tolist() == product.tolist()


# -- Networks ----------------------------------------------------------------------------------


def image_classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def test_image_classifier_per_sample():
    net = image_classifier().double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=generator)

    with torchjac.record() as runs:
        result = torchjac.batch_jacobian(net, images)

    assert result.shape == (6, 10, 3, 16, 16)
    assert (runs[0].mode, runs[0].seeds) == ("reverse-mode", 10)
    for way in WAYS.values():
        one = way(lambda image: net(image[None])[0], images[2])
        torch.testing.assert_close(result[2], one)
    expected = torch.func.vmap(torch.func.jacrev(lambda image: net(image[None])[0]))(images)
    torch.testing.assert_close(result, expected)


def test_image_classifier_with_the_classes_last():
    net = image_classifier()
    images = torch.zeros(2, 3, 16, 16)

    result = torchjac.batch_jacobian(net, images, axes=(0, 2, 3, 4, 1))

    assert result.shape == (2, 3, 16, 16, 10)
    assert torch.equal(result.movedim(-1, 1), torchjac.batch_jacobian(net, images))


def decoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 16 * 8 * 8),
        nn.Unflatten(0, (16, 8, 8)),
        nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def test_decoder_goes_by_its_32_columns():
    net, code = decoder(), torch.linspace(-1, 1, 32)

    with torchjac.record() as runs:
        result = torchjac.jacobian(net, code)

    assert result.shape == (3, 64, 64, 32)
    assert runs[0].mode == "forward-mode"
    assert runs[0].seeds == 32  # against 12288 rows
    assert runs[0].refusals == ()
    torch.testing.assert_close(result, torch.func.jacfwd(net)(code))


def test_decoder_rows_by_reverse_mode_are_the_same():
    net, code = decoder(), torch.linspace(-1, 1, 32)

    result = torchjac.jacobian(net, code)
    rows = torchjac.jacobian(lambda code: net(code)[1, 7], code, strategy="reverse-mode")

    torch.testing.assert_close(result[1, 7], rows)


def test_decoder_per_sample_goes_by_columns_too():
    net = decoder()
    net[1] = nn.Unflatten(1, (16, 8, 8))
    codes = torch.stack([torch.linspace(-1, 1, 32), torch.linspace(1, 0, 32)])

    with torchjac.record() as runs:
        result = torchjac.batch_jacobian(net, codes)

    assert result.shape == (2, 3, 64, 64, 32)
    assert (runs[0].mode, runs[0].seeds) == ("forward-mode", 32)
    one = torchjac.jacobian(lambda code: net(code[None])[0], codes[1])
    torch.testing.assert_close(result[1], one, rtol=1e-4, atol=1e-6)
