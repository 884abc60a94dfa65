"""Every differentiable operation of PyTorch: its sparsity pattern holds every nonzero.

Most are exact as well: their patterns hold nothing that is zero at every point.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import torchjac
from tests.corpus.structure_gaps import PATTERN_INEXACT
from tests.corpus.test_op_db import FEW, MANY, OPS, Case, Limits, cases
from torchjac._inputs.signature import bind
from torchjac._pattern.detect import detect

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = FEW._replace(seeds=100, entries=8_000)
# Points looked at in search of a nonzero for each entry, and at least.
MOST_POINTS, FEWEST_POINTS = 80, 2

# One operation or two of each family of rules, none of them slow.
REPRESENTATIVE = [
    "add",
    "addcmul",
    "addmm",
    "addmv",
    "addr",
    "amax",
    "atan2",
    "baddbmm",
    "bmm",
    "cat",
    "cdist",
    "cholesky_solve",
    "clamp",
    "complex",
    "cross",
    "cummax",
    "cumprod",
    "cumsum",
    "diag",
    "diag_embed",
    "diagonal_scatter",
    "dot",
    "einsum",
    "expand",
    "fft.fft",
    "fft.irfft",
    "flip",
    "fmod",
    "gather",
    "grid_sampler_2d",
    "hstack",
    "index_add",
    "index_copy",
    "index_put",
    "index_select",
    "kron",
    "kthvalue",
    "lerp",
    "linalg.cholesky",
    "linalg.det",
    "linalg.eigh",
    "linalg.inv",
    "linalg.lu_solve",
    "linalg.solve",
    "linalg.solve_triangular",
    "linalg.vecdot",
    "logsumexp",
    "masked_fill",
    "masked_scatter",
    "matmul",
    "max.binary",
    "mean",
    "mm",
    "mv",
    "nn.functional.avg_pool2d",
    "nn.functional.batch_norm",
    "nn.functional.bilinear",
    "nn.functional.conv1d",
    "nn.functional.conv2d",
    "nn.functional.conv_transpose2d",
    "nn.functional.cross_entropy",
    "nn.functional.embedding",
    "nn.functional.gelu",
    "nn.functional.group_norm",
    "nn.functional.interpolate.bilinear",
    "nn.functional.layer_norm",
    "nn.functional.max_pool2d",
    "nn.functional.mse_loss",
    "nn.functional.pad.reflect",
    "nn.functional.prelu",
    "nn.functional.unfold",
    "nn.functional.scaled_dot_product_attention",
    "outer",
    "prod",
    "put",
    "repeat",
    "roll",
    "scatter",
    "scatter_add",
    "scatter_reduce.sum",
    "sort",
    "softmax",
    "sum",
    "take_along_dim",
    "tril",
    "trapezoid",
    "unfold",
    "var",
    "view_as_complex",
    "where",
]


class Comparison(NamedTuple):
    """A pattern beside the Jacobians of several points."""

    missing: int
    extra: int
    opaque: tuple[str, ...]


def compare(case: Case, most_points: int = MOST_POINTS) -> Comparison:
    """Detect the pattern of a case and look for what it lacks, and for what it has too much."""
    inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    found = detect(bind("corpus", case.flat, inputs))
    pattern = np.zeros(found.pattern.shape, bool)
    pattern[found.pattern.rows, found.pattern.indices] = True
    here = nonzeros(case, case.inputs)
    elsewhere = here.copy()
    for number in range(most_points):
        if elsewhere[pattern].all():
            break
        try:
            elsewhere |= nonzeros(case, other_point(case, number))
        except (RuntimeError, ValueError, IndexError):  # not every point is in its domain
            continue
    missing, extra = (here & ~pattern).sum(), (pattern & ~elsewhere).sum()
    return Comparison(int(missing), int(extra), found.opaque_ops)


def other_point(case: Case, number: int) -> tuple[Tensor, ...]:
    """The inputs in another order, turned around, disturbed or made small.

    What depends on values depends on other ones there: each element is the largest once.
    """
    generator = torch.Generator().manual_seed(number)

    def moved(x: Tensor) -> Tensor:
        if number % 4 == 0:
            return x.flatten().roll(number // 4 + 1).reshape(x.shape)
        y = x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
        if number % 4 == 2 and x.numel():
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return y + (noise * x.abs().max()).to(x)
        return -y if number % 4 == 1 else y / 10

    return tuple([moved(x) for x in case.inputs])


def jacobian(case: Case, inputs: tuple[Tensor, ...]) -> Tensor:
    """The dense Jacobian, shape (m, n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = torchjac.jacobian(case.flat, inputs, strategy="reverse-mode")
    rows = [
        torch.cat([b.reshape(y.numel(), x.numel()) for b, x in zip(row, inputs, strict=True)], 1)
        for y, row in zip(case.outputs, blocks, strict=True)
    ]
    return torch.cat(rows)


def nonzeros(case: Case, inputs: tuple[Tensor, ...]) -> np.ndarray:
    """Where the dense Jacobian is not zero; NaN is not."""
    dense = jacobian(case, inputs)
    return ((dense != 0) & ~dense.isnan()).numpy()


def traceable(name: str, limits: Limits) -> Iterator[tuple[int, Case]]:
    """Those cases that do the same to copies of their inputs: some read beside them in memory.

    Yields:
        The number of the sample, and its case.
    """
    for number, case in cases(OPS[name], limits):
        try:
            copied = case.flat(*[x.clone() for x in case.inputs])
        except RuntimeError:
            continue
        pairs = zip(copied, case.outputs, strict=True)
        if all(torch.allclose(a, b, equal_nan=True) for a, b in pairs):
            yield number, case


def assert_nothing_missing(name: str, limits: Limits, most_points: int) -> list[Comparison]:
    compared = []
    for number, case in traceable(name, limits):
        comparison = compare(case, most_points)
        assert not comparison.missing, f"{name}, sample {number}: {comparison}"
        compared.append(comparison)
    return compared


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_pattern_of_some_operations(name: str) -> None:
    compared = assert_nothing_missing(name, SMALL._replace(samples=3), MOST_POINTS)
    assert compared
    assert name in PATTERN_INEXACT or not any(comparison.extra for comparison in compared)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_pattern_holds_every_nonzero(name: str) -> None:
    assert_nothing_missing(name, MANY, FEWEST_POINTS)


@pytest.mark.slow
def test_nine_of_ten_patterns_are_exact() -> None:
    compared = {name: assert_nothing_missing(name, SMALL, MOST_POINTS) for name in OPS}
    samples = [comparison for found in compared.values() for comparison in found]
    exact = [comparison for comparison in samples if not comparison.extra]
    inexact = {name for name, found in compared.items() if any(c.extra for c in found)}
    assert len(exact) >= 0.9 * len(samples), f"{len(exact)} of {len(samples)}"
    assert inexact == set(PATTERN_INEXACT)
