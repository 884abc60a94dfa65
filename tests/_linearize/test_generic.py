"""Zeros of weights that require gradients are not there to stay; zeros of masks are."""

import torch
from torch import Tensor

from torchjac import pattern

F64 = torch.float64
POINT = torch.linspace(0.3, 1.1, 3, dtype=F64)
HOLED = [[1.0, 0.0, 2.0], [0.5, -1.0, 0.0], [0.0, 3.0, 0.7]]
HOLES = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)


def weight(requires_grad: bool = True) -> Tensor:
    return torch.tensor(HOLED, dtype=F64, requires_grad=requires_grad)


def found(func) -> list[list[int]]:
    return pattern(func, POINT).to_scipy().toarray().astype(int).tolist()


def test_a_zero_of_a_weight_that_is_trained_is_an_entry():
    W = weight()
    assert found(lambda x: torch.tanh(W @ x)) == [[1, 1, 1]] * 3


def test_a_zero_of_a_frozen_weight_is_none():
    W = weight(requires_grad=False)
    assert found(lambda x: torch.tanh(W @ x)) == HOLES.int().tolist()


def test_zeros_of_a_mask_stay():
    W = torch.ones(3, 3, dtype=F64, requires_grad=True)
    mask = HOLES.double()
    assert found(lambda x: torch.tanh((W * mask) @ x)) == HOLES.int().tolist()


def test_zeros_that_an_operation_puts_there_stay():
    W = weight()
    assert found(lambda x: W.tril() @ x) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_numbers_that_cancel_now_are_entries():
    W = weight()
    start = W.detach().clone()
    assert found(lambda x: (W - start) @ x) == [[1, 1, 1]] * 3


def test_a_correction_of_low_rank_that_starts_at_zero_is_dense():
    frozen = torch.eye(3, dtype=F64)
    up = torch.zeros(3, 1, dtype=F64, requires_grad=True)
    down = torch.ones(1, 3, dtype=F64, requires_grad=True)
    assert found(lambda x: (frozen + up @ down) @ x) == [[1, 1, 1]] * 3


def test_a_matrix_that_the_function_fills_with_weights():
    W = weight()

    def filled(x: Tensor) -> Tensor:
        matrix = torch.zeros(3, 3, dtype=F64)
        matrix.diagonal().copy_(W[0])
        matrix[:, 0] += W[1]
        return torch.tanh(matrix @ x)

    assert found(filled) == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_choices_by_a_weight_are_what_they_are():
    W = weight()
    assert found(lambda x: torch.where(W[0] > 0, x, 0.0)) == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_what_cannot_be_done_with_other_numbers_counts_as_full():
    # Other numbers make it indefinite.
    correlated = torch.full((3, 3), 1 - 1e-9, dtype=F64) + 1e-9 * torch.eye(3, dtype=F64)
    correlated.requires_grad_()

    def factored(x: Tensor) -> Tensor:
        factor, _ = torch.ops.aten.linalg_cholesky_ex(correlated, check_errors=True)
        return factor @ x

    assert found(factored) == [[1, 1, 1]] * 3


def test_a_sparse_weight_has_the_entries_that_it_holds():
    W = weight(requires_grad=False).to_sparse_coo().requires_grad_()
    assert found(lambda x: torch.sparse.mm(W, x[:, None])[:, 0]) == HOLES.int().tolist()
