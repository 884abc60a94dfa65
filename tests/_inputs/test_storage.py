"""Functions that read the memory around an input that is part of it."""

import pytest
import torch

import torchjac
from torchjac._inputs.storage import is_part
from torchjac.errors import ArgumentTypeError

DTYPES = [torch.float64, torch.float32]
# PyTorch has no forward rule that reads memory, so that columns come from a second backward pass.
FORWARD = pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
STRATEGIES = ["auto", "reverse-mode", pytest.param("forward-mode", marks=FORWARD)]


def memory(dtype=torch.float64):
    return torch.arange(10, dtype=dtype)


def around(x):
    """Element 1 of the memory, which x[0] is not, times elements 4 and 6."""
    return x.as_strided((1,), (1,), 1) * x.as_strided((2,), (2,), 4)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.ones(3, 4), False),
        (torch.ones(3, 4).T, False),
        (torch.ones(0), False),
        (torch.ones(3, 4)[1], True),
        (torch.ones(3, 4)[:, 1], True),
        (torch.ones(12)[:11], True),
        (torch.ones(1).expand(4), False),
        (torch.ones(3, 4, device="meta")[1], False),
        (torch.eye(3).to_sparse(), False),
    ],
)
def test_what_is_part_of_a_larger_memory(tensor, expected):
    assert is_part(tensor) is expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_around_an_input_is_read_and_constant(strategy, dtype):
    x = memory(dtype)[3:7]  # holds elements 4 and 6, not 1

    jacobian = torchjac.jacobian(around, x, strategy=strategy)

    expected = torch.zeros(2, 4, dtype=dtype)
    expected[0, 1] = expected[1, 3] = 1
    assert torch.equal(jacobian, expected)
    assert torch.equal(x, memory(dtype)[3:7])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_behind_the_input_is_read(strategy):
    x = memory()[:2]

    jacobian = torchjac.jacobian(lambda x: x * x.as_strided((), (), 9), x, strategy=strategy)

    assert torch.equal(jacobian, 9 * torch.eye(2, dtype=torch.float64))


@FORWARD
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_columns_read_it_where_forward_mode_is_chosen(chunk_size):
    x = memory()[1:7:3]  # elements 1 and 4

    def func(x):
        return (x.as_strided((3,), (1,), 3)[:, None] * torch.ones(40, dtype=x.dtype)).flatten()

    jacobian = torchjac.jacobian(func, x, chunk_size=chunk_size)

    expected = torch.zeros(3, 40, 2, dtype=torch.float64)
    expected[1, :, 1] = 1
    assert torch.equal(jacobian, expected.reshape(120, 2))


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_the_drop_in_reads_it(strategy):
    x = memory()[3:7]

    ours = torchjac.functional.jacobian(around, x, vectorize=True, strategy=strategy)

    assert torch.equal(ours[:, [1, 3]], torch.eye(2, dtype=torch.float64))


def test_a_function_that_writes_beside_reading_leaves_the_memory_alone():
    whole = memory()

    def func(x):
        x.mul_(2)
        return x.as_strided((2,), (1,), 3) + x[:2]

    jacobian = torchjac.jacobian(func, whole[3:7])

    assert torch.equal(jacobian[:, :2], 4 * torch.eye(2, dtype=torch.float64))
    assert torch.equal(whole, memory())


def test_the_hessian_reads_it():
    x = memory()[3:5]

    hessian = torchjac.hessian(lambda x: (x.as_strided((3,), (1,), 2) ** 3).sum(), x)

    assert torch.equal(hessian, torch.diag(torch.tensor([18.0, 24.0], dtype=torch.float64)))


def test_random_numbers_are_those_of_one_call():
    x = memory()[3:7]
    torch.manual_seed(1)
    expected = torch.rand(2, dtype=torch.float64)
    after = torch.rand(1)
    torch.manual_seed(1)

    jacobian = torchjac.jacobian(
        lambda x: around(x) * torch.rand(2, dtype=torch.float64), x, strategy="reverse-mode"
    )

    assert torch.equal(jacobian[:, [1, 3]], torch.diag(expected))
    assert torch.equal(torch.rand(1), after)


def test_elements_that_lie_on_each_other_stay_as_they_are():
    x = memory()[3:4].expand(3)

    assert torch.equal(torchjac.jacobian(lambda x: x * 2, x), 2 * torch.eye(3, dtype=x.dtype))
    assert torchjac.jacobian(lambda x: x.as_strided((2,), (1,), 0) * 2, x).shape == (2, 3)


def test_errors_of_the_function_are_its_own():
    x = memory()[3:7]

    with pytest.raises(RuntimeError, match="out of bounds for storage"):
        torchjac.jacobian(lambda x: x.as_strided((1,), (1,), 99), x)
    with pytest.raises(ArgumentTypeError, match=r"has dtype torch\.int64"):
        torchjac.jacobian(lambda x: x.as_strided((1,), (1,), 1).long(), x)
