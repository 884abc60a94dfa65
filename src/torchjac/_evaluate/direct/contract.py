"""Sums of products with a coefficient, the products of what belongs to different inputs apart."""

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.apart import gathered, sources_of, varying
from torchjac._evaluate.direct.blocks import Block, merged
from torchjac._local.algebra import Contract


def contracted(
    block: Block,
    contract: Contract,
    factor: Tensor,
    shape: tuple[int, ...],
    *,
    is_one: bool,
    check_room: Callable[[int], None],
) -> Block | None:
    """The derivatives of a matrix product.

    Args:
        block: Derivatives of the one factor.
        contract: The product.
        factor: The other factor.
        shape: Shape of the product.
        is_one: Whether all derivatives are one, now and at every x.
        check_room: Raises an error if so many derivatives are too many.

    Returns:
        Derivatives of the product. None if it does not sum over one axis along which the inputs
        change, or if lengths of one are broadcast.
    """
    letters, others, out = contract.equation.replace("->", ",").split(",")
    summed = [d for d, letter in enumerate(letters) if letter not in out]
    if len(summed) != 1 or not varying(block, summed) or 1 in factor.shape:
        return None
    (axis,) = summed
    if factor.layout is not torch.strided:
        return _with_entries(block, letters, others, out, factor)
    check_room(block.slices * block.shape[axis] * prod(shape))
    kept = letters[axis] + out
    sizes = dict(zip(letters, block.shape, strict=True))
    sizes |= dict(zip(others, factor.shape, strict=True))
    index = _arranged(block.index, letters, kept, sizes)
    if is_one:  # the product with an identity is not computed
        values = _arranged_tensor(factor, others, kept, sizes)
        values = values.expand(block.slices, *values.shape)
    else:
        batch = next(c for c in "zyxw" if c not in contract.equation)
        equation = f"{batch}{letters},{others}->{batch}{kept}"
        values = torch.einsum(equation, block.values, factor)
    return merged(Block(index.reshape(-1, *shape), values.reshape(-1, *shape)))


def _with_entries(
    block: Block, letters: str, others: str, out: str, factor: Tensor
) -> Block | None:
    # In place of the axis summed over comes the other one of the matrix: for each of its elements
    # the entries that reach it, one slice for each.
    axis = next(d for d, letter in enumerate(letters) if letter not in out)
    summed = others.index(letters[axis])
    if len(others) != 2 or letters.replace(letters[axis], others[1 - summed]) != out:
        return None
    entries = factor.to_sparse_coo().coalesce()
    places = entries.indices().cpu().numpy()
    targets, count = places[1 - summed] + 1, factor.shape[1 - summed]
    sources = sources_of(targets, count)  # (most entries, count), 0 for none
    elements = np.append(-1, places[summed])[sources]
    number = np.arange(1, block.index[0].size + 1, dtype=np.int32).reshape(block.shape)
    moved = (
        np.moveaxis(number, axis, 0)[elements] * (elements >= 0)[(..., *[None] * (number.ndim - 1))]
    )
    picked = gathered(block, np.moveaxis(moved, 1, axis + 1))
    weights = torch.nn.functional.pad(entries.values(), (1, 0))
    weights = weights[torch.from_numpy(sources).to(weights.device)]
    ones = [count if d == axis else 1 for d in range(number.ndim)]
    weights = weights.reshape(1, len(sources), *ones)
    values = picked.values.unflatten(0, (block.slices, len(sources))) * weights
    return merged(Block(picked.index, values.flatten(0, 1)))


def _arranged(index: np.ndarray, letters: str, wanted: str, sizes: Mapping[str, int]) -> np.ndarray:
    """Axes named by letters, after the first, in another order, and new ones repeated."""
    order = [0, *[letters.index(c) + 1 for c in wanted if c in letters]]
    missing = [d + 1 for d, c in enumerate(wanted) if c not in letters]
    wide = np.expand_dims(index.transpose(order), missing)
    return np.broadcast_to(wide, (len(index), *[sizes[c] for c in wanted]))


def _arranged_tensor(factor: Tensor, letters: str, wanted: str, sizes: Mapping[str, int]) -> Tensor:
    factor = factor.permute([letters.index(c) for c in wanted if c in letters])
    for dim, letter in enumerate(wanted):
        if letter not in letters:
            factor = factor.unsqueeze(dim)
    return factor.expand([sizes[c] for c in wanted])
