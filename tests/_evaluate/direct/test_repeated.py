"""A batch of products with one matrix becomes one product, and nothing else does."""

import pytest
import torch

from torchjac._evaluate.direct.repeated import without_repeated_factors
from torchjac._evaluate.direct.written import graph_of
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.record import Recorder

aten = torch.ops.aten
A = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4)
W = torch.arange(20.0, dtype=torch.float64).reshape(4, 5)
V = torch.arange(18.0, dtype=torch.float64).reshape(6, 3)


def recorded(func, x) -> LinearProgram:
    recorder = Recorder()
    with torch.no_grad(), recorder:
        x = x.clone()
        numbers = recorder.enter([x])
        outputs = recorder.leave([func(x)])
    return LinearProgram(
        tuple(recorder.nodes), tuple(recorder.values), numbers, (), outputs,
        recorder.constants, recorder.integers, frozenset(), "jvp",
    )  # fmt: skip


def rewritten(func, x):
    program = without_repeated_factors(recorded(func, x))
    graph = graph_of(program.nodes, program.constants, program.primals, program.outputs[0])
    return [node.op for node in program.nodes], graph(x)


@pytest.mark.parametrize(
    ("func", "x"),
    [
        (lambda x: torch.bmm(x, W.expand(2, 4, 5)), A),
        (lambda x: torch.bmm(A, x.expand(2, 4, 5)), W),
        (lambda x: torch.bmm(A, x[None].expand(2, 4, 5)), W),
        (lambda x: torch.bmm(V.expand(2, 6, 3), x), A),
        (lambda x: torch.bmm(x.expand(2, 6, 3), A), V),
        (lambda x: torch.bmm(x.transpose(1, 2), V.T.expand(2, 3, 6)), A),
    ],
)
def test_one_matrix_for_all(func, x):
    ops, found = rewritten(func, x)
    assert aten.mm.default in ops
    assert aten.bmm.default not in ops
    torch.testing.assert_close(found, func(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("func", "x"),
    [
        (lambda x: torch.bmm(x, torch.stack([W, W])), A),
        (lambda x: torch.bmm(x[:1], W[None]), A),
        (lambda x: torch.bmm(x, x.transpose(1, 2)), A),
        (lambda x: torch.bmm(x, x.sum((1, 2))[:, None, None].expand(2, 4, 5)), A),
    ],
)
def test_many_matrices(func, x):
    ops, found = rewritten(func, x)
    assert aten.bmm.default in ops
    torch.testing.assert_close(found, func(x), rtol=0, atol=0)
