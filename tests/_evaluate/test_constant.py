"""A kept Jacobian is believed as long as one product agrees."""

import torch

from torchjac._evaluate.constant import still_holds
from torchjac._pattern.pattern import SparsityPattern

PATTERN = SparsityPattern.from_dense([[1, 1], [0, 1]])
VALUES = torch.tensor([1.0, 2.0, 3.0])
V = torch.tensor([1.0, 10.0])


def test_a_product_that_agrees():
    product = torch.tensor([21.0, 30.0])
    assert still_holds(PATTERN, VALUES, V, product, 1e-7, transposed=False)


def test_a_product_that_differs():
    product = torch.tensor([21.0, 31.0])
    assert not still_holds(PATTERN, VALUES, V, product, 1e-7, transposed=False)


def test_a_product_with_the_transpose():
    product = torch.tensor([1.0, 32.0])
    assert still_holds(PATTERN, VALUES, V, product, 1e-7, transposed=True)
