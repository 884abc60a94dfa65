"""The rules, one family of operations a file; importing this package registers them."""

from torchjac._local.registry import terms_of
from torchjac._local.rules import convolutions, movement, pointwise, products, reductions

FAMILIES = (convolutions, movement, pointwise, products, reductions)

__all__ = ["FAMILIES", "terms_of"]
