"""A random product shows rows whose entries are wrong, and only those."""

import numpy as np
import pytest
import torch

from torchjac._evaluate.certify import suspects
from torchjac._pattern.pattern import SparsityPattern

PATTERN = SparsityPattern.from_dense([[1, 0, 1], [0, 1, 0], [0, 0, 1]])
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
VECTOR = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
PRODUCT = torch.tensor([2.0, -3.0, 2.0], dtype=torch.float64)
EPS = torch.finfo(torch.float64).eps


def found(values=VALUES, product=PRODUCT, eps=EPS):
    return suspects(PATTERN, values, VECTOR, product, eps).tolist()


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
    pattern = SparsityPattern.from_dense([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    wrong = suspects(pattern, VALUES[:3], VECTOR, PRODUCT, EPS)
    assert wrong.tolist() == [2]


def test_products_that_are_not_finite_are_left_out():
    values, product = VALUES.clone(), PRODUCT.clone()
    values[0] = product[0] = torch.inf
    assert found(values, product) == []


def test_columns_of_the_transposed_matrix():
    u = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    product = torch.tensor([1.0, 6.0, 15.0], dtype=torch.float64)
    wrong = suspects(PATTERN, VALUES, u, product, EPS, transposed=True)
    assert wrong.tolist() == [2]


def test_a_matrix_without_entries_must_give_zero():
    nothing = SparsityPattern.from_dense(np.zeros((2, 2)))
    wrong = suspects(nothing, torch.empty(0), torch.ones(2), torch.tensor([0.0, 1.0]), EPS)
    assert wrong.tolist() == [1]


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_entries_that_are_not_finite_cannot_give_a_finite_product(number):
    pattern = SparsityPattern.from_dense(np.eye(2))
    values = torch.tensor([1.0, number])
    v = torch.tensor([2.0, 3.0])
    assert suspects(pattern, values, v, torch.tensor([2.0, 3.0]), 1e-7).tolist() == [1]
    assert suspects(pattern, values, v, torch.tensor([2.0, torch.nan]), 1e-7).tolist() == []
