"""What operations do to the names of axes."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.direct.network import Term, matrix_product, multiplied
from torchjac._evaluate.direct.regular import turn_of
from torchjac._linearize.program import Node, Ref, Value

aten = torch.ops.aten
Fetch = Callable[[Ref], Term]


def read(
    node: Node, fetch: Fetch, values: Sequence[Value], constants: Mapping[int, Tensor]
) -> Term | None:
    """The result of an operation as a network.

    Args:
        node: The operation.
        fetch: Its arguments.
        values: What is known of each tensor.
        constants: Tensors whose numbers are known.

    Returns:
        The network; None for operations that do more than move, multiply and sum, and for shapes
        that cannot be told.
    """
    rule = _RULES.get(getattr(node.op, "overloadpacket", None))
    if rule is None or len(node.outputs) != 1 or node.outputs[0] is None:
        return None
    if set(node.kwargs) - {"memory_format"}:
        return None
    result = values[node.outputs[0]]
    same = [values[n].dtype == result.dtype or n in constants for n in node.inputs]
    if not result.dtype.is_floating_point or not all(same):
        return None
    return rule(_Call(node.op, node.args, result, fetch, values, constants))


class _Call(NamedTuple):
    """An operation, and what is known of its arguments."""

    op: Any
    args: tuple[Any, ...]
    result: Value
    fetch: Fetch
    values: Sequence[Value]
    constants: Mapping[int, Tensor]

    @property
    def first(self) -> Term:
        """The first argument."""
        return self.fetch(self.args[0])

    def number(self, argument: Any) -> float | None:
        """A factor that is a number, None if it is none or not finite."""
        if isinstance(argument, Ref):
            known = self.constants.get(argument.number)
            if known is None or known.dim() or known.dtype.is_complex:
                return None
            argument = known.item()
        return float(argument) if isfinite(argument) else None

    def is_tensor(self, argument: Any) -> bool:
        """Whether an argument is a tensor of the dtype of the result."""
        return isinstance(argument, Ref) and self.values[argument.number].dtype == self.result.dtype

    def places(self, ref: Ref | None) -> Tensor | None:
        """A constant vector of places."""
        known = None if ref is None else self.constants.get(ref.number)
        return known if known is not None and known.dim() == 1 else None


def _same(call: _Call) -> Term | None:
    return call.first


def _reshaped(call: _Call) -> Term | None:
    return call.first.reshaped(call.result.shape)


def _expanded(call: _Call) -> Term | None:
    return call.first.expanded(call.result.shape)


def _permuted(call: _Call) -> Term | None:
    rank = len(call.result.shape)
    return call.first.permuted([d % rank for d in call.args[1]])


def _transposed(call: _Call) -> Term | None:
    order = list(range(len(call.result.shape)))
    if order:
        one, other = call.args[1:]
        order[one], order[other] = order[other], order[one]
    return call.first.permuted(order)


def _multiplied(call: _Call) -> Term | None:
    for one, other in (call.args, call.args[::-1]):
        number = call.number(other)
        if number is not None and call.is_tensor(one):
            return call.fetch(one).scaled(number)
    if not all([call.is_tensor(argument) for argument in call.args]):
        return None
    return multiplied(*[call.fetch(argument) for argument in call.args])


def _divided(call: _Call) -> Term | None:
    one, other = call.args
    number = call.number(other)
    if not number or not isfinite(1 / number) or not call.is_tensor(one):
        return None
    return call.fetch(one).scaled(1 / number)


def _negative(call: _Call) -> Term | None:
    return call.first.scaled(-1.0)


def _summed(call: _Call) -> Term | None:
    if call.op is not aten.sum.dim_IntList:
        return None
    term, rank = call.first, len(call.first.axes)
    if not rank:  # the sum of one number
        return term
    dims = [d % rank for d in call.args[1] or range(rank)]
    return term.summed(dims, keeps=len(call.result.shape) == rank)


def _matrices(call: _Call) -> Term | None:
    return matrix_product(*[call.fetch(argument) for argument in call.args])


def _gathered(call: _Call) -> Term | None:
    term = call.first
    index = call.places(call.args[2] if call.op is aten.index_select.default else call.args[1][0])
    if index is None or index.dtype == torch.bool or term.shape != tuple(index.shape):
        return None
    turn = turn_of(index.cpu().numpy())
    found = None if turn is None else term.reshaped(turn.shape)
    if turn is None or found is None:
        return None
    return found.permuted(turn.order).reshaped(call.result.shape)


def _alone(call: _Call) -> Term | None:
    return call.fetch(call.args[0][0]) if len(call.args[0]) == 1 else None


_RULES: Mapping[Any, Callable[[_Call], Term | None]] = {
    aten._unsafe_view: _reshaped,
    aten.alias: _same,
    aten.bmm: _matrices,
    aten.cat: _alone,
    aten.clone: _same,
    aten.div: _divided,
    aten.expand: _expanded,
    aten.index: _gathered,
    aten.index_select: _gathered,
    aten.mm: _matrices,
    aten.mul: _multiplied,
    aten.neg: _negative,
    aten.permute: _permuted,
    aten.reshape: _reshaped,
    aten.squeeze: _reshaped,
    aten.sum: _summed,
    aten.transpose: _transposed,
    aten.unsqueeze: _reshaped,
    aten.view: _reshaped,
}
