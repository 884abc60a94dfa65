"""Whole chains: every order of multiplication gives the dense Jacobian."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests._evaluate.chain.chains import chain, some
from tests._evaluate.direct.emitted import dense_jacobian
from torchjac.testing import scenarios

BANK = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(*shape: int, seed: int = 0) -> Tensor:
    """Constants: numbers that a function draws itself would differ from run to run."""
    return BANK[7 * seed : 7 * seed + torch.Size(shape).numel()].reshape(shape)


A, B, C, D = weights(7, 5), weights(5, 2, seed=1), weights(2, 6, seed=2), weights(6, 4, seed=3)
SQUARE = weights(6, 6, seed=4)
CONV = weights(2, 2, 3, seed=5)


def perceptron(x):
    return torch.tanh(torch.tanh(torch.tanh(x @ A) @ B) @ C) @ D


def tokens(x):
    return torch.tanh(torch.tanh(x.reshape(3, 7) @ A) @ B) @ C


def transposed_tokens(x):
    return B.T @ torch.tanh(A.T @ x.reshape(7, 3))


def residual(x):
    y = torch.tanh(x @ A) @ B
    return (torch.sin(y) @ C) @ D + x[:4]


def two_waists_side_by_side(x):
    a, b = torch.tanh(x[:4] @ weights(4, 2)), torch.tanh(x[4:] @ weights(3, 1))
    c = torch.cat([a, b])
    return torch.sin(c @ weights(3, 5)) @ weights(5, 6)


def waist_of_two_tensors(x):
    mean = (x @ A).mean()
    spread = torch.sin(x @ A @ B)
    return torch.exp(mean * weights(6)) + torch.cos(spread @ C)


def recurrent(x):
    h = x[:2]
    for _ in range(3):
        h = torch.tanh(h @ C @ D @ weights(4, 2)) + x[2:4]
    return h @ C


def attention_block(x):
    x = x.reshape(3, 4)
    q, k, v = (x @ weights(4, 12)).reshape(3, 3, 2, 2).permute(1, 2, 0, 3)[:, None]
    y = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).reshape(3, 4)
    x = x + y @ weights(4, 4, seed=8)
    return x + torch.tanh(F.layer_norm(x, (4,)) @ weights(4, 6)) @ weights(6, 4)


def convolved(x):
    y = torch.tanh(F.conv1d(x.reshape(1, 2, 6), CONV, padding=1))
    return F.conv1d(y, CONV.flip(0), padding=1)[..., ::2] * 2


def sparse_steps(x):
    y = torch.sin(x.roll(1) - 2 * x)
    z = (y.roll(-1) * y) @ weights(8, 3)
    return z.exp() @ weights(3, 8) + y


def scattered(x):
    y = torch.zeros(9, dtype=x.dtype).index_add(0, torch.tensor([1, 5, 1, 8]), x[:4].sin())
    return torch.tanh(y @ weights(9, 2)) @ weights(2, 3)


def constant_factor(x):
    return x @ A @ B @ C


def reused_output(x):
    y = torch.tanh(x @ A) @ B
    z = torch.sin(y @ C)
    return z, y, x.detach(), z @ D, z


CASES = {
    perceptron: weights(7),
    tokens: weights(21),
    transposed_tokens: weights(21),
    residual: weights(7),
    two_waists_side_by_side: weights(7),
    waist_of_two_tensors: weights(7),
    recurrent: weights(4),
    attention_block: weights(12),
    convolved: weights(12),
    sparse_steps: weights(8),
    scattered: weights(5),
    constant_factor: weights(7),
    reused_output: weights(7),
}


@pytest.mark.parametrize("direction", ["", "vjp"])
@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_every_order_gives_the_dense_jacobian(function, direction) -> None:
    x = CASES[function]
    found = chain(function, x, direction)
    elsewhere = x.flip(0) + 0.1
    expected = dense_jacobian(function, elsewhere)
    for stretch in some(found):
        got = found.dense(stretch, [elsewhere])
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11, msg=str(stretch))


@pytest.mark.parametrize("direction", ["", "vjp"])
def test_several_inputs(direction) -> None:
    def function(a, b):
        y = torch.tanh(torch.cat([a.flatten(), b]) @ A)
        return torch.sin(y @ B) @ C, (y @ B).exp()

    inputs = weights(2, 2), weights(3, seed=2)
    found = chain(function, inputs, direction)
    expected = dense_jacobian(function, inputs)
    for stretch in some(found):
        torch.testing.assert_close(found.dense(stretch, inputs), expected)


def test_float32() -> None:
    net = nn.Sequential(nn.Linear(9, 3), nn.Tanh(), nn.Linear(3, 8)).requires_grad_(False)
    x = torch.linspace(-1, 1, 9)
    found = chain(net, x)
    for stretch in some(found):
        got = found.dense(stretch, [x])
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, dense_jacobian(net, x))


def test_input_that_does_not_lie_in_rows() -> None:
    def function(x):
        return torch.tanh(x.reshape(3, 7) @ A) @ B @ C

    x = weights(7, 3).T
    found = chain(function, x)
    for stretch in some(found):
        torch.testing.assert_close(found.dense(stretch, [x]), dense_jacobian(function, x))


@pytest.mark.parametrize("problem", list(scenarios())[::5], ids=lambda p: p.name)
def test_scenario(problem) -> None:
    function = torch.func.grad(problem.function) if problem.hessian else problem.function
    found = chain(function, problem.x(), cuts=2)
    expected = dense_jacobian(function, problem.x())
    scale = float(expected.abs().max())
    for stretch in some(found, 8):
        got = found.dense(stretch, [problem.x()])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * scale)
