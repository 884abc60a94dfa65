"""Blocks of derivatives made up, and laid out densely."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block


def some_block(shape: tuple[int, ...], slices: int, inputs: int, seed: int = 0) -> Block:
    """Random derivatives, some of them zero; no element has two by the same input."""
    rng = np.random.default_rng(seed)
    index = np.stack([rng.permutation(inputs)[:slices] for _ in range(int(np.prod(shape)))], axis=1)
    index = (index + 1) * (rng.random(index.shape) < 0.8)
    values = torch.from_numpy(rng.normal(size=index.shape) * (index > 0))
    return Block(index.astype(np.int32).reshape(slices, *shape), values.reshape(slices, *shape))


def dense_of(blocks: Iterable[Block], shape: tuple[int, ...], inputs: int) -> Tensor:
    """All derivatives, shape (inputs, *shape)."""
    count = int(np.prod(shape))
    result = torch.zeros(inputs, count, dtype=torch.float64)
    for block in blocks:
        index = torch.from_numpy(np.ascontiguousarray(block.index)).reshape(block.slices, -1).long()
        values = block.values.reshape(block.slices, -1)
        assert not bool(values[index == 0].any()), "a derivative by no input is not zero"
        slices, elements = (index > 0).nonzero(as_tuple=True)
        where = index[slices, elements] - 1, elements
        result.index_put_(where, values[slices, elements].double(), accumulate=True)
    return result.reshape(inputs, *shape)
