"""Answers that other processes give: what is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from benchmarks.compare import WrongAnswerError, distance, read_answer, write_answer


def test_the_distance_is_relative_to_the_whole() -> None:
    expected = np.array([3.0, 4.0])
    assert distance(np.array([3.0, 4.5]), expected, 0.2) == pytest.approx(0.1)


def test_an_entry_that_differs_too_much_is_refused() -> None:
    with pytest.raises(WrongAnswerError, match=r"an entry differs by 5\.0e-01"):
        distance(np.array([3.0, 4.5]), np.array([3.0, 4.0]), 0.1)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(WrongAnswerError, match="differs by nan"):
        distance(np.array([np.nan]), np.array([1.0]), 0.1)


def test_another_shape_is_refused() -> None:
    with pytest.raises(WrongAnswerError, match=r"shape \(2,\) instead of \(1, 2\)"):
        distance(np.ones(2), np.ones((1, 2)), 0.1)


def test_entries_that_one_side_stores_must_be_zero() -> None:
    expected = sparse.csr_array(np.array([[1.0, 0.0], [0.0, 2.0]]))
    places = ([0, 0, 1], [0, 1, 1])
    stored = sparse.coo_array(([1.0, 0.0, 2.0], places), shape=(2, 2)).tocsr()
    assert distance(stored, expected, 1e-12) == 0.0
    other = sparse.coo_array(([1.0, 0.1, 2.0], places), shape=(2, 2)).tocsr()
    with pytest.raises(WrongAnswerError, match="differs"):
        distance(other, expected, 1e-12)


@pytest.mark.parametrize(
    "answer", [np.eye(2), sparse.csr_array(np.eye(2))], ids=["dense", "sparse"]
)
def test_an_answer_is_read_as_it_was_left(answer: object, tmp_path: Path) -> None:
    write_answer(tmp_path / "a.npz", np.arange(2.0), answer)
    x, found = read_answer(tmp_path / "a.npz")
    assert x.tolist() == [0.0, 1.0]
    assert distance(found, answer, 0.0) == 0.0
    assert sparse.issparse(found) == sparse.issparse(answer)
