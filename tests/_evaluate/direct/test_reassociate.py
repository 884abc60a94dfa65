"""Products are written in a cheaper order where that pays, and the numbers stay what they were."""

import random

import pytest
import torch

from torchjac._evaluate.direct import reassociate
from torchjac._evaluate.direct.reassociate import reassociated
from torchjac._evaluate.direct.written import graph_of
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.record import Recorder
from torchjac._linearize.simplify import trimmed

aten = torch.ops.aten


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Tokens t and s, slices r, heads h, features of a head d, and of a token c.
T, R, H, D, C = 16, 32, 4, 8, 32
SHUFFLED = torch.randperm(90_000, generator=torch.Generator().manual_seed(0))
G, P, W = normal(T, R, H, D), normal(T, T, H, seed=1), normal(H * D, C, seed=2)


TALL = torch.cat([W, W + 1])


def recorded(func, *xs) -> LinearProgram:
    recorder, inputs = Recorder(is_lean=True), [x.clone() for x in xs]
    with torch.no_grad(), recorder:
        numbers = recorder.enter(inputs)
        outputs = recorder.leave([func(*inputs)])
    values, constants = tuple(recorder.values), recorder.constants
    nodes, outputs = trimmed(recorder.nodes, values, constants, outputs)
    return LinearProgram(
        tuple(nodes), values, numbers, (), outputs, constants, {}, frozenset(), "jvp"
    )


def rewritten(func, *xs):
    """The program before and after, and what comes out of it."""
    before = recorded(func, *xs)
    after = reassociated(before)
    graph = graph_of(after.nodes, after.constants, after.primals, after.outputs[0])
    return before, after, graph(*xs)


def products(program: LinearProgram) -> list[tuple[int, ...]]:
    ops = aten.mm.default, aten.bmm.default
    return [program.values[n.outputs[0]].shape for n in program.nodes if n.op in ops]


def names(program: LinearProgram) -> list[str]:
    return sorted([node.name for node in program.nodes])


def outer(g, p):
    """What reaches the values of attention, for each token that asked: (r t, s, h d)."""
    wide = g.permute(1, 0, 2, 3)[:, :, None] * p[None, ..., None]
    return wide.reshape(R * T, T, H * D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_are_pulled_out_of_products(dtype):
    given = [t.to(dtype) for t in (G, P)]
    weight = W.to(dtype)

    def func(g, p):
        return (outer(g, p).reshape(-1, H * D) @ weight).reshape(R * T, T, C)

    before, after, found = rewritten(func, *given)
    assert products(before) == [(R * T * T, C)]
    assert sorted(products(after)) == [(H, T * R, C), (R * T, T, C)]
    torch.testing.assert_close(found, func(*given))


def test_matrices_side_by_side():
    def func(g, p):
        both = torch.cat([outer(g, p), outer(g * 2, p + 1)], -1)
        return (both.reshape(-1, 2 * H * D) @ TALL).reshape(R * T, T, C)

    _, after, found = rewritten(func, G, P)
    assert len(products(after)) == 4
    assert aten.cat.default not in [node.op for node in after.nodes]
    torch.testing.assert_close(found, func(G, P))


def with_zeros(weight):
    zeros = torch.zeros(R * T, T, H * D, dtype=torch.float64)

    def func(g, p):
        both = torch.cat([zeros, outer(g, p)], -1)
        return (both.reshape(-1, 2 * H * D) @ weight).reshape(R * T, T, C)

    return func


def test_zeros_beside_others():
    func = with_zeros(torch.cat([W, W]))
    _, after, found = rewritten(func, G, P)
    assert len(products(after)) == 2
    torch.testing.assert_close(found, func(G, P))


def test_zeros_times_infinity_are_not_left_out():
    func = with_zeros(torch.cat([torch.full_like(W, torch.inf), W]))
    _, _, found = rewritten(func, G, P)
    assert found.isnan().all()


def test_what_is_used_twice_is_computed_once():
    def func(g, p):
        wide = outer(g, p)
        return (wide.reshape(-1, H * D) @ W).reshape(R * T, T, C) + wide

    before, after, found = rewritten(func, G, P)
    assert products(after) == products(before)
    torch.testing.assert_close(found, func(G, P))


def test_numbers_multiply_what_is_small():
    def func(x):
        return (-x).sum(1, keepdim=True).expand(x.shape) / 4 + x

    x = normal(300, 400)
    _, after, found = rewritten(func, x)
    (scaled,) = [node for node in after.nodes if node.op is aten.mul.Scalar]
    assert after.values[scaled.outputs[0]].shape == (300,)
    torch.testing.assert_close(found, func(x))


def test_permuting_gathers_are_permutations():
    index = torch.arange(60_000).reshape(20, 30, 100).transpose(0, 1).reshape(-1)
    x = normal(60_000)
    _, after, found = rewritten(lambda x: x[index], x)
    assert aten.permute.default in [node.op for node in after.nodes]
    torch.testing.assert_close(found, x[index], rtol=0, atol=0)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x @ x,
        lambda x: (x @ x) @ x,
        lambda x: x.exp() @ x.sin(),
        lambda x: x.flatten()[SHUFFLED],
    ],
)
def test_the_rest_stays(func):
    x = normal(300, 300)
    before, after, _ = rewritten(func, x)
    assert names(after) == names(before)


