"""Operators of factors: products, transposes and dense forms against plain matrices."""

import pytest
import torch

from torchjac._api.operator import JacobianOperator, operator_of
from torchjac._pattern.pattern import SparsityPattern

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


LEFT, MIDDLE, RIGHT = randn(6, 2), randn(2, 3), randn(3, 5)
BAND = torch.tensor([[1.0, 2, 0], [0, 3, 4], [0, 0, 5]], dtype=torch.float64)
CHAINS = {
    "one": [LEFT],
    "two": [LEFT, MIDDLE],
    "three": [LEFT, MIDDLE, RIGHT],
    "sparse first": [BAND.to_sparse_csr(), RIGHT],
    "sparse last": [MIDDLE, BAND.to_sparse_csr()],
    "sparse by columns": [MIDDLE, BAND.to_sparse_csc()],
    "no numbers between": [randn(4, 0), randn(0, 3)],
}


def product(factors) -> torch.Tensor:
    result = factors[0].to_dense()
    for factor in factors[1:]:
        result = result @ factor.to_dense()
    return result


@pytest.mark.parametrize("name", CHAINS)
def test_products(name) -> None:
    operator, matrix = JacobianOperator(CHAINS[name]), product(CHAINS[name])
    m, n = matrix.shape
    assert operator.shape == (m, n)
    for right in (randn(n), randn(n, 4), randn(4, n).T):
        torch.testing.assert_close(operator @ right, matrix @ right)
    for left in (randn(m), randn(4, m), randn(m, 4).T):
        torch.testing.assert_close(left @ operator, left @ matrix)


@pytest.mark.parametrize("name", CHAINS)
def test_transpose(name) -> None:
    operator, matrix = JacobianOperator(CHAINS[name]), product(CHAINS[name])
    assert operator.T.shape == matrix.T.shape
    torch.testing.assert_close(operator.T @ randn(len(matrix)), matrix.T @ randn(len(matrix)))
    torch.testing.assert_close(operator.T.T.to_dense(), matrix)


@pytest.mark.parametrize("name", CHAINS)
def test_dense_form_is_new_memory(name) -> None:
    operator = JacobianOperator(CHAINS[name])
    dense = operator.to_dense()
    torch.testing.assert_close(dense, product(CHAINS[name]))
    dense.add_(1)
    torch.testing.assert_close(operator.to_dense(), product(CHAINS[name]))


def test_dtype_and_device_are_those_of_the_factors() -> None:
    operator = JacobianOperator([LEFT.float(), MIDDLE.float()])
    assert (operator.dtype, operator.device) == (torch.float32, torch.device("cpu"))
    assert (operator @ torch.ones(3)).dtype == torch.float32


def test_a_product_never_forms_the_whole() -> None:
    many = 2**20
    operator = JacobianOperator([torch.ones(many, 1), torch.ones(1, many)])
    assert (operator @ torch.ones(many))[-1] == many  # the whole has 2^40 numbers
    assert (torch.ones(many) @ operator)[0] == many


def test_products_can_be_differentiated() -> None:
    left = LEFT.clone().requires_grad_()
    vector = randn(3).requires_grad_()
    operator = JacobianOperator([left, MIDDLE])
    got = torch.autograd.grad((operator @ vector).sum(), (left, vector))
    expected = torch.autograd.grad((left @ MIDDLE @ vector).sum(), (left, vector))
    torch.testing.assert_close(got, expected)


def test_text() -> None:
    operator = JacobianOperator([LEFT, MIDDLE])
    text = "JacobianOperator(6 x 3 = (6 x 2) (2 x 3), 18 of 18 numbers, torch.float64, cpu)"
    assert repr(operator) == text


def test_factors_from_entries_are_as_sparse_as_their_patterns() -> None:
    full = SparsityPattern.from_dense(torch.ones(2, 3))
    banded = SparsityPattern.from_dense(BAND)
    operator = operator_of([(MIDDLE.reshape(-1), full), (BAND[BAND != 0], banded)])
    assert [f.layout for f in operator.factors] == [torch.strided, torch.sparse_csr]
    torch.testing.assert_close(operator.to_dense(), MIDDLE @ BAND)
