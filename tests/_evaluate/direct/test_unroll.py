"""Narrow axes written out: the same numbers, from operations on long vectors."""

from dataclasses import replace

import pytest
import torch

from torchjac._evaluate.direct import unroll
from torchjac._evaluate.direct.spread import Builder, Factor, common, regrouped
from torchjac._linearize.program import LinearProgram, Ref, Value, map_refs
from torchjac._linearize.record import Recorder
from torchjac._linearize.simplify import trimmed

aten = torch.ops.aten
POINTS = 40
X = torch.linspace(-1, 1, POINTS * 3, dtype=torch.float64).reshape(POINTS, 3)
INDEX = torch.arange(60) % POINTS
ALWAYS = unroll.ONE_BY_ONE._replace(enough=float("inf"))
MASK = torch.tensor([True, False, True])


def recorded(function, x) -> LinearProgram:
    recorder = Recorder()
    with torch.no_grad(), recorder:
        inputs = [x.clone()]
        numbers = recorder.enter(inputs)
        outputs = recorder.leave([function(*inputs)])
    nodes, outputs = trimmed(recorder.nodes, recorder.values, recorder.constants, outputs)
    return LinearProgram(
        tuple(nodes),
        tuple(recorder.values),
        numbers,
        (),
        outputs,
        recorder.constants,
        {},
        frozenset(),
        "jvp",
    )


def unrolled(program: LinearProgram, speed: unroll.Speed = unroll.ONE_BY_ONE) -> LinearProgram:
    return unroll.unrolled(program, speed, X.device)


def run(program: LinearProgram, x: torch.Tensor) -> torch.Tensor:
    known = dict(program.constants) | {program.primals[0]: x}
    for node in program.nodes:
        result = node.op(*map_refs(lambda ref: known[ref.number], node.args), **node.kwargs)
        results = result if isinstance(result, tuple | list) else (result,)
        known.update(dict(zip(node.outputs, results, strict=True)))
    return known[program.outputs[0]]


def moved(x):
    wide = x.reshape(1, POINTS, 3).permute(0, 2, 1).reshape(3, POINTS, 1)
    return (wide * x.unsqueeze(0)).reshape(3, 3 * POINTS)[:, 1:].T


def rows(x):
    a, b, c = x.unbind(1)
    return torch.stack([a * b, c, a - b], 1).reshape(-1)[2:]


def turned(x):
    return torch.linalg.cross(x, x.flip(1) + 1.0, dim=-1)


def gathered(x):
    return x[INDEX] * torch.tensor([2.0, 0.0, 1.0], dtype=x.dtype)


def summed(x):
    return x / (x * x).sum(1, keepdim=True) + x.sum((0, 1)) + x.sum([1])[:, None]


def split_up(x):
    a, b = x.split([1, 2], 1)
    return torch.cat([b, a, a.expand(-1, 2)], 1) * torch.where(MASK, x, 0.5).sum(1, True)


def mixed(x):
    flat = (x + torch.arange(3, dtype=x.dtype)).reshape(-1)
    return flat * torch.linspace(0, 1, 3 * POINTS, dtype=x.dtype) + flat.reshape(10, 12).sum()


def with_a_wide_product(x):
    return (x * 2).T @ torch.ones(POINTS, 2, dtype=x.dtype) + x[:3, :2]


def with_narrow_products(x):
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.5, 0.0, 1.0]], dtype=x.dtype)
    each = x[:, :, None] * x[:, None, :] + turn
    return torch.bmm(each, turn.expand(POINTS, 3, 3)).sum(2) - (x * 2) @ turn.t()


def in_the_middle(x):
    return aten.select_backward(x * x, [POINTS, 4, 3], 1, 2) * torch.arange(1.0, 5.0)[:, None]


def averaged(x):
    return x.mean(1) * x.mean(-1, keepdim=True).sum(1) + x.mean([0, 1])


def by_elements(x):
    corners = torch.stack([INDEX, INDEX.flip(0), INDEX * 3 % POINTS], 1)
    return (x[:, 0][corners] * x[corners].mean(-1)).sum(1) + x.T[:, corners].sum((0, 2))


