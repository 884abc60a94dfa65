"""`SparsityPattern`: made, counted, transposed, combined and turned into other things."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from torchjac._pattern.pattern import SparsityPattern

#   0 1 2 3
# 0 x . x .
# 1 . . . .
# 2 . x x x
DENSE = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=bool)
INDPTR, INDICES = [0, 2, 2, 5], [0, 2, 1, 2, 3]
ROWS = [0, 0, 2, 2, 2]


def hand_written() -> SparsityPattern:
    return SparsityPattern.from_csr((3, 4), INDPTR, INDICES)


def masks(square: bool = False) -> st.SearchStrategy[np.ndarray]:
    sides = st.integers(0, 7)
    shapes = sides.map(lambda n: (n, n)) if square else st.tuples(sides, sides)
    return shapes.flatmap(lambda shape: arrays.arrays(bool, shape))


def dense(pattern: SparsityPattern) -> np.ndarray:
    """The entries one by one, with no help of the code under test."""
    mask = np.zeros(pattern.shape, dtype=bool)
    for i in range(pattern.shape[0]):
        for j in pattern.indices[pattern.indptr[i] : pattern.indptr[i + 1]].tolist():
            assert not mask[i, j]
            mask[i, j] = True
    return mask


# --- Made from other things -----------------------------------------------------------


def test_the_index_arrays_are_int32_and_own_their_memory() -> None:
    indptr, indices = np.array(INDPTR, dtype=np.int32), np.array(INDICES, dtype=np.int32)
    pattern = SparsityPattern.from_csr((3, 4), indptr, indices)
    indptr[:], indices[:] = 0, 0
    assert pattern.indptr.tolist() == INDPTR
    assert pattern.indices.tolist() == INDICES
    assert pattern.indptr.dtype == pattern.indices.dtype == np.int32


def test_index_arrays_are_int64_where_a_size_needs_it() -> None:
    pattern = SparsityPattern.from_coo((2, 2**33), [1, 0], [2**32, 5])
    assert pattern.indices.tolist() == [5, 2**32]
    assert pattern.indptr.dtype == pattern.indices.dtype == np.int64
    assert pattern.rows.tolist() == [0, 1]


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_from_coo_sorts_and_merges(convert) -> None:
    rows, columns = convert([2, 0, 2, 0, 2, 2]), convert([3, 2, 1, 0, 3, 2])
    assert SparsityPattern.from_coo((3, 4), rows, columns) == hand_written()


def test_from_coo_counts_a_position_given_many_times_once() -> None:
    pattern = SparsityPattern.from_coo((1, 2), np.zeros(256, int), np.ones(256, int))
    assert pattern.indices.tolist() == [1]


@pytest.mark.parametrize(
    "matrix",
    [
        DENSE,
        DENSE.astype(np.float32),
        DENSE * 2j,
        DENSE.tolist(),
        torch.tensor(DENSE),
        torch.tensor(DENSE, dtype=torch.bfloat16),
        torch.tensor(DENSE, dtype=torch.float64, requires_grad=True),
    ],
    ids=lambda matrix: str(getattr(matrix, "dtype", "list")),
)
def test_from_dense_takes_nonzeros(matrix) -> None:
    assert SparsityPattern.from_dense(matrix) == hand_written()


def test_from_dense_takes_nan_and_infinity_for_entries() -> None:
    pattern = SparsityPattern.from_dense([[np.nan, 0.0, -np.inf]])
    assert pattern.indices.tolist() == [0, 2]


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_from_scipy_takes_every_format(kind: str) -> None:
    matrix = sparse.coo_array(DENSE.astype(float)).asformat(kind)
    pattern = SparsityPattern.from_scipy(matrix)
    if kind == "dia":  # stores whole diagonals
        assert hand_written().issubset(pattern)
    else:
        assert pattern == hand_written()


def test_from_scipy_keeps_explicit_zeros_and_leaves_the_matrix_alone() -> None:
    indices = np.array([2, 0, 3, 1, 2], dtype=np.int64)
    matrix = sparse.csr_matrix((np.zeros(5), indices.copy(), np.array(INDPTR)), shape=(3, 4))
    assert SparsityPattern.from_scipy(matrix) == hand_written()
    assert matrix.indices.tolist() == indices.tolist()


def test_from_scipy_takes_every_place_of_stored_diagonals() -> None:
    matrix = sparse.dia_array((np.zeros((2, 3)), [0, -1]), shape=(4, 3))
    assert SparsityPattern.from_scipy(matrix).rows.tolist() == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    "layout", [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_from_torch_takes_every_layout(layout, dtype) -> None:
    tensor = torch.tensor(DENSE).to(dtype)
    if layout is not torch.strided:
        tensor = tensor.to_sparse(layout=layout)
    assert SparsityPattern.from_torch(tensor) == hand_written()


@pytest.mark.parametrize("layout", [torch.sparse_bsr, torch.sparse_bsc])
def test_from_torch_takes_whole_blocks(layout) -> None:
    tensor = torch.zeros(4, 6)
    tensor[0, 4] = tensor[3, 1] = 1.0
    pattern = SparsityPattern.from_torch(tensor.to_sparse(layout=layout, blocksize=(2, 3)))
    assert pattern.indices.tolist() == [3, 4, 5, 3, 4, 5, 0, 1, 2, 0, 1, 2]
    assert pattern.row_counts.tolist() == [3, 3, 3, 3]


def test_from_torch_merges_what_is_not_coalesced() -> None:
    places = torch.tensor([[1, 0, 1], [0, 1, 0]])
    tensor = torch.sparse_coo_tensor(places, torch.ones(3), (2, 2), check_invariants=True)
    assert SparsityPattern.from_torch(tensor).indices.tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty_shapes(shape: tuple[int, int]) -> None:
    pattern = SparsityPattern.from_coo(shape, [], [])
    assert pattern == SparsityPattern.from_dense(np.zeros(shape))
    assert (pattern.nnz, pattern.density, pattern.bandwidth) == (0, 0.0, (0, 0))
    assert pattern.T.shape == shape[::-1]
    assert (pattern.components.count, pattern.diagonal_blocks) == (0, 1)
    assert "0 entries" in str(pattern)
    assert "<svg" in pattern._repr_html_()


@pytest.mark.parametrize("operator", ["__or__", "__and__", "__sub__", "__eq__"])
def test_operators_leave_other_types_to_python(operator: str) -> None:
    assert getattr(hand_written(), operator)("x") is NotImplemented


# --- Counted and transposed -----------------------------------------------------------


def test_counts() -> None:
    pattern = hand_written()
    assert pattern.nnz == 5
    assert pattern.density == 5 / 12
    assert pattern.rows.tolist() == ROWS
    assert pattern.row_counts.tolist() == [2, 0, 3]
    assert pattern.column_counts.tolist() == [1, 1, 2, 1]
    assert pattern.occupied_rows.tolist() == [0, 2]


def test_by_columns() -> None:
    view = hand_written().csc
    assert view.indptr.tolist() == [0, 1, 2, 4, 5]
    assert view.rows.tolist() == [0, 2, 0, 2, 2]
    assert view.order.tolist() == [0, 2, 1, 3, 4]


def test_the_transpose_is_made_once() -> None:
    pattern = hand_written()
    assert pattern.T is pattern.T
    assert pattern.T.shape == (4, 3)
    assert pattern == pattern.T.T


@pytest.mark.parametrize(
    ("mask", "bandwidth"),
    [
        (np.eye(4), (0, 0)),
        (np.tri(4), (3, 0)),
        (np.tri(4, k=1) - np.tri(4, k=-3), (2, 1)),
        (DENSE, (1, 2)),
        (np.array([[0, 0, 1]]), (0, 2)),
    ],
)
def test_bandwidth(mask, bandwidth: tuple[int, int]) -> None:
    assert SparsityPattern.from_dense(mask).bandwidth == bandwidth


def test_symmetry() -> None:
    pattern = SparsityPattern.from_dense([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
    assert not pattern.is_symmetric
    assert not hand_written().is_symmetric
    full = pattern.symmetrized()
    assert full.is_symmetric
    assert full == SparsityPattern.from_dense([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    assert full.symmetrized() is full


@given(masks())
def test_dense_and_back(mask: np.ndarray) -> None:
    pattern = SparsityPattern.from_dense(mask)
    assert np.array_equal(dense(pattern), mask)
    assert np.array_equal(dense(pattern.T), mask.T)
    assert SparsityPattern.from_coo(mask.shape, *np.nonzero(mask)) == pattern


# --- Sets of entries ------------------------------------------------------------------


@given(masks().flatmap(lambda a: st.tuples(st.just(a), arrays.arrays(bool, a.shape))))
def test_sets(pair: tuple[np.ndarray, np.ndarray]) -> None:
    left, right = (SparsityPattern.from_dense(mask) for mask in pair)
    assert np.array_equal(dense(left | right), pair[0] | pair[1])
    assert np.array_equal(dense(left & right), pair[0] & pair[1])
    assert np.array_equal(dense(left - right), pair[0] & ~pair[1])
    assert left.issubset(right) == (not (pair[0] & ~pair[1]).any())
    assert left.issubset(left | right)
    assert (left & right).issubset(right)


def test_missing_entries_name_their_rows() -> None:
    found = SparsityPattern.from_dense([[1, 1], [1, 0], [0, 1]])
    known = SparsityPattern.from_dense([[1, 1], [0, 1], [0, 0]])
    assert (found - known).occupied_rows.tolist() == [1, 2]


def test_equality_looks_at_entries_and_shape() -> None:
    pattern = hand_written()
    wide = SparsityPattern((3, 4), np.array(INDPTR), np.array(INDICES))
    assert wide.indices.dtype == np.int64
    assert pattern == wide
    assert hash(pattern) == hash(wide)
    assert pattern != SparsityPattern.from_csr((3, 5), INDPTR, INDICES)
    assert pattern != SparsityPattern.from_csr((3, 4), INDPTR, [0, 3, 1, 2, 3])
    assert len({pattern, wide, pattern.T.T, pattern.T}) == 2


# --- Turned into other things ---------------------------------------------------------


def test_to_scipy_and_back() -> None:
    values = np.arange(1.0, 6.0)
    matrix = hand_written().to_scipy(values)
    assert matrix.toarray().tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 4, 5]]
    assert SparsityPattern.from_scipy(matrix) == hand_written()
    assert np.array_equal(hand_written().to_scipy().toarray(), DENSE)


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc, torch.sparse_coo])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_torch_and_back(layout, dtype) -> None:
    tensor = hand_written().to_torch(torch.arange(1, 6, dtype=dtype), layout)
    assert (tensor.layout, tensor.dtype) == (layout, dtype)
    assert tensor.to_dense().tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 4, 5]]
    assert SparsityPattern.from_torch(tensor) == hand_written()


def test_to_torch_without_values_is_ones() -> None:
    assert np.array_equal(hand_written().to_torch().to_dense().numpy(), DENSE)


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc, torch.sparse_coo])
def test_to_torch_is_differentiable_in_the_values(layout) -> None:
    values = torch.arange(1.0, 6.0, requires_grad=True)
    matrix = hand_written().to_torch(values, layout)
    (matrix @ torch.tensor([[1.0], [2.0], [3.0], [4.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 3, 2, 3, 4]


@pytest.mark.parametrize("twin", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy])
def test_copies_are_equal_and_carry_nothing_derived(twin) -> None:
    pattern = hand_written()
    _ = pattern.T, pattern.rows, hash(pattern)
    again = twin(pattern)
    assert again == pattern
    assert set(vars(again)) == {"shape", "indptr", "indices"}


def test_ten_million_entries_without_an_object_each() -> None:
    n = 2_000_000
    rows = np.repeat(np.arange(n, dtype=np.int32), 5)
    columns = (rows + np.tile(np.array([-2, -1, 0, 1, 2], np.int32), n)) % n
    pattern = SparsityPattern.from_coo((n, n), rows, columns)
    assert pattern.nnz == 10_000_000
    assert pattern.is_symmetric
    assert pattern.components.count == 1
    assert len(str(pattern)) < 3000
    assert len(pattern._repr_html_()) < 20_000


@pytest.mark.parametrize("shape", [(3, 4), (1, 5), (5, 1), (1, 1)])
def test_columns_of_a_matrix_without_zeros(shape):
    pattern = SparsityPattern.from_dense(np.ones(shape))
    numbers = np.arange(shape[0] * shape[1]).reshape(shape)
    assert pattern.csc.order.tolist() == numbers.T.ravel().tolist()
    assert SparsityPattern.from_dense(np.ones(shape[::-1])) == pattern.T
    assert pattern.csc.rows.dtype == pattern.csc.indptr.dtype == pattern.indices.dtype
