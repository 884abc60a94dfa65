"""Costs of programs, counted by hand."""

import pytest
import torch

from torchjac._inputs.signature import bind
from torchjac._linearize.cost import cost_of
from torchjac._linearize.linearize import linearize
from torchjac._torch import flops_of

MATRIX = torch.ones(3, 4, dtype=torch.float64)


def program_of(func, x):
    return linearize(bind("plan", func, x))[0]


@pytest.mark.parametrize("seeds", [1, 5])
def test_seeds_multiply_what_is_linear_only(seeds):
    program = program_of(lambda x: x.sin() * 2.0, torch.ones(10, dtype=torch.float64))
    cost = cost_of(program, seeds)
    # cos(x), cos(x) * v and the product with two
    assert cost.launches == 3
    assert cost.moved_bytes == 80 * (2 + 1 + 2 * seeds + 2 * seeds)
    assert cost.work == 10 * (1 + seeds + seeds)


def test_views_are_free_and_keep_their_base_alive():
    program = program_of(lambda x: x[2:] * x[:-2], torch.ones(1000, dtype=torch.float64))
    cost = cost_of(program)
    assert cost.launches == 3
    assert cost.peak_bytes == 3 * 8 * 998


def test_what_is_repeated_counts_once():
    program = program_of(
        lambda x: x * torch.ones((), dtype=torch.float64).expand(8),
        torch.ones(8, dtype=torch.float64),
    )
    assert cost_of(program).moved_bytes == 8 * (8 + 1 + 8)


def test_the_work_of_products():
    assert flops_of(torch.ops.aten.mm.default, [(3, 4), (4, 5)], (3, 5)) == 2 * 3 * 4 * 5
    assert flops_of(torch.ops.aten.sin.default, [(3, 4)], (3, 4)) is None


def test_the_work_of_products_in_a_program():
    x = torch.ones(4, 5, dtype=torch.float64)
    program = program_of(lambda x: MATRIX @ x, x)
    assert cost_of(program, 2).work - cost_of(program, 1).work >= 2 * 3 * 4 * 5


def test_the_work_of_an_operation_with_several_results():
    x, w = torch.ones(1, 2, 8, dtype=torch.float64), torch.ones(3, 2, 3, dtype=torch.float64)

    def loss(w):
        return torch.func.grad(lambda v: torch.nn.functional.conv1d(x, v).square().sum())(w)

    # Forward over reverse: of the gradient of a convolution by its kernel, which alone is used.
    assert cost_of(program_of(loss, w)).work >= 3 * 2 * 3 * (2 * 3 * 6)


def test_costs_of_many_seeds_from_those_of_one_and_two():
    program = program_of(lambda x: x.sin() * x, torch.ones(10, dtype=torch.float64))
    one, two = cost_of(program, 1), cost_of(program, 2)
    assert one.extended(two, 1) == one
    assert one.extended(two, 7)[:4] == cost_of(program, 7)[:4]
