"""Products of derivatives with a matrix against the product of each derivative alone."""

import numpy as np
import pytest
import torch

from tests._evaluate.direct.carried import dense_of, some_block
from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.contract import contracted
from torchjac._linearize.program import Ref
from torchjac._local.algebra import Contract

INPUTS = 5
SIZES = {"b": 2, "i": 3, "j": 4, "k": 5}
EQUATIONS = [
    "ik,kj->ij",
    "kj,ik->ij",
    "bik,bkj->bij",
    "bkj,bik->bij",
    "k,ik->i",
    "ik,k->i",
    "k,k->",
]


def roomy(derivatives: int) -> None:
    """Any number is welcome."""


def shape_of(letters: str) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in letters)


def factor_of(letters: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(shape_of(letters), dtype=torch.float64, generator=generator)
    return factor * (factor > -0.5)


def assert_right(block: Block, equation: str, factor: torch.Tensor, *, is_one=False) -> Block:
    letters, rest = equation.split(",")
    others, out = rest.split("->")
    contract = Contract(equation, Ref(0), tuple(factor.shape))
    dense = factor.to_dense() if factor.layout is not torch.strided else factor
    found = contracted(block, contract, factor, shape_of(out), is_one=is_one, check_room=roomy)
    assert found is not None
    before = dense_of([block], shape_of(letters), INPUTS)
    expected = torch.einsum(f"z{letters},{others}->z{out}", before, dense)
    torch.testing.assert_close(dense_of([found], shape_of(out), INPUTS), expected)
    return found


@pytest.mark.parametrize("equation", EQUATIONS)
def test_products_with_a_dense_factor(equation) -> None:
    letters, others = equation.split("->")[0].split(",")
    block = some_block(shape_of(letters), 2, INPUTS)
    assert_right(block, equation, factor_of(others))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_products_with_an_identity(equation) -> None:
    letters, others = equation.split("->")[0].split(",")
    shape = shape_of(letters)
    index = some_block(shape, 1, INPUTS).index
    index[index == 0] = 1
    block = Block(index, torch.ones((1, *shape), dtype=torch.float64))
    assert_right(block, equation, factor_of(others), is_one=True)


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo, torch.sparse_csc])
@pytest.mark.parametrize("equation", ["ik,kj->ij", "kj,ik->ij", "k,ik->i"])
def test_products_with_a_sparse_matrix(equation, layout) -> None:
    letters, others = equation.split("->")[0].split(",")
    block = some_block(shape_of(letters), 2, INPUTS)
    assert_right(block, equation, factor_of(others).to_sparse(layout=layout))


def test_slices_are_as_many_as_a_sparse_matrix_has_entries_in_a_row() -> None:
    index = np.arange(1, INPUTS + 1, dtype=np.int32)[None]
    block = Block(index, torch.ones(1, INPUTS, dtype=torch.float64))
    entries = torch.tensor([[0, 0, 1, 2, 2], [1, 4, 2, 0, 3]])
    matrix = torch.sparse_coo_tensor(
        entries, torch.ones(5, dtype=torch.float64), (3, 5), check_invariants=True
    )
    assert assert_right(block, "k,ik->i", matrix.coalesce()).slices == 2


@pytest.mark.parametrize(
    ("equation", "shape"), [("i,j->ij", (3,)), ("k,ik->i", (5,)), ("ik,kj->ij", (3, 5))]
)
def test_nothing_is_kept_apart_where_nothing_mixes(equation, shape) -> None:
    index = np.ones((1, *shape), np.int32)
    block = Block(index, torch.ones((1, *shape), dtype=torch.float64))
    others, out = equation.split(",")[1].split("->")
    contract = Contract(equation, Ref(0), shape_of(others))
    found = contracted(
        block, contract, factor_of(others), shape_of(out), is_one=False, check_room=roomy
    )
    assert found is None


def test_room_is_asked_for_before_it_is_taken() -> None:
    asked = []
    block = some_block(shape_of("ik"), 2, INPUTS)
    factor = factor_of("kj")
    contract = Contract("ik,kj->ij", Ref(0), tuple(factor.shape))
    contracted(block, contract, factor, shape_of("ij"), is_one=False, check_room=asked.append)
    assert asked == [2 * 5 * 3 * 4]
