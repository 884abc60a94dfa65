"""Shorter programs: no products with one, sums with zero or repetitions."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import Node, Ref, Value, map_refs

aten = torch.ops.aten
_NEUTRAL = {aten.mul.Tensor: 1, aten.add.Tensor: 0}


def shortened(
    nodes: Sequence[Node], values: Sequence[Value], constants: Mapping[int, Tensor]
) -> list[Node]:
    """The operations, with an alias in place of those that change nothing.

    The derivatives of inputs are ones, which leave products with one and sums with zero behind;
    the derivative of a square leaves a first power.

    Args:
        nodes: The operations.
        values: What is known of each tensor.
        constants: Tensors whose numbers are known.

    Returns:
        As many operations.
    """
    return [_shortened(node, values, constants) for node in nodes]


def without_repetitions(nodes: Sequence[Node]) -> list[Node]:
    """The operations, with an alias in place of one that was there before.

    Args:
        nodes: Operations that return new tensors.

    Returns:
        As many operations.
    """
    same: dict[int, int] = {}
    seen: dict[Any, Node] = {}
    result: list[Node] = []

    def rename(ref: Ref) -> Ref:
        return Ref(same.get(ref.number, ref.number))

    for node in nodes:
        if not same.keys().isdisjoint(node.inputs):
            kwargs = {key: map_refs(rename, value) for key, value in node.kwargs.items()}
            node = Node(node.op, map_refs(rename, node.args), kwargs, node.outputs)
        if torch.Tag.nondeterministic_seeded in getattr(node.op, "tags", ()):
            result.append(node)
            continue
        known_by = (node.op, *map(_key, node.args), *map(_key, node.kwargs.items()))
        first = seen.setdefault(known_by, node)
        if first is not node and len(node.outputs) == 1:
            number, known = node.outputs[0], first.outputs[0]
            if number is not None and known is not None:
                same[number] = known
                node = Node(aten.alias.default, (Ref(known),), {}, node.outputs)
        result.append(node)
    return result


def _key(part: Any) -> Any:
    """The same for equal arguments; numbers of different types, and -0 and 0, are not equal."""
    if isinstance(part, Ref):
        return part
    if isinstance(part, tuple | list):
        return type(part), *map(_key, part)
    return repr(part)


def _shortened(node: Node, values: Sequence[Value], constants: Mapping[int, Tensor]) -> Node:
    number = node.outputs[0]
    if number is None or node.kwargs:
        return node
    if node.op is aten.pow.Tensor_Scalar and node.args[1] == 1:
        return _alias(node.args[0], node, values)
    if node.op is aten.permute.default and list(node.args[1]) == sorted(node.args[1]):
        return _alias(node.args[0], node, values)
    neutral = _NEUTRAL.get(node.op)
    if neutral is None or not all(isinstance(a, Ref) for a in node.args):
        return node
    for one, other in (node.args, node.args[::-1]):
        known = constants.get(one.number)
        if known is not None and bool((known == neutral).all()):
            return _alias(other, node, values)
    return node


def _alias(ref: Ref, node: Node, values: Sequence[Value]) -> Node:
    """The argument itself, under the shape of the result."""
    number = node.outputs[0]
    if number is None:
        return node
    given, result = values[ref.number], values[number]
    if given.dtype != result.dtype:
        return node
    if given.shape == result.shape:
        return Node(aten.alias.default, (ref,), {}, node.outputs)
    if prod(given.shape) == prod(result.shape):
        return Node(aten.reshape.default, (ref, list(result.shape)), {}, node.outputs)
    return Node(aten.expand.default, (ref, list(result.shape)), {}, node.outputs)
