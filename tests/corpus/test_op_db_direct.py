"""Every differentiable operation of PyTorch: emitted programs equal dense Jacobians."""

import pytest
import torch
from torch import Tensor

from tests._evaluate.direct.emitted import emitted
from tests.corpus.gaps import MODES_DIFFER
from tests.corpus.structure_gaps import DIRECT_REFUSED
from tests.corpus.test_op_db import OPS, Case, Limits
from tests.corpus.test_op_db_patterns import (
    REPRESENTATIVE,
    SMALL,
    jacobian,
    other_point,
    traceable,
)
from torchjac._evaluate.direct.transport import TooManyDerivativesError

pytestmark = pytest.mark.filterwarnings("ignore")

RTOL = 1e-6  # some are badly conditioned
# PyTorch has two answers: where they differ, there is none to compare with.
COMPARED = [name for name in OPS if name not in MODES_DIFFER]


def points(case: Case) -> list[tuple[Tensor, ...]]:
    """Where it is traced, and another one that takes the same branches most of the time."""
    return [case.inputs, other_point(case, 4)]


def compare(case: Case, direction: str) -> bool:
    """Whether a program was emitted; it must be right."""
    inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    try:
        made = emitted(case.flat, inputs, (direction,))
    except (TooManyDerivativesError, NotImplementedError):
        return False
    for direct in made.values():
        for point in points(case):
            try:
                expected = jacobian(case, point)
            except (RuntimeError, ValueError, IndexError):  # outside of its domain
                continue
            if point is not case.inputs and bool(expected.isnan().any()):
                continue
            scale = float(expected.abs().nan_to_num(0).max()) if expected.numel() else 1.0
            found = direct.dense(point)
            torch.testing.assert_close(
                found, expected, rtol=RTOL, atol=RTOL * max(scale, 1.0), equal_nan=True
            )
    return True


def assert_right(name: str, limits: Limits, direction: str) -> None:
    results = [compare(case, direction) for _, case in traceable(name, limits)]
    assert results
    assert all(results) or name in DIRECT_REFUSED


@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("name", [name for name in REPRESENTATIVE if name in COMPARED])
def test_programs_of_some_operations(name: str, direction: str) -> None:
    assert_right(name, SMALL._replace(seeds=60, entries=3_000, samples=2, empty=0), direction)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("name", COMPARED)
def test_programs_equal_dense_jacobians(name: str, direction: str) -> None:
    assert_right(name, SMALL, direction)
