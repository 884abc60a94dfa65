"""Convolutions of derivatives against the convolution of each derivative alone."""

import pytest
import torch
from torch.nn import functional as F

from tests._evaluate.direct.carried import dense_of, some_block
from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.convolve import convolved
from torchjac._local.algebra import Convolve

INPUTS = 4

# space, channels in and out of a group, groups, kernel, stride, padding, dilation, more of the
# result of a transposed one
CASES = {
    "plain": ((6,), 1, 1, 1, (3,), (1,), (0,), (1,), (0,)),
    "padded": ((5,), 2, 3, 1, (3,), (1,), (2,), (1,), (0,)),
    "stride": ((7,), 2, 1, 1, (2,), (3,), (1,), (1,), (1,)),
    "dilation": ((7,), 1, 2, 1, (3,), (1,), (2,), (2,), (0,)),
    "stride and dilation": ((9,), 1, 1, 1, (2,), (2,), (1,), (3,), (1,)),
    "groups": ((5,), 2, 3, 2, (3,), (1,), (1,), (1,), (0,)),
    "depthwise": ((5,), 1, 1, 3, (2,), (2,), (0,), (1,), (1,)),
    "plane": ((4, 5), 2, 2, 1, (2, 3), (1, 2), (0, 1), (1, 1), (0, 1)),
    "one tap": ((3, 2), 2, 3, 1, (1, 1), (1, 1), (0, 0), (1, 1), (0, 0)),
    "space": ((3, 4, 3), 1, 2, 1, (2, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1), (0, 1, 0)),
}
FUNCTIONS = {1: (F.conv1d, F.conv_transpose1d), 2: (F.conv2d, F.conv_transpose2d)}
FUNCTIONS[3] = (F.conv3d, F.conv_transpose3d)


@pytest.mark.parametrize("shared", [False, True], ids=["own inputs", "channels share inputs"])
@pytest.mark.parametrize("transposed", [False, True], ids=["convolution", "transposed"])
@pytest.mark.parametrize("name", CASES)
def test_convolved_derivatives(name, transposed, shared) -> None:
    space, into, out, groups, size, stride, padding, dilation, more = CASES[name]
    kernel = (into * groups, out, *size) if transposed else (out * groups, into, *size)
    weight = torch.randn(kernel, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shape = (2, into * groups, *space)
    forward, back = FUNCTIONS[len(space)]
    block = some_block(shape, 2, INPUTS)
    if shared:
        channels = block.index[:, :, :1].repeat(into * groups, 2)
        block = Block(channels, block.values[:, :, :1].repeat_interleave(into * groups, 2))

    def apply(t):
        if transposed:
            return back(t, weight, None, stride, padding, more, groups, dilation)
        return forward(t, weight, None, stride, padding, dilation, groups)

    expected = torch.stack([apply(t) for t in dense_of([block], shape, INPUTS)])
    result = tuple(expected.shape[1:])
    convolve = Convolve(kernel, None, stride, padding, dilation, transposed, groups, result)
    found = convolved(block, convolve, weight)
    torch.testing.assert_close(dense_of([found], result, INPUTS), expected)


def test_taps_of_the_same_input_are_summed() -> None:
    block = some_block((1, 1, 4), 1, 1)
    convolve = Convolve((1, 1, 3), None, (1,), (1,), (1,), False, 1, (1, 1, 4))
    found = convolved(block, convolve, torch.ones(1, 1, 3, dtype=torch.float64))
    assert found.slices == 1
