"""Seeds and printed form of a coloring."""

import pickle

import numpy as np
import pytest
import torch

from tests._coloring import matrices
from torchjac._coloring.select import color_pattern

TRIDIAGONAL = color_pattern(matrices.band(5, 1))
ARROW = color_pattern(matrices.arrow(4), "bidirectional")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_a_seed_holds_ones_at_the_columns_of_its_color(dtype):
    seeds = TRIDIAGONAL.column_seeds(dtype=dtype)
    expected = [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0]]
    assert torch.equal(seeds, torch.tensor(expected, dtype=dtype))


def test_seeds_come_in_chunks():
    whole = TRIDIAGONAL.column_seeds()
    assert torch.equal(TRIDIAGONAL.column_seeds(1, 3), whole[1:3])
    assert torch.equal(TRIDIAGONAL.column_seeds(2), whole[2:])
    assert TRIDIAGONAL.column_seeds(1, 1).shape == (0, 5)


def test_seeds_are_made_on_the_device():
    assert TRIDIAGONAL.column_seeds(device="meta").device.type == "meta"


def test_rows_and_columns_without_a_color_are_in_no_seed():
    # The head row is read by rows; then the head column and the diagonal, by columns.
    assert ARROW.row_colors.tolist() == [0, -1, -1, -1]
    assert ARROW.row_seeds().tolist() == [[1, 0, 0, 0]]
    assert ARROW.column_seeds().tolist() == [[1, 0, 0, 0], [0, 1, 1, 1]]


def test_a_side_that_is_not_colored_has_no_seeds():
    assert TRIDIAGONAL.row_seeds().shape == (0, 5)
    assert TRIDIAGONAL.num_row_colors == 0


def test_counts_of_both_sides():
    counts = ARROW.num_column_colors, ARROW.num_row_colors, ARROW.num_colors
    assert counts == (2, 1, 3)


def test_seeds_for_a_million_columns_take_memory_for_the_chunk_only():
    coloring = color_pattern(matrices.band(300_000, 1))
    chunk = coloring.column_seeds(1, 2, dtype=torch.float32)
    assert chunk.shape == (1, 300_000)
    assert chunk.sum() == 100_000


def test_one_line_says_it_all():
    assert str(TRIDIAGONAL) == (
        "Coloring 5 × 5, column: 3 colors, the least possible (the most entries in a row), "
        "found by natural"
    )
    assert repr(TRIDIAGONAL) == "Coloring(kind='column', num_colors=3)"
    assert "bidirectional: 3 colors (2 of columns, 1 of rows)" in str(ARROW)
    grid = color_pattern(matrices.grid(6), "acyclic")
    assert "acyclic by substitution: 4 colors, at least 3" in str(grid)
    one = color_pattern(matrices.band(3, 0))
    assert "column: 1 color, " in str(one)


def test_a_coloring_can_be_pickled():
    again = pickle.loads(pickle.dumps(ARROW))
    assert np.array_equal(again.column_colors, ARROW.column_colors)
    assert again.pattern == ARROW.pattern
    assert str(again) == str(ARROW)
