"""Plans in files."""

import numpy as np
import pytest
import torch

import torchjac
from torchjac._pattern.archive import write_archive
from torchjac._planner.archive import FILE_KIND, read_plan

X = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)


def chain(x):
    return x[1:] * x[:-1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flat": True, "layout": torch.sparse_bsr, "blocksize": (1, 2)},
        {"coloring": "row", "chunk_size": 1},
        {"order": 2, "coloring": "acyclic"},
    ],
)
def test_options_pattern_and_coloring_come_back(tmp_path, options):
    func = chain if options.get("order", 1) == 1 else lambda x: chain(x).sum()
    plan = torchjac.plan(func, X, **options)
    plan.save(tmp_path / "plan.npz")
    request, has_aux, given = read_plan(tmp_path / "plan.npz")
    assert given.pattern == plan.pattern
    assert given.coloring.kind == plan.coloring.kind
    assert given.coloring.num_colors == plan.coloring.num_colors
    assert request.layout is options.get("layout", torch.sparse_csr)
    assert request.blocksize == options.get("blocksize")
    assert request.chunk_size == options.get("chunk_size")
    assert not has_aux


def test_a_matrix_without_columns(tmp_path):
    plan = torchjac.plan(lambda x: x * 2, torch.zeros(0))
    plan.save(tmp_path / "plan.npz")
    assert read_plan(tmp_path / "plan.npz")[2].coloring is None


def test_a_file_that_holds_no_plan_inside(tmp_path):
    write_archive(tmp_path / "plan.npz", FILE_KIND, 1, {"shape": np.array([1, 1])})
    with pytest.raises(torchjac.errors.FileContentError, match="holds no valid plan"):
        read_plan(tmp_path / "plan.npz")
