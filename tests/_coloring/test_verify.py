"""The verifier finds what is wrong with colorings that were made wrong on purpose."""

from dataclasses import replace

import numpy as np
import pytest

from tests._coloring import matrices
from torchjac._coloring.coloring import Coloring
from torchjac._coloring.select import color_pattern
from torchjac._coloring.verify import problems
from torchjac._pattern.pattern import SparsityPattern


def made(pattern, kind, columns=None, rows=None, *, substitution=False) -> Coloring:
    return Coloring(
        pattern=pattern,
        kind=kind,
        substitution=substitution,
        column_colors=None if columns is None else np.array(columns, np.int32),
        row_colors=None if rows is None else np.array(rows, np.int32),
        lower_bound=0,
        bound_reason="",
        order="by hand",
    )


def cycle(n: int, *, diagonal: bool = True) -> SparsityPattern:
    dense = np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0) + diagonal * np.eye(n)
    return SparsityPattern.from_dense(dense)


PATH = matrices.band(4, 1)
SQUARE = np.ones((2, 2))

WRONG = [
    ("columns that meet", made(PATH, "column", [0, 1, 0, 1]), "columns: 0 and 2 share a color"),
    ("a column left out", made(PATH, "column", [0, 1, 2, -1]), "columns: 3 has an entry"),
    ("rows that meet", made(PATH, "row", rows=[0, 1, 0, 1]), "rows: 0 and 2 share a color"),
    ("a gap in the numbers", made(PATH, "column", [0, 1, 2, 4]), "are not numbers"),
    ("too few colors", made(PATH, "column", [0, 1, 2]), "are not numbers"),
    ("a path of two colors", made(PATH, "star", [0, 1, 0, 1]), "star: the path"),
    ("neighbors alike", made(PATH, "star", [0, 0, 1, 2]), "proper: the neighbors"),
    ("a diagonal without color", made(PATH, "star", [0, 1, -1, 0]), "neutral"),
    (
        "a cycle of two colors",
        made(cycle(4), "acyclic", [0, 1, 0, 1], substitution=True),
        "acyclic: the edge",
    ),
    (
        "two neighbors without color",
        made(cycle(5, diagonal=False), "star", [0, 1, 2, -1, -1]),
        "neutral: ('column', 3) and a neighbor both",
    ),
    (
        "rows and columns of one color each",
        made(SparsityPattern.from_dense(SQUARE), "bidirectional", [0, 0], [0, 0]),
        "star: the path",
    ),
    (
        "a cycle through rows and columns",
        made(
            SparsityPattern.from_dense(SQUARE), "bidirectional", [0, 0], [0, 0], substitution=True
        ),
        "acyclic: the edge",
    ),
    (
        "an entry that no side reads",
        made(SparsityPattern.from_dense(SQUARE), "bidirectional", [0, -1], [0, -1]),
        "neutral",
    ),
]


@pytest.mark.parametrize(("coloring", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_coloring_is_named(coloring, words):
    found = problems(coloring)
    assert any(line.startswith(words) or words in line for line in found), found


VALID = [
    made(PATH, "column", [0, 1, 2, 0]),
    made(PATH, "row", rows=[0, 1, 2, 0]),
    made(PATH, "star", [0, 1, 2, 0]),
    made(PATH, "acyclic", [0, 1, 0, 1], substitution=True),
    made(cycle(4), "acyclic", [0, 1, 0, 2], substitution=True),
    made(cycle(4, diagonal=False), "star", [0, -1, 1, -1]),
    made(SparsityPattern.from_dense(SQUARE), "bidirectional", [0, 1], [-1, -1]),
    made(SparsityPattern.from_dense(SQUARE), "bidirectional", [0, -1], [0, 1]),
]


@pytest.mark.parametrize("coloring", VALID)
def test_a_valid_coloring_has_no_problems(coloring):
    assert problems(coloring) == []


@pytest.mark.parametrize("kind", ["column", "star", "acyclic", "bidirectional"])
def test_every_swap_of_two_colors_that_loses_an_entry_is_found(kind):
    """Joining two colors of an optimal coloring of a band must always be wrong."""
    coloring = color_pattern(matrices.band(12, 2), kind)
    assert coloring.num_colors == (3 if kind == "acyclic" else 5)
    colors = coloring.column_colors
    for a in range(coloring.num_column_colors):
        for b in range(a):
            joined = np.where(colors == a, b, colors)
            joined -= joined > a
            assert problems(replace(coloring, column_colors=joined.astype(np.int32)))
