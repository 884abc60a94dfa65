"""Summands kept apart: axes moved into slices, combs, gathers."""

import numpy as np
import torch

from torchjac._evaluate.direct.apart import apart, comb, gathered, sources_of, summands_of, varying
from torchjac._evaluate.direct.blocks import Block


def block(index) -> Block:
    index = np.array(index, np.int32)
    return Block(index, torch.from_numpy(index) * 10.0)


def test_axes_along_which_inputs_change() -> None:
    assert varying(block([[[1, 2], [1, 2]]]), [0, 1]) == [1]
    assert varying(block([[[1, 2], [1, 2]]]), [0]) == []


def test_no_input_is_no_change() -> None:
    assert varying(block([[0, 2, 2, 0]]), [0]) == []
    assert varying(block([[0, 2, 1, 0]]), [0]) == [0]


def test_axes_that_agree_each_by_itself_may_not_agree_together() -> None:
    assert varying(block([[[0, 2], [4, 0]]]), [0, 1]) == [1]


def test_axes_become_slices() -> None:
    found = apart(block([[[1, 2, 3], [4, 5, 6]]]), [1])
    assert found.index.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found.values.tolist() == [[10, 40], [20, 50], [30, 60]]


def test_several_axes_become_slices() -> None:
    found = apart(block([[[1, 2], [3, 4]]]), [0, 1])
    assert found.index.tolist() == [1, 2, 3, 4]


def test_a_comb_keeps_every_other_element() -> None:
    found = comb(block([[1, 2, 3, 4, 5]]), 0, 2)
    assert found.index.tolist() == [[1, 0, 3, 0, 5], [0, 2, 0, 4, 0]]
    assert found.values.tolist() == [[10, 0, 30, 0, 50], [0, 20, 0, 40, 0]]


def test_a_comb_as_wide_as_the_axis_keeps_one_element() -> None:
    found = comb(block([[[1, 2], [3, 4]], [[5, 6], [7, 8]]]), 0, 2)
    assert found.slices == 4
    assert found.index[0].tolist() == [[1, 2], [0, 0]]
    assert found.index[3].tolist() == [[0, 0], [7, 8]]


def test_what_is_not_finite_stays_in_its_comb() -> None:
    values = torch.tensor([[float("nan"), 1.0]])
    found = comb(Block(np.array([[1, 2]], np.int32), values), 0, 2)
    assert found.values[1].tolist() == [0.0, 1.0]


def test_gathered_elements_come_with_zeros_for_none() -> None:
    found = gathered(block([[1, 2, 3], [4, 5, 6]]), np.array([[3, 0], [1, 1]]))
    assert found.index.tolist() == [[3, 0], [1, 1], [6, 0], [4, 4]]
    assert found.values.tolist() == [[30, 0], [10, 10], [60, 0], [40, 40]]


def test_gathered_elements_have_the_shape_of_the_sources() -> None:
    found = gathered(block([[1, 2, 3]]), np.array([[[2], [3]]]))
    assert found.index.tolist() == [[[2], [3]]]


def test_sources_are_listed_place_by_place() -> None:
    assert sources_of(np.array([2, 0, 2, 1, 2]), 3).tolist() == [[4, 1, 0], [0, 3, 0], [0, 5, 0]]


def test_no_sources_leave_places_empty() -> None:
    assert sources_of(np.array([0, 0]), 2).tolist() == [[0, 0]]


def test_summands_name_their_places() -> None:
    given = Block(np.array([[3, 4, 5], [0, 1, 2]], np.int32), torch.arange(6.0).reshape(2, 3))
    found = summands_of(given, sources_of(np.array([2, 0, 2]), 2))
    assert found.index.tolist() == [[3, 5], [0, 2]]
    assert found.values.tolist() == [[0.0, 2.0], [3.0, 5.0]]
    assert found.elements.tolist() == [1, 1]


def test_summands_that_are_all_put_once_are_the_derivatives() -> None:
    given = Block(np.array([[3, 4, 5]], np.int32), torch.arange(3.0).reshape(1, 3))
    found = summands_of(given, sources_of(np.array([2, 1, 2]), 2))
    assert found.values.tolist() == [[0.0, 1.0, 2.0]]
    assert found.elements.tolist() == [1, 0, 1]
