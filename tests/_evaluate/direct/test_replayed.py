"""Programs replayed as plain Python, beside the same graphs run by PyTorch."""

import gc
import weakref
from operator import getitem

import pytest
import torch
from torch import fx

from torchjac._evaluate.direct.replayed import quick, replayed

aten = torch.ops.aten
X = torch.tensor([[0.5, -1.0, 2.0], [float("nan"), 0.0, float("inf")]], dtype=torch.float64)
MASK = torch.tensor([[True, False, True], [False, True, False]])


def of(op, *args, **kwargs) -> fx.GraphModule:
    """One operation on x, the argument `X`."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    root = torch.nn.Module()

    def entered(value):
        if value is X:
            return x
        if isinstance(value, torch.Tensor):
            root.register_buffer("mask", value)
            return graph.get_attr("mask")
        return [entered(v) for v in value] if isinstance(value, list) else value

    graph.output(graph.call_function(op, tuple(map(entered, args)), kwargs))
    return fx.GraphModule(root, graph)


CALLS = [
    of(aten.add.Tensor, X, X, alpha=2),
    of(aten.add.Scalar, X, 1.5),
    of(aten.mul.Tensor, X, -1),
    of(aten.sub.Tensor, X, X, alpha=0.5),
    of(aten.div.Tensor_mode, X, X, rounding_mode="floor"),
    of(aten.pow.Tensor_Scalar, X, 3),
    of(aten.pow.Scalar, 2.0, X),
    of(aten.sum.dim_IntList, X, [0], True),
    of(aten.sum.dim_IntList, X, [1], False, dtype=torch.float32),
    of(aten.cumsum.default, X, 1),
    of(aten.where.self, MASK, X, X),
    of(aten.where.ScalarOther, MASK, X, 0.0),
    of(aten.stack.default, [X, X], 1),
    of(aten.cat.default, [X, X], -1),
    of(aten.reshape.default, X, [3, 2]),
    of(aten.permute.default, X, [1, 0]),
    of(aten.transpose.int, X, 0, 1),
    of(aten.select.int, X, 1, 2),
    of(aten.unsqueeze.default, X, 0),
    of(aten.flip.default, X, [0, 1]),
    of(aten.eq.Scalar, X, 0),
    of(aten.gt.Tensor, X, X),
    of(aten.clone.default, X, memory_format=torch.contiguous_format),
    of(aten.slice.Tensor, X, 1, 0, 2, 2),
    of(aten.index.Tensor, X, [None, torch.tensor([2, 0])]),
    of(aten.sigmoid.default, X),
    of(aten.sign.default, X),
    of(aten.maximum.default, X, X),
]


@pytest.mark.parametrize("program", CALLS, ids=lambda p: str(list(p.graph.nodes)[-2].target))
def test_an_operation_gives_what_pytorch_gives(program) -> None:
    expected, found = program(X), replayed(program, [X])([X])
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0, equal_nan=True)


def test_an_operator_of_another_library_is_called_as_it_is() -> None:
    assert quick(torch.ops.prims.mul.default) is torch.ops.prims.mul.default


def test_items_of_lists_are_taken() -> None:
    graph = fx.Graph()
    pair = graph.call_function(aten.unbind.int, (graph.placeholder("x"),))
    parts = [graph.call_function(getitem, (pair, k)) for k in (1, 0)]
    graph.output(graph.call_function(aten.sub.Tensor, tuple(parts)))
    program = fx.GraphModule(torch.nn.Module(), graph)
    assert replayed(program, [torch.ones(2, 1)])([torch.tensor([[1.0], [5.0]])]).tolist() == [4.0]


def test_tensors_are_let_go_after_their_last_use() -> None:
    alive = []

    def watched(x):
        result = x + 1
        alive.append(weakref.ref(result))
        return result

    def count(x):
        gc.collect()
        alive.append(sum(r() is not None for r in alive))
        return x

    graph = fx.Graph()
    first = graph.call_function(watched, (graph.placeholder("x"),))
    second = graph.call_function(aten.neg.default, (first,))
    graph.output(graph.call_function(count, (second,)))
    replayed(fx.GraphModule(torch.nn.Module(), graph), [torch.ones(2)])([torch.ones(2)])
    assert alive[-1] == 0


def test_an_input_that_is_not_used_is_taken() -> None:
    graph = fx.Graph()
    graph.placeholder("x")
    graph.output(graph.call_function(aten.neg.default, (graph.placeholder("y"),)))
    run = replayed(fx.GraphModule(torch.nn.Module(), graph), [torch.ones(1)] * 2)
    assert run([torch.ones(1), torch.full((1,), 2.0)]).tolist() == [-2.0]


def test_inputs_lie_as_they_did_when_the_program_was_recorded() -> None:
    seen: list[tuple[int, ...]] = []

    def note(x):
        seen.append(x.stride())
        return x

    graph = fx.Graph()
    graph.output(graph.call_function(note, (graph.placeholder("x"),)))
    program = fx.GraphModule(torch.nn.Module(), graph)
    run, base = replayed(program, [torch.ones(2, 3)]), torch.arange(6.0)
    for given in (base.view(2, 3), base.view(3, 2).T, base[:3].expand(2, 3)):
        assert run([given]).tolist() == given.tolist()
    assert seen == [(3, 1)] * 3


@pytest.mark.parametrize("example", [torch.ones(1).expand(4), torch.arange(5.0).unfold(0, 2, 1)])
def test_elements_of_an_example_may_lie_on_each_other(example) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(aten.clone.default, (graph.placeholder("x"),)))
    run = replayed(fx.GraphModule(torch.nn.Module(), graph), [example])
    given = torch.arange(8.0)[: example.numel()].view(example.shape)
    assert run([given]).tolist() == given.tolist()
    assert run([example]).tolist() == example.tolist()
