"""Every kind in every order gives a valid coloring of any pattern."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._coloring import matrices
from torchjac._coloring.orders import ORDERS, default_orders
from torchjac._coloring.select import color_pattern
from torchjac._coloring.verify import problems

ANY = settings(deadline=None, max_examples=60, derandomize=True, database=None)


@pytest.mark.parametrize("kind", ["column", "row", "bidirectional"])
@given(pattern=matrices.patterns(), order=st.sampled_from(ORDERS))
@ANY
def test_any_pattern_in_any_order(kind, pattern, order):
    coloring = color_pattern(pattern, kind, orders=(order,), seed=1)
    assert problems(coloring) == []
    assert coloring.lower_bound <= coloring.num_colors


@given(pattern=matrices.patterns(), order=st.sampled_from(ORDERS))
@ANY
def test_any_pattern_in_any_order_from_both_sides_by_substitution(pattern, order):
    coloring = color_pattern(pattern, "bidirectional", substitution=True, orders=(order,))
    assert problems(coloring) == []
    assert coloring.lower_bound <= coloring.num_colors


@pytest.mark.parametrize("kind", ["star", "acyclic"])
@given(pattern=matrices.symmetric_patterns(), order=st.sampled_from(ORDERS))
@ANY
def test_any_symmetric_pattern_in_any_order(kind, pattern, order):
    coloring = color_pattern(pattern, kind, orders=(order,), seed=1)
    assert problems(coloring) == []
    assert coloring.lower_bound <= coloring.num_colors


@pytest.mark.parametrize("kind", ["column", "row", "star", "acyclic", "bidirectional"])
def test_the_default_orders_give_valid_colorings(kind):
    for pattern in (matrices.grid(9), matrices.arrow(30, 2), matrices.brusselator(5)):
        assert problems(color_pattern(pattern, kind)) == []


def test_more_orders_are_never_worse_than_one():
    pattern = matrices.random(60, 40, 4)
    counts = [color_pattern(pattern, orders=(order,)).num_colors for order in ORDERS]
    assert color_pattern(pattern, orders=ORDERS).num_colors <= min(counts)


def test_large_matrices_are_colored_in_fewer_orders():
    assert default_orders(1000)[:2] == default_orders(10**6) == ("natural", "saturation")


def test_columns_and_rows_without_entries_have_no_color():
    pattern = matrices.of(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert color_pattern(pattern, "column").column_colors.tolist() == [0, -1, 1]
    assert color_pattern(pattern, "row").row_colors.tolist() == [0, -1]


def test_a_color_from_which_nothing_is_read_is_dropped():
    # Without its diagonal, an arrow is read from the color of its head alone.
    arrow = matrices.arrow(6)
    headless = arrow - matrices.band(6, 0)
    coloring = color_pattern(headless, "star")
    assert coloring.column_colors.tolist() == [0, -1, -1, -1, -1, -1]
    assert problems(coloring) == []


def test_rows_have_the_colors_of_the_columns_of_the_transposed_pattern():
    pattern = matrices.random(30, 20, 3)
    rows, columns = color_pattern(pattern, "row"), color_pattern(pattern.T, "column")
    assert np.array_equal(rows.row_colors, columns.column_colors)
    assert rows.column_colors is None
    assert columns.row_colors is None


def test_the_pattern_is_left_as_it_was():
    pattern = matrices.grid(5)
    before = replace(pattern, indices=pattern.indices.copy(), indptr=pattern.indptr.copy())
    for kind in ("column", "star", "acyclic", "bidirectional"):
        color_pattern(pattern, kind)
    assert pattern == before
