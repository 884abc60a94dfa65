"""Derivatives of few elements: long rows beside short ones."""

import numpy as np
import pytest
import torch

from tests._evaluate.direct.carried import dense_of
from tests._evaluate.direct.emitted import emitted
from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.placed import Placed, moved, split, whole
from torchjac._linearize.program import Ref
from torchjac._local.algebra import Deposit, Move, Reduce, Scale, Term

N = 40
SOURCE = Ref(0)


def long_block(elements: int = 1) -> Block:
    """Forty derivatives of each of a few elements."""
    index = np.tile(np.arange(1, N + 1, dtype=np.int32)[:, None], (1, elements))
    values = torch.arange(1.0, N * elements + 1, dtype=torch.float64).reshape(N, elements)
    return Block(index, values)


def put(part, run, shape, *, kind=Move):
    term = Term(SOURCE, (kind(run, shape) if kind is Deposit else kind(run),))
    return moved(part, [term], shape, torch.float64, run)


def padded(t):
    return torch.nn.functional.pad(t, (3, 6))


def test_a_long_row_keeps_its_size_in_a_larger_tensor() -> None:
    block = long_block()
    (found,) = put(block, padded, (10,))
    assert found.block.values.shape == (N, 1)
    assert found.elements.tolist() == [3]
    expected = torch.zeros(N, 10, dtype=torch.float64)
    expected[:, 3] = block.values[:, 0]
    torch.testing.assert_close(dense_of([whole(found)], (10,), N), expected)


def test_few_derivatives_are_moved_as_ever() -> None:
    block = long_block()
    assert put(Block(block.index[:5], block.values[:5]), padded, (10,)) is None


def test_most_elements_of_a_tensor_are_moved_as_ever() -> None:
    assert put(long_block(2), lambda t: torch.nn.functional.pad(t, (1, 1)), (4,)) is None


def test_what_was_placed_is_moved_on() -> None:
    (first,) = put(long_block(), padded, (10,))
    (found,) = put(first, lambda t: t.flip(0).reshape(2, 5), (2, 5))
    assert found.elements.tolist() == [6]
    assert found.shape == (2, 5)


def test_elements_that_are_left_out_are_gone() -> None:
    (first,) = put(long_block(), padded, (10,))
    (found,) = put(first, lambda t: t[5:], (5,))
    assert not found.elements.size


def test_what_was_placed_is_scaled() -> None:
    (first,) = put(long_block(), padded, (10,))
    term = Term(SOURCE, (Scale((10,)),))
    slopes = torch.arange(10, dtype=torch.float64)
    (found,) = moved(first, [term], (10,), torch.float64, lambda t: t * slopes)
    torch.testing.assert_close(found.block.values, 3 * first.block.values)


def test_a_tensor_filled_by_broadcasting_is_a_block_again() -> None:
    (first,) = put(long_block(), padded, (10,))
    assert put(first, lambda t: t[3:4].expand(10), (10,)) is None


def test_sums_are_no_movement() -> None:
    (first,) = put(long_block(), padded, (10,))
    term = Term(SOURCE, (Reduce((0,)),))
    assert moved(first, [term], (), torch.float64, torch.sum) is None


def test_elements_added_to_one_place_are_no_movement() -> None:
    index = torch.tensor([0, 0])
    assert put(long_block(2), lambda t: t[index], (9,), kind=Deposit) is None


def test_what_was_alone_in_its_place_is_not_counted_twice() -> None:
    x = torch.linspace(0.1, 1.2, N, dtype=torch.float64)
    index = torch.tensor([0, 1, 2, 0])

    def function(x):
        many = torch.cat([x[:3], (x * x).sum()[None]])
        return torch.zeros(9, dtype=x.dtype).index_add(0, index, many)

    expected = torch.func.jacrev(function)(x)
    for direction, program in emitted(function, (x,)).items():
        torch.testing.assert_close(program.dense([x]), expected, msg=direction)


def test_a_place_that_others_could_have_come_to_is_no_reason_to_double() -> None:
    index = torch.tensor([0, 1, 0])
    part = Placed(long_block(), np.array([2]), (3,))
    places = torch.zeros(9, dtype=torch.float64)

    def deposit(t):
        return places.index_add(0, index, t)

    term = Term(SOURCE, (Deposit(lambda t: t[index], (9,)),))
    (found,) = moved(part, [term], (9,), torch.float64, deposit)
    torch.testing.assert_close(found.block.values, part.block.values)
    assert found.elements.tolist() == [0]


