"""Sparse tensors in a program."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._local.reading import check_exact, nonzeros, patterns, point

MATRIX = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.float64)

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_constant_sparse_matrix(layout: torch.layout) -> None:
    matrix = MATRIX.to_sparse(layout=layout)

    def function(x: Tensor) -> Tensor:
        return torch.sparse.mm(matrix, x.sin()).exp()

    x = point(3, 2)
    assert np.array_equal(patterns(function, x)["vjp"], nonzeros(function, x))


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_rows_that_are_reduced(reduce: str) -> None:
    matrix = MATRIX.to_sparse_csr()
    found = patterns(lambda x: torch.sparse.mm(matrix, x, reduce), point(3, 2))  # type: ignore[call-arg]
    assert np.array_equal(found["vjp"], np.kron(MATRIX != 0, np.eye(2)).astype(bool))


def test_what_a_mask_keeps() -> None:
    mask = MATRIX.to_sparse()
    found = patterns(lambda x: x.sparse_mask(mask).to_dense(), point(2, 3))
    kept = (MATRIX != 0).flatten().numpy()
    assert np.array_equal(found["vjp"], np.diag(kept))


def test_sampled_products() -> None:
    start = MATRIX.to_sparse_csr()

    def function(x: Tensor) -> Tensor:
        return torch.sparse.sampled_addmm(start, x[:2], x[2:].t()).to_dense()

    x = point(5, 2)
    (found,) = patterns(function, x).values()
    assert np.array_equal(found, nonzeros(function, x))


def test_float32() -> None:
    check_exact(lambda x: x.to_sparse().to_dense(), point(2, 3, dtype=torch.float32))
