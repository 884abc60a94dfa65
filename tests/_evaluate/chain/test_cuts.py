"""Waists: where they are, what lies beside them, and where there is none."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import grad

from tests._evaluate.direct.emitted import backward
from torchjac._evaluate.chain.cuts import nested_cuts, width
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize


def perceptron(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [[nn.Linear(a, b), nn.Tanh()] for a, b in pairwise(widths)]
    return nn.Sequential(*[part for pair in layers for part in pair]).requires_grad_(False)


def widths_of(function, *inputs, most: int = 7, direction: str = "") -> list[int]:
    signature = bind("test", function, inputs if len(inputs) > 1 else inputs[0])
    program = backward(signature) if direction == "vjp" else linearize(signature)[0]
    return [width(program, cut) for cut in nested_cuts(program, most)]


@pytest.mark.parametrize("direction", ["", "vjp"])
def test_a_waist(direction) -> None:
    assert widths_of(perceptron(20, 3, 30), torch.rand(20), direction=direction) == [3]


def test_cuts_lie_in_the_order_of_the_layers() -> None:
    assert widths_of(perceptron(20, 9, 2, 5, 30), torch.rand(20)) == [9, 2, 5]


def test_the_narrowest_comes_first() -> None:
    assert widths_of(perceptron(20, 9, 2, 5, 30), torch.rand(20), most=1) == [2]


def test_of_equal_layers_the_middle_one() -> None:
    net = perceptron(8, 8, 8, 8, 8)
    signature = bind("test", net, torch.rand(8))
    program, _ = linearize(signature)
    ((cut,),) = nested_cuts(program, 1)
    made = [n for node in program.linear_nodes for n in node.outputs]
    products = [k for k, n in enumerate(program.linear_nodes) if n.name == "aten.mm"]
    assert products[1] <= made.index(cut) < products[2]


def test_a_residual_connection_is_part_of_the_cut() -> None:
    inner = perceptron(10, 2, 10)
    assert widths_of(lambda x: inner(x) + x, torch.rand(10)) == [12]


def test_a_waist_in_two_tensors() -> None:
    a, b = torch.rand(10, 2), torch.rand(10, 1)

    def function(x):
        left, right = torch.sin(x @ a), torch.sin(x @ b)
        return (left @ a.T) * (right @ b.T)

    signature = bind("test", function, torch.rand(10))
    program, _ = linearize(signature)
    (cut,) = nested_cuts(program, 1)
    assert (len(cut), width(program, cut)) == (2, 3)


def test_several_inputs_share_a_waist() -> None:
    net = perceptron(14, 3, 20)
    assert widths_of(lambda a, b: net(torch.cat([a, b])), torch.rand(8), torch.rand(6)) == [3]


def test_what_would_be_too_wide_is_no_waist() -> None:
    assert widths_of(perceptron(3, 20, 4), torch.rand(3)) == []


@pytest.mark.parametrize("function", [torch.sin, lambda x: x.roll(1) - x, lambda x: x.sum()])
def test_no_waist(function) -> None:
    assert widths_of(function, torch.rand(5)) == []


def test_a_program_without_elements_has_no_waist() -> None:
    a, b = torch.rand(0, 2), torch.rand(2, 3)
    assert widths_of(lambda x: torch.sin(x @ a) @ b, torch.rand(0)) == []


def test_complex_tensors_are_not_cut() -> None:
    def function(x):
        few = torch.fft.rfft(x)[:1]
        return torch.fft.irfft(few, 8)

    signature = bind("test", function, torch.rand(8, dtype=torch.float64))
    program, _ = linearize(signature)
    cuts = nested_cuts(program, 7)
    assert all(program.values[n].dtype.is_floating_point for cut in cuts for n in cut)


def test_a_hessian() -> None:
    a = torch.rand(10, 2)
    assert widths_of(grad(lambda x: torch.exp(x @ a).prod()), torch.rand(10))[0] == 2
