"""Every differentiable operation of PyTorch: its sparsity pattern holds every nonzero."""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import torchjac
from tests.corpus.test_op_db import MANY, OPS, Case, Limits, cases
from torchjac._inputs.signature import bind
from torchjac._pattern.detect import detect

pytestmark = pytest.mark.filterwarnings("ignore")


class Comparison(NamedTuple):
    """A pattern beside the Jacobians of several points."""

    missing: int
    extra: int
    opaque: tuple[str, ...]


def compare(case: Case) -> Comparison:
    """Detect the pattern of a case and look for what it lacks, and for what it has too much."""
    inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    found = detect(bind("corpus", case.flat, inputs))
    pattern = np.zeros(found.pattern.shape, bool)
    pattern[found.pattern.rows, found.pattern.indices] = True
    here = nonzeros(case, case.inputs)
    elsewhere = here.copy()
    for seed in range(2):
        try:
            elsewhere |= nonzeros(case, other_point(case, seed))
        except (RuntimeError, ValueError, IndexError):  # not every point is in its domain
            break
    missing, extra = (here & ~pattern).sum(), (pattern & ~elsewhere).sum()
    return Comparison(int(missing), int(extra), found.opaque_ops)


def other_point(case: Case, seed: int) -> tuple[Tensor, ...]:
    """The inputs in another order: what depends on values depends on other ones there."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
        for x in case.inputs
    )


def nonzeros(case: Case, inputs: tuple[Tensor, ...]) -> np.ndarray:
    """Where the dense Jacobian is not zero; NaN is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = torchjac.jacobian(case.flat, inputs, strategy="reverse-mode")
    rows = [
        torch.cat([b.reshape(y.numel(), x.numel()) for b, x in zip(row, inputs, strict=True)], 1)
        for y, row in zip(case.outputs, blocks, strict=True)
    ]
    jacobian = torch.cat(rows)
    return ((jacobian != 0) & ~jacobian.isnan()).numpy()


def check(name: str, limits: Limits) -> list[Comparison]:
    compared = []
    for number, case in cases(OPS[name], limits):
        comparison = compare(case)
        assert not comparison.missing, f"{name}, sample {number}: {comparison}"
        compared.append(comparison)
    return compared


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_pattern_holds_every_nonzero(name: str) -> None:
    assert check(name, MANY)
