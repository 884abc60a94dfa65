"""Transposed programs: held against dense Jacobians, vector by vector."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from torchjac._inputs.signature import Signature, bind
from torchjac._linearize.linearize import linearize
from torchjac._linearize.plain import plain
from torchjac._linearize.program import LinearProgram, Ref, map_refs
from torchjac._linearize.trace import trace_vjp
from torchjac._linearize.transpose import transposed
from torchjac.testing import in_place, scenarios, shuffled

SCENARIOS = list(scenarios())


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


W = randn(20)


def weights(*shape: int) -> Tensor:
    """Constants: numbers drawn in the function itself would differ from run to run."""
    return W[: _count(shape)].reshape(shape)


def applied(program: LinearProgram, primals: Sequence[Tensor], vectors: Sequence[Tensor]):
    """The results of a program, run operation by operation."""
    known = dict(program.constants) | dict(zip(program.primals, primals, strict=True))
    known |= dict(zip(program.tangents, vectors, strict=True))

    def fetch(ref: Ref) -> Tensor:
        return known[ref.number]

    for node in program.nodes:
        kwargs = {k: map_refs(fetch, v) for k, v in node.kwargs.items()}
        results = plain(node.op)(*map_refs(fetch, node.args), **kwargs)
        results = results if isinstance(results, tuple | list) else (results,)
        known |= {n: t for n, t in zip(node.outputs, results, strict=True) if n is not None}
    return [None if n is None else known[n] for n in program.outputs]


def dense(program: LinearProgram, primals: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The matrix of a program, shape (sum(sizes), elements of the tangents)."""
    shapes = [program.values[n].shape for n in program.tangents]
    dtype = primals[0].dtype
    columns = []
    for which, shape in enumerate(shapes):
        for element in range(_count(shape)):
            vectors = [torch.zeros(s, dtype=dtype) for s in shapes]
            vectors[which].reshape(-1)[element] = 1
            results = applied(program, primals, vectors)
            parts = [
                torch.zeros(n, dtype=dtype) if r is None else r.reshape(-1)
                for r, n in zip(results, sizes, strict=True)
            ]
            columns.append(torch.cat(parts))
    return torch.stack(columns, 1) if columns else torch.zeros(sum(sizes), 0, dtype=dtype)


def _count(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def assert_mirrored(function: Callable[..., Any], inputs: Any, direction: str = "") -> None:
    signature = bind("test", function, inputs)
    program = backward(signature) if direction == "vjp" else linearize(signature)[0]
    if direction:
        assert program.direction == direction
    with torch.no_grad():
        outputs = [y.numel() for y in signature.replay(signature.leaves).tensors]
    leaves = [leaf.numel() for leaf in signature.leaves]
    sizes = outputs if program.direction == "jvp" else leaves
    before = [leaf.clone() for leaf in signature.leaves]
    mirror = transposed(program, signature.leaves)
    assert mirror.direction == {"jvp": "vjp", "vjp": "jvp"}[program.direction]
    kept = [slice(a, a + n) for a, n, o in _starts(program, sizes) if o is not None]
    expected = dense(program, signature.leaves, sizes)
    expected = torch.cat([expected[part] for part in kept]) if kept else expected[:0]
    back = [_count(program.values[n].shape) for n in program.tangents]
    found = dense(mirror, signature.leaves, back)
    torch.testing.assert_close(found, expected.T, rtol=1e-9, atol=1e-9)
    for leaf, old in zip(signature.leaves, before, strict=True):
        assert torch.equal(leaf, old)


def _starts(program: LinearProgram, sizes: Sequence[int]):
    start = 0
    for size, number in zip(sizes, program.outputs, strict=True):
        yield start, size, number
        start += size


def backward(signature: Signature) -> LinearProgram:
    def flat(leaves: Sequence[Tensor]) -> Sequence[Tensor]:
        return signature.replay(leaves).tensors

    return trace_vjp(flat, signature.leaves, lambda ys: [torch.ones_like(y) for y in ys]).program


@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("problem", SCENARIOS[::2], ids=lambda s: s.name)
def test_scenario(problem, direction) -> None:
    function = grad(problem.function) if problem.hessian else problem.function
    assert_mirrored(function, problem.x(), direction)


@pytest.mark.parametrize("modify", [in_place, shuffled])
@pytest.mark.parametrize("problem", SCENARIOS[1::6], ids=lambda s: s.name)
def test_modified_scenario(problem, modify) -> None:
    problem = modify(problem)
    assert_mirrored(grad(problem.function) if problem.hessian else problem.function, problem.x())


def _filled(x: Tensor) -> Tensor:
    y = torch.zeros(2, 3, dtype=x.dtype)
    y[0] = x[:3].sin()
    y[:, 1] += x[3:5]
    return y


CASES = {
    "matmul": lambda x: x.reshape(2, 3) @ weights(3, 4),
    "batched matmul": lambda x: x.reshape(2, 1, 3) @ weights(2, 3, 2),
    "layer norm": lambda x: F.layer_norm(x.reshape(2, 3), (3,), weights(3), weights(3)),
    "batch norm": lambda x: F.batch_norm(x.reshape(2, 3), None, None, training=True),
    "softmax": lambda x: x.reshape(2, 3).softmax(-1),
    "log_softmax": lambda x: x.reshape(2, 3).log_softmax(0),
    "gelu": F.gelu,
    "convolution": lambda x: F.conv1d(x.reshape(1, 2, 3), weights(2, 2, 2), padding=1),
    "transposed convolution": lambda x: F.conv_transpose1d(x.reshape(1, 2, 3), weights(2, 2, 2)),
    "max pool": lambda x: F.max_pool1d(x.reshape(1, 1, 6), 2),
    "average pool": lambda x: F.avg_pool1d(x.reshape(1, 1, 6), 3, 1),
    "gather": lambda x: x[torch.tensor([0, 0, 3])] * x[:3],
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(0),
    "flip, roll, pad": lambda x: F.pad(x.flip(0).roll(2), (1, 2)),
    "norm": lambda x: x.norm(),
    "solve": lambda x: torch.linalg.solve(weights(3, 3), x.reshape(3, 2)),
    "cholesky": lambda x: torch.linalg.cholesky(torch.outer(x, x) + 5 * torch.eye(6)),
    "detached": lambda x: x.detach() * x,
    "filled": _filled,
    "stacked": lambda x: torch.stack([x[0] * x[1], x[2].cos()]),
    "strided": lambda x: (2 * x).as_strided((2, 2), (1, 2)),
    "broadcast": lambda x: x.reshape(2, 3)[:, None] * weights(4, 1),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x.reshape(2, 3), x.reshape(2, 3)),
    "fft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(weights(6))),
}


