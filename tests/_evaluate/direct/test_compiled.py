"""Compiled programs: cut into parts, around operations that cannot be compiled, for any layout."""

import os
import subprocess
import sys
import threading
from operator import getitem
from pathlib import Path

import pytest
import torch
from torch import fx
from torch._inductor import config, lowering

from torchjac._evaluate.direct import compiled as compiling
from torchjac._evaluate.direct.compiled import compiled, parts_of
from torchjac.errors import FallbackWarning

aten = torch.ops.aten
# A compiled program is kept by PyTorch, whose caches and workers warn of their own affairs.
quiet = pytest.mark.filterwarnings("ignore")


def chain(length: int, constant: torch.Tensor) -> fx.GraphModule:
    """x -> (((x + c) * x + c) * x ...), of so many operations."""
    root, graph = torch.nn.Module(), fx.Graph()
    x = graph.placeholder("x")
    root.register_buffer("c", constant)
    c = graph.get_attr("c")
    value = x
    for k in range(length):
        args = (value, x) if k % 2 else (value, c)
        value = graph.call_function((aten.mul if k % 2 else aten.add).Tensor, args)
    graph.output(value)
    return fx.GraphModule(root, graph)


def halves() -> fx.GraphModule:
    """x -> sin(first half) * cos(second half), by way of a list."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    pair = graph.call_function(aten.split.Tensor, (x, 2))
    sine = graph.call_function(aten.sin.default, (graph.call_function(getitem, (pair, 0)),))
    cosine = graph.call_function(aten.cos.default, (graph.call_function(getitem, (pair, 1)),))
    graph.output(graph.call_function(aten.mul.Tensor, (sine, cosine)))
    return fx.GraphModule(torch.nn.Module(), graph)


def point(n=4) -> torch.Tensor:
    return torch.linspace(0.1, 0.9, n, dtype=torch.float64)


def test_a_short_graph_stays_whole() -> None:
    graph = chain(10, point()).graph
    (part,) = parts_of(graph, most=10)
    assert [str(node) for node in part.takes] == ["c", "x"]
    assert part.gives == (graph.output_node().args[0],)


def test_no_part_is_longer_than_allowed() -> None:
    parts = parts_of(chain(25, point()).graph, most=10)
    assert [len(part.nodes) for part in parts] == [10, 10, 5]


def test_a_graph_is_cut_where_one_value_is_alive() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    sines = [graph.call_function(aten.sin.default, (x,)) for _ in range(4)]
    waist = graph.call_function(aten.cat.default, (sines,))
    cosines = [graph.call_function(aten.cos.default, (waist,)) for _ in range(4)]
    graph.output(graph.call_function(aten.cat.default, (cosines,)))
    first, second = parts_of(graph, most=8)
    assert first.gives == second.takes == (waist,)


def test_a_list_is_never_handed_from_part_to_part() -> None:
    parts = parts_of(halves().graph, most=1)
    assert [node.target is getitem for node in parts[0].nodes] == [False, True, True]
    assert len(parts[0].gives) == 2


def test_an_operation_set_apart_is_a_part_of_its_own() -> None:
    parts = parts_of(halves().graph, most=9, apart={"aten.sin.default"})
    assert [part.is_eager for part in parts] == [False, True, False]
    assert [len(part.nodes) for part in parts] == [3, 1, 2]


@quiet
@pytest.mark.parametrize("program", [chain(9, point()), halves()], ids=["chain", "list"])
def test_a_program_compiled_in_parts_agrees(program, monkeypatch) -> None:
    monkeypatch.setattr("torchjac._evaluate.direct.compiled.MOST_NODES", 3)
    run = compiled("test", program, [point()])
    x = point().flip(0)
    torch.testing.assert_close(run([x]), program(x), rtol=1e-15, atol=0.0)


@quiet
def test_an_operation_that_cannot_be_compiled_runs_between_compiled_parts(monkeypatch) -> None:
    def refuse(*args) -> None:
        raise NotImplementedError("no way")

    monkeypatch.setitem(lowering.lowerings, aten.sin.default, refuse)
    program, x = halves(), point()
    message = r"test: PyTorch cannot compile `aten\.sin\.default`"
    with config.patch(fx_graph_cache=False), pytest.warns(FallbackWarning, match=message):
        run = compiled("test", program, [x])
    torch.testing.assert_close(run([x.flip(0)]), program(x.flip(0)))


@quiet
def test_a_failure_that_is_of_no_operation_is_an_error(monkeypatch) -> None:
    def refuse(*args, **kwargs) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", refuse)
    with pytest.raises(RuntimeError, match="no compiler here"):
        compiled("test", halves(), [point()])


@quiet
@pytest.mark.parametrize(
    "x",
    [
        point(8)[::2],
        torch.full((), 0.3, dtype=torch.float64).expand(4),
        torch.cat([point(), point()])[1:5],
    ],
    ids=["strided", "expanded", "offset"],
)
def test_inputs_may_lie_anywhere_in_memory(x) -> None:
    program = chain(3, point())
    expected = program(x)
    torch.testing.assert_close(compiled("test", program, [point()])([x]), expected)
    torch.testing.assert_close(compiled("test", program, [x])([point()]), program(point()))


@quiet
def test_not_a_number_and_infinity_are_treated_as_by_pytorch() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    value = graph.call_function(aten.mul.Tensor, (x, 0.0))
    value = graph.call_function(aten.add.Tensor, (value, x))
    graph.output(graph.call_function(aten.maximum.default, (value, x)))
    program = fx.GraphModule(torch.nn.Module(), graph)
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0], dtype=torch.float64)
    found = compiled("test", program, [torch.ones(4, dtype=torch.float64)])([x])
    torch.testing.assert_close(found, program(x), rtol=0.0, atol=0.0, equal_nan=True)


@quiet
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_sums_keep_their_order_of_evaluation(dtype) -> None:
    """(x + c) - c loses what x has below the precision of c, which fast arithmetic would keep."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    large = 1.0 / torch.finfo(dtype).eps
    value = graph.call_function(aten.add.Tensor, (x, large))
    graph.output(graph.call_function(aten.sub.Tensor, (value, large)))
    program = fx.GraphModule(torch.nn.Module(), graph)
    x = torch.tensor([0.3, 0.7, 1.2], dtype=dtype)
    assert compiled("test", program, [x])([x]).tolist() == program(x).tolist() == [0.0, 1.0, 1.0]


