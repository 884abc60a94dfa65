"""Operators in place of those that depend on how a tensor lies in memory."""

import torch

from torchjac._linearize.plain import plain

aten = torch.ops.aten


def test_operations_that_depend_on_memory_are_replaced() -> None:
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert plain(aten.view.default)(transposed, [6]).tolist() == [0, 3, 1, 4, 2, 5]
    conjugate = plain(aten._conj.default)(torch.tensor([1j]))
    assert not conjugate.is_conj()
    assert conjugate.item() == -1j
    assert plain(aten.sin.default) is aten.sin.default
