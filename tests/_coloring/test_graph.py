"""Patterns as graphs, by hand."""

import numpy as np
from hypothesis import given, settings

from tests._coloring import matrices
from torchjac._coloring.graph import adjacency, bipartite, columns_by_row

ANY = settings(deadline=None, max_examples=40, derandomize=True, database=None)


def test_columns_that_meet_in_a_row():
    hypergraph = columns_by_row(matrices.of(np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])))
    assert hypergraph.size == 3
    assert np.split(hypergraph.edges, hypergraph.indptr[1:-1])[2].tolist() == [0, 1]
    assert np.split(hypergraph.members, hypergraph.edge_ptr[1:-1])[0].tolist() == [0, 2]


def test_neighbors_in_a_symmetric_pattern():
    # 0 - 1 - 2, and a diagonal entry at 1 only.
    dense = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    graph = adjacency(matrices.of(dense))
    assert graph.neighbors.tolist() == [1, 0, 2, 1]
    assert graph.indptr.tolist() == [0, 1, 3, 4]
    assert graph.reverse.tolist() == [1, 0, 3, 2]
    assert graph.edges.tolist() == [0, 0, 1, 1]
    assert graph.entries.tolist() == [0, 1, 3, 4]
    assert graph.loops.tolist() == [False, True, False]
    assert graph.hypergraph().members.tolist() == [0, 1, 1, 2]


def check_graph(graph):
    """Both ends of an edge are each other's reverse and have its number."""
    ends = np.arange(len(graph.neighbors))
    owners = np.repeat(np.arange(graph.size), graph.degrees)
    assert np.array_equal(graph.reverse[graph.reverse], ends)
    assert np.array_equal(owners[graph.reverse], graph.neighbors)
    assert np.array_equal(graph.edges[graph.reverse], graph.edges)
    assert sorted(graph.edges.tolist()) == sorted(2 * list(range(len(ends) // 2)))
    members = graph.hypergraph().members.reshape(-1, 2)
    assert np.array_equal(np.sort(members[graph.edges], 1), np.sort([owners, graph.neighbors], 0).T)


@given(pattern=matrices.symmetric_patterns())
@ANY
def test_symmetric_graphs_fit_together(pattern):
    graph = adjacency(pattern)
    check_graph(graph)
    owners = np.repeat(np.arange(graph.size), graph.degrees)
    assert np.array_equal(pattern.rows[graph.entries], owners)
    assert np.array_equal(pattern.indices[graph.entries], graph.neighbors)


@given(pattern=matrices.patterns())
@ANY
def test_bipartite_graphs_fit_together(pattern):
    graph, m = bipartite(pattern), pattern.shape[0]
    check_graph(graph)
    owners = np.repeat(np.arange(graph.size), graph.degrees)
    rows = np.where(owners < m, owners, graph.neighbors)
    columns = np.where(owners < m, graph.neighbors, owners) - m
    assert np.array_equal(pattern.rows[graph.entries], rows)
    assert np.array_equal(pattern.indices[graph.entries], columns)
    assert np.array_equal(graph.side, np.arange(graph.size) >= m)
