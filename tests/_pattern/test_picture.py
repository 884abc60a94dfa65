"""Pictures of patterns: bounded, and true cell by cell."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchjac._pattern import picture
from torchjac._pattern.pattern import SparsityPattern


def test_every_dot_of_a_character() -> None:
    dots = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [3, 0], [3, 1]]
    drawn = []
    for row, column in dots:
        pattern = SparsityPattern.from_coo((4, 2), [row], [column])
        drawn.append(str(pattern).splitlines()[1])
    assert drawn == [f"│{c}│" for c in "⠁⠂⠄⠈⠐⠠⡀⢀"]


def test_printed_whole() -> None:
    pattern = SparsityPattern.from_dense(np.tri(8, k=1) - np.tri(8, k=-2))
    assert str(pattern).splitlines() == [
        "SparsityPattern 8 × 8, 22 entries (34.4 %), 2 to 3 in a row, "
        "bandwidth 1 below and 1 above",
        "│⠻⣦⡀⠀│",
        "│⠀⠈⠻⣦│",
    ]


def test_repr_is_short() -> None:
    assert (
        repr(SparsityPattern.from_coo((3, 4), [0], [1])) == "SparsityPattern(shape=(3, 4), nnz=1)"
    )


@pytest.mark.parametrize(
    ("shape", "lines", "width"),
    [((80, 120), 20, 60), ((10**6, 10**6), 20, 40), ((10**6, 1), 20, 1), ((1, 10**6), 1, 60)],
)
def test_the_picture_is_bounded(shape: tuple[int, int], lines: int, width: int) -> None:
    rows, columns = np.arange(shape[0]), np.arange(shape[1])
    size = max(shape)
    pattern = SparsityPattern.from_coo(shape, np.resize(rows, size), np.resize(columns, size))
    drawn = str(pattern).splitlines()[1:]
    assert [len(line) for line in drawn] == [width + 2] * lines


def test_a_single_entry_of_a_large_matrix_is_seen() -> None:
    pattern = SparsityPattern.from_coo((10**6, 10**6), [10**6 - 1], [0])
    blank = "│" + "⠀" * 40 + "│"
    assert str(pattern).splitlines()[1:] == [blank] * 19 + ["│⡀" + "⠀" * 39 + "│"]


@given(
    arrays.arrays(bool, st.tuples(st.integers(0, 30), st.integers(0, 30))),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_cells_hold_what_lies_in_them(mask: np.ndarray, height: int, width: int) -> None:
    pattern = SparsityPattern.from_dense(mask)
    grid = picture.downsample(pattern.shape, pattern.indptr, pattern.indices, (height, width))
    assert grid.shape[0] <= height
    assert grid.shape[1] <= width
    expected = np.zeros_like(grid)
    for i, j in zip(*np.nonzero(mask), strict=True):
        expected[i * grid.shape[0] // len(mask), j * grid.shape[1] // mask.shape[1]] = True
    assert np.array_equal(grid, expected)


def test_svg_strokes_cover_the_entries() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=bool)
    image = SparsityPattern.from_dense(mask)._repr_html_()
    (path,) = re.findall(r' d="([^"]*)"', image)
    covered = np.zeros_like(mask)
    for x, y, length in re.findall(r"M(\d+) (\d+)\.5h(\d+)", path):
        covered[int(y), int(x) : int(x) + int(length)] = True
    assert np.array_equal(covered, mask)
    assert 'viewBox="0 0 4 3"' in image
    assert "3 × 4, 6 entries (50 %)" in image


def test_svg_is_bounded() -> None:
    checkers = np.indices((400, 400)).sum(axis=0) % 2
    assert len(SparsityPattern.from_dense(np.kron(checkers, np.eye(2)))._repr_html_()) < 300_000
