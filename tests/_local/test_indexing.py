"""Elements read by index."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._local.reading import check_exact, maps_of, nonzeros, patterns, point, programs

aten = torch.ops.aten


def test_gather_with_a_constant_index_is_a_move() -> None:
    index = torch.tensor([[0, 2], [1, 1]])
    found = patterns(lambda x: x.gather(1, index), point(2, 3))
    expected = np.zeros((4, 6), bool)
    expected[[0, 1, 2, 3], [0, 2, 4, 4]] = True
    assert np.array_equal(found["jvp"], expected)
    assert np.array_equal(found["vjp"], expected)


@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_gather_takes_the_corner_that_its_index_covers(dim: int) -> None:
    index = torch.tensor([[[0, 1]], [[1, 0]]])
    check_exact(lambda x: (2 * x).gather(dim, index).sin(), point(2, 3, 4))


def test_gather_of_numbers() -> None:
    check_exact(lambda x: x.gather(0, torch.tensor(0)), point())
    check_exact(lambda x: x.sum().gather(0, torch.tensor([0, 0])), point(3))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_an_order_that_depends_on_x_mixes_its_axis(dim: int) -> None:
    x = point(3, 4)
    found = patterns(lambda x: x.sort(dim).values, x)
    axis = dim % 2
    same = np.indices((3, 4))[1 - axis].ravel()
    for pattern in found.values():
        assert np.array_equal(pattern, same[:, None] == same)


def test_in_local_scope_an_order_is_that_at_this_x() -> None:
    check_exact(lambda x: x.sort(1).values * 3, point(3, 4), scope="local")
    check_exact(lambda x: x.topk(2, 0).values, point(4, 2), scope="local")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(1).values,
        lambda x: x.min(1, keepdim=True).values,
        lambda x: x.kthvalue(2, 1).values,
        lambda x: x.median(1).values,
        lambda x: x.mode(1).values,
        lambda x: x.topk(2, -1).values,
        lambda x: x.nanmedian(1).values,
    ],
)
def test_a_chosen_element_may_be_any_of_its_axis(function: object) -> None:
    x = point(3, 4)
    rows = function(x).numel() // 3  # type: ignore[operator]
    expected = np.kron(np.eye(3, dtype=bool), np.ones((rows, 4), bool))
    for pattern in patterns(function, x).values():  # type: ignore[arg-type]
        assert np.array_equal(pattern, expected)


@pytest.mark.parametrize("run", [torch.cummax, torch.cummin])
def test_a_running_extreme_depends_on_what_came_before(run: object) -> None:
    for pattern in patterns(lambda x: run(x, 1).values, point(2, 4)).values():  # type: ignore[operator]
        assert np.array_equal(pattern, np.kron(np.eye(2), np.tri(4)).astype(bool))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_index_select_may_repeat(dim: int) -> None:
    index = torch.tensor([1, 0, 1])
    check_exact(lambda x: x.index_select(dim, index) ** 2, point(3, 4))


def test_index_select_of_a_number() -> None:
    check_exact(lambda x: x.index_select(0, torch.tensor([0])), point())


def test_take_counts_from_the_end_too() -> None:
    check_exact(lambda x: x.take(torch.tensor([[5, -1], [0, -6]])), point(2, 3))


def test_embedding_reads_rows() -> None:
    index = torch.tensor([[0, 2], [2, 1]])
    embedding = torch.nn.functional.embedding
    check_exact(lambda x: embedding(index, x).sin(), point(4, 3))
    check_exact(lambda x: embedding(index, x, scale_grad_by_freq=True), point(4, 3))


def test_the_row_of_padding_receives_no_gradient() -> None:
    index = torch.tensor([[0, 2], [2, 1]])

    def function(x: Tensor) -> Tensor:
        return torch.nn.functional.embedding(index, x, padding_idx=1)

    x = point(4, 3)  # PyTorch's forward mode does not know of padding
    assert np.array_equal(patterns(function, x)["vjp"], nonzeros(function, x))


ROWS, COLUMNS = torch.tensor([[0], [2]]), torch.tensor([3, -1, 0])
MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[ROWS, COLUMNS],
        lambda x: x[:, COLUMNS],
        lambda x: x[ROWS, :, COLUMNS.clamp(max=1)],
        lambda x: x[MASK],
        lambda x: x[:, :, torch.tensor([True, False])],
        lambda x: x[MASK, 1],
        lambda x: x[None, ROWS.int()],
        lambda x: x[torch.ones(3, 4, dtype=torch.bool).triu()],
    ],
)
def test_indices_and_masks(function: object) -> None:
    check_exact(function, point(3, 4, 2))  # type: ignore[arg-type]


def test_an_index_that_depends_on_x_mixes_its_axes_only() -> None:
    x = point(3, 4, 2)

    def function(x: Tensor) -> Tensor:
        return x[torch.tensor([0, 2]), x[0, :2, 0].argsort()]

    expected = np.zeros((2, 2, 3, 4, 2), bool)
    for k, row in enumerate([0, 2]):
        for last in range(2):
            expected[k, last, row, :, last] = True
    for pattern in patterns(function, x).values():
        assert np.array_equal(pattern, expected.reshape(4, 24))


def test_a_mask_that_depends_on_x_mixes_what_it_covers() -> None:
    x = point(4, 2).abs()
    x[1] = -1
    expected = np.tile(np.tile(np.eye(2, dtype=bool), (1, 4)), (3, 1))
    for pattern in patterns(lambda x: x[x[:, 0] > 0], x).values():
        assert np.array_equal(pattern, expected)
    assert patterns(lambda x: x[x > 0], x)["jvp"].all()


def test_masked_select() -> None:
    mask = torch.tensor([[True, False, True]])
    check_exact(lambda x: x.masked_select(mask), point(2, 3))
    assert patterns(lambda x: x.masked_select(x > 0), point(2, 3))["jvp"].all()


def test_masked_select_in_local_scope() -> None:
    check_exact(lambda x: x.masked_select(x > 0), point(2, 3), scope="local")


def test_index_under_a_mask() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    places = [None, torch.tensor([[0, 9], [2, 1]])]
    read = aten._unsafe_masked_index
    check_exact(lambda x: read(x, mask, places, 0.0), point(2, 3))


def test_empty_index() -> None:
    index = torch.zeros(0, 3, dtype=torch.long)
    for pattern in patterns(lambda x: x.gather(0, index), point(2, 3)).values():
        assert pattern.shape == (0, 6)


def test_several_indices_in_a_composition() -> None:
    index = torch.tensor([2, 0])

    def function(x: Tensor) -> Tensor:
        picked = x.index_select(1, index).roll(1, 0)
        return (picked @ torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=x.dtype)).exp()

    check_exact(function, point(3, 3))


def test_float32() -> None:
    index = torch.tensor([[0, 2], [1, 1]])
    check_exact(lambda x: x.gather(1, index), point(2, 3, dtype=torch.float32))


def test_gather_reads_the_windows_of_a_maximum() -> None:
    program = programs(lambda x: torch.nn.functional.max_pool2d(x, 2), point(1, 1, 4, 4))["jvp"]
    assert maps_of(program, aten.gather) == ["Move", "Convolve", "Move"]


def test_nonzeros_of_a_reference() -> None:
    assert np.array_equal(nonzeros(lambda x: x[1:], point(3)), np.eye(3, dtype=bool)[1:])
