"""Whole programs: all scenarios both ways, and what a program does with memory."""

import pytest
import torch
from torch.func import grad

from tests._evaluate.direct.emitted import dense_jacobian, emitted
from torchjac._evaluate.direct import emit as emit_module
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._linearize.record import Recorder, WrittenToError
from torchjac.testing import batched, in_place, scenarios, shuffled

SCENARIOS = list(scenarios())
SMALLEST = [s for s in SCENARIOS if s.x().numel() <= 12]


def name_of(value) -> str:
    return value.name


def map_of(problem):
    """What is differentiated: for a Hessian the gradient."""
    return grad(problem.function) if problem.hessian else problem.function


def near(problem, dtype) -> torch.Tensor:
    x = problem.x()
    return (x + 0.1 * torch.cos(torch.arange(len(x), dtype=x.dtype))).to(dtype)


def assert_right(problem, direction, dtype) -> None:
    function = map_of(problem)
    made = emitted(function, problem.x(dtype), (direction,))
    x = near(problem, dtype)
    expected = dense_jacobian(function, x)
    eps = torch.finfo(dtype).eps
    scale = float(expected.abs().max())
    found = made[direction].dense([x])
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=100 * eps * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("problem", SCENARIOS, ids=name_of)
def test_nonzeros_of_a_scenario(problem, direction, dtype) -> None:
    assert_right(problem, direction, dtype)


@pytest.mark.parametrize("modify", [in_place, shuffled, lambda s: batched(s, 2)])
@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("problem", SMALLEST[::3], ids=name_of)
def test_nonzeros_of_a_modified_scenario(problem, direction, modify) -> None:
    assert_right(modify(problem), direction, torch.float64)


@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("problem", SCENARIOS[1::2], ids=name_of)
def test_refilled_nonzeros_are_those_of_the_point(problem, direction) -> None:
    function = map_of(problem)
    made = emitted(function, problem.x(), (direction,))[direction]
    x = near(problem, torch.float64)
    found = made.refilled(made.nonzeros([problem.x()]), [x])
    torch.testing.assert_close(found, made.nonzeros([x]), rtol=1e-12, atol=1e-12)


def test_several_inputs_and_outputs() -> None:
    def function(a, b):
        return a * b[0], (a[:, None] * b).sum(0), b.flatten()

    here = torch.rand(2), torch.rand(2, 2)
    elsewhere = torch.rand(2), torch.rand(2, 2)
    expected = dense_jacobian(function, elsewhere)
    for made in emitted(function, here).values():
        torch.testing.assert_close(made.dense(elsewhere), expected)


def test_an_output_that_depends_on_nothing() -> None:
    made = emitted(lambda a: (a.detach() * 2, a * 2), torch.rand(2))
    assert made["jvp"].dense([torch.rand(2)]).tolist() == [[0, 0], [0, 0], [2, 0], [0, 2]]


def test_a_function_that_is_constant_has_no_entries() -> None:
    made = emitted(lambda a: a.detach() * 2, torch.rand(2))["vjp"]
    assert made.nonzeros([torch.rand(2)]).shape == (0,)
    assert made.program.varying is None


@pytest.mark.parametrize(
    "function",
    [lambda x: x * x / 2, lambda x: 3 * x, lambda x: (x.detach() * x).reshape(2, 2).T],
    ids=["an input", "a constant", "a view of an input"],
)
def test_nonzeros_are_new_memory(function) -> None:
    x = torch.rand(4, dtype=torch.float64)
    for made in emitted(function, x).values():
        before, found = x.clone(), made.nonzeros([x])
        kept = found.clone()
        found.zero_()
        assert torch.equal(x, before)
        assert torch.equal(made.nonzeros([x]), kept)


def test_constant_entries_are_not_computed_again() -> None:
    made = emitted(lambda x: torch.cat([3 * x, x * x]), torch.rand(4))["jvp"].program
    assert made.targets == slice(4, 8, 1)
    assert made.varying is not None


def test_nothing_is_written_to_in_place() -> None:
    """Some batching rules work in place; a replay that did would spoil what it shares."""
    norm = torch.nn.BatchNorm1d(3).double().eval()
    x = torch.rand(4, 3, dtype=torch.float64)
    for made in emitted(lambda t: norm(t * t), x).values():
        ops = [
            n.target
            for n in made.program.whole.one_by_one.graph.graph.nodes
            if n.op == "call_function"
        ]
        assert not any(getattr(op, "_schema", None) and op._schema.is_mutable for op in ops)
        torch.testing.assert_close(made.dense([x]), dense_jacobian(lambda t: norm(t * t), x))


def test_inputs_may_lie_otherwise_in_memory() -> None:
    def function(x):
        return (x.view(-1) ** 2).view(3, 2).cumsum(0)

    made = emitted(function, torch.rand(2, 3))["jvp"]
    x = torch.rand(3, 2).T
    expected = dense_jacobian(function, x.contiguous())
    torch.testing.assert_close(made.dense([x]), expected)


def test_inputs_are_not_changed() -> None:
    x = torch.rand(5)
    before = x.clone()
    made = emitted(lambda t: t.mul(2).add_(t).exp_(), x)["jvp"]
    made.nonzeros([x])
    assert torch.equal(x, before)


def test_a_program_that_would_be_too_long_is_given_up_early() -> None:
    def function(x):
        for k in range(10_000):
            x = x * (1 + 1 / (k + 2)) if k % 2 else x.sin()
        return x

    most = emit_module.MOST_OPERATIONS
    with pytest.raises(TooManyDerivativesError, match=f"more than {most:,} operations"):
        emitted(function, torch.rand(2), ("jvp",))


def test_what_nothing_uses_is_let_go_of() -> None:
    recorder = Recorder(is_lean=True)
    with recorder:
        x = torch.ones(3)
        recorder.enter([x])
        unused = torch.arange(3.0) + 1
        used = torch.arange(3.0) + 2
        numbers = recorder.leave([x * used])
    assert [tuple(t.tolist()) for t in recorder.constants.values()] == [(2, 3, 4)]
    assert recorder.number_of(unused) not in recorder.constants
    assert [node.outputs for node in recorder.nodes] == [numbers]


def test_a_lean_record_ends_at_a_write() -> None:
    with pytest.raises(WrittenToError), Recorder(is_lean=True):
        torch.zeros(3).add_(1)
