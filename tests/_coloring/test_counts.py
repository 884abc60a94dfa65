"""Numbers of colors: what the literature and other libraries reach is the least we accept."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from tests._coloring import matrices
from torchjac._coloring.select import color_pattern
from torchjac._coloring.verify import problems
from torchjac._layout.decompress import decompressor
from torchjac._pattern import csr
from torchjac._pattern.pattern import SparsityPattern

DATA = Path(__file__).resolve().parents[1] / "data" / "coloring"

ALL_KINDS = ("column", "star", "acyclic", "bidirectional")


def dfl001() -> SparsityPattern:
    with np.load(DATA / "dfl001.npz") as file:
        return SparsityPattern.from_csr(tuple(file["shape"]), file["indptr"], file["indices"])


AIMS = [
    ("column", lambda: matrices.grid(64), 5),
    ("column", lambda: matrices.grid(64, periodic=True), 8),
    ("column", lambda: matrices.brusselator(25), 10),
    ("column", lambda: matrices.brusselator(32), 8),
    ("column", lambda: matrices.brusselator(64), 8),
    ("column", lambda: matrices.convolution(28, 2), 25),
    ("column", lambda: matrices.random(2000, 1000, 5), 17),
    ("column", lambda: matrices.band(1000, 1), 3),
    ("row", lambda: matrices.grid(64), 5),
    ("star", lambda: matrices.grid(64), 5),
    ("star", lambda: matrices.arrow(1000), 2),
    ("star", lambda: matrices.arrow(1000, 2), 6),
    ("acyclic", lambda: matrices.grid(64), 4),
    ("acyclic", lambda: matrices.band(1000, 5), 6),
    ("acyclic", lambda: matrices.band(1000, 10), 11),
    ("bidirectional", lambda: matrices.arrow(1000), 3),
    ("bidirectional", lambda: matrices.frame(10, 20), 4),
    ("bidirectional", lambda: matrices.arrow(1000, 3), 9),
    ("bidirectional", dfl001, 14),
]


@pytest.mark.parametrize(("kind", "build", "aim"), AIMS)
def test_the_count_is_no_worse_than_the_aim(kind, build, aim):
    coloring = color_pattern(build(), kind)
    assert coloring.num_colors <= aim
    assert coloring.lower_bound <= coloring.num_colors


@pytest.mark.parametrize(
    ("kind", "build", "aim"), [aim for aim in AIMS if aim[2] < 10 and "column" in aim[0]]
)
def test_the_colorings_of_the_aims_are_valid(kind, build, aim):
    assert problems(color_pattern(build(), kind)) == []


def published(name: str) -> dict[str, str]:
    """A row of the published table 3.1/3.2: sizes, degrees and colors in natural order."""
    with (DATA / "what_table_31_32.csv").open(encoding="utf-8") as file:
        return next(row for row in csv.DictReader(file) if row["name"] == name)


def test_dfl001_has_the_published_sizes_and_colors_in_natural_order():
    pattern, row = dfl001(), published("lp_dfl001")
    coloring = color_pattern(pattern, "column", orders=("natural",))
    assert pattern.shape == (int(row["m"]), int(row["n"]))
    assert pattern.nnz == int(row["nnz"])
    assert pattern.row_counts.max() == int(row["ρmax"])
    assert pattern.column_counts.max() == int(row["κmax"])
    assert coloring.num_colors == int(row["K"]) == 228
    assert coloring.lower_bound == 228


def test_dfl001_is_colored_validly_from_both_sides():
    assert problems(color_pattern(dfl001(), "bidirectional")) == []


@pytest.mark.parametrize("kind", ["column", "star", "acyclic", "bidirectional"])
def test_a_full_matrix_needs_a_color_for_each_column(kind):
    assert color_pattern(matrices.convolution(1, 0), kind).num_colors == 1
    full = SparsityPattern.from_dense(np.ones((40, 40)))
    assert color_pattern(full, kind).num_colors == 40


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("n", [0, 3])
def test_an_empty_matrix_needs_none(kind, n):
    coloring = color_pattern(SparsityPattern.from_coo((n, n), [], []), kind)
    assert coloring.num_colors == coloring.lower_bound == 0


def test_many_dense_rows_do_not_cost_a_pass_over_all_pairs_of_columns():
    n = 50_000
    line = np.arange(n)
    rows = np.concatenate([line, np.repeat([3, 70, 500], n // 2)])
    columns = np.concatenate([line, line[::2], line[1::2], line[: n // 2]])
    pattern = SparsityPattern.from_coo((n, n), rows, columns)
    assert color_pattern(pattern, "column").num_colors <= 3 * n // 4 + 1
    assert color_pattern(pattern, "bidirectional").num_colors == 3


def test_a_long_arrow_needs_two_colors_symmetrically_and_three_from_both_sides():
    pattern = matrices.arrow(50_000)
    assert color_pattern(pattern, "star").num_colors == 2
    assert color_pattern(pattern, "acyclic").num_colors == 2
    assert color_pattern(pattern, "bidirectional").num_colors == 3


def sources(coloring):
    """What is read for each entry, shown by products that are their own numbers."""
    recover = decompressor(coloring)
    sizes = [k * n for k, n in (recover.column_shape, recover.row_shape)]
    columns, rows = torch.arange(float(sum(sizes)), dtype=torch.float64).split(sizes)
    return recover(columns.view(recover.column_shape), rows.view(recover.row_shape)).tolist()


@pytest.mark.parametrize("needed", [False, True])
def test_wide_index_arrays_give_the_same_coloring(needed, monkeypatch):
    narrow = matrices.grid(8)
    expected = {kind: color_pattern(narrow, kind) for kind in ALL_KINDS}
    wide = SparsityPattern(
        narrow.shape, narrow.indptr.astype(np.int64), narrow.indices.astype(np.int64)
    )
    if needed:
        monkeypatch.setattr(csr, "INT32_MAX", 0)  # as if there were more than 2^31 entries
    for kind in ALL_KINDS:
        coloring = color_pattern(wide, kind)
        assert np.array_equal(coloring.column_colors, expected[kind].column_colors)
        assert sources(coloring) == sources(expected[kind])
