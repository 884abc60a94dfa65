"""Unions of index sets against those of Python's own sets."""

import numpy as np
import pytest
import scipy.sparse as sp

from torchjac._pattern import sets
from torchjac._pattern.sets import IndexSets, union

WIDTH = 60
WIDE = [set(range(40)), set(range(20, 60)), set(range(0, 60, 2))]


@pytest.fixture(autouse=True)
def from_the_first_entry(monkeypatch):
    monkeypatch.setattr(sets, "FEW_ENTRIES", 0)


def made(members, *, order=1):
    """One set for each element; equal ones share a row, whose columns come in any order."""
    kinds = [set(), *[m for k, m in enumerate(members) if m and m not in members[:k]]]
    columns = [sorted(kind)[::order] for kind in kinds]
    indptr = np.cumsum([0, *map(len, columns)])
    flat = np.array([c for row in columns for c in row], np.int32)
    table = sp.csr_array((np.ones(len(flat), bool), flat, indptr), shape=(len(kinds), WIDTH))
    return IndexSets(np.array([kinds.index(m) for m in members], np.int32), table)


def read(found):
    table = found.table
    return [set(table.indices[table.indptr[k] : table.indptr[k + 1]].tolist()) for k in found.of]


CASES = {
    "each is held": ([{1}, {2, 3}, {22}, {4}], [WIDE[0], WIDE[0], WIDE[1], WIDE[2]]),
    "one is not": ([{1}, {2, 3}, {19}, {4}], [WIDE[0], WIDE[0], WIDE[1], WIDE[2]]),
    "the last column is not": ([{59}, {2}], [WIDE[0], WIDE[0]]),
    "some are empty": ([{1}, set(), {22}, set()], [WIDE[0], WIDE[1], WIDE[1], set()]),
    "one meets nothing": ([{1}, {5}, {22}], [WIDE[0], set(), WIDE[1]]),
    "a set held by another row only": ([{50}, {1}], [WIDE[0], WIDE[1]]),
    "as large": ([WIDE[0], WIDE[1]], [WIDE[1], WIDE[1]]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("swapped", [False, True])
def test_unions_are_those_of_each_element(name, order, swapped):
    one, other = CASES[name][::-1] if swapped else CASES[name]
    found = union(made(one, order=order), made(other, order=order))
    assert read(found) == [a | b for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("swapped", [False, True])
def test_sets_that_hold_the_others_stay_as_few_as_they_are(swapped):
    one, other = [made(members) for members in CASES["each is held"]]
    assert (union(other, one) if swapped else union(one, other)) is other
