"""What cannot be colored and what cannot be decompressed: a call, the error and its message.

`tests/test_messages.py` runs them.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from tests._coloring import matrices
from torchjac import errors
from torchjac._api.color import color
from torchjac._coloring.select import color_pattern
from torchjac._layout.decompress import decompressor
from torchjac._pattern.pattern import SparsityPattern

Refusal = tuple[Callable[[], object], type[Exception], str]

BAND = matrices.band(4, 1)
WIDE = SparsityPattern.from_dense([[1, 1, 0], [0, 1, 1]])
TRIANGLE = SparsityPattern.from_dense([[1, 1], [0, 1]])
STAR = color_pattern(BAND, "star")
TWO_SIDED = color_pattern(matrices.arrow(4), "bidirectional")
FULL = color_pattern(SparsityPattern.from_dense(np.ones((2, 2))), "acyclic")


def cyclic() -> object:
    """A square of four vertices in two colors."""
    square = np.roll(np.eye(4), 1, 0) + np.roll(np.eye(4), -1, 0) + np.eye(4)
    coloring = color_pattern(SparsityPattern.from_dense(square), "acyclic")
    return decompressor(replace(coloring, column_colors=np.array([0, 1, 0, 1], np.int32)))


REFUSED: list[Refusal] = [
    (
        lambda: color(torch.eye(3)),
        errors.ArgumentTypeError,
        "color: `pattern` must be a SparsityPattern, got Tensor. Make one with "
        "SparsityPattern.from_scipy, from_torch or from_dense.",
    ),
    (
        lambda: color(BAND, "diagonal"),
        errors.ArgumentError,
        "color: `kind` must be one of column, row, star, acyclic, bidirectional, got 'diagonal'.",
    ),
    (
        lambda: color(BAND, "column", substitution=True),
        errors.ArgumentError,
        "color: `substitution` goes with kind=\"bidirectional\", got kind='column'. For symmetric "
        'patterns use kind="acyclic".',
    ),
    (
        lambda: color(BAND, order="alphabetical"),
        errors.ArgumentError,
        "color: `order` must be one or several of natural, random, largest-first, smallest-last, "
        "incidence-degree, dynamic-largest-first, saturation, got 'alphabetical'.",
    ),
    (lambda: color(BAND, order=()), errors.ArgumentError, "color: `order` must be one or several"),
    (
        lambda: color(BAND, order=("natural", "none")),
        errors.ArgumentError,
        "color: `order` must be one or several",
    ),
    (
        lambda: color(BAND, refine_s=-1),
        errors.ArgumentError,
        "color: `refine_s` must not be negative, got -1.",
    ),
    (
        lambda: color(BAND, refine_s=float("nan")),
        errors.ArgumentError,
        "color: `refine_s` must not be negative, got nan.",
    ),
    (
        lambda: color(BAND, refine_s="long"),
        errors.ArgumentTypeError,
        "color: `refine_s` must be seconds or None, got 'long'.",
    ),
    (
        lambda: color(BAND, seed=0.5),
        errors.ArgumentTypeError,
        "color: `seed` must be an integer, got 0.5.",
    ),
    (
        lambda: color(BAND, seed=-3),
        errors.ArgumentError,
        "color: `seed` must not be negative, got -3.",
    ),
    (
        lambda: color(WIDE, "star"),
        errors.ShapeError,
        "color: kind='star' needs a square `pattern`, got shape (2, 3).",
    ),
    (
        lambda: color(TRIANGLE, "acyclic"),
        errors.ArgumentError,
        "color: kind='acyclic' needs a symmetric `pattern`, got one with 1 entries without a "
        'mirror image. Use pattern.symmetrized(), or kind="bidirectional".',
    ),
    (
        lambda: decompressor(STAR)(torch.ones(4, 3)),
        errors.ShapeError,
        "decompress: `columns` needs one row for each color: expected shape (3, 4), got (4, 3).",
    ),
    (
        lambda: decompressor(TWO_SIDED)(torch.ones(2, 4)),
        errors.ArgumentError,
        "decompress: `rows` is needed: expected shape (1, 4), got None.",
    ),
    (
        lambda: decompressor(TWO_SIDED)(torch.ones(2, 4), torch.ones(1, 4, dtype=torch.float64)),
        errors.ArgumentTypeError,
        "decompress: `columns` and `rows` must agree in dtype and device, got torch.float32 on cpu "
        "and torch.float64 on cpu.",
    ),
    (
        cyclic,
        errors.ArgumentError,
        "decompress: an entry cannot be recovered: the coloring is not valid.",
    ),
    (
        lambda: decompressor(replace(FULL, column_colors=np.array([0, -1], np.int32))),
        errors.ArgumentError,
        "decompress: an entry cannot be recovered: the coloring is not valid.",
    ),
    (
        lambda: decompressor(replace(STAR, column_colors=None)),
        errors.ArgumentError,
        "decompress: the coloring is not valid: it has no column colors.",
    ),
    (
        lambda: decompressor(replace(TWO_SIDED, row_colors=None)),
        errors.ArgumentError,
        "decompress: the coloring is not valid: it has no row colors.",
    ),
]
