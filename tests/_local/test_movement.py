"""Operations that move data, and their transposes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchjac
from tests._local.reading import check_exact, maps_of, nonzeros, patterns, point, programs

Function = Callable[[Tensor], Tensor]
aten = torch.ops.aten


def test_columns_of_windows() -> None:
    found = patterns(lambda x: F.unfold(x, (1, 2)), point(1, 1, 1, 3))
    expected = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    assert np.array_equal(found["jvp"], expected)
    assert np.array_equal(found["vjp"], expected)


@pytest.mark.parametrize(
    ("run", "shape"),
    [
        (lambda x: F.unfold(x, 2, dilation=2, padding=1, stride=2), (2, 2, 4, 5)),
        (lambda x: F.fold(x, (3, 4), 2, padding=1, stride=2), (1, 8, 6)),
        (lambda x: F.fold(F.unfold(x, 2), (3, 3), 2), (1, 1, 3, 3)),
        (lambda x: F.pixel_shuffle(x, 2), (2, 4, 2, 3)),
        (lambda x: F.pixel_unshuffle(x, 2), (1, 1, 4, 2)),
        (lambda x: F.channel_shuffle(x, 2), (1, 6, 2)),
        (lambda x: F.pad(x, (2, 1), "reflect"), (1, 2, 4)),
        (lambda x: F.pad(x, (2, 1, 0, 1), "reflect"), (2, 2, 3)),
        (lambda x: F.pad(x, (1, 0, 1, 1, 0, 1), "reflect"), (1, 1, 2, 3, 3)),
        (lambda x: F.pad(x, (3, -1), "replicate"), (2, 4)),
        (lambda x: F.pad(x, (1, 0, 2, 1), "replicate"), (1, 1, 2, 3)),
        (lambda x: F.pad(x, (1, 0, 2, 1, 0, 1), "replicate"), (1, 1, 1, 2, 2)),
        (lambda x: F.pad(x, (2, 1), "circular"), (1, 2, 3)),
        (lambda x: F.pad(x, (1, 1, 1, 0), "circular"), (1, 1, 2, 3)),
        (lambda x: F.pad(x, (1, -1, 0, 2)), (3, 4)),
        (lambda x: x.unfold(1, 2, 1), (2, 4)),
        (lambda x: x.unfold(-1, 3, 2).sin(), (2, 5)),
        (lambda x: x.diagonal(1, 0, 2), (2, 3, 4)),
        (lambda x: x.diagonal(-1).exp(), (3, 3)),
        (lambda x: torch.block_diag(x, x[:1], x.sum()), (2, 3)),
        (lambda x: torch.narrow_copy(x, 1, 1, 2), (2, 4)),
        (lambda x: torch.cat(x.unsafe_split(2, 0)[::-1]), (3, 2)),
        (lambda x: torch.cat(x.unsafe_split_with_sizes([1, 2], 1), 1), (2, 3)),
        (lambda x: x.unsafe_chunk(2, 1)[1], (2, 3)),
        (lambda x: x[::2, 1] * 2, (3, 2)),
    ],
)
def test_each_element_is_one_of_the_argument(run: Function, shape: tuple[int, ...]) -> None:
    check_exact(run, point(*shape))
    check_exact(lambda x: run(x.sin().flip(0)).exp(), point(*shape))


def test_windows_that_overlap_add_up_when_folded() -> None:
    found = patterns(lambda x: F.fold(x, (1, 3), (1, 2)), point(1, 2, 2))
    expected = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    assert np.array_equal(found["jvp"], expected)
    assert np.array_equal(found["vjp"], expected)


def test_the_transpose_of_padding_is_a_deposit() -> None:
    program = programs(lambda x: F.pad(x, (1, 1), "reflect"), point(1, 3))["vjp"]
    assert maps_of(program, aten.reflection_pad1d_backward) == ["Deposit"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sin().view(3, 4).t().as_strided((3,), (1,), 0),
        lambda x: x.sin().view(3, 4).t().as_strided((3, 2), (1, 3), 1),
        lambda x: x.as_strided((5, 4), (2, 1)).sin(),
        lambda x: x[2:].as_strided((2,), (1,)).sin(),
        lambda x: x[2:].as_strided((2,), (1,), 0).sin(),
        lambda x: x[::2].as_strided((3,), (1,)).sin(),
    ],
    ids=["transposed", "steps", "windows", "from itself", "from the memory", "holes"],
)
def test_as_strided_counts_places_in_the_memory(function: Function) -> None:
    x = point(12)
    found = torchjac.pattern(function, x).to_scipy().toarray() != 0
    assert np.array_equal(found, nonzeros(function, x))


def test_as_strided_of_no_size_reads_nothing() -> None:
    assert torchjac.pattern(lambda x: x.as_strided((0, 3), (1, 1)), point(12)).shape == (0, 12)
