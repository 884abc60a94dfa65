"""Products with one and sums with zero, which the derivatives of inputs leave behind."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from torchjac._linearize.program import Node, Ref, Value

aten = torch.ops.aten
_NEUTRAL = {aten.mul.Tensor: 1, aten.add.Tensor: 0}


def without_ones(
    nodes: Sequence[Node], values: Sequence[Value], constants: Mapping[int, Tensor]
) -> list[Node]:
    """The operations, with an alias in place of a product with one or a sum with zero.

    Args:
        nodes: The operations.
        values: What is known of each tensor.
        constants: Tensors whose numbers are known.

    Returns:
        As many operations.
    """
    return [_shortened(node, values, constants) for node in nodes]


def _shortened(node: Node, values: Sequence[Value], constants: Mapping[int, Tensor]) -> Node:
    neutral = _NEUTRAL.get(node.op)
    if neutral is None or node.kwargs or not all(isinstance(a, Ref) for a in node.args):
        return node
    for one, other in (node.args, node.args[::-1]):
        known = constants.get(one.number)
        same = values[other.number][:2] == values[node.outputs[0]][:2]
        if known is not None and same and bool((known == neutral).all()):
            return Node(aten.alias.default, (other,), {}, node.outputs)
    return node
