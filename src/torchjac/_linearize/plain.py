"""Operators that do the same however their argument lies in memory."""

from typing import Any

import torch

aten = torch.ops.aten
# Views depend on strides, and a conjugate that is put off may not be looked at.
_PLAIN = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten._conj.default: aten._conj_physical.default,
    aten._neg_view.default: aten.neg.default,
}


def plain(op: Any) -> Any:
    """The operation, or one that does the same however its argument lies in memory.

    Without copies a tensor may have other strides than when the program was recorded.

    Args:
        op: An operator.

    Returns:
        `reshape` for a view, the conjugate itself for one that is put off, else the operator.
    """
    return _PLAIN.get(op, op)