@quiet
def test_values_that_are_used_twice_again_and_again_compile_in_time() -> None:
    """Each is the sum of the last and the last but two: written out, thousands of operations."""
    graph = fx.Graph()
    values = [graph.placeholder("x")] * 3
    for _ in range(60):
        values.append(graph.call_function(aten.add.Tensor, (values[-1], values[-3])))
    graph.output(values[-1])
    program = fx.GraphModule(torch.nn.Module(), graph)
    torch.testing.assert_close(compiled("test", program, [point()])([point()]), program(point()))


@quiet
def solving() -> fx.GraphModule:
    """x -> A^-1 x and more, of which a part has no way from C++."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    square = graph.call_function(torch.ops.aten.diag.default, (x,))
    solve = torch.ops.aten._linalg_solve_ex.default
    solved = graph.call_function(solve, (square, x))
    first = graph.call_function(getitem, (solved, 0))
    graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (first, x)))
    return fx.GraphModule(torch.nn.Module(), graph)


@quiet
def test_what_cplusplus_cannot_reach_is_called_from_python_without_a_word(capfd) -> None:
    x = torch.linspace(1.0, 2.0, 5, dtype=torch.float64)
    run = compiled("plan", solving(), [x])
    torch.testing.assert_close(run([2 * x]), 2 * x)
    assert "shim" not in capfd.readouterr().err


@quiet
def test_loops_are_called_from_python_where_that_cannot_be_compiled(monkeypatch) -> None:
    def picky(graph, examples, parallel_from, *, in_cpp):
        if in_cpp:
            raise RuntimeError("no")
        return compile_part(graph, examples, parallel_from, in_cpp=in_cpp)

    compile_part = compiling.compile_graph
    monkeypatch.setattr(compiling, "compile_graph", picky)
    program, x = chain(3, point()), point()
    with pytest.warns(FallbackWarning, match=r"calls in C\+\+ \(RuntimeError: no\)"):
        run = compiled("plan", program, [x])
    torch.testing.assert_close(run([x]), program(x))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_programs_live_in_one_process() -> None:
    """More of them than PyTorch compiles one function for."""
    runs = {n: compiled("test", chain(n % 7 + 1, point(n)), [point(n)]) for n in range(1, 71)}
    for n, run in runs.items():
        torch.testing.assert_close(run([point(n)]), chain(n % 7 + 1, point(n))(point(n)))


@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_compiled_is_found_by_the_next_process(tmp_path) -> None:
    script = (
        "import torch\n"
        "from tests._evaluate.direct.test_compiled import chain, compiled, point\n"
        "from torch._dynamo.utils import counters\n"
        "compiled('test', chain(3, point()), [point()])\n"
        "print(dict(counters['inductor']))\n"
    )
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert "fxgraph_cache_miss" in told[0]
    assert "fxgraph_cache_hit" in told[1]


@quiet
def test_threads_may_compile_at_once() -> None:
    found: dict[int, torch.Tensor] = {}
    programs = {length: chain(length, point()) for length in (2, 3, 4)}

    def work(length: int) -> None:
        found[length] = compiled("test", programs[length], [point()])([point()])

    threads = [threading.Thread(target=work, args=(length,)) for length in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for length, program in programs.items():
        torch.testing.assert_close(found[length], program(point()))
