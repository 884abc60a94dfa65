"""Random programs of structured steps: patterns and direct evaluation against dense Jacobians."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from random import Random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import torchjac
from tests._evaluate.direct.emitted import dense_jacobian, emitted
from torchjac._inputs.signature import bind
from torchjac._pattern.detect import detect
from torchjac._pattern.pattern import SparsityPattern

MOST_ELEMENTS = 40
LARGE = 1e4
Point = tuple[Tensor, ...]

# -- Steps: each takes any tensors, and a source of random choices that are the same every time --


def constant(r: Random, *shape: int, like: Tensor) -> Tensor:
    numbers = [r.uniform(-1, 1) for _ in range(prod(shape))]
    return torch.tensor(numbers, dtype=like.dtype).reshape(shape)


def integers(r: Random, bound: int, *shape: int) -> Tensor:
    return torch.tensor([r.randrange(bound) for _ in range(prod(shape))]).reshape(shape)


def axis(r: Random, a: Tensor) -> int:
    return r.randrange(a.dim())


def fitted(b: Tensor, shape: torch.Size) -> Tensor:
    """The elements of b, in turn, under another shape."""
    return b.reshape(-1)[torch.arange(shape.numel()) % b.numel()].reshape(shape)


def matrix(r: Random, n: int, like: Tensor) -> Tensor:
    """A square matrix: full, triangular, or with other exact zeros."""
    full = constant(r, n, n, like=like)
    mask = integers(r, 3, n, n) == 0
    return r.choice([full, full.tril(), full.triu(1), full * mask])


def on_matrix(a: Tensor) -> Tensor:
    return a.reshape(-1, a.shape[-1])


def inner_slice(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    start = r.randrange(a.shape[d])
    return a.narrow(d, start, r.randint(1, a.shape[d] - start))


def strided_slice(r: Random, a: Tensor) -> Tensor:
    return a[..., r.randrange(2) % a.shape[-1] :: 2]


def periodic_stencil(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return a.roll(1, d) - 2 * a + a.roll(-1, d) * a


def padded_stencil(r: Random, a: Tensor) -> Tensor:
    p = F.pad(a, (1, 1), value=r.choice([0.0, 1.5]))
    return p[..., 2:] * p[..., :-2] - a


def concatenated(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return torch.cat([a.narrow(d, 0, 1) * 2, a], d)


def indexed(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return a.index_select(d, integers(r, a.shape[d], 3))


def gathered(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return a.gather(d, integers(r, a.shape[d], *a.shape))


def index_added(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    target = r.choice([torch.zeros_like(a), a])
    return target.index_add(d, integers(r, a.shape[d], a.shape[d]), a, alpha=r.choice([1, -2]))


def scatter_added(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    target = r.choice([torch.zeros_like(a), a.sin()])
    return target.scatter_add(d, integers(r, a.shape[d], *a.shape), a)


def scattered(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    order = torch.tensor(r.sample(range(a.shape[d]), a.shape[d]))
    index = order.reshape([-1 if k == d else 1 for k in range(a.dim())]).expand(a.shape)
    return a.scatter(d, index[..., :1], (a * a)[..., :1])


def put(r: Random, a: Tensor) -> Tensor:
    flat = a.reshape(-1)
    return flat.index_put((integers(r, len(flat), 3),), fitted(a, torch.Size([3])), accumulate=True)


def cumulated(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return r.choice([a.cumsum(d), a.flip(d).cumsum(d), a.exp().cumsum(d).log()])


def chosen(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return r.choice(
        [
            lambda: a.sort(d).values,
            lambda: a.topk(1, d).values,
            lambda: a.amax(d, keepdim=True) * a,
            lambda: a.cummax(d).values,
        ]
    )()


def dense_product(r: Random, a: Tensor) -> Tensor:
    return a @ matrix(r, a.shape[-1], a)


def sparse_product(r: Random, a: Tensor) -> Tensor:
    m = on_matrix(a).T
    sparse = matrix(r, m.shape[0], a).to_sparse_csr()
    return r.choice([lambda: sparse @ m, lambda: torch.mv(sparse, m[:, 0])])()


def own_product(r: Random, a: Tensor) -> Tensor:
    m = on_matrix(a)
    return r.choice([lambda: m.T @ m.sin(), lambda: (m[:, :, None] @ m[:, None]).mean(2)])()


def added_product(r: Random, a: Tensor) -> Tensor:
    m = on_matrix(a)
    return torch.addmm(
        m, m, matrix(r, m.shape[1], a), beta=r.choice([1, 2]), alpha=r.choice([1, 3])
    )


def einsum(r: Random, a: Tensor) -> Tensor:
    m = on_matrix(a)
    return torch.einsum("ij,jk,ik->ij", m, matrix(r, m.shape[1], a), m.cos())


def reduced(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    keep = r.random() < 0.5
    return r.choice(
        [
            lambda: a.sum(d, keepdim=keep),
            lambda: a.mean(d, keepdim=keep),
            lambda: a.logsumexp(d, keepdim=keep),
            lambda: (a * a + 1).sqrt().prod(d, keepdim=keep),
            lambda: a.sum(),
        ]
    )()


def centered(r: Random, a: Tensor) -> Tensor:
    return a - a.mean(axis(r, a), keepdim=True)


def normalized(r: Random, a: Tensor) -> Tensor:
    return (
        F.layer_norm(a, a.shape[-1:], eps=0.1) if r.random() < 0.5 else a / (1 + a.square().sum())
    )


def convolved(r: Random, a: Tensor) -> Tensor:
    x = a.reshape(1, 1, -1)
    kernel = constant(r, 2, 1, 3, like=a)
    kernel[0, 0, r.randrange(3)] = 0
    return r.choice(
        [
            lambda: F.conv1d(x, kernel, padding=2, stride=r.choice([1, 2]), dilation=2),
            lambda: F.conv_transpose1d(x, kernel[:1], stride=2, padding=1),
            lambda: F.conv1d(x.expand(1, 2, -1) * x, kernel, padding=1, groups=2),
        ]
    )()


def pooled(r: Random, a: Tensor) -> Tensor:
    x = a.reshape(1, 1, -1)
    return r.choice(
        [
            lambda: F.avg_pool1d(x, 2, 1, 1, count_include_pad=False),
            lambda: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True),
            lambda: F.max_pool1d(x, 2, 1, 1),
            lambda: F.interpolate(x, scale_factor=1.5, mode="linear"),
            lambda: F.adaptive_avg_pool1d(x, 2),
        ]
    )()


def written(r: Random, a: Tensor) -> Tensor:
    out = torch.zeros_like(a)
    d = axis(r, a)
    out.narrow(d, 0, 1).copy_(a.narrow(d, a.shape[d] - 1, 1) ** 2)
    out += a
    out.select(d, r.randrange(a.shape[d])).mul_(3)
    return out


def masked(r: Random, a: Tensor) -> Tensor:
    mask = integers(r, 2, *a.shape) == 0
    return r.choice(
        [
            lambda: a.masked_fill(mask, 2.0),
            lambda: torch.where(mask, a, a * a),
            lambda: a.masked_scatter(mask, a.flatten()),
            lambda: a * mask,
        ]
    )()


def branched(r: Random, a: Tensor) -> Tensor:
    return r.choice(
        [
            lambda: torch.where(a > 0.1, a * a, -a),
            lambda: a.clamp(-0.4, 0.6),
            lambda: a.abs(),
            lambda: a.relu() - 0.1 * a,
        ]
    )()


class Cube(torch.autograd.Function):
    """A custom function that only knows its way back."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a**3

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved_tensors
        return 3 * grad * a**2


