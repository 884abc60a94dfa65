"""Elements written by index."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._local.reading import check_exact, nonzeros, patterns, point

aten = torch.ops.aten
Function = Callable[[Tensor], Tensor]

INDEX = torch.tensor([[0, 2, 1], [1, 1, 1]])
PART = torch.tensor([2, 0])


def halves(write: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Of one input (8, 3): what is written to, (3, 4), and what is written, (2, 4) or less."""
    return lambda x: write(x.reshape(-1)[:12].reshape(3, 4), x.reshape(-1)[12:20].reshape(2, 4))


@pytest.mark.parametrize(
    "write",
    [
        lambda t, s: t.scatter(0, torch.tensor([[0, 2, 1, 0], [1, 0, 2, 2]]), s),
        lambda t, s: t.scatter(-1, torch.tensor([[0, 3], [2, 1]]), s[:, :2]),
        lambda t, s: t.scatter(0, INDEX, 0.0) + s.sum(),
        lambda t, s: t.scatter(0, INDEX, 7.0) * 2 + s[:1],
        lambda t, s: t.scatter_add(0, INDEX, s[:, :3]),
        lambda t, s: t.scatter_add(1, torch.tensor([[0, 0, 0, 0]]), s[:1]),
        lambda t, s: t.scatter_reduce(0, INDEX, s[:, :3], "sum"),
        lambda t, s: t.scatter_reduce(0, INDEX, s[:, :3], "mean", include_self=False),
        lambda t, s: t.index_add(0, PART, s, alpha=2),
        lambda t, s: t.index_add(0, PART, s, alpha=0),
        lambda t, s: t.index_add(1, torch.tensor([3, 3, 0, 1]), s.repeat(2, 1)[:3]),
        lambda t, s: t.index_copy(0, PART, s),
        lambda t, s: t.index_copy(-2, PART, s.flip(0)),
        lambda t, s: t.index_fill(0, PART, 5.0) + s[1],
        lambda t, s: t.index_fill(1, PART, s.sum()),
        lambda t, s: t.index_put([PART], s),
        lambda t, s: t.index_put([PART, torch.tensor([1, -1])], s[0, :1]),
        lambda t, s: t.index_put([torch.tensor([0, 0])], s, accumulate=True),
        lambda t, s: t.index_put([torch.tensor(1)], s[0], accumulate=True),
        lambda t, s: t.index_put([torch.tensor([True, False, True])], s),
        lambda t, s: t.put(torch.tensor([0, -1]), s[0, :2]),
        lambda t, s: t.put(torch.tensor([[0, 5], [5, 2]]), s[:, :2], accumulate=True),
        lambda t, s: t.masked_fill(torch.eye(3, 4, dtype=torch.bool), 3.0) * s[:1],
        lambda t, s: t.masked_fill(torch.eye(3, 4, dtype=torch.bool), s.sum()),
        lambda t, s: t.masked_scatter(torch.eye(3, 4, dtype=torch.bool), s),
        lambda t, s: t.masked_scatter(torch.tensor([False, True, True, False]), s.exp()),
    ],
)
def test_writing_with_constant_indices(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    check_exact(halves(write), point(8, 3))


def test_writes_to_one_element_add_up() -> None:
    index = torch.tensor([1, 1, 0])
    expected = np.array([[0, 0, 1], [1, 1, 0]], bool)
    found = patterns(lambda x: torch.zeros(2, dtype=x.dtype).scatter_add(0, index, x), point(3))
    assert np.array_equal(found["jvp"], expected)
    assert np.array_equal(found["vjp"], expected)


def test_assignment_by_index_and_by_mask() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.clone()
        y[torch.tensor([0, 2])] = x[1]
        y[:, torch.tensor([True, False])] *= 2
        return y

    check_exact(function, point(3, 2))


def test_numbers_written_to_numbers() -> None:
    here = torch.tensor(0)
    check_exact(lambda x: x.scatter_add(0, here, x * 2), point())
    check_exact(lambda x: x.index_add(0, here, x.sin()), point())
    check_exact(lambda x: (2 * x).put(here, x), point())


def test_scatter_by_an_order_that_depends_on_x_mixes_its_axis() -> None:
    x = point(2, 3)
    expected = np.kron(np.eye(2, dtype=bool), np.ones((3, 3), bool))
    for write in (torch.scatter, torch.scatter_add):
        found = patterns(lambda x, w=write: w(x * 0, 1, x.argsort(1), x), x)  # type: ignore[misc]
        for pattern in found.values():
            assert np.array_equal(pattern, expected)


def test_in_local_scope_writes_go_where_they_go_at_this_x() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    check_exact(lambda x: zeros.scatter(1, x.argsort(1), x), point(2, 3), scope="local")
    check_exact(lambda x: zeros.index_put([x[:, 0].argsort()], x), point(2, 3), scope="local")


@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put_at_an_index_that_depends_on_x(accumulate: bool) -> None:
    def function(x: Tensor) -> Tensor:
        return x.index_put([x[:, 0].argsort()[:1]], x[1:2], accumulate=accumulate)

    x = point(3, 2)
    same_column = np.arange(6)[:, None] % 2 == np.arange(6) % 2
    written = np.isin(np.arange(6), [2, 3])
    for pattern in patterns(function, x).values():
        assert np.array_equal(pattern, np.eye(6, dtype=bool) | (same_column & written))


@pytest.mark.parametrize("values", [lambda x: x.sum(), lambda x: x[:2], lambda x: x[:1, :1]])
def test_index_put_under_a_mask_that_depends_on_x(values: Function) -> None:
    x = point(3, 2).abs()
    x[1] = -1

    def function(x: Tensor) -> Tensor:
        return x.index_put([x[:, 0] > 0], values(x))

    chosen = nonzeros(lambda x: values(x).expand(2, 2).sum(0), x)
    for pattern in patterns(function, x).values():
        assert np.array_equal(pattern, np.eye(6, dtype=bool) | np.tile(chosen, (3, 1)))


def test_masks_that_depend_on_x_choose_among_all() -> None:
    x = point(2, 3)
    filled = patterns(lambda x: x.masked_fill(x > 0, x.sum()), x)["jvp"]
    assert filled.all()
    kept = patterns(lambda x: x.masked_fill(x > 0, 0.0), x)
    assert all(np.array_equal(pattern, np.eye(6, dtype=bool)) for pattern in kept.values())
    spread = patterns(lambda x: x.masked_scatter(x > 0, x.flip(0)), x)
    assert all(pattern.all() for pattern in spread.values())


def test_adding_under_a_mask() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    places = [None, torch.tensor([[0, 9], [2, 2]])]
    add = aten._unsafe_masked_index_put_accumulate

    def function(x: Tensor) -> Tensor:
        return add(x[:2], mask, places, x[2:].reshape(2, 2, 2))

    x = point(4, 4)
    check_exact(lambda x: function(x.reshape(4, 4)), x)


def test_nothing_is_written_by_an_empty_index() -> None:
    nowhere = torch.zeros(0, dtype=torch.long)
    check_exact(lambda x: x.index_fill(0, nowhere, 1.0), point(3))
    check_exact(lambda x: x.index_add(0, nowhere, x[:0]), point(3))


def test_embedding_backward_is_a_deposit() -> None:
    index = torch.tensor([0, 2, 2])
    grad = point(3, 2)

    def function(grad: Tensor) -> Tensor:
        return aten.embedding_dense_backward(grad, index, 4, 0, False)

    found = patterns(function, grad)
    assert np.array_equal(found["jvp"], nonzeros(function, grad))


def test_float32() -> None:
    check_exact(
        halves(lambda t, s: t.scatter_add(0, INDEX, s[:, :3])), point(8, 3, dtype=torch.float32)
    )
