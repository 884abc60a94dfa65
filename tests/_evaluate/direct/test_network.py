"""Names of axes follow what is done to tensors."""

import pytest
import torch

from torchjac._evaluate.direct.contraction import contracted
from torchjac._evaluate.direct.network import Term, matrix_product, multiplied, whole
from torchjac._evaluate.direct.spread import Builder
from torchjac._linearize.program import Ref, Value

A = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4) - 7
B = torch.arange(12.0, dtype=torch.float64).reshape(3, 4) + 1


def term_of(number: int, tensor: torch.Tensor) -> Term:
    return whole(Ref(number), tensor.shape)


def value_of(term: Term | None, *tensors: torch.Tensor) -> torch.Tensor:
    """What a term is, computed from constants."""
    assert term is not None
    values = [Value(tuple(t.shape), t.dtype) for t in tensors]
    builder = Builder(values, dict(enumerate(tensors)))
    return builder.constants[contracted(builder, term).number]


def test_reshape_splits_and_merges():
    term = term_of(0, A).reshaped((6, 4))
    assert term is not None
    term = term.permuted([1, 0]).reshaped((2, 2, 6))
    torch.testing.assert_close(value_of(term, A), A.reshape(6, 4).T.reshape(2, 2, 6))


@pytest.mark.parametrize("shape", [(8, 3), (12, 2), (4, 6), (24,), (1, 2, 1, 12)])
def test_reshape_of_other_lengths(shape):
    term = term_of(0, A).reshaped(shape)
    if shape in [(8, 3), (4, 6)]:  # 3 is no multiple of 4, nor 4 of it
        assert term is None
    else:
        torch.testing.assert_close(value_of(term, A), A.reshape(shape))


def test_repeated_axes_count_in_sums():
    term = term_of(0, B).expanded((5, 3, 4)).summed([0, 2], keeps=True)
    expected = B.expand(5, 3, 4).sum((0, 2), keepdim=True)
    torch.testing.assert_close(value_of(term, B), expected)


def test_products_repeat_axes():
    term = multiplied(term_of(0, A), term_of(1, B))
    torch.testing.assert_close(value_of(term, A, B), A * B)


def test_square_has_names_of_its_own():
    term = term_of(0, B)
    torch.testing.assert_close(value_of(multiplied(term, term), B), B * B)


def test_products_of_split_axes():
    one, other = term_of(0, A).reshaped((24,)), term_of(1, B.T).expanded((2, 4, 3))
    flat = other.reshaped((24,))
    assert one is not None
    assert flat is not None
    assert multiplied(one, flat) is None  # 3 times 4 beside 4 times 3


def test_matrices():
    term = matrix_product(term_of(0, A[0]), term_of(1, B.T))
    torch.testing.assert_close(value_of(term, A[0], B.T.contiguous()), A[0] @ B.T)


def test_batches_of_matrices():
    term = matrix_product(term_of(0, A), term_of(1, A.mT))
    torch.testing.assert_close(value_of(term, A, A.mT.contiguous()), A @ A.mT)


def test_scale():
    term = term_of(0, B).scaled(3.0).scaled(-0.5)
    torch.testing.assert_close(value_of(term, B), -1.5 * B)
