"""A random product shows rows whose entries are wrong, and only those."""

import numpy as np
import pytest
import torch

from torchjac._evaluate.certify import suspects

ROWS, COLUMNS = np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2])
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
VECTOR = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
PRODUCT = torch.tensor([2.0, -3.0, 2.0], dtype=torch.float64)
EPS = torch.finfo(torch.float64).eps


def found(values=VALUES, product=PRODUCT, eps=EPS):
    return suspects(ROWS, COLUMNS, values, VECTOR, product, eps).tolist()


def test_a_right_product_shows_nothing():
    assert found() == []


@pytest.mark.parametrize(("entry", "row"), [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_a_wrong_entry_shows_its_row(entry, row):
    values = VALUES.clone()
    values[entry] *= 1.001
    assert found(values) == [row]


def test_rounding_is_let_pass():
    assert found(VALUES * (1 + 10 * EPS)) == []


def test_a_coarser_precision_lets_more_pass():
    assert found(VALUES * (1 + 1e-5), eps=torch.finfo(torch.float32).eps) == []


def test_an_entry_that_the_pattern_lacks_shows_its_row():
    places = ROWS[:3], COLUMNS[:3]
    wrong = suspects(*places, VALUES[:3], VECTOR, PRODUCT, EPS)
    assert wrong.tolist() == [2]


def test_what_is_not_finite_is_left_out():
    values = VALUES.clone()
    values[0] = torch.inf
    assert found(values) == []


def test_rows_and_columns_exchange():
    u = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    product = torch.tensor([1.0, 6.0, 15.0], dtype=torch.float64)
    assert suspects(COLUMNS, ROWS, VALUES, u, product, EPS).tolist() == [2]


def test_a_matrix_without_entries_must_give_zero():
    nothing = np.empty(0, np.int64)
    wrong = suspects(nothing, nothing, torch.empty(0), torch.ones(2), torch.tensor([0.0, 1.0]), EPS)
    assert wrong.tolist() == [1]
