"""Sparse tensors, constant ones and such with values that depend on x."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._local.reading import nonzeros, patterns, point
from torchjac._inputs.signature import bind
from torchjac._pattern.detect import detect
from torchjac._pattern.pattern import SparsityPattern

# PyTorch warns that compressed layouts are in beta, and unchecked.
pytestmark = pytest.mark.filterwarnings("ignore:.*[sS]parse.*:UserWarning")

EDGES = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 2]])
DOUBLED = torch.tensor([[0, 1, 0], [1, 2, 1]])
DENSE = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 1]], bool)


def constant() -> Tensor:
    return torch.sparse_coo_tensor(EDGES, torch.arange(1.0, 5, dtype=torch.float64), (3, 3))


def csr(values: Tensor) -> Tensor:
    return torch.sparse_csr_tensor([0, 1, 2, 4], [1, 2, 0, 2], values, (3, 3))


def check(f, x: Tensor, expected: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detection = detect(bind("test", f, x))
    assert not detection.opaque_ops
    assert detection.pattern == SparsityPattern.from_dense(expected)


@pytest.mark.parametrize("convert", [Tensor.clone, Tensor.coalesce, Tensor.to_sparse_csr])
def test_constant_matrix_times_x(convert) -> None:
    matrix = convert(constant())
    columns = np.eye(2, dtype=bool)
    check(lambda x: torch.sparse.mm(matrix, x), point(3, 2), np.kron(DENSE, columns))
    check(lambda x: (matrix @ x).sin(), point(3), DENSE)


def test_product_added_to_something() -> None:
    expected = DENSE | np.eye(3, dtype=bool)
    check(lambda x: torch.sparse.addmm(x, constant(), x), point(3, 1), expected)


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_product_with_a_reduction(reduce: str) -> None:
    matrix = constant().to_sparse_csr()
    check(lambda x: torch.sparse.mm(matrix, x, reduce), point(3, 1), DENSE)


def test_a_matrix_with_values_of_x() -> None:
    weights = torch.ones(3, 1, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return torch.sparse.mm(torch.sparse_coo_tensor(EDGES, x.sin(), (3, 3)), weights)

    check(f, point(4), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], bool))


def test_a_compressed_matrix_with_values_of_x() -> None:
    weights = torch.ones(3, 1, dtype=torch.float64)
    expected = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], bool)
    check(lambda x: csr(x) @ weights, point(4), expected)


def test_entries_that_are_added_up() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(DOUBLED, x, (2, 3)).coalesce().to_dense()

    expected = np.zeros((6, 3), bool)
    expected[1, [0, 2]] = expected[5, 1] = True
    check(f, point(3), expected)


def test_sums_over_an_axis() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.sparse.sum(torch.sparse_coo_tensor(EDGES, x, (3, 3)), 0).to_dense()

    check(f, point(4), np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]], bool))


def test_softmax_of_rows() -> None:
    def f(x: Tensor) -> Tensor:
        rows = torch.sparse.softmax(torch.sparse_coo_tensor(EDGES, x, (3, 3)), 1)
        return rows.to_dense()[2]

    check(f, point(4), np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]], bool))


def test_sampled_product() -> None:
    other = point(2, 3, seed=1)
    mask = constant().to_sparse_csr()

    def f(x: Tensor) -> Tensor:
        return torch.sparse.sampled_addmm(mask, x, other).to_dense()

    expected = DENSE[:, :, None, None] * np.eye(3, dtype=bool)[:, None, :, None]
    check(f, point(3, 2), np.repeat(expected, 2, 3).reshape(9, 6))


def test_entries_that_depend_on_x_are_not_guessed() -> None:
    def f(x: Tensor) -> Tensor:
        return x.to_sparse().to_dense()

    check(f, point(2, 2), np.eye(4, dtype=bool))


INDEX = torch.tensor([[0, 1, 1, 1], [2, 0, 2, 0]])
WEIGHTS = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.sparse.mm(torch.sparse_coo_tensor(INDEX, x, (2, 3)), WEIGHTS.t().exp()),
        lambda x: torch.sparse_coo_tensor(INDEX, x.sin(), (2, 3)).coalesce().values(),
        lambda x: torch.sparse_coo_tensor(INDEX, x[:, None] * x.new_ones(2), (2, 3, 2)).to_dense(),
        lambda x: torch.sparse_csr_tensor([0, 1, 4], [2, 0, 1, 2], x, (2, 3)) @ WEIGHTS.t(),
        lambda x: torch.sparse.sum(torch.sparse_coo_tensor(INDEX, x, (2, 3))),
        lambda x: torch.sparse.log_softmax(torch.sparse_coo_tensor(INDEX, x, (2, 3)), 0).to_dense()[
            1, 2
        ],
    ],
)
def test_entries_that_depend_on_x_at_constant_places(f) -> None:
    x = point(4)
    for pattern in patterns(f, x).values():
        assert np.array_equal(pattern, nonzeros(f, x))


def test_what_a_mask_keeps() -> None:
    mask = WEIGHTS.to_sparse()
    found = patterns(lambda x: x.sparse_mask(mask).to_dense(), point(2, 3))
    assert np.array_equal(found["vjp"], np.diag((WEIGHTS != 0).flatten().numpy()))


def test_gradients_of_an_embedding_may_be_sparse() -> None:
    x = point(3, 2)

    def f(x: Tensor) -> Tensor:
        return torch.nn.functional.embedding(INDEX, x, sparse=True)

    for pattern in patterns(f, x).values():
        assert np.array_equal(pattern, nonzeros(lambda x: x[INDEX], x))
