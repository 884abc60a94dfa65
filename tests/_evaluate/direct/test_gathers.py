"""Gathers and scatters in another form: the same numbers."""

import pytest
import torch

from tests._evaluate.direct.test_unroll import recorded, run
from torchjac._evaluate.direct.gathers import put_directly
from torchjac._linearize.program import LinearProgram

aten = torch.ops.aten
X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)
ORDER = torch.arange(24) * 7 % 24
REPEATED = torch.arange(24) % 5


def names(program: LinearProgram) -> list[str]:
    return [node.op.overloadpacket.__name__ for node in program.nodes]


def scattered(vector):
    return torch.zeros(24, dtype=vector.dtype).scatter_add(0, REPEATED, vector)


def interleaved(x):
    return torch.stack([x.sin(), x.cos(), x], 1).permute(2, 1, 0).reshape(-1)


def joined(x):
    return torch.cat([x.t().exp().reshape(-1), x.reshape(-1)])


@pytest.mark.parametrize("index", [[0, 2], [[3, 0, 0], [1, 2, 2]], [[1]]])
def test_one_axis_is_selected(index) -> None:
    where = torch.tensor(index)
    program = recorded(lambda x: x.sin()[where], X)
    found = put_directly(program)
    assert "index_select" in names(found)
    assert "index" not in names(found)
    assert torch.equal(run(found, X), X.sin()[where])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sin()[torch.tensor([-1, 0])],  # counted from the end
        lambda x: x.sin()[:, torch.tensor([1, 0])],
        lambda x: x.sin()[torch.tensor([1, 0]), torch.tensor([2, 2])],
        lambda x: x.sin()[torch.tensor([True, False, True, False])],
        lambda x: x.sin()[(x[:, 0] * 1.5).long().abs()],  # not the same at every x
    ],
)
def test_other_indices_stay(function) -> None:
    found = put_directly(recorded(function, X))
    assert "index_select" not in names(found)
    assert torch.equal(run(found, X), function(X))


@pytest.mark.parametrize("made", [interleaved, joined, lambda x: x.sin().t().reshape(-1)])
def test_nothing_is_put_in_order_before_it_is_gathered(made) -> None:
    size = made(X).numel()
    where = torch.arange(size) * 5 % size
    program = recorded(lambda x: made(x).index_select(0, where), X)
    found = put_directly(program)
    assert "permute" not in names(found)
    assert "stack" not in names(found)
    assert torch.equal(run(found, X), made(X)[where])


@pytest.mark.parametrize("made", [interleaved, joined, lambda x: x.sin().t().reshape(-1)])
def test_nothing_is_put_in_order_before_it_is_scattered(made) -> None:
    size = made(X).numel()
    where = torch.arange(size) % 7
    zeros = torch.zeros(7, dtype=X.dtype)
    program = recorded(lambda x: zeros.scatter_add(0, where, made(x)), X)
    found = put_directly(program)
    assert "permute" not in names(found)
    assert "stack" not in names(found)
    torch.testing.assert_close(run(found, X), zeros.scatter_add(0, where, made(X)))


def test_what_is_needed_in_order_is_not_made_twice() -> None:
    def function(x):
        whole = interleaved(x)
        return whole * whole.index_select(0, torch.arange(72).flip(0))

    found = put_directly(recorded(function, X))
    assert names(found).count("stack") == 1
    assert "cat" not in names(found)
    assert torch.equal(run(found, X), function(X))


def test_vectors_one_behind_the_other_stay() -> None:
    program = recorded(lambda x: scattered(torch.cat([x[0].sin(), x.reshape(-1)[6:]])), X)
    assert names(put_directly(program)) == names(program)
