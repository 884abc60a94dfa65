"""One plan, many calls: whatever was changed in between, the answer is that of the function now."""

import random

import pytest
import torch
from torch import nn

import torchjac

pytestmark = pytest.mark.filterwarnings(
    "ignore::torchjac.errors.TorchjacWarning", "ignore:Sparse CSR tensor support"
)
N = 4
F64 = torch.float64


class Held(nn.Module):
    """A function that reads a weight, a buffer, a number, a list, a dict and a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(N, N, dtype=F64))
        self.register_buffer("shift", torch.randn(N, dtype=F64))
        self.scale, self.table, self.switch = 2.0, [1.0, 2.0], True
        self.parts = {"a": torch.randn(N, dtype=F64)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x @ self.weight) + self.shift * x * self.scale
        y = y * self.parts["a"] if self.switch else y
        return y * self.table[0] + self.table[1] * x**2


CHANGES = {
    "nothing": lambda net: None,
    "weight in place": lambda net: net.weight.mul_(1.5),
    "weight by data": lambda net: net.weight.data.mul_(0.7),
    "weight transposed": lambda net: setattr(net.weight, "data", net.weight.data.t()),
    "weight replaced": lambda net: setattr(net, "weight", nn.Parameter(2 * net.weight.detach())),
    "weight of zeros": lambda net: net.weight.zero_(),
    "weight frozen, or not": lambda net: net.weight.requires_grad_(not net.weight.requires_grad),
    "buffer": lambda net: net.shift.add_(0.3),
    "number": lambda net: setattr(net, "scale", net.scale + 1),
    "list": lambda net: net.table.__setitem__(0, net.table[0] + 0.5),
    "dict": lambda net: net.parts.update(a=torch.randn(N, dtype=F64)),
    "switch": lambda net: setattr(net, "switch", not net.switch),
    "state": lambda net: net.load_state_dict({k: 1.1 * v for k, v in net.state_dict().items()}),
}


def plainly(x: torch.Tensor) -> torch.Tensor:
    return x


def in_steps(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, x], -1).flatten(-2)[..., ::2]


def grown(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_() * 1.0


def expanded(x: torch.Tensor) -> torch.Tensor:
    return x[:1].expand(x.shape)


FORMS = (plainly, in_steps, grown, expanded, nn.Parameter)
ARGUMENTS = {
    "x alone": (0, lambda net, x: net(x)),
    "a time before x": (1, lambda net, t, x: net(x) * t.sin() + x * t),
    "a matrix with zeros": (1, lambda net, m, x: (x**2) @ m + net(x)),
    "x after x": (1, lambda net, y, x: net(x) * y),
}


def inputs_of(name: str, rng: random.Random) -> list[torch.Tensor]:
    x = rng.choice(FORMS)(torch.randn(2, N, dtype=F64))
    beside = {
        "x alone": [],
        "a time before x": [torch.randn((), dtype=F64)],
        "a matrix with zeros": [torch.randn(N, N, dtype=F64) * (torch.rand(N, N) > 0.4)],
        "x after x": [torch.randn(2, N, dtype=F64)],
    }
    return [*beside[name], x]


def called(plan, args, how, out):
    if how == "with the value":
        return plan.value_and_jacobian(args)[1]
    if how == "into an earlier one" and out is not None:
        return plan(args, out=out)
    if how == "without gradients":
        with torch.no_grad():
            return plan(args)
    return plan(args, check=how == "checked", create_graph=how == "differentiable")


WAYS = (
    "plainly", "plainly", "checked", "into an earlier one", "with the value", "without gradients",
    "differentiable",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_answers_are_those_of_the_function_as_it_is(seed) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    net, name = Held(), rng.choice(list(ARGUMENTS))
    place, func = ARGUMENTS[name]
    layout = rng.choice([torch.strided, torch.sparse_csr])
    given = inputs_of(name, rng)
    plan = torchjac.plan(
        lambda *args: func(net, *args),
        tuple(given),
        wrt=place,
        layout=layout,
        backend=rng.choice(["auto", "replay", "eager"]),
    )
    out, told = None, [name, str(layout)]
    for _ in range(12):
        change, how = rng.choice(list(CHANGES)), rng.choice(WAYS)
        told += [change, how]
        with torch.no_grad():
            CHANGES[change](net)
        given = inputs_of(name, rng) if rng.random() < 0.7 else given
        found = called(plan, tuple(given), how, out)
        expected = torch.func.jacrev(lambda *args: func(net, *args), place)(
            *[t.detach().clone() for t in given]
        )
        assert found.requires_grad == (how == "differentiable"), told
        entries = found.detach().to_dense().reshape(2 * N, 2 * N)
        known = expected.detach().reshape(2 * N, 2 * N)
        assert torch.allclose(entries, known, rtol=1e-8, atol=1e-10), told
        out = None if how == "differentiable" else found
