"""Parts of programs: what is kept, and that parts one after the other are the whole."""

import torch

from tests._linearize.test_transpose import applied, randn
from torchjac._evaluate.chain.cuts import nested_cuts
from torchjac._evaluate.chain.segment import segment
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram, Node, Ref, Value

A, B = randn(6, 2), randn(2, 5)


def test_two_halves_are_the_whole() -> None:
    x, v = randn(6), randn(6).flip(0)
    program, _ = linearize(bind("test", lambda x: torch.sin(torch.tanh(x @ A) @ B), x))
    (cut,) = nested_cuts(program, 1)
    first = segment(program, program.tangents, cut)
    second = segment(program, cut, program.outputs)
    between = applied(first, [x], [v])
    torch.testing.assert_close(applied(second, [x], between), applied(program, [x], [v]))
    assert len(first.linear_nodes) + len(second.linear_nodes) == len(program.linear_nodes)


def test_a_part_knows_what_depends_on_its_own_tangents() -> None:
    program, _ = linearize(bind("test", lambda x: x.sin().exp(), randn(3)))
    middle = program.linear_nodes[0].outputs
    part = segment(program, middle, program.outputs)
    assert part.linear == {*middle, *program.outputs}


def test_a_tensor_at_both_ends_is_handed_on() -> None:
    program, _ = linearize(bind("test", lambda x: x.sin(), randn(3)))
    part = segment(program, program.tangents, program.tangents)
    assert part.nodes == ()
    assert part.outputs == part.tangents


def test_a_result_that_is_given_is_not_computed_again() -> None:
    value = Value((2,), torch.float64, (1,))
    pair = Node(torch.ops.aten.split.Tensor, (Ref(0), 1), {}, (1, 2))
    program = LinearProgram(
        (pair,), (value,) * 3, (), (0,), (1, 2), {}, {}, frozenset({0, 1, 2}), "jvp"
    )
    part = segment(program, (0, 1), (1, 2))
    assert [node.outputs for node in part.nodes] == [(None, 2)]
