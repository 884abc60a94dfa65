"""Functions that need no watching: none that could read a value may be among them."""

import math
from functools import partial

import pytest
import torch
from torch import mm, nn, tensor

from torchjac._inputs.arithmetic import is_arithmetic
from torchjac._inputs.signature import bind

A = torch.ones(2, 2)
HALF = 0.5
LISTED = [A]


def three(x1, x2, x3):
    return x1 + x2, x3 * x1, x2**3


def with_default(x, scale=2.0, *, shift=A):
    y = scale * x
    return -y + shift


def closed_over(value):
    return lambda x: x * value


@pytest.mark.parametrize(
    "func",
    [
        three,
        with_default,
        closed_over(A),
        closed_over(3),
        closed_over(nn.Parameter(A)),
        lambda x: torch.mm(A, x),
        lambda x: mm(x, x),
        lambda x: x.exp().sum(dim=1),
        lambda x, y: 2 * x.exp() + 3 * y,
        lambda x: HALF * x.T @ x,
        lambda x: torch.stack([x, x.cos()], dim=0),
        lambda x: x.to(torch.float64),
    ],
)
def test_computing_alone_is_arithmetic(func):
    assert is_arithmetic(func)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x * x.sum().item(),
        lambda x: x * float(x.sum()),
        lambda x: x * complex(x.sum()).real,
        lambda x: x * math.sin(x.sum()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: torch.tensor([x.sum(), 1.0]),
        lambda x: tensor([x.sum(), 1.0]),
        lambda x: torch.as_tensor([x.sum()]),
        lambda x: x.sum().__float__(),
        lambda x: f"{x.sum()}",
        lambda x: "%f" % x.sum(),  # noqa: UP031 - what is tested
        lambda x: [1.0, 2.0][x.argmax()],
        lambda x: A[x.argmax() :],
        lambda x: LISTED[0] * x,
        lambda x: [float(v) for v in x],
    ],
)
def test_what_may_read_a_value_is_not(func):
    assert not is_arithmetic(func)


def nested_call(x):
    return three(x, x, x)


def by_import(x):
    import numpy

    return numpy.asarray(x)


@torch.no_grad()
def decorated(x):
    return x * x


@pytest.mark.parametrize(
    "func",
    [
        nested_call,
        by_import,
        decorated,
        closed_over(three),
        closed_over([1.0]),
        closed_over(math.sin),
        lambda x, read=float: x * read(x),
        lambda x: torch.nn.functional.relu(x),
        lambda x: torch._C._set_grad_enabled(False),
        lambda x: torch.set_grad_enabled(False),
        lambda x: torch.no_grad(),
        lambda x: x.norm(),
        lambda x: torch.einsum("ij,jk->ik", x, x),
        lambda x: unheard_of(x),  # noqa: F821 - what is tested
        partial(three, A),
        nn.Linear(2, 2),
        torch.sin,
        A.mul,
    ],
)
def test_what_may_run_other_code_is_not(func):
    assert not is_arithmetic(func)


def test_the_same_code_is_judged_by_what_it_holds():
    assert is_arithmetic(closed_over(1.0))
    assert not is_arithmetic(closed_over(LISTED))


class Logging(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("inputs", "wrt", "expected"),
    [
        (A, None, True),
        ((A, A), None, True),
        (A.as_subclass(Logging), None, False),
        ([A, A], None, False),
        (A, 0, False),
    ],
)
def test_inputs_must_be_plain_tensors(inputs, wrt, expected):
    signature = bind("jacobian", lambda *x: torch.stack(x), inputs, wrt=wrt)
    assert signature.is_arithmetic is expected