@pytest.mark.parametrize(
    "function",
    [
        averaged,
        by_elements,
        moved,
        rows,
        turned,
        gathered,
        summed,
        split_up,
        mixed,
        with_a_wide_product,
        with_narrow_products,
        in_the_middle,
    ],
)
def test_programs_give_the_same_numbers(function, monkeypatch) -> None:
    monkeypatch.setattr(unroll, "_MOST_TIMES", 1000)
    program = recorded(function, X)
    found = unrolled(program, ALWAYS)
    assert found is not program
    x = X.flip(0) * 0.7
    torch.testing.assert_close(run(found, x), function(x), rtol=1e-13, atol=1e-13)


def test_coordinates_become_vectors() -> None:
    program = recorded(lambda x: torch.stack([(x * x).sin().cos(), x.exp()], 1), X.repeat(100, 1))
    found = unrolled(program)
    shapes = {found.values[n].shape for node in found.nodes[:-2] for n in node.outputs}
    assert shapes == {(100 * POINTS,)}


def test_what_has_no_narrow_axes_stays() -> None:
    program = recorded(lambda x: x.sin() * x, X.T.contiguous())
    assert unrolled(program) is program


def test_programs_without_elements_stay() -> None:
    program = recorded(lambda x: x * 2, X[:0])
    assert unrolled(program) is program


def test_zeros_and_ones_drop_out() -> None:
    eye = torch.eye(3, dtype=X.dtype)
    program = recorded(lambda x: (x[:, None] * eye).sum(2), X)
    ops = {node.op for node in unrolled(program, ALWAYS).nodes}
    assert aten.mul.Tensor not in ops
    assert aten.add.Tensor not in ops


def test_many_products_of_narrow_matrices_are_written_out() -> None:
    x = torch.rand(300, 3, 3, dtype=torch.float64)
    program = recorded(lambda x: torch.bmm(x, x), x)
    found = unroll.unrolled(program, unroll.FUSED, x.device)
    assert aten.bmm.default not in {node.op for node in found.nodes}
    torch.testing.assert_close(run(found, x), x @ x, rtol=1e-13, atol=1e-13)


def test_few_numbers_are_written_out_for_a_compiler_only() -> None:
    x = torch.rand(2, 2, dtype=torch.float64)
    program = recorded(lambda x: (x @ x).sin(), x)
    assert unrolled(program) is program
    found = unroll.unrolled(program, unroll.FUSED, x.device)
    assert aten.mm.default not in {node.op for node in found.nodes}


def test_products_of_long_rows_and_columns_stay() -> None:
    program = recorded(lambda x: (x @ x.T).sin(), X)
    found = unroll.unrolled(program, unroll.FUSED, X.device)
    assert aten.mm.default in {node.op for node in found.nodes}


def wide(n: int) -> Factor:
    return Factor(n, is_wide=True)


def narrow(n: int) -> Factor:
    return Factor(n, is_wide=False)


def test_factors_of_several_tensors_are_refined() -> None:
    found = common([(wide(120),), (wide(40), narrow(3)), ()])
    assert found == (wide(40), narrow(3))
    assert common([(narrow(6),), (narrow(2), narrow(3))]) == (narrow(2), narrow(3))


def test_factors_that_do_not_fit_have_no_refinement() -> None:
    assert common([(wide(20), wide(6)), (wide(30), wide(4))]) is None


def test_factors_are_dealt_out_to_another_shape() -> None:
    assert regrouped([wide(40), narrow(6)], (80, 1, 3)) == (
        (wide(40), narrow(2)),
        (),
        (narrow(3),),
    )
    assert regrouped([wide(20), narrow(3)], (12, 5)) is None


def test_a_tensor_is_taken_apart_and_put_together() -> None:
    builder = Builder([Value((2, POINTS, 3), torch.float64)], {})
    spread = builder.opened(Ref(0))
    assert spread.parts.shape == (2, 3)
    whole = builder.whole(spread)
    program = recorded(lambda x: x, X)
    program = replace(
        program,
        nodes=tuple(builder.nodes),
        values=tuple(builder.values),
        primals=(0,),
        outputs=(whole.number,),
    )
    x = torch.rand(2, POINTS, 3, dtype=torch.float64)
    assert torch.equal(run(program, x), x)