# Autograd loses track of memory that is written to, and does not know scatters of complex numbers.
REFUSED = {("filled", "vjp"), ("fft", "vjp")}


@pytest.mark.parametrize(
    ("name", "direction"),
    [(name, way) for name in CASES for way in ("", "vjp") if (name, way) not in REFUSED],
)
def test_operation(name, direction) -> None:
    assert_mirrored(CASES[name], randn(6), direction)


def test_several_inputs_and_outputs() -> None:
    def function(a, b):
        return a * b[0], (a[:, None] * b).sum(0), b.flatten()

    assert_mirrored(function, (randn(2), randn(2, 3)[:, :2]))


def test_outputs_that_are_the_same_and_one_that_is_zero() -> None:
    def function(x):
        y = x.sin()
        return y, x.detach(), y, x

    assert_mirrored(function, randn(3))


def test_input_that_does_not_count() -> None:
    assert_mirrored(lambda a, b: a * b.detach(), (randn(2), randn(2)))


def test_input_that_does_not_lie_in_rows() -> None:
    assert_mirrored(lambda x: x.t().reshape(-1)[:4].exp(), randn(2, 3).t())


def test_input_of_size_zero() -> None:
    assert_mirrored(lambda x: x.sum() + x, randn(0))


def test_layers() -> None:
    net = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 5)).double()
    assert_mirrored(net.requires_grad_(False), randn(6))


def test_a_norm_that_is_zero_elsewhere() -> None:
    signature = bind("test", lambda x: x + x.norm(dim=1, keepdim=True), randn(2, 3))
    mirror = transposed(linearize(signature)[0], signature.leaves)
    assert mirror.direction == "vjp"
    x = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], dtype=torch.float64)
    # A row of zeros has the derivative zero, as PyTorch has it.
    eye, unit = torch.eye(3, dtype=torch.float64), x[1] / 5
    torch.testing.assert_close(dense(mirror, [x], [6]).T, torch.block_diag(eye, eye + unit))


def test_twice_is_the_program_itself() -> None:
    signature = bind("test", lambda x: (x * x).cumsum(0), randn(4))
    program, _ = linearize(signature)
    again = transposed(transposed(program, signature.leaves), signature.leaves)
    assert again.direction == program.direction
    found, expected = (dense(p, signature.leaves, [4]) for p in (again, program))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "direction"), sorted(REFUSED))
def test_refuses_rather_than_guesses(name, direction) -> None:
    with pytest.raises(NotImplementedError, match="no transposed program"):
        assert_mirrored(CASES[name], randn(6), direction)


TRACED = torch.tensor([0.3, 0.5, 4.0], dtype=torch.float64)
ZERO = torch.tensor([0.0, 0.5, 4.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "func",
    [
        torch.sinc,
        lambda x: torch.logit(x, eps=0.1),
        lambda x: torch.where(x > 0, x.sqrt(), torch.zeros_like(x)),
        lambda x: torch.where(x == 0, torch.zeros_like(x), x.log()),
        lambda x: (x.log() * 2).masked_fill(x == 0, 0.0),
    ],
    ids=["sinc", "logit", "where", "where not", "masked_fill"],
)
def test_masks_over_what_is_not_finite_stay_masks(func) -> None:
    program, _ = linearize(bind("test", func, TRACED))
    assert program.direction == "jvp"
    expected = torch.func.jacfwd(func)(ZERO)
    assert bool(expected.isfinite().all())
    found = dense(transposed(program, [TRACED]), [ZERO], [3]).T
    torch.testing.assert_close(found, expected)


def test_what_is_masked_is_not_masked_for_others() -> None:
    func = lambda x: torch.where(x > 1, x.exp(), 0.0) + x.exp()  # noqa: E731
    program, _ = linearize(bind("test", func, TRACED))
    found = dense(transposed(program, [TRACED]), [ZERO], [3]).T
    torch.testing.assert_close(found, torch.func.jacfwd(func)(ZERO))
