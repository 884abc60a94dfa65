"""One side of a sum or difference."""

import numpy as np
import torch

from torchjac._evaluate.direct.blocks import Block
from torchjac._local.algebra import Term
from torchjac._local.call import Call


def addend(
    call: Call, term: Term, block: Block, shape: tuple[int, ...], dtype: torch.dtype
) -> Block:
    """What comes of the derivatives of one argument of a sum or difference.

    Args:
        call: Of `add` or `sub`.
        term: The one that holds the argument.
        block: Derivatives of the argument.
        shape: Of the result.
        dtype: Likewise.

    Returns:
        Derivatives of the result.
    """
    arguments = call.arguments
    first, second = arguments["self"], arguments["other"]
    sign = arguments["alpha"]
    if getattr(call.node.op, "overloadpacket", None) is torch.ops.aten.sub:
        sign = -sign
    if first == second:
        sign = 1 + sign
    elif term.source == first:
        sign = 1
    index, values = block.index, block.values
    if block.shape != shape:
        wide = (1,) * (len(shape) - len(block.shape)) + block.shape
        full = (block.slices, *shape)
        index = np.broadcast_to(index.reshape(block.slices, *wide), full)
        values = values.reshape(block.slices, *wide).expand(full)
    values = values.to(dtype)
    if sign == 1 and block.shape == shape:
        return Block(index, values, summands=block.summands)
    return Block(index, values if sign == 1 else values * sign)
