"""Blocks put into the order of a pattern."""

import numpy as np
import pytest
import torch

from tests._evaluate.direct.carried import dense_of, some_block
from torchjac._evaluate.direct.assemble import Lookup, assemble
from torchjac._evaluate.direct.blocks import Block, Summands
from torchjac._pattern.pattern import SparsityPattern

LIKE = torch.zeros((), dtype=torch.float64)


def block(index, values=None) -> Block:
    index = np.array(index, np.int32)
    if values is None:
        values = index * 10.0
    return Block(index, torch.tensor(values, dtype=torch.float64))


def pattern_of(dense) -> SparsityPattern:
    return SparsityPattern.from_dense(np.array(dense))


def put(blocks, pattern, sizes, *, transposed=False, constant=()):
    return assemble(
        blocks,
        sizes,
        pattern,
        LIKE,
        transposed=transposed,
        is_constant=lambda v: any(v is c for c in constant),
    )


def test_places_are_those_of_the_pattern() -> None:
    pattern = pattern_of([[1, 0, 1], [0, 1, 0], [0, 0, 1]])
    found = Lookup(pattern, transposed=False).places_of(block([[1, 2], [3, 3]]), 0)
    assert found.tolist() == [[0, 2], [1, -1]]


def test_places_of_a_later_result_and_of_the_transpose() -> None:
    pattern = pattern_of([[0, 0, 1], [1, 1, 0]])
    found = Lookup(pattern, transposed=True).places_of(block([[2, 1]]), 1)
    assert found.tolist() == [[2, 0]]


def test_places_in_an_empty_pattern() -> None:
    pattern = pattern_of(np.zeros((2, 2)))
    found = Lookup(pattern, transposed=False).places_of(block([[1, 2]]), 0)
    assert found.tolist() == [[-1, -1]]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("most", [0, 1])
def test_several_results_make_one_matrix(transposed, most) -> None:
    shapes, inputs = [(2, 3), (4,)], 5
    blocks = [[some_block(s, 1, inputs, 1), some_block(s, 2, inputs, 2)] for s in shapes]
    rows = [
        dense_of(b, s, inputs).reshape(inputs, -1).T for b, s in zip(blocks, shapes, strict=True)
    ]
    dense = torch.cat(rows).T if transposed else torch.cat(rows)
    pattern = pattern_of(dense.numpy() != 0)
    constant = [blocks[0][0].values, blocks[1][1].values][:most]
    found = put(blocks, pattern, [6, 4], transposed=transposed, constant=constant)
    expected = dense[dense != 0]
    torch.testing.assert_close(found.nonzeros, expected)
    if found.targets is None:
        torch.testing.assert_close(found.varying, expected)
    else:
        torch.testing.assert_close(found.varying, expected[torch.from_numpy(found.targets)])


def test_a_result_that_is_zero_has_no_entries() -> None:
    found = put([None, [block([[1, 2]])]], pattern_of(np.eye(3, 2, -1)), [1, 2])
    assert found.nonzeros.tolist() == [10, 20]


def test_derivatives_that_the_pattern_does_not_hold_are_left_out() -> None:
    found = put([[block([[1, 2]], [[0.0, 5.0]])]], pattern_of([[0, 0], [0, 1]]), [2])
    assert found.nonzeros.tolist() == [5]


def test_two_blocks_for_one_entry_are_summed() -> None:
    parts = [block([[1, 2]], [[1.0, 2.0]]), block([[1, 1]], [[3.0, 4.0]])]
    found = put([parts], pattern_of([[1, 0], [1, 1]]), [2])
    assert found.nonzeros.tolist() == [4, 4, 2]


def test_constant_entries_are_not_among_the_varying() -> None:
    fixed, moving = block([[1, 2]]), block([[2, 3]], [[1.0, 2.0]])
    found = put([[fixed, moving]], pattern_of([[1, 1, 0], [0, 1, 1]]), [2], constant=[fixed.values])
    assert found.nonzeros.tolist() == [10, 1, 20, 2]
    assert found.targets.tolist() == [1, 3]
    assert found.varying.tolist() == [1, 2]


def test_a_constant_part_of_a_varying_entry_is_added() -> None:
    fixed, moving = block([[1, 2]]), block([[1, 1]], [[1.0, 2.0]])
    found = put([[fixed, moving]], pattern_of([[1, 0], [1, 1]]), [2], constant=[fixed.values])
    assert found.nonzeros.tolist() == [11, 2, 20]
    assert found.varying.tolist() == [11, 2]


def test_nothing_varies_where_all_is_constant() -> None:
    fixed = block([[1, 2]])
    found = put([[fixed]], pattern_of(np.eye(2)), [2], constant=[fixed.values])
    assert found.nonzeros.tolist() == [10, 20]
    assert found.varying is None
    assert found.targets.size == 0


def test_nonzeros_take_the_dtype_that_is_asked_for() -> None:
    single = Block(np.array([[1, 2]], np.int32), torch.ones(1, 2))
    assert put([[single]], pattern_of(np.eye(2)), [2]).nonzeros.dtype == torch.float64


def test_slices_in_rows_need_no_gather() -> None:
    """Axes of slices behind those of elements: a permutation of the values."""
    index = np.array([[1, 1, 1], [2, 2, 2]], np.int32)
    parts = Block(index, torch.arange(6.0, dtype=torch.float64).reshape(2, 3))
    found = put([[parts]], pattern_of(np.ones((3, 2))), [3])
    assert found.nonzeros.tolist() == [0, 3, 1, 4, 2, 5]


def put_by_summands(entries, pattern, constant=()):
    """Row, input and value of each summand; the sums themselves are NaN, for none is needed."""
    rows, inputs, values = (np.array(part) for part in zip(*entries, strict=True))
    dense = np.zeros(pattern.shape)
    np.add.at(dense, (rows, inputs), values)
    slots = [np.flatnonzero(row) for row in dense]
    count = max(map(len, slots))
    index = np.zeros((count, len(dense)), np.int32)
    for row, own in enumerate(slots):
        index[: len(own), row] = own + 1
    summands = Summands(inputs[None].astype(np.int32) + 1, torch.tensor(values[None]), rows)
    sums = Block(index, torch.full(index.shape, np.nan, dtype=torch.float64), summands=summands)
    return put([[sums, *constant]], pattern, [len(dense)], constant=[c.values for c in constant])


@pytest.mark.parametrize("with_constant", [False, True])
def test_summands_of_irregular_rows(with_constant) -> None:
    entries = [(0, 3, 1.0), (1, 0, 2.0), (1, 0, 4.0), (3, 1, 8.0), (3, 3, 16.0), (3, 1, 32.0)]
    dense = np.zeros((4, 4))
    for row, column, value in entries:
        dense[row, column] += value
    constant = [block([[0, 0, 2, 1]], [[0.0, 0.0, 7.0, 9.0]])] if with_constant else []
    if with_constant:
        dense[2, 1], dense[3, 0] = 7, 9
    pattern = pattern_of(dense != 0)
    found = put_by_summands(entries, pattern, constant)
    assert found.nonzeros.tolist() == dense[dense != 0].tolist()