def test_small_programs_stay():
    x = normal(2, 3)
    before, after, _ = rewritten(lambda x: ((x[:, None] * x[0]).reshape(-1, 3) @ x.T) * 2, x)
    assert names(after) == names(before)


def test_scalars_have_no_axes(monkeypatch):
    monkeypatch.setattr(reassociate, "_LEAST_GAIN", -1e9)
    _, _, found = rewritten(lambda x: x.sum().permute([]).transpose(0, -1).reshape(1) * 2, W)
    torch.testing.assert_close(found, W.sum().reshape(1) * 2)
    _, _, found = rewritten(lambda x: (x.sum().sum([0]) * x[0]).sum([0]).sum([0], True) * 2, W)
    torch.testing.assert_close(found, W.sum() * W[0].sum() * 2)


def test_nothing_at_all():
    x = normal(0, 3)
    _, _, found = rewritten(lambda x: (x[:, None] * x).reshape(-1, 3) @ W[:3], x)
    assert found.shape == (0, C)


WEIGHTS = {k: normal(k, 3, seed=k) for k in range(1, 3001)}


PLACES = torch.arange(3000)


class RandomProgram:
    """Some movements, products and sums of tensors, as a seed has it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        self._rng = random.Random(self._seed)
        self._made = [*given, WEIGHTS[4]]
        for _ in range(self._rng.randint(4, 16)):
            made = self._step()
            if made is not None and 0 < made.numel() <= 3000 and made.dim() <= 7:
                self._made.append(made)
        return self._made[-1] * 1

    def _step(self) -> torch.Tensor | None:
        rng, made = self._rng, self._made
        x = made[-1] if rng.random() < 0.6 else rng.choice(made)
        y = rng.choice(made)
        steps = [
            lambda: x.reshape(self._shape(x.numel())),
            lambda: x.permute(rng.sample(range(x.dim()), x.dim())),
            lambda: x.unsqueeze(0).expand(2, *x.shape),
            lambda: x * y,
            lambda: x.reshape(*x.shape, *[1] * y.dim()) * y,
            lambda: -x * 0.5 / 3,
            lambda: x.sum(rng.randrange(x.dim()), keepdim=rng.random() < 0.5),
            lambda: x.reshape(-1, x.shape[-1]) @ y.reshape(x.shape[-1], -1),
            lambda: torch.bmm(x.reshape(2, -1, 3), y.reshape(2, 3, -1)),
            lambda: (
                torch.cat([x, x * 2], -1).reshape(-1, 2 * x.shape[-1]) @ WEIGHTS[2 * x.shape[-1]]
            ),
            lambda: x.clone(),
            lambda: x + y,
            lambda: x.flatten()[PLACES[: x.numel()].reshape(2, -1).T.flatten()],
        ]
        try:
            return rng.choice(steps)()
        except (RuntimeError, IndexError, ValueError):  # shapes that do not fit
            return None

    def _shape(self, count: int) -> list[int]:
        shape: list[int] = []
        while count > 1:
            shape.append(self._rng.choice([d for d in range(2, count + 1) if count % d == 0]))
            count //= shape[-1]
        return shape


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_random_programs(first, monkeypatch):
    monkeypatch.setattr(reassociate, "_FASTER", 1e9)
    monkeypatch.setattr(reassociate, "_LEAST_GAIN", -1e9)
    given = normal(2, 6), normal(3, 4, seed=1), normal(4, 3, 2, seed=2), normal(1, 6, seed=3)
    changed = 0
    for seed in range(first, first + 50):
        func = RandomProgram(seed)
        before, after, found = rewritten(func, *given)
        changed += names(before) != names(after)
        torch.testing.assert_close(found, func(*given))
    assert changed > 20