class Shift(torch.autograd.Function):
    """A custom function with both."""

    @staticmethod
    def forward(a):
        return a.roll(1, -1) * a

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved_tensors
        return grad * a.roll(1, -1) + (grad * a).roll(-1, -1)

    @staticmethod
    def jvp(ctx, t):
        (a,) = ctx.saved_tensors
        return t.roll(1, -1) * a + a.roll(1, -1) * t


def custom(r: Random, a: Tensor) -> Tensor:
    return r.choice([Cube, Shift, Shift]).apply(a)


def nested(r: Random, a: Tensor) -> Tensor:
    return r.choice(
        [
            lambda: torch.func.grad(lambda z: (z.sin() * z.roll(1, -1)).sum())(a),
            lambda: torch.vmap(lambda row: row * row.sum())(a),
            lambda: torch.func.jvp(lambda z: z**3, (a,), (a.cos(),))[1],
        ]
    )()


def moved(r: Random, a: Tensor) -> Tensor:
    d = axis(r, a)
    return r.choice(
        [
            lambda: a.flip(d),
            lambda: a.transpose(0, -1),
            lambda: a.reshape(-1),
            lambda: a.unsqueeze(d),
            lambda: a.unsqueeze(0).expand(2, *a.shape),
            lambda: a.repeat_interleave(2, d),
            lambda: torch.stack([a, a.sin()], d),
            lambda: a.unfold(-1, min(2, a.shape[-1]), 1),
            lambda: a.diagonal() if a.dim() > 1 else torch.diag(a),
            lambda: on_matrix(a).tril(),
        ]
    )()


