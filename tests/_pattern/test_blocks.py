"""Independent parts of a pattern, against answers by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchjac._pattern.pattern import SparsityPattern


def partition(mask) -> tuple[int, list[int], list[int]]:
    found = SparsityPattern.from_dense(mask).components
    return found.count, found.of_row.tolist(), found.of_column.tolist()


def test_blocks_may_be_scattered() -> None:
    mask = [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert partition(mask) == (2, [0, 1, 0, 1], [1, -1, 0, 1])


def test_rows_and_columns_without_entries_are_in_no_component() -> None:
    assert partition([[0, 0], [0, 1], [0, 0]]) == (1, [-1, 0, -1], [-1, 0])


def test_a_chain_of_overlaps_is_one_component() -> None:
    assert partition(np.tri(5) - np.tri(5, k=-2))[0] == 1


@given(arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_components_are_those_of_a_flood(mask: np.ndarray) -> None:
    found = SparsityPattern.from_dense(mask).components
    for i in np.flatnonzero(mask.any(axis=1)):
        rows = np.zeros(len(mask), dtype=bool)
        rows[i] = True
        for _ in range(len(mask)):
            columns = mask[rows].any(axis=0)
            rows = mask[:, columns].any(axis=1)
        assert np.array_equal(np.flatnonzero(found.of_row == found.of_row[i]), np.flatnonzero(rows))
        assert np.array_equal(found.of_column == found.of_row[i], columns)
    assert set(found.of_row[found.of_row >= 0]) == set(range(found.count))


@pytest.mark.parametrize(
    ("mask", "blocks"),
    [
        (np.eye(6), 6),
        (np.ones((4, 4)), 1),
        (np.kron(np.eye(3), np.ones((2, 5))), 3),
        (np.kron(np.eye(4), np.tri(3)), 4),
        (np.kron(np.eye(2), np.eye(3)[::-1]), 2),
        (np.eye(6, k=1), 1),
        (np.eye(6)[:, :4], 1),
        (np.diag([1, 0, 0, 1]), 4),
        (np.zeros((4, 4)), 1),
        (np.ones((1, 3)), 1),
    ],
)
def test_equal_blocks_along_the_diagonal(mask, blocks: int) -> None:
    assert SparsityPattern.from_dense(mask).diagonal_blocks == blocks


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.data())
def test_equal_blocks_against_every_split(blocks: int, m: int, n: int, data) -> None:
    parts = data.draw(arrays.arrays(bool, (blocks, m, n)))
    mask = np.zeros((blocks * m, blocks * n), dtype=bool)
    for k, part in enumerate(parts):
        mask[k * m : (k + 1) * m, k * n : (k + 1) * n] = part
    rows, columns = mask.shape

    def fits(b: int) -> bool:
        of_row, of_column = np.arange(rows) // (rows // b), np.arange(columns) // (columns // b)
        return not mask[of_row[:, None] != of_column].any()

    candidates = [b for b in range(1, rows + 1) if rows % b == 0 and columns % b == 0]
    best = max(b for b in candidates if fits(b)) if mask.any() else 1
    assert SparsityPattern.from_dense(mask).diagonal_blocks == best
