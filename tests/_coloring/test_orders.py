"""Orders of small graphs, worked out by hand."""

import numpy as np
import pytest

from tests._coloring import matrices
from torchjac._coloring import orders as module
from torchjac._coloring.graph import adjacency, columns_by_row
from torchjac._coloring.orders import ORDERS, Orders

# A triangle 0 1 2 with a tail 2 - 3 - 4.
EDGES = [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)]
TADPOLE = matrices.SparsityPattern.from_coo(
    (5, 5),
    [a for a, _ in EDGES] + [b for _, b in EDGES],
    [b for _, b in EDGES] + [a for a, _ in EDGES],
)
BY_HAND = {
    "natural": [[0], [1], [2], [3], [4]],
    # Degrees 2, 2, 3, 2, 1.
    "largest-first": [[2], [0], [1], [3], [4]],
    # From the end: 4 (degree 1), then 3 (1), then the triangle.
    "smallest-last": [[0, 1, 2], [3], [4]],
    # 2 first; then 0 has degree 1, as have 1, 3 and 4.
    "dynamic-largest-first": [[2], [0, 1, 3, 4]],
    # 0 first, its neighbors 1 and 2 follow, then 3, then 4.
    "incidence-degree": [[0], [1, 2], [3], [4]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_small_graph_by_hand(name):
    order = Orders(adjacency(TADPOLE).hypergraph(), seed=0)[name].tolist()
    place = 0
    for group in BY_HAND[name]:
        assert sorted(order[place : place + len(group)]) == group
        place += len(group)
    assert len(order) == place == 5


def test_saturation_closes_a_triangle_once_two_of_it_are_colored():
    order = Orders(adjacency(TADPOLE).hypergraph(), seed=0)["saturation"].tolist()
    assert order[0] == 2
    assert abs(order.index(0) - order.index(1)) == 1


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_holds_every_vertex_once(name):
    hypergraph = columns_by_row(matrices.random(40, 30, 3))
    assert sorted(Orders(hypergraph, seed=3)[name].tolist()) == list(range(30))


def test_smallest_last_leaves_as_few_neighbors_before_each_vertex_as_can_be():
    """On a grid some vertex has at most two neighbors in every part, so no vertex has more."""
    graph = adjacency(matrices.grid(7))
    order = Orders(graph.hypergraph(), seed=0).smallest_last
    place = np.argsort(order)
    for v in range(graph.size):
        around = graph.neighbors[graph.indptr[v] : graph.indptr[v + 1]]
        assert np.sum(place[around] < place[v]) <= 2


def test_the_random_order_repeats_with_its_seed():
    hypergraph = columns_by_row(matrices.random(40, 30, 3))
    first, again, other = (Orders(hypergraph, seed)["random"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_largest_hyperedges_are_left_out_where_they_would_cost_too_much(monkeypatch):
    monkeypatch.setattr(module, "FEW_STEPS", 0)
    monkeypatch.setattr(module, "STEPS_PER_ENTRY", 3)
    pattern = matrices.arrow(100, 1)
    # Without its head row the columns meet in rows of at most four, the full first column in all.
    plain = Orders(columns_by_row(pattern), seed=0)["largest-first"]
    assert sorted(plain.tolist()) == list(range(100))
    monkeypatch.setattr(module, "STEPS_PER_ENTRY", 0)
    assert Orders(columns_by_row(pattern), 0)["largest-first"].tolist() == list(range(100))


@pytest.mark.parametrize("most_words", [1, 8])
def test_saturation_goes_on_when_colors_run_out(most_words, monkeypatch):
    monkeypatch.setattr(module, "MOST_WORDS", most_words)
    full = matrices.SparsityPattern.from_dense(np.ones((1, 150)))
    order = Orders(columns_by_row(full), seed=0)["saturation"]
    assert sorted(order.tolist()) == list(range(150))
