"""Operations on elements."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests._local.reading import check_exact, patterns, point

Function = Callable[[Tensor], Tensor]
DIAGONAL = np.eye(6, dtype=bool)


@pytest.mark.parametrize(
    "function",
    [
        F.elu,
        F.celu,
        F.selu,
        F.leaky_relu,
        F.hardtanh,
        F.relu6,
        F.hardswish,
        F.hardsigmoid,
        F.hardshrink,
        F.softshrink,
        F.tanhshrink,
        F.softplus,
        F.logsigmoid,
        F.rrelu,
        F.relu,
        F.gelu,
        F.silu,
        F.mish,
        F.softsign,
        lambda x: F.threshold(x, 0.1, 2.0),
        lambda x: F.rrelu(x, training=True),
        lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3], dtype=x.dtype)),
        lambda x: x.nan_to_num().clone(),
        lambda x: x.to(torch.float32).to(torch.float64),
    ],
)
def test_each_element_depends_on_itself(function: Function) -> None:
    for pattern in patterns(function, point(2, 3)).values():
        assert np.array_equal(pattern, DIAGONAL)


def test_slopes_of_a_prelu() -> None:
    x = point(2, 3, seed=1)  # constant: slopes count where it is negative
    check_exact(lambda w: F.prelu(x, w), point(3))
    found = patterns(lambda w: F.prelu(x * w.sum(), w), point(3))
    assert all(pattern.all() for pattern in found.values())


def test_constant_zeros_drop_out() -> None:
    mask = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    check_exact(lambda x: (x * mask - (1 - mask) * x / 2).exp(), point(2, 3))
    check_exact(lambda x: torch.where(mask > 0, x, x.sum()), point(3))


def test_a_memory_format_changes_no_dependence() -> None:
    check_exact(lambda x: x.to(torch.float32, memory_format=torch.channels_last), point(1, 2, 2, 2))


def test_fill() -> None:
    check_exact(lambda x: x.clone().fill_(x[0, 1]), point(2, 3))
    check_exact(lambda x: torch.fill(x, x.sum()) * x, point(2, 3))
    for pattern in patterns(lambda x: torch.fill(x, 3.0), point(2)).values():
        assert not pattern.any()


def test_a_derivative_that_is_no_linear_program_is_not_taken_for_one() -> None:
    # The backward rule of logcumsumexp takes the logarithm of what it is given, which is zero of a
    # one: no coefficient.
    found = patterns(lambda x: x.logcumsumexp(0), point(3))
    for pattern in found.values():
        assert (pattern | ~np.tri(3, dtype=bool)).all()


def test_sparse_and_back() -> None:
    found = patterns(lambda x: x.to_sparse().to_dense(), point(2, 3))
    assert np.array_equal(found["vjp"], DIAGONAL)


def test_float32() -> None:
    check_exact(F.softplus, point(2, 3, dtype=torch.float32))
