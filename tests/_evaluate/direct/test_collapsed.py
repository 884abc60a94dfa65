"""Second derivatives along seeds, summed as they arise: what is computed, and how often."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from torchjac._evaluate.direct.bilinear import SecondOrder, second_order
from torchjac._evaluate.direct.collapsed import collapsed, emit_collapsed
from torchjac._evaluate.direct.runner import REPLAY, Direct
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram, Node, Ref, Value, dependents

aten = torch.ops.aten


def found(func, x):
    signature = bind("plan_laplacian", func, x)
    program, (like,) = linearize(signature)
    return second_order(signature, program), like


def network(*widths):
    torch.manual_seed(0)
    layers = [part for n, m in pairwise(widths) for part in (nn.Linear(n, m), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double().requires_grad_(False)


def by_hessian(func, x, seeds):
    hessian = torch.func.hessian(func)(x)
    axes = list(range(x.dim()))
    return sum(
        torch.tensordot(torch.tensordot(hessian, v, (([a - len(axes) for a in axes]), axes)), v,
                        ([a - len(axes) for a in axes], axes))
        for v in seeds
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_seeds_will_do(count):
    net, x = network(3, 5, 2), torch.linspace(-1, 1, 12).double().reshape(4, 3)
    seeds = torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    second, like = found(net, x)
    torch.testing.assert_close(collapsed(second, x, seeds, like), by_hessian(net, x, seeds))


def test_the_program_is_right_at_other_points():
    net, x = network(3, 5, 2), torch.linspace(-1, 1, 12).double().reshape(4, 3)
    seeds = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    second, like = found(net, x)
    program = emit_collapsed(second, x, seeds, like)
    result = Direct(program, REPLAY, (x,)).nonzeros([x + 1])
    torch.testing.assert_close(result, by_hessian(net, x + 1, seeds))


def test_one_product_of_all_seeds_for_each_inner_layer():
    net, x = network(3, 64, 64, 1), torch.linspace(-1, 1, 24).double().reshape(8, 3)
    second, like = found(net, x)
    seeds = torch.eye(3).double()[:, None].expand(3, 8, 3)
    program = emit_collapsed(second, x, seeds, like).whole.program
    shapes = [program.values[n.outputs[0]].shape for n in program.nodes if n.op is aten.mm.default]
    # The seeds through the second layer; and the sums through the second and the third.
    assert sorted(shapes) == [(8, 1), (8, 64), (24, 64)]


def test_what_seeds_are_multiplied_by_first_is_folded():
    net, x = network(3, 16, 1), torch.linspace(-1, 1, 24).double().reshape(8, 3)
    second, like = found(net, x)
    seeds = torch.eye(3).double()[:, None].expand(3, 8, 3)
    program = emit_collapsed(second, x, seeds, like).whole.program
    sizes = [program.values[n].shape for node in program.nodes for n in node.outputs]
    assert max(map(len, sizes)) == 2  # nothing is computed for each seed


def test_what_is_linear_in_one_argument_is_computed_once():
    second, _ = found(network(3, 5, 2), torch.zeros(4, 3).double())
    program = second.program
    vector = program.primals[1]
    moved = dependents(program.nodes, [vector])
    products = [
        n for n in program.nodes if n.op is aten.mm.default and not moved.isdisjoint(n.inputs)
    ]
    degrees = [second.degree(n.outputs[0]) for n in products]
    assert degrees == [1, 2]  # and none for a second argument


def test_zero_without_seeds_and_without_second_derivatives():
    x = torch.ones(3).double()
    second, like = found(torch.sin, x)
    assert collapsed(second, x, x.new_zeros(0, 3), like).tolist() == [0.0] * 3
    linear, like = found(lambda x: 2 * x, x)
    assert linear.output is None
    assert collapsed(linear, x, torch.eye(3).double(), like).tolist() == [0.0] * 3


def test_broadcasting_coefficients_and_vectors():
    def func(x):
        return (x[:, None] * x[None]).sin() * x[0]

    x = torch.linspace(0.1, 1, 3).double()
    seeds = torch.eye(3).double()
    second, like = found(func, x)
    torch.testing.assert_close(collapsed(second, x, seeds, like), by_hessian(func, x, seeds))


def test_what_is_a_product_at_x_alone_is_carried_out_as_it_is():
    # (x, v) -> (v where x > 0, else x) v: a multiplication of v for positive x only.
    x, value = torch.ones(3).double(), Value((3,), torch.float64, (1,))
    nodes = (
        Node(aten.gt.Scalar, (Ref(0), 0), {}, (2,)),
        Node(aten.where.self, (Ref(2), Ref(1), Ref(0)), {}, (3,)),
        Node(aten.mul.Tensor, (Ref(3), Ref(1)), {}, (4,)),
    )
    program = LinearProgram(nodes, (value,) * 5, (0, 1), (), (4,), {}, {}, frozenset(), "jvp")
    second = SecondOrder(program, {1: 1, 3: 1, 4: 2}, 4)
    seeds = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 1.0]]).double()
    emitted = Direct(emit_collapsed(second, x, seeds, x), REPLAY, (x,))
    assert emitted.nonzeros([x]).tolist() == (seeds**2).sum(0).tolist()
    assert emitted.nonzeros([-x]).tolist() == (-seeds.sum(0)).tolist()


def test_memory_that_is_not_there():
    net, x = network(3, 64, 64, 1), torch.zeros(2000, 3).double()
    second, like = found(net, x)
    seeds = torch.ones(3, 2000, 3).double()
    with pytest.raises(TooManyDerivativesError, match="bytes at one time"):
        emit_collapsed(second, x, seeds, like, most_bytes=2**16)
