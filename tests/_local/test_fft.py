"""Fourier transforms and complex numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._local.reading import check_exact, patterns, point

ONE = np.eye(2, dtype=bool)


@pytest.mark.parametrize("f", [torch.fft.fft, torch.fft.rfft, torch.fft.ifft, torch.fft.ihfft])
def test_a_transform_mixes_its_axis_only(f) -> None:
    for pattern in patterns(lambda x: f(x, dim=-1).abs(), point(2, 5)).values():
        count = pattern.shape[0] // 2
        assert np.array_equal(pattern, np.kron(ONE, np.ones((count, 5))))


def test_there_and_back_with_a_filter() -> None:
    window = torch.linspace(1, 2, 3, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, dim=0) * window[:, None], n=5, dim=0)

    for pattern in patterns(f, point(5, 2)).values():
        assert np.array_equal(pattern, np.kron(np.ones((5, 5)), ONE))


def test_two_axes_of_three() -> None:
    for pattern in patterns(lambda x: torch.fft.fft2(x).abs(), point(2, 3, 2)).values():
        assert np.array_equal(pattern, np.kron(ONE, np.ones((6, 6))))


def test_short_time_transform_sees_its_windows() -> None:
    def f(x: Tensor) -> Tensor:
        ones = torch.ones(4, dtype=x.dtype)
        parts = torch.stft(x, 4, hop_length=4, window=ones, center=False, return_complex=True)
        return parts.abs()

    check_exact(f, point(12))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.complex(x, x.sin()).abs(),
        lambda x: torch.view_as_real(torch.polar(x, x.exp())),
        lambda x: torch.angle(torch.complex(x, x.roll(1))),
        lambda x: torch.view_as_complex(x.reshape(2, 2).exp()).conj().abs(),
        lambda x: (torch.complex(x, x) * 2j).real,
        lambda x: torch.view_as_real(torch.complex(x, x).conj().resolve_conj()),
    ],
)
def test_complex_numbers_stay_apart(f) -> None:
    check_exact(f, point(4))


def test_the_parts_of_a_complex_number_are_not_told_apart() -> None:
    """The part that is constant counts as dependent."""
    zeros = torch.zeros(2, dtype=torch.float64)
    found = patterns(lambda x: torch.view_as_real(torch.complex(x, zeros)), point(2))
    assert found["jvp"].tolist() == np.kron(ONE, np.ones((2, 1))).tolist()
