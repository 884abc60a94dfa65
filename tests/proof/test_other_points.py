"""Planned at one point, right at all others: signs, orders, zeros, ties and kinks change."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import torchjac
from tests._evaluate.direct.emitted import dense_jacobian, emitted
from tests.corpus.gaps import MODES_DIFFER
from tests.corpus.structure_gaps import DIRECT_REFUSED
from tests.corpus.test_op_db import OPS, Case, by_columns
from tests.corpus.test_op_db_patterns import SMALL, jacobian, other_point, traceable
from torchjac._evaluate.direct.transport import TooManyDerivativesError

pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = torch.tensor([0.3, -1.2, 0.8, 2.0, -0.4, 1.1], dtype=torch.float64)
INDEX = torch.tensor([3, 1, 0, 5, 5, 2])
X = torch.tensor([0.7, -1.3, 0.2, 2.1, -0.6, 1.4], dtype=torch.float64)
STARTS = {"ordinary": X, "zeros": torch.zeros_like(X), "equal": torch.ones_like(X)}
# Where PyTorch's two modes have different subgradients, either counts.
POINTS = {
    "turned": X.flip(0),
    "negative": -X,
    "large": 30 * X,
    "with a zero": X * (torch.arange(6) != 2),
    "with ties": X.round(),
    "zeros": torch.zeros_like(X),
}


def scanned(x: Tensor) -> Tensor:
    return torch.stack([x.cummax(0).values, x.cummin(0).values]) * x.cumsum(0)


def indexed_by_value(x: Tensor) -> Tensor:
    edges = torch.linspace(-2, 2, 6, dtype=x.dtype)
    return WEIGHTS[torch.bucketize(x.detach(), edges).clamp(max=5)] * x * x


def written(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[INDEX] = x * x
    out[:3] *= x[3:]
    return out


def solved(x: Tensor) -> Tensor:
    matrix = 9 * torch.eye(3, dtype=x.dtype) + torch.outer(x[:3].sin(), x[3:].cos())
    return torch.linalg.solve(matrix, x[3:])


def multiplied(x: Tensor) -> Tensor:
    z = torch.complex(x[:3], x[3:])
    return torch.view_as_real(z * z.conj() * z)


def attended(x: Tensor) -> Tensor:
    q = x.view(1, 1, 3, 2)
    return F.scaled_dot_product_attention(q, q.sin(), 2 * q, is_causal=True)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:3] * x[3:], x.sum()


FUNCTIONS: Mapping[str, Callable] = {
    "argmax": lambda x: x[x.argmax()] * x,
    "argsort": lambda x: x[x.argsort()] * WEIGHTS,
    "atan2": lambda x: torch.atan2(x, x.roll(1) + 9),
    "bucketize": indexed_by_value,
    "ceil": lambda x: x * x.ceil() + x.round(),
    "clamp": lambda x: x.clamp(-0.55, 0.95) * x,
    "clamp by x": lambda x: x.clamp(max=x.detach().mean() + 0.05) * x,
    "complex": multiplied,
    "copysign": lambda x: torch.copysign(x * x + 1, x.roll(1)),
    "count": lambda x: x * torch.count_nonzero(x.detach() > 0),
    "cumprod": lambda x: x.cumprod(0),
    "detach": lambda x: x * x.detach() * x.detach().sin(),
    "embedding": lambda x: F.embedding(INDEX % 3, x.view(3, 2)) ** 2,
    "fmod": lambda x: torch.fmod(3 * x, 0.7) * x,
    "frac": lambda x: x.frac() * x.trunc(),
    "gelu": lambda x: F.gelu(x) * F.silu(x) + F.softplus(x),
    "halves": halves,
    "hardtanh": lambda x: F.hardtanh(x, -0.55, 0.95) * x.roll(1),
    "huber": lambda x: F.huber_loss(x, x.roll(1) + 0.1, reduction="none"),
    "kthvalue": lambda x: x.kthvalue(2).values * x,
    "layer_norm": lambda x: F.layer_norm(x.view(2, 3), (3,), WEIGHTS[:3], eps=0.1),
    "logsumexp": lambda x: torch.logsumexp(torch.stack([x, x.roll(1), -x]), 0),
    "matmul": lambda x: x.view(2, 3) @ x.view(2, 3).T,
    "max_pool": lambda x: F.max_pool1d(x.view(1, 1, 6), 3, 2, 1) * x[0],
    "median": lambda x: x.median() * x,
    "minimum": lambda x: torch.minimum(x, x.roll(1)) * torch.maximum(x, WEIGHTS),
    "one_hot": lambda x: F.one_hot(x.argmax(), 6).to(x) * x * x,
    "pow": lambda x: x**2 + x**3 + x**0,
    "prod": lambda x: x.prod() * x,
    "quantile": lambda x: x.quantile(0.3) * x,
    "relu": lambda x: x.relu() * x.roll(1),
    "scans": scanned,
    "scatter_reduce": lambda x: torch.zeros(3).to(x).scatter_reduce(0, INDEX % 3, x, "amax"),
    "sdpa": attended,
    "sign": lambda x: x.sign() * x.exp(),
    "softmax": lambda x: x.view(2, 3).softmax(1),
    "solve": solved,
    "sort": lambda x: x.view(3, 2).sort(0).values ** 2,
    "straight through": lambda x: (x.round() - x).detach() + x * x,
    "take_along": lambda x: x.view(2, 3).take_along_dim(x.view(2, 3).argsort(1), 1) * x[0],
    "topk": lambda x: x.topk(3).values * x[x.topk(3).indices.flip(0)],
    "where": lambda x: torch.where(x > 0.1, x * x, -x),
    "where a zero": lambda x: torch.where(x == 0, 2 * x, x * x),
    "written": written,
}


def assert_one_of(found: Tensor, *expected: Tensor, tolerance: float = 1e-9) -> None:
    """One of the answers, where it is a number."""

    def is_it(right: Tensor) -> bool:
        known = right.isfinite()
        scale = max(1.0, float(right[known].abs().max())) if bool(known.any()) else 1.0
        return bool(((found - right).abs() <= tolerance * scale)[known].all())

    assert any(map(is_it, expected)), (found, expected)


def answers(function: Callable, x: Tensor) -> list[Tensor]:
    """The Jacobian by reverse mode, and by forward mode."""

    def everything(x: Tensor) -> tuple[Tensor, ...]:
        result = function(x)
        return result if isinstance(result, tuple) else (result,)

    case = Case(everything, (x,), everything(x))
    found = [dense_jacobian(everything, x)]
    with suppress(NotImplementedError):  # fused attention has no forward rule
        found.append(torch.cat([block.reshape(-1, len(x)) for block in by_columns(case)]))
    return found


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_whose_derivative_changes_its_form(name, backend) -> None:
    function = FUNCTIONS[name]
    expected = {label: answers(function, x) for label, x in POINTS.items()}
    for start in STARTS.values():
        plan = torchjac.plan(function, start, backend=backend, flat=True)
        for label, x in POINTS.items():
            assert_one_of(plan(x).to_dense(), *expected[label])


def points_of(case: Case) -> Iterator[tuple[Tensor, ...]]:
    """Turned around, negative, disturbed, small, without numbers, and with ties."""
    yield from [other_point(case, number) for number in range(4)]
    yield tuple([torch.zeros_like(x) for x in case.inputs])
    yield tuple([torch.ones_like(x) for x in case.inputs])
    yield tuple([x.round() for x in other_point(case, 6)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPS if name not in MODES_DIFFER])
def test_every_operation_of_pytorch(name) -> None:
    limits = SMALL._replace(seeds=60, entries=2_000, samples=6, empty=0)
    for _, case in traceable(name, limits):
        inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
        try:
            made = emitted(case.flat, inputs)
        except (TooManyDerivativesError, NotImplementedError):
            assert name in DIRECT_REFUSED
            continue
        for point in points_of(case):
            try:
                expected = [jacobian(case, point), columns_of(case, point)]
            except (RuntimeError, ValueError, IndexError):  # outside of its domain
                continue
            for direct in made.values():
                if bool(expected[0].isfinite().all()):
                    # Some cases mix precisions.
                    is_coarse = any([x.dtype == torch.float32 for x in point])
                    tolerance = 1e-5 if is_coarse else 1e-9
                    assert_one_of(direct.dense(point), *expected, tolerance=tolerance)


def columns_of(case: Case, point: tuple[Tensor, ...]) -> Tensor:
    blocks = iter(by_columns(case._replace(inputs=point)))
    rows = [
        torch.cat([next(blocks).reshape(y.numel(), x.numel()) for x in point], 1)
        for y in case.outputs
    ]
    return torch.cat(rows)
