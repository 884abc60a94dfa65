"""Pictures of a pattern, of bounded size whatever the matrix: Braille text, and SVG."""

import numpy as np
from numpy.typing import NDArray

from torchjac._pattern.csr import Indices, Shape

Grid = NDArray[np.bool_]

# Bit of each dot of a Braille character, by row and column (Unicode 15, block U+2800).
DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint32)
BLANK = 0x2800

MAX_TEXT_GRID = (80, 120)
MAX_SVG_GRID = (200, 200)
SVG_WIDTH = 300


def downsample(shape: Shape, indptr: Indices, indices: Indices, limit: Shape) -> Grid:
    """A grid of at most `limit` cells, each true if its part of the matrix holds an entry."""
    # Cells are square, unless one side of the matrix comes down to a single cell.
    m, n = shape
    scale = max(m / limit[0], n / limit[1], 1.0)
    height, width = (min(size, max(1, round(size / scale))) for size in shape)
    grid = np.zeros((height, width), dtype=np.bool_)
    cell = (np.arange(n, dtype=np.int64) * width // max(n, 1)).astype(np.uint16)
    # One slice of the entries for each row of cells: few, and no array of the size of nnz.
    for k in range(height):
        top, bottom = -(-k * m // height), -(-(k + 1) * m // height)
        grid[k, cell[indices[indptr[top] : indptr[bottom]]]] = True
    return grid


def braille(shape: Shape, indptr: Indices, indices: Indices) -> str:
    """The pattern in Braille characters of 2 by 4 dots each, between bars."""
    grid = downsample(shape, indptr, indices, MAX_TEXT_GRID)
    height, width = grid.shape
    padded = np.zeros((-(-height // 4) * 4, -(-width // 2) * 2), dtype=np.bool_)
    padded[:height, :width] = grid
    dots = padded.reshape(len(padded) // 4, 4, padded.shape[1] // 2, 2)
    codes = BLANK + np.einsum("aibj,ij->ab", dots.astype(np.uint32), DOT_BITS)
    return "\n".join("│" + "".join(map(chr, line)) + "│" for line in codes.tolist())


def svg(shape: Shape, indptr: Indices, indices: Indices) -> str:
    """The pattern as an inline SVG image: one path, a horizontal stroke for each run of cells."""
    grid = downsample(shape, indptr, indices, MAX_SVG_GRID)
    height, width = grid.shape
    edges = np.diff(np.pad(grid.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, begins = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    runs = zip(rows.tolist(), begins.tolist(), (ends - begins).tolist(), strict=True)
    path = "".join(f"M{begin} {row}.5h{length}" for row, begin, length in runs)
    shown = SVG_WIDTH * min(1.0, max(height, width) / 50)
    sides = (max(1, round(shown * side / max(height, width, 1))) for side in (width, height))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" '.format(*sides)
        + f'viewBox="0 0 {max(width, 1)} {max(height, 1)}" preserveAspectRatio="none" '
        'style="border:1px solid currentColor">'
        f'<path d="{path}" stroke="currentColor" stroke-width="1" shape-rendering="crispEdges"/>'
        "</svg>"
    )
