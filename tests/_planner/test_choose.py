"""The cheaper side is chosen, by predicted time."""

import numpy as np
import pytest
import torch

from torchjac._coloring.select import color_pattern
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.choose import choose
from torchjac._planner.probe import FORWARD, REVERSE, Probe
from torchjac._planner.structure import Request
from torchjac.errors import ArgumentError

TALL = SparsityPattern.from_dense(np.kron(np.eye(2), np.ones((6, 2))))
ARROW = SparsityPattern.from_dense(
    np.eye(40) + np.eye(1, 40).T @ np.ones((1, 40)) + np.ones((40, 1)) @ np.eye(1, 40) > 0
)


def probe(mode, first_s=0.0, next_s=1.0):
    nothing = torch.empty(0)
    return Probe(mode, "vmap", nothing, nothing, first_s, next_s, ())


def chosen(choice):
    (best,) = [c for c in choice.candidates if c.is_chosen]
    return best


def test_columns_where_they_are_fewer():
    choice = choose(Request(), TALL, [probe(FORWARD), probe(REVERSE)], 8)
    assert chosen(choice).name == "columns by forward mode"
    assert [(s.mode, s.seeds) for s in choice.sides] == [(FORWARD, 2)]


def test_rows_where_forward_mode_costs_more():
    probes = [probe(FORWARD, 100.0), probe(REVERSE)]
    choice = choose(Request(), TALL, probes, 8)
    assert [(s.mode, s.seeds) for s in choice.sides] == [(REVERSE, 6)]


def test_a_candidate_that_cannot_win_is_not_colored():
    choice = choose(Request(), TALL, [probe(FORWARD), probe(REVERSE)], 8)
    (dropped,) = [c for c in choice.candidates if c.name == "rows by reverse mode"]
    assert dropped.note == "at least 6: not colored"
    assert dropped.predicted_s > chosen(choice).predicted_s


def test_an_arrow_is_computed_from_both_sides():
    choice = choose(Request(), ARROW, [probe(FORWARD), probe(REVERSE)], 8)
    assert choice.coloring.kind == "bidirectional"
    assert sum(s.seeds for s in choice.sides) == 3
    assert {s.mode for s in choice.sides} == {FORWARD, REVERSE}


def test_a_hessian_gets_a_star_coloring():
    choice = choose(Request(order=2), ARROW, [probe(FORWARD), probe(REVERSE, 1.0)], 8)
    assert choice.coloring.kind == "star"
    assert [(s.mode, s.seeds) for s in choice.sides] == [(FORWARD, 2)]


def test_dense_candidates_are_listed_with_their_size():
    choice = choose(Request(), TALL, [probe(FORWARD), probe(REVERSE)], 8)
    dense = {c.name: c for c in choice.candidates if c.name.startswith("dense")}
    assert {name: c.seeds for name, c in dense.items()} == {
        "dense, forward-mode": 4,
        "dense, reverse-mode": 12,
    }
    assert dense["dense, forward-mode"].bytes == 12 * 4 * 8


def test_a_coloring_that_was_given_is_taken():
    given = color_pattern(TALL, "row")
    choice = choose(Request(), TALL, [probe(FORWARD), probe(REVERSE, 100.0)], 8, given)
    assert choice.coloring is given


def test_a_kind_that_was_given_is_colored():
    choice = choose(Request(), TALL, [probe(FORWARD), probe(REVERSE)], 8, "row")
    assert choice.coloring.kind == "row"


def test_a_coloring_without_its_mode_is_refused():
    with pytest.raises(ArgumentError, match="does not allow; possible: forward-mode"):
        choose(Request(), TALL, [probe(FORWARD)], 8, "row")


def test_a_pattern_without_entries_needs_no_seeds():
    empty = SparsityPattern.from_dense(np.zeros((2, 3)))
    choice = choose(Request(), empty, [probe(FORWARD), probe(REVERSE)], 8)
    assert choice.sides == ()


def test_predictions_add_up():
    assert probe(FORWARD, 2.0, 0.5).predict(5) == 4.0
    assert probe(FORWARD, 2.0, 0.5).predict(0) == 0.0
