"""From blocks of derivatives to the nonzeros of the Jacobian in CSR order."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block
from torchjac._pattern.pattern import SparsityPattern


class Pieces:
    """Derivatives laid out flat, each with its place among the nonzeros."""

    def __init__(self) -> None:
        self.places: list[NDArray[np.int64]] = []
        self.values: list[Tensor] = []

    def add(self, places: NDArray[np.int64], values: Tensor) -> None:
        """Put more at the end; a place below 0 is not wanted."""
        self.places.append(places)
        self.values.append(values)


def places_of(
    block: Block, start: int, pattern: SparsityPattern, *, transposed: bool
) -> NDArray[np.int64]:
    """Where each derivative of a block stands among the nonzeros of a pattern.

    Args:
        block: Of a result of the linear program.
        start: Number of the first element of this result among all results.
        pattern: Of the Jacobian.
        transposed: Whether the program was the transposed one, its results columns.

    Returns:
        Places, shape (k * elements,), -1 where there is none: no input, or a derivative that
        constant zeros make zero.
    """
    elements = prod(block.shape)
    index = block.index.reshape(block.slices, elements).astype(np.int64)
    across = np.broadcast_to(np.arange(start, start + elements), index.shape)
    rows, columns = (index - 1, across) if transposed else (across, index - 1)
    keys = rows * pattern.shape[1] + columns
    known = pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices
    places = np.searchsorted(known, keys)
    found = np.minimum(places, max(pattern.nnz - 1, 0))
    hit = (index > 0) & (known[found] == keys) if pattern.nnz else np.zeros(index.shape, bool)
    return np.where(hit, found, -1).ravel()


def assemble(
    results: Sequence[Sequence[Block] | None],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    *,
    transposed: bool,
    is_constant: Callable[[Tensor], bool],
) -> Tensor:
    """The nonzeros of a Jacobian.

    Args:
        results: Blocks of each result of the linear program.
        sizes: Numbers of elements of the results.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        transposed: Whether the program was the transposed one.
        is_constant: Whether a tensor is the same at every x.

    Returns:
        The nonzeros, shape (nnz,), in CSR order.
    """
    constant, varying = Pieces(), Pieces()
    start = 0
    for blocks, size in zip(results, sizes, strict=True):
        for block in blocks or ():
            places = places_of(block, start, pattern, transposed=transposed)
            pieces = constant if is_constant(block.values) else varying
            pieces.add(places, block.values.reshape(-1).to(like.dtype))
        start += size
    base = like.new_zeros(pattern.nnz)
    for places, values in zip(constant.places, constant.values, strict=True):
        live = np.flatnonzero(places >= 0)
        base = base.index_add(0, _tensor(places[live], like), values[_tensor(live, like)])
    return _with_varying(base, varying, like) if varying.values else base.clone()


def _with_varying(base: Tensor, varying: Pieces, like: Tensor) -> Tensor:
    places = np.concatenate(varying.places)
    source = torch.cat(varying.values) if len(varying.values) > 1 else varying.values[0]
    live = np.flatnonzero(places >= 0)
    targets, first, inverse, counts = np.unique(
        places[live], return_index=True, return_inverse=True, return_counts=True
    )
    if (counts == 1).all():
        found = source[_tensor(live[first], like)]
    else:
        found = source.new_zeros(len(targets)).index_add(
            0, _tensor(inverse, like), source[_tensor(live, like)]
        )
    if len(targets) == len(base):
        return found + base if bool((base != 0).any()) else found
    where = _tensor(targets, like)
    under = base[where]
    found = found + under if bool((under != 0).any()) else found
    return base.index_copy(0, where, found)


def _tensor(numbers: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(numbers).to(like.device)
