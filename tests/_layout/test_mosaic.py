"""Dense blocks cut out of one vector of entries."""

import numpy as np
import pytest
import torch

from torchjac._layout.arrange import arrange
from torchjac._layout.cut import cut
from torchjac._layout.mosaic import mosaic_of
from torchjac._pattern.pattern import SparsityPattern

CPU = torch.device("cpu")


def arranged(rows, heights, widths, layout=torch.strided):
    dense = np.array(rows, dtype=bool)
    indptr = np.concatenate([[0], np.cumsum(dense.sum(1))])
    pattern = SparsityPattern(dense.shape, indptr, np.nonzero(dense)[1])
    pieces = cut(pattern, heights, widths)
    return [
        arrange(piece, layout, CPU, dense_shape=(height, width))
        for row, height in zip(pieces, heights, strict=True)
        for piece, width in zip(row, widths, strict=True)
    ]


def test_runs_of_entries_and_zeros() -> None:
    mosaic = mosaic_of(arranged([[1, 1, 0], [0, 0, 1]], [1, 1], [2, 1]))
    assert mosaic is not None
    blocks = mosaic.blocks(torch.tensor([1.0, 2.0, 3.0]))
    assert [b.tolist() for b in blocks] == [[[1.0, 2.0]], [[0.0]], [[0.0, 0.0]], [[3.0]]]


def test_entries_may_lie_anywhere_in_memory() -> None:
    mosaic = mosaic_of(arranged([[1, 1], [1, 1]], [1, 1], [2]))
    assert mosaic is not None
    spaced = torch.arange(9.0)[1::2]
    assert [b.tolist() for b in mosaic.blocks(spaced)] == [[[1.0, 3.0]], [[5.0, 7.0]]]
    assert [b.tolist() for b in mosaic.blocks(torch.arange(5.0)[1:])] == [[[1, 2]], [[3, 4]]]


def test_zeros_are_nobody_elses() -> None:
    mosaic = mosaic_of(arranged([[1, 0], [0, 1]], [1, 1], [1, 1]))
    assert mosaic is not None
    _, one, other, _ = mosaic.blocks(torch.ones(2))
    one.fill_(5.0)
    assert other.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("rows", "heights", "widths", "layout"),
    [
        ([[1, 1, 0], [1, 0, 1]], [2], [2, 1], torch.strided),
        ([[1, 0], [0, 1]], [2], [2], torch.strided),
        ([[1, 1], [1, 1]], [1, 1], [2], torch.sparse_csr),
    ],
    ids=["entries of blocks alternate", "zeros between entries", "sparse"],
)
def test_other_blocks_are_left_to_arrangements(rows, heights, widths, layout) -> None:
    assert mosaic_of(arranged(rows, heights, widths, layout)) is None
