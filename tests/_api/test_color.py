"""`color`: the public call."""

import inspect

import numpy as np
import pytest

from tests._coloring import matrices
from torchjac._api.color import KINDS, color
from torchjac._coloring.orders import ORDERS
from torchjac._coloring.verify import problems


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind):
    coloring = color(matrices.grid(6), kind)
    assert coloring.kind == kind
    assert problems(coloring) == []


@pytest.mark.parametrize("order", ORDERS)
def test_one_order_is_the_one_that_is_used(order):
    coloring = color(matrices.random(30, 20, 4), order=order, refine_s=0)
    assert coloring.order == order


def test_several_orders_are_no_worse_than_each():
    pattern = matrices.random(60, 40, 4)
    both = color(pattern, order=("natural", "random"), refine_s=0)
    one, other = (color(pattern, order=order, refine_s=0) for order in ("natural", "random"))
    assert both.num_colors == min(one.num_colors, other.num_colors)


def test_the_seed_changes_the_random_order():
    pattern = matrices.random(60, 40, 4)
    first, second, other = (color(pattern, order="random", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.column_colors, second.column_colors)
    assert not np.array_equal(first.column_colors, other.column_colors)


def test_trees_can_do_with_fewer_colors_from_both_sides():
    pattern = matrices.random(200, 100, 5)
    direct = color(pattern, "bidirectional")
    trees = color(pattern, "bidirectional", substitution=True)
    assert trees.substitution
    assert trees.num_colors < direct.num_colors
    assert problems(trees) == []


def test_an_integer_of_numpy_is_a_seed():
    assert color(matrices.band(4, 1), seed=np.int64(3)).num_colors == 3


def test_every_kind_and_order_is_in_the_docstring():
    words = inspect.getdoc(color)
    assert [name for name in (*KINDS, *ORDERS) if f'"{name}"' not in words] == []
