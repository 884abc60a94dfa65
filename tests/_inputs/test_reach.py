"""Numbers of tensors and arrays."""

import pytest
import torch

from torchjac._inputs.reach import Walk, parts_of


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc, torch.sparse_coo])
def test_parts_hold_all_numbers(layout):
    parts = parts_of(torch.eye(3).to_sparse(layout=layout))
    assert parts[-1].tolist() == [1.0, 1.0, 1.0]


def test_a_tensor_is_its_own_part():
    tensor = torch.ones(2)
    assert parts_of(tensor) == (tensor,)


def test_a_walk_gives_up_on_too_many_objects():
    walk = Walk(())
    walk.visit([[k] for k in range(6_000)])
    assert not walk.is_complete
