"""Lower bounds against all colorings there are, and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from tests._coloring import matrices
from torchjac._coloring.bounds import edges_before, forest_bound, longest, value_bound
from torchjac._coloring.coloring import Coloring
from torchjac._coloring.graph import adjacency, bipartite
from torchjac._coloring.orders import Orders
from torchjac._coloring.select import color_pattern
from torchjac._coloring.verify import problems

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def fewest(pattern, kind, *, substitution) -> int:
    """Fewest colors of any valid coloring, by trying all of them."""
    m, n = pattern.shape
    two_sided = kind == "bidirectional"
    best = m + n
    for colors in itertools.product(range(-1, 3), repeat=n + m * two_sided):
        columns = np.array(colors[:n], np.int32)
        rows = np.array(colors[n:], np.int32) if two_sided else None
        coloring = Coloring(pattern, kind, substitution, columns, rows, 0, "", "")
        if coloring.num_colors < best and not problems(coloring):
            best = coloring.num_colors
    return best


@pytest.mark.parametrize("kind", ["star", "acyclic"])
@given(pattern=matrices.symmetric_patterns(4))
@FEW
def test_no_symmetric_coloring_beats_the_bound(kind, pattern):
    least = fewest(pattern, kind, substitution=kind == "acyclic")
    coloring = color_pattern(pattern, kind)
    assert coloring.lower_bound <= least <= coloring.num_colors


@pytest.mark.parametrize("substitution", [False, True])
@given(pattern=matrices.patterns(3))
@FEW
def test_no_bicoloring_beats_the_bound(substitution, pattern):
    least = fewest(pattern, "bidirectional", substitution=substitution)
    coloring = color_pattern(pattern, "bidirectional", substitution=substitution)
    assert coloring.lower_bound <= least <= coloring.num_colors


def symmetric_bound(pattern) -> int:
    graph = adjacency(pattern)
    return forest_bound(graph, Orders(graph.hypergraph(), 0).smallest_last).value


def two_sided_bound(pattern) -> int:
    graph = bipartite(pattern)
    return value_bound(graph, Orders(graph.hypergraph(), 0).smallest_last).value


def test_a_band_is_proved_to_need_an_acyclic_color_for_each_entry_up_to_the_diagonal():
    # (k - 1) n - k (k - 1)/2 edges is what a band of reach k - 1 has exactly.
    assert [symmetric_bound(matrices.band(50, reach)) for reach in (1, 2, 5)] == [2, 3, 6]


def test_a_full_block_counts_though_the_rest_is_sparse():
    dense = np.eye(60)
    dense[20:27, 20:27] = 1
    assert symmetric_bound(matrices.of(dense)) == 7
    assert two_sided_bound(matrices.of(dense)) == 7


def test_without_a_diagonal_one_color_less_is_proved():
    path = matrices.band(10, 1) - matrices.band(10, 0)
    assert symmetric_bound(path) == 1
    assert symmetric_bound(matrices.band(10, 1)) == 2


def test_a_bidirectional_color_gives_at_most_one_number_for_each_row_or_column():
    # 28 entries in 10 rows and columns.
    assert two_sided_bound(matrices.arrow(10)) == 3


def test_edges_among_the_first_vertices():
    graph = adjacency(matrices.band(4, 1))
    assert edges_before(graph, np.array([0, 2, 1, 3])).tolist() == [0, 0, 2, 3]


def test_the_longest_line_names_itself():
    assert longest(np.array([1, 3, 2]), "column").reason == "the most entries in a row"
    assert longest(np.array([1, 3, 2]), "row").reason == "the most entries in a column"
    assert longest(np.array([1, 3, 2]), "row").value == 3
