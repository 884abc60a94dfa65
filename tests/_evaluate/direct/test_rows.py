"""Regular rows set side by side."""

import numpy as np
import pytest
import torch

from torchjac._evaluate.direct.rows import Slices, in_rows


def slices_of(dense, columns, constant=()) -> Slices:
    """Slices of a matrix: in slice s row i has the derivative by columns[s][i]; -1 for none."""
    live = dense != 0
    numbers = np.where(live, np.cumsum(live).reshape(live.shape) - 1, -1)
    rows = np.arange(len(dense))
    places = np.array([np.where(c >= 0, numbers[rows, c], -1) for c in columns], np.int32)
    values = [torch.from_numpy(np.where(c >= 0, dense[rows, c], 0.0)) for c in columns]
    return Slices(places, values, [k in constant for k in range(len(columns))])


def entries_of(dense) -> torch.Tensor:
    return torch.from_numpy(dense[dense != 0])


def ring(n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Each element by its neighbors around a ring."""
    columns = [np.roll(np.arange(n), k) for k in (0, 1, -1)]
    dense = np.zeros((n, n))
    for column in columns:
        dense[np.arange(n), column] = 1 + column + 100.0 * np.arange(n)
    return dense, columns


def band(n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    dense = np.triu(np.tril(np.arange(1.0, n * n + 1).reshape(n, n), 1), -1)
    columns = [np.arange(n) + k for k in (1, -1, 0)]
    return dense, [np.where(c < n, c, -1) for c in columns]


def test_rows_of_a_ring_are_set_side_by_side_but_for_the_ends() -> None:
    dense, columns = ring(40)
    found = in_rows(slices_of(dense, columns), 120)
    assert found is not None
    assert torch.equal(found, entries_of(dense))


def test_rows_of_a_short_ring_are_too_irregular() -> None:
    dense, columns = ring(4)
    assert in_rows(slices_of(dense, columns), 12) is None


def test_rows_with_gaps_at_both_ends_are_shifted() -> None:
    dense, columns = band(40)
    found = in_rows(slices_of(dense, columns), 118)
    assert found is not None
    assert torch.equal(found, entries_of(dense))


def test_two_kinds_of_rows_repeat_in_groups() -> None:
    """Even rows have an entry, odd ones three."""
    n = 40
    dense = np.zeros((n, 3))
    dense[::2, 1] = 1 + np.arange(n // 2)
    dense[1::2] = -1 - np.arange(3 * n // 2).reshape(-1, 3)
    odd = np.arange(n) % 2
    columns = [np.where(odd, 2, -1), np.ones(n, int), np.where(odd, 0, -1)]
    found = in_rows(slices_of(dense, columns), 2 * n)
    assert found is not None
    assert torch.equal(found, entries_of(dense))


def test_slices_that_share_entries_are_added() -> None:
    """The first slice has a column of its own for each row of a pair, the others one for both."""
    n = 40
    dense = np.arange(1.0, 2 * n + 1).reshape(n, 2)
    rows = np.arange(n)
    columns = [rows % 2, np.zeros(n, int), np.ones(n, int)]
    found = in_rows(slices_of(dense, columns), 2 * n)
    assert found is not None
    expected = dense.copy()
    expected[rows, rows % 2] *= 2
    assert torch.equal(found, torch.from_numpy(expected.ravel()))


def test_a_constant_is_even_where_nobody_looks() -> None:
    dense, columns = band(40)
    dense[dense != 0] = 7.0
    slices = slices_of(dense, columns, constant=(0, 1))
    found = in_rows(slices, 118)
    assert found is not None
    assert torch.equal(found, entries_of(dense))


def test_an_entry_that_no_slice_gives() -> None:
    dense, columns = ring(40)
    assert in_rows(slices_of(dense, columns[:2]), 120) is None


def test_nothing_is_not_set_in_rows() -> None:
    assert in_rows(Slices(np.full((1, 1), -1), [torch.ones(1)], [False]), 0) is None


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_random_matrices_are_right_or_refused(seed: int) -> None:
    """Periodic patterns, disturbed, their entries dealt out to slices in different ways."""
    rng = np.random.default_rng(seed)
    period, width = rng.integers(1, 4), 6
    live = np.tile(rng.random((period, width)) < 0.6, (24, 1))
    live ^= rng.random(live.shape) < 0.02
    dense = np.where(live, rng.normal(size=live.shape), 0.0)
    columns = [np.where(live[:, c], c, -1) for c in rng.permutation(width)]
    first, second = columns[:2]  # two that name different columns for different rows
    mixed = rng.random(period) < 0.5
    swap = np.tile(mixed, 24)
    columns[:2] = [np.where(swap, second, first), np.where(swap, first, second)]
    found = in_rows(slices_of(dense, columns), int(live.sum()))
    assert found is None or torch.equal(found, entries_of(dense))
