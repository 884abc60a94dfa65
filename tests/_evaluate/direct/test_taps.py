"""What taps see of a tensor, written out by hand."""

import torch

from torchjac._evaluate.direct.taps import padded, patches, through_taps
from torchjac._local.algebra import Convolve

VALUES = torch.arange(1.0, 6.0).reshape(1, 1, 5)


def line(length: int, stride: int, dilation: int, *, transposed: bool = False) -> Convolve:
    """Two taps, one zero before."""
    shape = (1, 1, length)
    return Convolve((1, 1, 2), None, (stride,), (1,), (dilation,), transposed, 1, shape)


def test_padding_reaches_as_far_as_the_last_tap() -> None:
    assert padded(VALUES, line(3, 2, 2)).flatten().tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_what_no_tap_reaches_is_cut_off() -> None:
    assert padded(VALUES, line(2, 2, 1)).flatten().tolist() == [0, 1, 2, 3]


def test_a_transposed_convolution_has_zeros_between() -> None:
    found = padded(VALUES[..., :3], line(4, 2, 1, transposed=True))
    assert found.flatten().tolist() == [1, 0, 2, 0, 3]


def test_each_tap_sees_the_tensor_moved() -> None:
    convolve = line(3, 2, 2)
    around = padded(VALUES, convolve)
    first, second = through_taps([around, around], convolve)
    assert first.flatten().tolist() == [0, 2, 4]
    assert second.flatten().tolist() == [2, 4, 0]


def test_patches_hold_what_all_taps_see() -> None:
    found = patches(VALUES, line(3, 2, 2))
    assert found.shape == (1, 1, 3, 2)
    assert found.flatten(0, 2).tolist() == [[0, 2], [2, 4], [4, 0]]
