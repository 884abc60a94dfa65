"""Times: the least of a few, or medians of turns."""

from itertools import pairwise

import pytest
import torch

from torchjac._planner import timing
from torchjac._planner.timing import least_seconds, seconds_in_turns

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test says so."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    return now


def taking(clock, seconds, called=None, name=""):
    """Something that takes so long: one time after the other, the last for good."""
    left = list(seconds)

    def run():
        clock[0] += left.pop(0) if len(left) > 1 else left[0]
        if called is not None:
            called.append(name)

    return run


def test_the_least_counts(clock):
    assert least_seconds(taking(clock, [3.0, 1.0, 2.0]), CPU, 0.0) == pytest.approx(1.0)


def test_short_things_are_timed_longer(clock):
    called = []
    least_seconds(taking(clock, [0.25], called), CPU, 5.0)
    assert len(called) == 20


def test_the_median_of_the_turns_counts(clock):
    fast = taking(clock, [0.1, 0.1, 9.0, 0.1])
    slow = taking(clock, [0.2, 0.2, 0.2, 0.01, 0.2])
    assert seconds_in_turns([fast, slow], CPU) == pytest.approx([0.1, 0.2])


def test_orders_differ_from_round_to_round(clock):
    called = []
    runs = [taking(clock, [2.0**-7], called, name) for name in "abc"]
    seconds_in_turns(runs, CPU)
    turns = called[3:]
    rounds = [tuple(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert all(sorted(found) == ["a", "b", "c"] for found in rounds)
    assert any(one != two for one, two in pairwise(rounds))


def test_what_is_short_is_called_several_times_a_turn(clock):
    called = []
    runs = [taking(clock, [2.0**-13], called, "short"), taking(clock, [2.0**-7], called, "long")]
    seconds_in_turns(runs, CPU)
    turns = called.count("long") - 1
    assert called.count("short") == 8 * turns + 1
