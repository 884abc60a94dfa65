"""Numbers of tensors and arrays, and whether they are the same."""

import numpy as np
import pytest
import torch

from torchjac._inputs.numbers import Bytes, Copies, numbers_of, parts_of


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc, torch.sparse_coo])
def test_parts_hold_all_numbers(layout):
    parts = parts_of(torch.eye(3).to_sparse(layout=layout))
    assert parts[-1].tolist() == [1.0, 1.0, 1.0]


def test_a_tensor_is_its_own_part():
    tensor = torch.ones(2)
    assert parts_of(tensor) == (tensor,)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(()),
        torch.ones(0),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.tensor([True, False]),
        torch.tensor([float("nan"), -0.0]),
    ],
)
def test_what_lies_in_one_piece_is_compared_by_bytes(tensor):
    numbers = numbers_of(tensor)
    assert isinstance(numbers, Bytes)
    assert numbers.are_there()
    assert numbers.are_same()


@pytest.mark.parametrize(
    "data",
    [
        torch.ones(2, 3).t(),
        torch.ones(4)[::2],
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.eye(2).to_sparse(),
        np.ones(3),
    ],
)
def test_anything_else_is_copied(data):
    numbers = numbers_of(data)
    assert isinstance(numbers, Copies)
    assert numbers.are_there()
    assert numbers.are_same()


@pytest.mark.parametrize("data", [torch.ones(3), torch.ones(6)[::2], np.ones(3)])
def test_a_number_that_changes(data):
    numbers = numbers_of(data)
    data[1] = 2
    assert not numbers.are_there()
    assert not numbers.are_same()


def test_a_zero_of_another_sign():
    tensor = torch.zeros(2)
    numbers = numbers_of(tensor)
    tensor.neg_()
    assert not numbers.are_there()


def test_numbers_that_moved():
    tensor = torch.ones(3)
    numbers = numbers_of(tensor)
    tensor.data = torch.ones(3)
    assert numbers.are_same()
    tensor.data = torch.ones(3).double()
    assert not numbers.are_same()


def test_numbers_in_another_order():
    tensor = torch.arange(4.0).view(2, 2)
    numbers = numbers_of(tensor)
    tensor.data = tensor.data.t()
    assert not numbers.are_same()
