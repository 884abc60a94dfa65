"""The rules, one family of operations a file; importing this package registers them."""

from torchjac._local.registry import terms_of
from torchjac._local.rules import (
    activations,
    attention,
    convolutions,
    fft,
    grids,
    indexing,
    interpolation,
    linalg,
    losses,
    movement,
    normalization,
    pointwise,
    pooling,
    products,
    reductions,
    segments,
    solves,
    sparse,
    writing,
)

FAMILIES = (
    activations,
    attention,
    convolutions,
    fft,
    grids,
    indexing,
    interpolation,
    linalg,
    losses,
    movement,
    normalization,
    pointwise,
    pooling,
    products,
    reductions,
    segments,
    solves,
    sparse,
    writing,
)

__all__ = ["FAMILIES", "terms_of"]