def test_blocks_and_placed_ones_are_told_apart() -> None:
    block = long_block()
    part = Placed(block, np.array([1]), (3,))
    assert split([block, part]) == ([block], [part])


WEIGHTS = torch.linspace(0.5, 1.5, 10 * N, dtype=torch.float64)
FUNCTIONS = {
    "arrow": lambda x: torch.cat([(x * x).sum()[None], x[1:] ** 2 + x[0] * x[1:]]),
    "last": lambda x: torch.cat([x.sin(), (x**3).sum()[None]]),
    "between": lambda x: torch.cat([x.sin(), x.sum()[None] ** 2, x.cos()]),
    "twice": lambda x: torch.cat([(s := (x * x).sum()[None]), x.sin(), s * 2, x]),
    "scaled afterwards": lambda x: torch.cat([(x * x).sum()[None], x]).tanh() * WEIGHTS[: N + 1],
    "added afterwards": lambda x: torch.cat([(x * x).sum()[None], x[1:]]) + x.flip(0) - x**2,
    "subtracted from": lambda x: x.exp() - torch.cat([x[1:], x.prod()[None]]),
    "doubled": lambda x: (y := torch.cat([(x * x).sum()[None], x.sin()])) + y,
    "summed afterwards": lambda x: torch.cat([(x * x).sum()[None], x.sin()]).cumsum(0),
    "mixed afterwards": lambda x: (
        WEIGHTS.reshape(10, N)[:, : N // 4] @ torch.cat([x.sum()[None] ** 2, x[:9].sin()])
    ),
    "squared": lambda x: (y := torch.cat([(x * x).sum()[None], x.sin()])) * y,
    "border": lambda x: torch.nn.functional.pad((x**2).sum().reshape(1, 1), (2, 2, 1, 1)).flatten(),
    "reshaped": lambda x: torch.cat([(x * x).sum()[None], x[1:].sin()]).reshape(4, -1).T.flatten(),
    "written": lambda x: x.sin().index_put((torch.tensor([3]),), (x * x).sum()[None]),
    "added in": lambda x: x.sin().index_add(0, torch.tensor([3, 3]), (x.sum() * x[:2])),
    "chosen": lambda x: torch.where(
        torch.arange(N) == 5, torch.nn.functional.pad((x**2).sum()[None], (5, N - 6)), x.sin()
    ),
    "several rows": lambda x: torch.cat([x.reshape(2, -1).sum() * x[:2].sin(), x.sin(), x.cos()]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_long_rows_among_short_ones(name) -> None:
    function = FUNCTIONS[name]
    x = torch.linspace(0.1, 1.2, N, dtype=torch.float64)
    expected = torch.func.jacrev(function)(x).reshape(-1, N)
    for direction, program in emitted(function, (x,)).items():
        torch.testing.assert_close(program.dense([x]), expected, msg=direction)


def test_the_room_of_an_arrow_is_that_of_its_entries() -> None:
    n = 3000
    x = torch.linspace(0.1, 1.2, n, dtype=torch.float64)

    def arrow(x):
        return torch.cat([(x * x).sum()[None], x[1:] ** 2 + x[0] * x[1:]])

    program = emitted(arrow, (x,), ["jvp"])["jvp"]
    found = program.nonzeros([x])
    torch.testing.assert_close(found[:n], 2 * x)
    torch.testing.assert_close(found[n::2], x[1:])
    torch.testing.assert_close(found[n + 1 :: 2], 2 * x[1:] + x[0])


def test_two_results_with_long_rows() -> None:
    def function(x, y):
        return torch.cat([(x * y).sum()[None], x.sin()]), torch.cat([y, (x - y).norm()[None]])

    x, y = torch.linspace(0.1, 1, N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    rows = torch.func.jacrev(function, (0, 1))(x, y)
    expected = torch.cat([torch.cat(row, 1) for row in rows])
    for direction, program in emitted(function, (x, y)).items():
        torch.testing.assert_close(program.dense([x, y]), expected, msg=direction)
