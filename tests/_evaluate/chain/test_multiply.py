"""Products of blocks with maps of every kind, against dense matrices."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests._evaluate.direct.carried import dense_of, some_block
from torchjac._evaluate.chain.factor import Entries, Regular, pieces
from torchjac._evaluate.chain.multiply import multiplied
from torchjac._evaluate.direct.blocks import Block


def block_of(index: np.ndarray, seed: int = 0) -> Block:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=index.shape))
    return Block(index.astype(np.int32), values * torch.from_numpy(index > 0))


def numbered(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1).reshape(shape)


def every(inputs: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(numbered(inputs).reshape(-1, *(1,) * len(shape)), (inputs, *shape))


def by_token(tokens: int, features: int, made: int) -> np.ndarray:
    """Of output (t, o) by input (t, i), a slice for each i."""
    index = numbered(tokens, features).T[:, :, None]
    return np.broadcast_to(index, (features, tokens, made))


def by_token_inside(tokens: int, features: int, made: int) -> np.ndarray:
    """The same with tokens along the second axis of both."""
    index = numbered(features, tokens)[:, None, :]
    return np.broadcast_to(index, (features, made, tokens))


rng = np.random.default_rng(5)
# The index of the map, the shape of the tensor it is of, the shape of the other tensor.
MAPS = {
    "dense": (every(6, (4,)), (6,)),
    "dense, more axes": (every(6, (2, 2)), (2, 3)),
    "shuffled": (every(6, (4,))[rng.permutation(6)], (6,)),
    "some inputs": (every(6, (4,))[[1, 4]], (6,)),
    "an input twice": (every(6, (4,))[[1, 4, 1]], (6,)),
    "tokens": (by_token(3, 2, 4), (3, 2)),
    "tokens inside": (by_token_inside(3, 2, 4), (2, 3)),
    "diagonal": (numbered(2, 3)[None], (2, 3)),
    "banded": (np.stack([np.roll(numbered(6), k) for k in (0, 1)]), (6,)),
    "irregular": (some_block((5,), 3, 6, seed=2).index, (6,)),
    "irregular and long": (some_block((5,), 12, 14, seed=2).index, (14,)),
    "a number": (every(1, (4,)), ()),
    "to a number": (every(6, ()), (6,)),
}
STATES = {
    "dense": lambda shape: block_of(every(9, shape), 1),
    "identity": lambda shape: block_of(numbered(*shape)[None], 2),
    "irregular": lambda shape: some_block(shape, 3, 9, seed=3),
    "along an axis": lambda shape: block_of(
        np.broadcast_to(numbered(*shape[:1], *(1,) * len(shape[1:])), (1, *shape)), 4
    ),
}


def matrix_of(block: Block, others: int) -> Tensor:
    """Rows: elements of the tensor of the block."""
    return dense_of([block], block.shape, others).reshape(others, -1).T


def room(_: int) -> None:
    """No limit."""


# A number has no axis.
CASES = [
    (name, state, by_output)
    for name in MAPS
    for state in STATES
    for by_output in (False, True)
    if (name, state, by_output)
    not in {("a number", "along an axis", False), ("to a number", "along an axis", True)}
]


@pytest.mark.parametrize(("name", "state", "by_output"), CASES)
def test_product(name, state, by_output) -> None:
    index, other = MAPS[name]
    factor = block_of(index)
    count = int(np.prod(other))
    source, target = (factor.shape, other) if by_output else (other, factor.shape)
    before = STATES[state](source)
    inputs = max(9, int(before.index.max()))
    found = multiplied(
        [[before]], pieces([[factor]], [other], by_output=by_output), [torch.float64], room
    )
    matrix = matrix_of(factor, count)
    matrix = matrix.T if by_output else matrix
    expected = matrix @ matrix_of(before, inputs)
    got = dense_of(found[0], target, inputs).reshape(inputs, -1).T
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("dense", Regular), ("tokens", Regular), ("banded", Entries), ("irregular and long", Regular)],
)
def test_kind(name, kind) -> None:
    index, other = MAPS[name]
    (piece,) = pieces([[block_of(index)]], [other], by_output=False)
    assert type(piece) is kind


def test_more_axes_than_letters() -> None:
    many = (1,) * 14 + (2,)
    factor = block_of(every(6, many))
    (piece,) = pieces([[factor]], [(6,)], by_output=False)
    assert isinstance(piece, Entries)
    before = STATES["irregular"]((6,))
    found = multiplied([[before]], [piece], [torch.float64], room)
    expected = matrix_of(factor, 6) @ matrix_of(before, 9)
    torch.testing.assert_close(dense_of(found[0], many, 9).reshape(9, -1).T, expected)


def test_batches_are_not_mixed() -> None:
    index, other = MAPS["tokens"]
    (piece,) = pieces([[block_of(index)]], [other], by_output=False)
    assert isinstance(piece, Regular)
    assert piece.values.shape == (2, 3, 4)  # not (6, 12)


def test_a_slice_that_reaches_two_tensors_is_split() -> None:
    factor = block_of(np.array([[1, 3, 0, 5]]))
    found = pieces([[factor]], [(2,), (3,)], by_output=False)
    assert [piece.source for piece in found] == [0, 1]
    states = [some_block((2,), 2, 4), some_block((3,), 2, 4, seed=1)]
    got = multiplied([[s] for s in states], found, [torch.float64], room)
    matrix = torch.cat([matrix_of(s, 4) for s in states])
    expected = matrix_of(factor, 5) @ matrix
    torch.testing.assert_close(dense_of(got[0], (4,), 4).T, expected)


def test_results_have_the_dtype_of_the_tensor_behind() -> None:
    index, other = MAPS["dense"]
    before = STATES["dense"](other)
    before = Block(before.index, before.values.float())
    found = multiplied(
        [[before]], pieces([[block_of(index)]], [other], by_output=False), [torch.float32], room
    )
    assert found[0][0].values.dtype == torch.float32
