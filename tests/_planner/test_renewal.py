"""A function that becomes another one, and a plan that follows when it pays."""

import pytest
import torch
from torch import nn
from torch.func import jacrev

import torchjac
from torchjac._planner.structure import Structure


@pytest.fixture
def at_once(monkeypatch):
    """Plans cost nothing: another one pays as soon as a state has lasted for a call."""
    monkeypatch.setattr(Structure, "prepared_s", 0.0)


def x_at(n=4):
    return torch.linspace(-1, 1, n, dtype=torch.float64)


class Oscillator:
    def __init__(self):
        self.stiffness = 2.0
        self.calls = 0

    def __call__(self, x):
        return self.stiffness * x.roll(1) ** 3


def is_right(plan, func, x):
    J = plan(x)
    J = J if J.layout is torch.strided else J.to_dense()
    torch.testing.assert_close(J, jacrev(func)(x).detach())


def by_program(plan, x):
    """Whether the program is that of the function as it is now; a call of the plan follows."""
    found = plan._core.direct(x) is not None
    plan(x)
    return found


@pytest.mark.parametrize("backend", ["auto", "replay", "inductor"])
def test_a_coefficient_that_changes_once(at_once, backend):
    oscillator = Oscillator()
    plan = torchjac.plan(oscillator, x_at(), backend=backend)
    assert by_program(plan, x_at())
    oscillator.stiffness = 5.0
    for _ in range(2):
        assert not by_program(plan, x_at())
    assert by_program(plan, x_at())
    is_right(plan, oscillator, x_at() + 1)


def test_a_plan_that_cost_much_is_not_made_for_one_call(monkeypatch):
    monkeypatch.setattr(Structure, "prepared_s", 1e9)
    oscillator = Oscillator()
    plan = torchjac.plan(oscillator, x_at(), backend="replay")
    oscillator.stiffness = 5.0
    for _ in range(5):
        assert not by_program(plan, x_at())
    is_right(plan, oscillator, x_at())


def test_weights_that_change_in_each_step(at_once):
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double().requires_grad_(False)
    plan = torchjac.plan(net, x_at(), backend="replay")
    for _ in range(4):
        net[0].weight.add_(0.1)
        assert not by_program(plan, x_at())
        net[0].weight.add_(0.1)
        is_right(plan, net, x_at())


def test_what_an_evaluation_itself_changes(at_once):
    oscillator = Oscillator()

    def counting(x):
        oscillator.calls += 1
        return oscillator(x)

    plan = torchjac.plan(counting, x_at(), backend="replay")
    for _ in range(4):
        assert not by_program(plan, x_at())


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double().requires_grad_(False)


def test_buffers_that_stay_as_they_are(at_once):
    net, x = normed().eval(), x_at(8).view(2, 4)
    plan = torchjac.plan(net, x, backend="replay", layout=torch.strided)
    net[0].weight.mul_(2)
    for _ in range(2):
        is_right(plan, net, x)
    assert by_program(plan, x)
    is_right(plan, net, x)


@pytest.mark.filterwarnings("ignore::torchjac.errors.BranchWarning")
def test_buffers_that_begin_to_move(at_once):
    net, x = normed().eval(), x_at(8).view(2, 4)
    plan = torchjac.plan(net, x, backend="replay", layout=torch.strided)
    net.train()
    for k in range(1, 5):
        assert not by_program(plan, x)
        assert int(net[1].num_batches_tracked) == k


def test_another_state_begins_anew(at_once):
    oscillator = Oscillator()
    plan = torchjac.plan(oscillator, x_at(), backend="replay")
    for stiffness in (3.0, 4.0, 3.0, 4.0):
        oscillator.stiffness = stiffness
        assert not by_program(plan, x_at())
    assert not by_program(plan, x_at())
    assert by_program(plan, x_at())
    is_right(plan, oscillator, x_at())
