"""Values in CSR order become tensors of every layout, and can be written into them again."""

import pickle

import numpy as np
import pytest
import torch

from torchjac._layout.arrange import arrange, index_tensors
from torchjac._layout.cut import Piece, cut
from torchjac._layout.tiles import choose_blocksize
from torchjac._pattern.pattern import SparsityPattern

CPU = torch.device("cpu")
DENSE = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
PATTERN = SparsityPattern.from_dense(DENSE)
VALUES = torch.arange(1.0, PATTERN.nnz + 1, dtype=torch.float64)
EXPECTED = torch.tensor(
    [[1, 0, 2, 0], [0, 3, 0, 0], [4, 5, 6, 7], [0, 0, 0, 8]], dtype=torch.float64
)
LAYOUTS = [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr]


def made(layout, blocksize=None):
    return arrange(Piece(PATTERN, None), layout, CPU, dense_shape=(4, 4), blocksize=blocksize)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tensor_holds_the_values_in_its_layout(layout, dtype):
    tensor = made(layout).assemble(VALUES.to(dtype))
    assert tensor.layout is layout
    assert tensor.dtype is dtype
    assert torch.equal(tensor.to_dense(), EXPECTED.to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tensor_keeps_what_pytorch_asks_of_its_layout(layout):
    tensor = made(layout).assemble(VALUES)
    with torch.sparse.check_sparse_tensor_invariants():
        copy = tensor.clone()
    assert torch.equal(copy.to_dense(), EXPECTED)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_values_take_the_place_of_the_first(layout):
    arrangement = made(layout)
    tensor = arrangement.assemble(VALUES.clone())
    assert arrangement.fits(tensor)
    arrangement.refill(tensor, -VALUES)
    assert torch.equal(tensor.to_dense(), -EXPECTED)


@pytest.mark.parametrize("numpy", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_index_tensors_of_a_result_may_be_written_to(layout, numpy):
    arrangement = made(layout)
    first, second = arrangement.assemble(VALUES), arrangement.assemble(VALUES)
    for index in index_tensors(second):
        (index.numpy() if numpy else index)[...] = 0
    assert torch.equal(first.to_dense(), EXPECTED)
    assert torch.equal(arrangement.assemble(VALUES).to_dense(), EXPECTED)
    assert arrangement.fits(first)
    assert not arrangement.fits(second)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_results_share_the_memory_of_index_tensors_that_nobody_writes_to(layout):
    arrangement = made(layout)
    tensor = arrangement.assemble(VALUES)
    assert all(map(torch._C._is_cow_tensor, index_tensors(tensor)))
    assert torch.equal(index_tensors(tensor)[0], arrangement.indices[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_by_pickle_share_no_index_tensors_with_the_original(layout):
    arrangement = made(layout)
    copy = pickle.loads(pickle.dumps(arrangement))
    tensor = copy.assemble(VALUES)
    assert torch.equal(tensor.to_dense(), EXPECTED)
    for index in (*arrangement.indices, *copy.indices):
        assert torch._C._is_cow_tensor(index)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tensor_is_differentiable_in_the_values(layout):
    values = VALUES.clone().requires_grad_()
    weights = torch.arange(16, dtype=torch.float64).view(4, 4)
    (made(layout).assemble(values).to_dense() * weights).sum().backward()
    assert torch.equal(values.grad, weights[EXPECTED != 0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_takes_its_values_from_those_of_the_whole(layout):
    pieces = cut(PATTERN, [2, 2], [2, 2])
    arrangement = arrange(pieces[1][0], layout, CPU, dense_shape=(2, 2))
    assert torch.equal(arrangement.assemble(VALUES).to_dense(), EXPECTED[2:, :2])


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_bsr])
def test_a_tensor_with_other_places_does_not_fit(layout):
    size = (2, 2) if layout is torch.sparse_bsr else None
    piece = Piece(SparsityPattern.from_dense(DENSE[1:3]), None)
    other = arrange(piece, layout, CPU, dense_shape=(2, 4), blocksize=size)
    assert not made(layout, size).fits(other.assemble(VALUES[:5]))


def test_blocks_of_a_given_size_store_zeros_where_they_must():
    tensor = made(torch.sparse_bsr, (2, 2)).assemble(VALUES)
    assert tensor.values().shape == (4, 2, 2)
    assert torch.equal(tensor.to_dense(), EXPECTED)


def test_blocks_may_be_oblong():
    tensor = made(torch.sparse_bsr, (1, 4)).assemble(VALUES)
    assert tensor.values().shape == (4, 1, 4)
    assert torch.equal(tensor.to_dense(), EXPECTED)


@pytest.mark.parametrize(("size", "blocks"), [(2, 3), (3, 4), (5, 2)])
def test_full_diagonal_blocks_are_found(size, blocks):
    dense = np.kron(np.eye(blocks), np.ones((size, size)))
    assert choose_blocksize(SparsityPattern.from_dense(dense)) == (size, size)


def test_scattered_entries_get_blocks_of_one():
    assert choose_blocksize(SparsityPattern.from_dense(np.eye(6))) == (1, 1)


def test_a_pattern_without_entries_gets_blocks_of_one():
    assert choose_blocksize(SparsityPattern.from_dense(np.zeros((4, 4)))) == (1, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3)])
def test_a_matrix_without_entries(layout, shape):
    piece = Piece(SparsityPattern.from_dense(np.zeros(shape)), None)
    tensor = arrange(piece, layout, CPU, dense_shape=shape).assemble(torch.empty(0))
    assert torch.equal(tensor.to_dense(), torch.zeros(shape))
