"""Seeds for a trace: coordinates share one where they do not meet."""

import numpy as np
import pytest
import torch

from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.trace_seeds import trace_seeds


def seeds_of(matrix):
    pattern = SparsityPattern.from_dense(matrix)
    return trace_seeds(pattern, torch.zeros(len(matrix), dtype=torch.float64))


@pytest.mark.parametrize(
    ("matrix", "count"),
    [
        (np.eye(5), 1),
        (np.ones((5, 5)), 5),
        (np.eye(5) + np.eye(5, k=1), 2),
        (np.eye(5) + np.eye(5, k=-1), 2),
        (np.kron(np.eye(3), np.ones((4, 4))), 4),
        (np.eye(5, k=1) + np.eye(5, k=-1), 0),
        (np.zeros((5, 5)), 0),
        (np.diag([1, 0, 0, 1, 0]), 1),
        (np.diag([0, 0, 1, 0]), 1),
    ],
)
def test_how_many_there_are(matrix, count):
    assert len(seeds_of(matrix)) == count


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_forms_add_up_to_the_trace(seed):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(12, 12)) * (random.random((12, 12)) < 0.2)
    matrix = matrix + matrix.T
    seeds = seeds_of(matrix).numpy()
    found = sum(v @ matrix @ v for v in seeds)
    np.testing.assert_allclose(found, np.trace(matrix), atol=1e-12)


def test_coordinates_without_a_diagonal_entry_take_no_part():
    seeds = seeds_of([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    assert seeds.tolist() == [[1.0, 0.0, 1.0]]


def test_samples_of_a_batch_have_the_same_seeds():
    pattern = SparsityPattern.from_dense(np.kron(np.eye(6), np.ones((3, 3))))
    seeds = trace_seeds(pattern, torch.zeros(6, 3))
    assert seeds.shape == (3, 6, 3)
    assert seeds.equal(torch.eye(3)[:, None].expand(3, 6, 3))


def test_shape_and_dtype_are_those_of_the_input():
    pattern = SparsityPattern.from_dense(np.eye(6))
    seeds = trace_seeds(pattern, torch.zeros(2, 3, dtype=torch.float32))
    assert seeds.shape == (1, 2, 3)
    assert seeds.dtype == torch.float32


def test_too_many_are_refused():
    pattern = SparsityPattern.from_dense(np.ones((10, 10)))
    with pytest.raises(TooManyDerivativesError, match="10 seeds take more memory"):
        trace_seeds(pattern, torch.zeros(10), most_bytes=399)
    assert len(trace_seeds(pattern, torch.zeros(10), most_bytes=400)) == 10