ONE: dict[str, Callable[[Random, Tensor], Tensor]] = {
    "sin": lambda r, a: a.sin(),
    "square": lambda r, a: a * a,
    "half_exp": lambda r, a: (a / 2).exp(),
    "softmax": lambda r, a: a.softmax(axis(r, a)),
    "partly_detached": lambda r, a: a * a.detach().sin(),
    **{
        step.__name__: step
        for step in (
            inner_slice,
            strided_slice,
            periodic_stencil,
            padded_stencil,
            concatenated,
            indexed,
            gathered,
            index_added,
            scatter_added,
            scattered,
            put,
            cumulated,
            chosen,
            dense_product,
            sparse_product,
            own_product,
            added_product,
            einsum,
            reduced,
            centered,
            normalized,
            convolved,
            pooled,
            written,
            masked,
            branched,
            custom,
            nested,
            moved,
        )
    },
}
TWO: dict[str, Callable[[Random, Tensor, Tensor], Tensor]] = {
    "add": lambda r, a, b: a + b,
    "subtract_thrice": lambda r, a, b: torch.sub(a, b, alpha=3),
    "multiply": lambda r, a, b: a * b,
    "divide": lambda r, a, b: a / (1 + b * b),
    "cat": lambda r, a, b: torch.cat([a, b * 2, a], axis(r, a)),
    "stack": lambda r, a, b: torch.stack([b, a], r.randrange(a.dim() + 1)),
    "maximum": lambda r, a, b: torch.maximum(a, b),
    "where": lambda r, a, b: torch.where(a > b, a, b * b),
    "matmul": lambda r, a, b: on_matrix(a) @ on_matrix(b).T,
    "index_copy": lambda r, a, b: a.index_copy(0, torch.tensor([0]), b[-1:]),
    "outer": lambda r, a, b: torch.outer(a.flatten()[:5], b.flatten()[:4]),
}


@dataclass(frozen=True)
class Step:
    """One statement: what it does, to which values, with which choices."""

    name: str
    operands: tuple[int, ...]
    seed: int

    def __call__(self, values: list[Tensor]) -> Tensor:
        a, *others = [values[k] for k in self.operands]
        a = a if a.dim() else a.reshape(1)
        r = Random(self.seed)
        if not others:
            return ONE[self.name](r, a)
        return TWO[self.name](r, a, fitted(others[0], a.shape))


@dataclass(frozen=True)
class Program:
    """Statements over a list of values, the first of which are the inputs."""

    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    seed: int

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = list(inputs)
        for step in self.steps:
            value = step(values)
            if value.numel() > MOST_ELEMENTS:
                value = value.reshape(-1)[:MOST_ELEMENTS]
            values.append(value)
        return tuple(values[k] for k in self.outputs)

    def point(self, number: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(self.seed + 1000 * number)
        return tuple(
            torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)
            for shape in self.shapes
        )

    def dense(self, point: tuple[Tensor, ...]) -> Tensor:
        jacobian = dense_jacobian(self, point)
        assume(bool(jacobian.isfinite().all()) and bool((jacobian.abs() < LARGE).all()))
        return jacobian


SHAPES = st.sampled_from([(5,), (6,), (1,), (2, 3), (3, 4), (4, 1), (2, 2, 3)])


