"""Emitted programs replayed and compiled."""

import pickle

import pytest
import torch

from tests._evaluate.direct.emitted import emitted
from torchjac._evaluate.direct.runner import CUDAGRAPHS, INDUCTOR, REPLAY, Direct, storing
from torchjac.testing import scenario

# A compiled program is kept by PyTorch, whose caches and workers warn of their own affairs.
compiled = pytest.mark.filterwarnings("ignore")


def curved(x):
    return torch.cat([3 * x, x.sin() * x.roll(1)])


def square(x):
    return x * x


def linear(x):
    return 2 * x.roll(1)


def scattered(x):
    """Entries that change at every other place, but one."""
    return torch.stack([x * x, 2 * x], 1)[:-1].flatten()[:-1] + x[0]


def direct(function, backend=REPLAY, n=6) -> Direct:
    x = torch.rand(n, dtype=torch.float64)
    return Direct(emitted(function, x, ("jvp",))["jvp"].program, backend, (x,))


def points(n=6):
    return torch.rand(n, dtype=torch.float64), torch.rand(n, dtype=torch.float64)


@pytest.mark.parametrize("function", [curved, square, linear, scattered])
def test_a_refill_gives_what_a_new_evaluation_gives(function) -> None:
    run = direct(function)
    one, other = points()
    nonzeros = run.nonzeros([one])
    run.refill(nonzeros, [other])
    torch.testing.assert_close(nonzeros, run.nonzeros([other]), rtol=1e-13, atol=1e-13)


def test_a_refill_takes_constants_that_are_one_tensor() -> None:
    root, graph = torch.nn.Module(), torch.fx.Graph()
    x, number = graph.placeholder("x"), torch.tensor(3.0)
    for name in ("first", "second"):
        root.register_buffer(name, number)
        x = graph.call_function(torch.ops.aten.mul.Tensor, (x, graph.get_attr(name)))
    graph.output(x)
    run = storing(torch.fx.GraphModule(root, graph), None)
    assert torch.equal(run(torch.zeros(2), torch.tensor([1.0, 2.0])), torch.tensor([9.0, 18.0]))


def test_a_refill_leaves_constant_entries_alone() -> None:
    run = direct(curved)
    nonzeros = torch.full((18,), -1.0, dtype=torch.float64)
    run.refill(nonzeros, [points()[0]])
    assert (nonzeros[:6] == -1).all()
    assert (nonzeros[6:] != -1).all()


def test_a_refill_of_a_constant_writes_nothing() -> None:
    run = direct(linear)
    nonzeros = torch.zeros(6, dtype=torch.float64)
    run.refill(nonzeros, [points()[0]])
    assert not nonzeros.any()


def test_evaluations_do_not_share_memory() -> None:
    run = direct(linear)
    one = run.nonzeros([points()[0]])
    one.zero_()
    assert run.nonzeros([points()[0]]).tolist() == [2.0] * 6


@pytest.mark.parametrize("used", [False, True], ids=["before use", "after use"])
def test_a_pickled_program_gives_the_same(used) -> None:
    run = direct(scattered)
    one, other = points()
    if used:
        run.nonzeros([one])
    copy = pickle.loads(pickle.dumps(run))
    assert torch.equal(copy.nonzeros([one]), run.nonzeros([one]))
    nonzeros = copy.nonzeros([one])
    copy.refill(nonzeros, [other])
    torch.testing.assert_close(nonzeros, run.nonzeros([other]), rtol=1e-13, atol=1e-13)


@compiled
def test_a_compiled_program_agrees() -> None:
    replayed = direct(square, n=3)
    run = Direct(replayed.program, INDUCTOR, replayed.examples)
    one, other = points(3)
    torch.testing.assert_close(run.nonzeros([one]), replayed.nonzeros([one]))
    nonzeros = run.nonzeros([one])
    run.refill(nonzeros, [other])
    torch.testing.assert_close(nonzeros, replayed.nonzeros([other]))


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("function", [curved, linear, scattered])
def test_other_compiled_programs_agree(function) -> None:
    replayed = direct(function)
    run = Direct(replayed.program, INDUCTOR, replayed.examples)
    one, other = points()
    nonzeros = run.nonzeros([one])
    torch.testing.assert_close(nonzeros, replayed.nonzeros([one]))
    run.refill(nonzeros, [other])
    torch.testing.assert_close(nonzeros, replayed.nonzeros([other]))


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["brusselator", "burgers", "convnet"])
def test_compiled_stencils_agree(name, dtype) -> None:
    problem = scenario(name, 8)
    x = problem.x(dtype)
    program = emitted(problem.function, x, ("jvp",))["jvp"].program
    found = Direct(program, INDUCTOR, (x,)).nonzeros([x])
    eps = torch.finfo(dtype).eps
    expected = Direct(program, REPLAY, (x,)).nonzeros([x])
    torch.testing.assert_close(found, expected, rtol=50 * eps, atol=50 * eps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("function", [curved, linear, scattered])
def test_a_program_recorded_as_a_cuda_graph_agrees(function) -> None:
    x, y = [t.cuda() for t in points()]
    program = emitted(function, x, ("jvp",))["jvp"].program
    run, replayed = (Direct(program, b, (x,)) for b in (CUDAGRAPHS, REPLAY))
    first = run.nonzeros([x])
    torch.testing.assert_close(run.nonzeros([y]), replayed.nonzeros([y]))
    torch.testing.assert_close(first, replayed.nonzeros([x]))
    run.refill(first, [y])
    torch.testing.assert_close(first, replayed.nonzeros([y]))


@compiled
def test_results_of_a_compiled_program_do_not_share_memory() -> None:
    replayed = direct(linear, n=3)
    run = Direct(replayed.program, INDUCTOR, replayed.examples)
    run.nonzeros([points(3)[0]]).zero_()
    assert run.nonzeros([points(3)[0]]).tolist() == [2.0] * 3
