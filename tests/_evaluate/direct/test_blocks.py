"""Blocks of derivatives: added where they belong to one input, merged, overlaid."""

import numpy as np
import pytest
import torch

from torchjac._evaluate.direct import blocks
from torchjac._evaluate.direct.blocks import Block, added, compacted, fingerprints, merged


def block(index, values=None) -> Block:
    index = np.array(index, np.int32)
    if values is None:
        values = np.where(index > 0, index * 10.0, 0.0)
    return Block(index, torch.tensor(values, dtype=torch.float64))


def entries(found) -> dict[tuple[int, int], float]:
    """Element, input -> derivative."""
    result = {}
    for part in found:
        index = part.index.reshape(part.slices, -1)
        values = part.values.reshape(part.slices, -1)
        for s, e in zip(*np.nonzero(index), strict=True):
            key = (int(e), int(index[s, e]))
            result[key] = result.get(key, 0.0) + float(values[s, e])
    return result


def test_a_block_knows_its_shape() -> None:
    found = block([[[1, 2]], [[3, 0]]])
    assert found.slices == 2
    assert found.shape == (1, 2)


def test_equal_rows_have_equal_fingerprints() -> None:
    a, b, c = fingerprints(np.array([[1, 2, 3], [1, 2, 3], [1, 2, 4]]))
    assert a == b
    assert a != c


def test_blocks_with_one_index_are_added() -> None:
    found = added([block([[1, 2]]), block([[2, 2]]), block([[1, 2]], [[1.0, 2.0]])])
    assert [b.index.tolist() for b in found] == [[[1, 2]], [[2, 2]]]
    assert found[0].values.tolist() == [[11.0, 22.0]]


def test_blocks_that_look_alike_in_the_sample_stay_apart(monkeypatch) -> None:
    monkeypatch.setattr(blocks, "_SAMPLE", 2)
    a, b = block([[1, 2, 3, 4]]), block([[1, 9, 3, 4]])
    assert a.key == b.key
    assert len(added([a, b])) == 2


def test_slices_that_complete_each_other_are_merged() -> None:
    parts = block([[1, 0, 0], [0, 2, 0], [0, 0, 3]])
    found = merged(parts)
    assert found.index.tolist() == [[1, 2, 3]]
    assert found.values.tolist() == [[10.0, 20.0, 30.0]]


def test_slices_of_the_same_inputs_are_summed() -> None:
    found = merged(block([[1, 2], [1, 0]], [[1.0, 2.0], [3.0, 0.0]]))
    assert found.index.tolist() == [[1, 2]]
    assert found.values.tolist() == [[4.0, 2.0]]


def test_slices_of_other_inputs_stay_apart() -> None:
    parts = block([[1, 2], [2, 1]])
    assert merged(parts) is parts


@pytest.mark.parametrize("most", [0, 128])
def test_merging_keeps_every_derivative(monkeypatch, most) -> None:
    monkeypatch.setattr(blocks, "_MOST_ADDED", most)
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, (12, 2, 3)).astype(np.int32)
    parts = block(index, np.where(index > 0, rng.normal(size=index.shape), 0))
    found = merged(parts)
    assert found.slices < parts.slices
    assert entries([found]) == pytest.approx(entries([parts]))


def test_a_slice_that_fits_into_an_earlier_one_is_found_again() -> None:
    found = merged(block([[0, 2, 0], [0, 0, 4], [1, 0, 3], [1, 0, 0]]))
    assert found.slices == 2
    assert entries([found]) == {(0, 1): 20, (1, 2): 20, (2, 3): 30, (2, 4): 40}


def test_so_many_are_compared_and_no_more(monkeypatch) -> None:
    monkeypatch.setattr(blocks, "_MOST_COMPARED", 0)
    parts = block([[1, 0], [0, 2]])
    assert merged(parts) is parts


def test_slices_of_different_blocks_are_overlaid() -> None:
    found = compacted([block([[1, 0, 0], [2, 0, 0]]), block([[0, 3, 3]])])
    assert sum(b.slices for b in found) == 2
    assert entries(found) == {(0, 1): 10, (0, 2): 20, (1, 3): 30, (2, 3): 30}


def test_blocks_that_collide_are_left_as_they_are() -> None:
    parts = [block([[1, 2]]), block([[2, 1]])]
    assert compacted(parts) == parts
