"""Convolutions of derivatives with known weights: products of patches equal what each tap gives."""

from math import prod
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests._evaluate.direct.carried import dense_of
from torchjac._evaluate.direct import convolve, patches
from torchjac._evaluate.direct.blocks import Block, Factors
from torchjac._evaluate.direct.convolve import convolved
from torchjac._local.algebra import Convolve

FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
ONES = (1, 1, 1)


class Layer(NamedTuple):
    """What a convolution does."""

    out: int
    size: tuple[int, ...]
    groups: int = 1
    stride: tuple[int, ...] = ONES
    padding: tuple[int, ...] = ONES
    dilation: tuple[int, ...] = ONES


CASES = {
    "line": ((1, 1, 8), Layer(2, (3,)), Layer(1, (3,))),
    "plane": ((1, 1, 5, 6), Layer(4, (3, 3)), Layer(1, (3, 3))),
    "batch": ((3, 1, 5, 4), Layer(2, (3, 2), padding=(1, 0)), Layer(3, (2, 3), padding=(0, 1))),
    "stride": ((2, 1, 9, 8), Layer(2, (3, 3), stride=(2, 1)), Layer(2, (3, 2), stride=(1, 2))),
    "dilation": ((1, 1, 9), Layer(2, (2,), dilation=(2,)), Layer(2, (3,), 1, ONES, (2,), (2,))),
    "own inputs": ((1, 3, 6), Layer(2, (3,)), Layer(2, (3,))),
    "depthwise": ((2, 2, 6), Layer(2, (3,), groups=2), Layer(4, (3,), groups=2)),
    "groups": ((2, 1, 6), Layer(4, (3,)), Layer(4, (3,), groups=2)),
    "far": ((1, 1, 8), Layer(2, (2,), padding=(2,)), Layer(1, (3,), padding=(3,))),
    "space": ((1, 1, 3, 3, 4), Layer(2, (2, 1, 3), padding=(1, 0, 1)), Layer(1, (1, 2, 2))),
}


def made(shape, layer, seed):
    """A convolution of tensors of a shape, what the engine calls it, and its kernel."""
    generator = torch.Generator().manual_seed(seed)
    size = (layer.out, shape[1] // layer.groups, *layer.size)
    weight = torch.randn(size, dtype=torch.float64, generator=generator)
    steps = [each[: len(shape) - 2] for each in (layer.stride, layer.padding, layer.dilation)]

    def apply(t):
        return FUNCTIONS[len(shape) - 2](t, weight, None, *steps, layer.groups)

    result = tuple(apply(torch.zeros(shape, dtype=torch.float64)).shape)
    return apply, Convolve(size, None, *steps, False, layer.groups, result), weight


def identity(shape) -> Block:
    index = np.arange(1, prod(shape) + 1, dtype=np.int32).reshape(1, *shape)
    return Block(index, torch.ones(1, *shape, dtype=torch.float64))


def scaled(block, slope) -> Block:
    """Behind an activation with these slopes."""
    return Block(block.index, block.values * slope, Factors(block.values, lambda: slope))


@pytest.mark.parametrize("name", CASES)
def test_patches_give_the_derivative_of_two_convolutions(name, monkeypatch) -> None:
    monkeypatch.setattr(patches, "_pays", lambda *_: True)
    used = []
    by_patches = patches.by_patches
    monkeypatch.setattr(convolve, "by_patches", lambda *a: used.append(by_patches(*a)) or used[-1])
    shape, first, second = CASES[name]
    inner, convolve_first, weight_first = made(shape, first, 0)
    outer, convolve_second, weight_second = made(convolve_first.shape, second, 1)
    slope = torch.linspace(1, 2, prod(convolve_first.shape), dtype=torch.float64)
    slope = slope.reshape(convolve_first.shape)
    block = convolved(identity(shape), convolve_first, weight_first)
    found = convolved(scaled(block, slope), convolve_second, weight_second)
    count = prod(shape)
    seeds = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
    expected = torch.stack([outer(inner(seed) * slope) for seed in seeds])
    torch.testing.assert_close(dense_of([found], convolve_second.shape, count), expected)
    assert used[1] is not None


@pytest.mark.parametrize("stride", [1, 2])
def test_patches_of_a_transposed_convolution(stride, monkeypatch) -> None:
    monkeypatch.setattr(patches, "_pays", lambda *_: True)
    used = []
    by_patches = patches.by_patches
    monkeypatch.setattr(convolve, "by_patches", lambda *a: used.append(by_patches(*a)) or used[-1])
    weight = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    slope = torch.linspace(1, 2, 10, dtype=torch.float64).reshape(1, 2, 5)
    shape = (1, 3, 4 * stride + 1)
    back = Convolve((2, 3, 3), None, (stride,), (1,), (1,), True, 1, shape)
    found = convolved(scaled(identity((1, 2, 5)), slope), back, weight)
    seeds = torch.eye(10, dtype=torch.float64).reshape(10, 1, 2, 5)
    expected = torch.stack([F.conv_transpose1d(t * slope, weight, None, stride, 1) for t in seeds])
    torch.testing.assert_close(dense_of([found], shape, 10), expected)
    assert used[0] is not None


def two_channels() -> tuple[Block, Convolve, torch.Tensor]:
    """Derivatives that two channels share, and a convolution with three taps."""
    index = np.broadcast_to(np.arange(1, 7, dtype=np.int32), (1, 1, 2, 6)).copy()
    _, convolve_one, weight = made((1, 2, 6), Layer(1, (3,)), 2)
    values = torch.full((1, 1, 2, 6), 2.0, dtype=torch.float64)
    return Block(index, values), convolve_one, weight


def assert_right(found, block, weight) -> None:
    dense = dense_of([block], (1, 2, 6), 6)
    expected = torch.stack([F.conv1d(t, weight, padding=1) for t in dense])
    torch.testing.assert_close(dense_of([found], (1, 1, 6), 6), expected)


def test_weights_that_change_from_element_to_element_are_not_one_matrix() -> None:
    block, convolve_one, weight = two_channels()
    values = block.values * torch.arange(1, 7)
    slope = torch.linspace(1, 2, 12, dtype=torch.float64).reshape(1, 2, 6)
    changing = scaled(Block(block.index, values), slope)
    found = convolved(changing, convolve_one, weight)
    assert_right(found, changing, weight)


def test_a_derivative_missing_inside_of_the_tensor_stays_missing(monkeypatch) -> None:
    monkeypatch.setattr(patches, "_pays", lambda *_: True)
    block, convolve_one, weight = two_channels()
    # Two slices reach the same element of the result from both sides; one lacks its middle.
    index = np.concatenate([block.index, np.roll(block.index, 1, -1)])
    index[1, ..., :3] = 0
    values = torch.cat([block.values, 3 * block.values]) * torch.from_numpy(index != 0)
    slope = torch.linspace(1, 2, 12, dtype=torch.float64).reshape(1, 2, 6)
    holed = scaled(Block(index, values), slope)
    found = convolved(holed, convolve_one, weight)
    assert_right(found, holed, weight)


def test_many_channels_are_cheaper_one_derivative_at_a_time() -> None:
    few = torch.empty(1, 1, 4, 9)
    many = torch.empty(1, 64, 64, 9)
    assert patches._pays(few, 9, 25)
    assert not patches._pays(many, 9, 25)
