"""Small blocks in large ones: the same derivatives in fewer blocks."""

import numpy as np
import pytest
import torch

from tests._evaluate.direct.carried import dense_of, some_block
from torchjac._evaluate.chain.fold import folded
from torchjac._evaluate.direct.blocks import Block


def every_input(shape: tuple[int, ...], inputs: int) -> Block:
    count = int(np.prod(shape))
    index = np.repeat(np.arange(1, inputs + 1, dtype=np.int32)[:, None], count, 1)
    values = torch.arange(float(inputs * count), dtype=torch.float64)
    return Block(index.reshape(inputs, *shape), values.reshape(inputs, *shape))


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_small_blocks_go_into_the_large_one(shape) -> None:
    blocks = [some_block(shape, 3, 20), every_input(shape, 20), some_block(shape, 1, 20, seed=1)]
    (block,) = folded(blocks)
    assert block.slices == 20
    torch.testing.assert_close(dense_of([block], shape, 20), dense_of(blocks, shape, 20))


def test_what_has_no_place_stays() -> None:
    blocks = [every_input((4,), 20), some_block((4,), 20, 25)]
    assert (blocks[1].index > 20).any()
    found = folded(blocks)
    assert len(found) == 2
    torch.testing.assert_close(dense_of(found, (4,), 25), dense_of(blocks, (4,), 25))


def test_stencils_are_left_alone() -> None:
    blocks = [some_block((4,), 3, 20), every_input((4,), 3)]
    assert folded(blocks) == blocks


def test_nothing_is_written_to() -> None:
    large = every_input((4,), 20)
    before = large.values.clone()
    folded([large, some_block((4,), 2, 20)])
    assert torch.equal(large.values, before)


def test_slices_in_another_order_are_added_whole() -> None:
    large = every_input((2, 3), 20)
    order = np.random.default_rng(0).permutation(20)
    shuffled = Block(large.index[order], 2 * large.values[torch.from_numpy(order)])
    for blocks in ([large, shuffled], [shuffled, large]):
        (block,) = folded(blocks)
        assert (np.diff(block.index[:, 0, 0]) > 0).all()
        assert torch.equal(block.values, 3 * large.values)
