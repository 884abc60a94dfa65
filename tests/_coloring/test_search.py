"""Refinement: what it may cost, when it stops, that it repeats itself."""

import itertools
import time

import numpy as np
import pytest

from tests._coloring import matrices
from torchjac._coloring import search as module
from torchjac._coloring.search import Effort, Found, Task, by_classes, refine
from torchjac._coloring.select import color_pattern

RANDOM = matrices.random(300, 200, 5)


def tried(counts, bound, refine_s=None, steps=1):
    """Refine with a `fit` that gives these numbers of colors in turn; what came out, and calls."""
    calls = []

    def fit(order):
        calls.append(order)
        return np.arange(8, dtype=np.int32) % next(given)

    given = itertools.chain(counts, itertools.repeat(8))
    start = Found(np.arange(8, dtype=np.int32), "natural")
    task = Task(fit, np.ones(8, np.bool_), bound, steps)
    return refine(task, start, Effort(("natural",), refine_s, 0)), calls


def test_it_stops_at_the_bound():
    found, calls = tried([6, 4, 3], bound=4)
    assert found.count == 4
    assert found.order == "natural, refined"
    assert len(calls) == 2


def test_it_starts_nothing_when_the_bound_is_reached_already():
    found, calls = tried([], bound=8)
    assert found.order == "natural"
    assert calls == []


def test_it_gives_up_after_a_number_of_rounds_without_gain():
    found, calls = tried([7], bound=1)
    assert found.count == 7
    assert len(calls) == 1 + module.MOST_ROUNDS


def test_large_matrices_get_fewer_rounds():
    _, calls = tried([], bound=1, steps=module.DEFAULT_STEPS // 3)
    assert len(calls) == 3
    _, calls = tried([], bound=1, steps=10**9)
    assert len(calls) == 1


def test_no_time_means_no_round():
    _, calls = tried([], bound=1, refine_s=0.0)
    assert calls == []


def test_a_time_budget_buys_more_rounds_and_is_given_back_when_nothing_comes_of_them():
    _, calls = tried([7], bound=1, refine_s=1e9)
    assert len(calls) == 1 + module.PATIENCE


def test_a_time_budget_ends_it(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    _, calls = tried([], bound=1, refine_s=5.0)
    assert len(calls) == 4


def test_a_round_colors_every_vertex_class_by_class():
    _, calls = tried([], bound=1, steps=10**9)
    assert calls[0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_classes_stay_together_and_vertices_without_a_color_are_one(turn):
    colors = np.array([0, 1, -1, 1, 2, -1, 1])
    order = by_classes(colors, turn, np.random.default_rng(0))
    groups = [color for color, _ in itertools.groupby(colors[order].tolist())]
    assert sorted(groups) == [-1, 0, 1, 2]
    if turn == 0:
        assert groups == [2, 1, 0, -1]
    if turn == 2:
        assert groups == [1, -1, 0, 2]


def test_refinement_never_needs_more_colors():
    plain = color_pattern(RANDOM, orders=("natural",), refine_s=0.0)
    refined = color_pattern(RANDOM, orders=("natural",), refine_s=5.0)
    assert plain.order == "natural"
    assert refined.num_colors < plain.num_colors


@pytest.mark.parametrize("kind", ["column", "bidirectional"])
def test_the_same_call_gives_the_same_coloring(kind):
    first, second = (color_pattern(RANDOM, kind, seed=3) for _ in range(2))
    assert np.array_equal(first.column_colors, second.column_colors)
    assert first.order == second.order
