"""Patterns between cuts: counts and products against dense ones."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from torchjac._evaluate.chain.relation import Reading, Relation, full
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize


def random(rows: int, columns: int, seed: int) -> Relation:
    rng = np.random.default_rng(seed)
    table = sp.csr_array(rng.random((max(rows // 2, 1), columns)) < 0.3)
    return Relation(rng.integers(0, table.shape[0], rows), table)


def dense(relation: Relation) -> np.ndarray:
    return relation.rows().toarray()


@pytest.mark.parametrize("seed", range(4))
def test_counts(seed) -> None:
    relation = random(9, 7, seed)
    matrix = dense(relation)
    assert relation.shape == matrix.shape
    assert relation.entries == matrix.sum()
    assert relation.longest_row == matrix.sum(1).max()
    assert relation.longest_column == matrix.sum(0).max()


@pytest.mark.parametrize("seed", range(4))
def test_product(seed) -> None:
    left, right = random(9, 7, seed), random(7, 8, seed + 10)
    expected = (dense(left).astype(int) @ dense(right).astype(int)) > 0
    assert np.array_equal(dense(left.after(right)), expected)


def test_full() -> None:
    assert dense(full(2, 3)).all()
    assert full(2, 3).longest_column == 2


def test_reading_counts_what_reaches_each_tensor() -> None:
    x = torch.rand(3, 4)
    program, _ = linearize(bind("test", lambda x: x.sin() @ torch.ones(4, 2), x))
    reading = Reading(program, "global")
    made = [reading.slices[n] for node in program.linear_nodes for n in node.outputs if n]
    assert (made[0], made[-1]) == (1, 4)
    assert reading.relation.shape == (6, 12)
    assert (reading.relation.longest_row, reading.relation.longest_column) == (4, 2)
