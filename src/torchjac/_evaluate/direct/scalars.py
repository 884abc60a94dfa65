"""Numbers in place of constant tensors, and what is multiplied with or added to them folded."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.program import Node, Ref, Value

aten = torch.ops.aten
_ADD, _SUB, _MUL, _DIV = aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor
# Products of numbers outside of this range are left alone, for they may not be what the products
# one after the other are.
_LEAST, _MOST = 1e-15, 1e15


class _Affine(NamedTuple):
    """A tensor times a number, or plus one."""

    op: Any
    ref: Ref
    number: float


def with_numbers(
    nodes: Sequence[Node], values: Sequence[Value], constants: Mapping[int, Tensor]
) -> list[Node]:
    """The operations, with numbers for tensors that are the same everywhere.

    (x a) b becomes x (a b), (x + a) + b becomes x + (a + b), and y + x a one operation.

    Args:
        nodes: The operations.
        values: What is known of each tensor.
        constants: Tensors whose numbers are known.

    Returns:
        As many operations, with the same results up to rounding.
    """
    folder = _Folder(values, constants)
    return [folder.folded(node) for node in nodes]


class _Folder:
    def __init__(self, values: Sequence[Value], constants: Mapping[int, Tensor]) -> None:
        self._values = values
        self._constants = constants
        self._known: dict[int, float | None] = {}
        self._affine: dict[int, _Affine] = {}

    def folded(self, node: Node) -> Node:
        """The operation, shorter if that is possible."""
        found = self._read(node)
        if found is None:
            return self._fused(node)
        number = node.outputs[0]
        inner = self._affine.get(found.ref.number)
        if inner is not None and inner.op is found.op:
            both = inner.number * found.number if found.op is _MUL else inner.number + found.number
            if isfinite(both) and (found.op is _ADD or _LEAST < abs(both) < _MOST):
                found = _Affine(found.op, inner.ref, both)
        if number is not None:
            self._affine[number] = found
        if found.number == (1 if found.op is _MUL else 0):
            return Node(aten.alias.default, (found.ref,), {}, node.outputs)
        if found.op is _ADD and inner is not None and (inner.op, inner.number) == (_MUL, -1):
            return Node(aten.rsub.Scalar, (inner.ref, found.number), {}, node.outputs)
        return Node(found.op, (found.ref, found.number), {}, node.outputs)

    def _read(self, node: Node) -> _Affine | None:
        """What an operation of one tensor and a number is."""
        if len(node.outputs) != 1 or node.kwargs or not self._is_real(node):
            return None
        if node.op is aten.neg.default:
            return _Affine(_MUL, node.args[0], -1.0)
        if len(node.args) != 2:
            return None
        first, second = [self._number(a) for a in node.args]
        x, y = node.args
        if node.op in (_ADD, _MUL, aten.add.Scalar, aten.mul.Scalar):
            op = _ADD if node.op in (_ADD, aten.add.Scalar) else _MUL
            if second is not None and self._fits(x, node):
                return _Affine(op, x, second)
            if first is not None and self._fits(y, node):
                return _Affine(op, y, first)
        if node.op is _SUB and second is not None and self._fits(x, node):
            return _Affine(_ADD, x, -second)
        return None

    def _fused(self, node: Node) -> Node:
        """A sum with a multiple of a tensor; a difference from a number, a quotient by one."""
        if node.kwargs or len(node.args) != 2 or not self._is_real(node):
            return node
        x, y = node.args
        if node.op is _ADD:
            for one, other in ((x, y), (y, x)):
                scaled = self._affine.get(other.number)
                if scaled is not None and scaled.op is _MUL:
                    if scaled.number == -1:
                        return Node(_SUB, (one, scaled.ref), {}, node.outputs)
                    return Node(_ADD, (one, scaled.ref), {"alpha": scaled.number}, node.outputs)
        first, second = [self._number(a) for a in (x, y)]
        if node.op is _SUB and first is not None and self._fits(y, node):
            return Node(aten.rsub.Scalar, (y, first), {}, node.outputs)
        if node.op is _DIV and second is not None and self._fits(x, node):
            return Node(_DIV, (x, second), {}, node.outputs)
        return node

    def _is_real(self, node: Node) -> bool:
        kinds = {self._values[n].dtype for n in (*node.inputs, *node.outputs) if n is not None}
        return len(kinds) == 1 and next(iter(kinds)).is_floating_point

    def _fits(self, argument: Any, node: Node) -> bool:
        """Whether a tensor has the shape of the result already."""
        number = node.outputs[0]
        if not isinstance(argument, Ref) or number is None:
            return False
        return self._values[argument.number].shape == self._values[number].shape

    def _number(self, argument: Any) -> float | None:
        if not isinstance(argument, Ref):
            is_number = isinstance(argument, int | float) and isfinite(argument)
            return float(argument) if is_number else None
        tensor = self._constants.get(argument.number)
        if tensor is None:
            return None
        if argument.number not in self._known:
            one = narrowed(tensor) if tensor.layout is torch.strided else tensor
            number = float(one.detach()) if one.numel() == 1 else float("nan")
            self._known[argument.number] = number if isfinite(number) else None
        return self._known[argument.number]


def narrowed(tensor: Tensor) -> Tensor:
    """A constant with length one along each axis along which it does not change.

    Args:
        tensor: Strided.

    Returns:
        A view.
    """
    for dim, length in enumerate(tensor.shape):
        first = tensor.narrow(dim, 0, min(length, 1))
        if length > 1 and (tensor.stride(dim) == 0 or bool((tensor == first).all())):
            tensor = first
    return tensor


def light(
    constants: Mapping[int, Tensor], nodes: Sequence[Node], output: int
) -> Mapping[int, Tensor]:
    """Constants that take no more room than what they tell apart.

    Args:
        constants: Tensors, by number.
        nodes: The operations that use them.
        output: Number of their result.

    Returns:
        Those that are used. Where all uses are elementwise, one that repeats along an axis is
        expanded along it.
    """
    used = {n for node in nodes for n in node.inputs} | {output}
    heavy = {n for node in nodes if not _is_elementwise(node) for n in node.inputs} | {output}
    return {
        n: t if n in heavy or t.layout is not torch.strided else _expanded(t)
        for n, t in constants.items()
        if n in used
    }


def _is_elementwise(node: Node) -> bool:
    tags = getattr(node.op, "tags", ())
    return torch.Tag.pointwise in tags or node.op in (aten.stack.default, aten.cat.default)


def _expanded(tensor: Tensor) -> Tensor:
    one = narrowed(tensor)
    return tensor if one.shape == tensor.shape else one.clone().expand(tensor.shape)