@st.composite
def programs(draw) -> Program:
    shapes = tuple(draw(st.lists(SHAPES, min_size=1, max_size=2)))
    count = draw(st.integers(1, 5))
    steps = []
    for k in range(len(shapes), len(shapes) + count):
        name = draw(st.sampled_from([*ONE, *TWO]))
        operands = [draw(st.integers(0, k - 1)) for _ in range(2 if name in TWO else 1)]
        # Later values are drawn more often, so that steps build on each other.
        operands[0] = draw(st.sampled_from([operands[0], k - 1, k - 1]))
        steps.append(Step(name, tuple(operands), draw(st.integers(0, 999))))
    last = len(shapes) + count - 1
    outputs = draw(st.sampled_from([(last,), (last,), (last, last // 2)]))
    return Program(shapes, tuple(steps), outputs, draw(st.integers(0, 99)))


def assert_direct_equals_dense(program: Program, dtype: torch.dtype, rtol: float) -> None:
    here, elsewhere = program.point(0, dtype), program.point(1, dtype)
    expected = program.dense(elsewhere)
    made = emitted(program, here)
    assert "vjp" in made
    for direction, direct in made.items():
        found = direct.dense(elsewhere)
        scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        torch.testing.assert_close(
            found, expected, rtol=0, atol=rtol * scale, msg=lambda m, d=direction: f"{d}: {m}"
        )


@given(programs())
def test_pattern_holds_every_nonzero(program) -> None:
    here, elsewhere = program.point(0), program.point(1)
    nonzero = (program.dense(here) != 0) | (program.dense(elsewhere) != 0)
    found = detect(bind("test", program, here)).pattern
    assert SparsityPattern.from_dense(nonzero.numpy()).issubset(found)


@given(programs())
def test_direct_evaluation_equals_dense(program) -> None:
    assert_direct_equals_dense(program, torch.float64, 1e-10)


@given(programs())
def test_direct_evaluation_in_single_precision(program) -> None:
    assert_direct_equals_dense(program, torch.float32, 1e-3)


@given(programs())
def test_refilling_gives_what_a_new_evaluation_gives(program) -> None:
    here, elsewhere = program.point(0), program.point(1)
    program.dense(elsewhere)
    for direct in emitted(program, here).values():
        refilled = direct.refilled(direct.nonzeros(here), elsewhere)
        torch.testing.assert_close(refilled, direct.nonzeros(elsewhere), rtol=1e-11, atol=1e-10)


WAYS = {
    "columns": {"backend": "eager", "coloring": "column"},
    "rows": {"backend": "eager", "coloring": "row"},
    "both": {"backend": "eager", "coloring": "bidirectional"},
    "auto": {"backend": "auto"},
    "replay": {"backend": "replay"},
    "local": {"scope": "local", "backend": "eager"},
}


def dense_by_every_way(program: Program, here: Point, elsewhere: Point) -> dict[str, Tensor]:
    """The Jacobian by plans made elsewhere: new, checked, refilled, with a graph."""
    shape = sum(y.numel() for y in program(*elsewhere)), sum(x.numel() for x in elsewhere)
    found = {}
    for name, options in WAYS.items():
        plan = torchjac.plan(program, here, flat=True, layout=torch.strided, **options)
        found[name] = plan(elsewhere)
        found[f"{name}, checked"] = plan(elsewhere, check=True)
        found[f"{name}, refilled"] = plan(elsewhere, out=plan(here))
        found[f"{name}, differentiable"] = plan(elsewhere, create_graph=True).detach()
    blocks = torchjac.jacobian(program, elsewhere)
    rows = [
        torch.cat([b.reshape(y.numel(), x.numel()) for b, x in zip(row, elsewhere, strict=True)], 1)
        for row, y in zip(blocks, program(*elsewhere), strict=True)
    ]
    found["jacobian"] = torch.cat(rows)
    return {name: matrix.reshape(shape) for name, matrix in found.items()}


@pytest.mark.filterwarnings("ignore::torchjac.errors.TorchjacWarning")
@settings(max_examples=max(3, settings.default.max_examples // 5))
@given(programs())
def test_all_methods_agree(program) -> None:
    here, elsewhere = program.point(0), program.point(1)
    expected = program.dense(elsewhere)
    program.dense(here)
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    for name, found in dense_by_every_way(program, here, elsewhere).items():
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-9 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
