"""Where a coefficient that depends on x is zero all the same.

A diagonal matrix of x, a triangular factor, attention under a causal mask: their zeros are put
there by the operations that made them, whatever x is. Only operations of which this is plain are
followed back; what any other makes counts as nonzero throughout.
"""

from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from math import inf
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from torchjac._linearize.program import LinearProgram, Node, Ref, map_refs
from torchjac._local.moves import MOVES

__all__ = ["support"]

aten = torch.ops.aten
# So many operations are followed back, one after the other.
_DEEPEST = 40
_known: MutableMapping[LinearProgram, dict[int, Tensor | None]] = WeakKeyDictionary()

_MOVES = MOVES | {aten.clone}
# Zero of zero, and of the shape of their argument.
_ZERO_OF_ZERO = frozenset(
    {
        aten._conj,
        aten._to_copy,
        aten.abs,
        aten.neg,
        aten.relu,
        aten.sin,
        aten.sqrt,
        aten.tan,
        aten.tanh,
    }
)
# Triangular factors, by their position among the results: whether the upper one.
_TRIANGLES = {aten.linalg_cholesky_ex: {0: False}, aten.linalg_qr: {1: True}}


class _Maker(NamedTuple):
    """An operation, and how to ask about its arguments.

    Attributes:
        program: Where it stands.
        node: The operation.
        find: From an argument to where it holds, bool, or None if nothing is known of it.
        unknown: What to take for that.
    """

    program: LinearProgram
    node: Node
    find: Callable[[Any], Tensor | None]
    unknown: bool

    def full(self, part: Any) -> Tensor:
        """Where an argument holds, of its shape."""
        found = self.find(part)
        if found is not None:
            return found.cpu()
        shape = self.program.values[part.number].shape if isinstance(part, Ref) else ()
        return torch.full(shape, self.unknown)


def support(program: LinearProgram, number: int) -> Tensor | None:
    """Which elements of a tensor can differ from zero at some x.

    Args:
        program: Where it is made.
        number: Which tensor, none that depends on the tangents.

    Returns:
        bool, with its shape; None for all.
    """
    return _nonzero(program, 0, Ref(number))


def _nonzero(program: LinearProgram, depth: int, part: Any) -> Tensor | None:
    if not isinstance(part, Ref):
        return torch.tensor(part != 0)
    known = _known.setdefault(program, {})
    if part.number not in known:
        found = _nonzero_of(program, depth, part)
        known[part.number] = None if found is None or bool(found.all()) else found
    return known[part.number]


def _nonzero_of(program: LinearProgram, depth: int, part: Ref) -> Tensor | None:
    constant, node = program.constants.get(part.number), program.makers.get(part.number)
    if constant is not None:
        return constant != 0 if constant.layout is torch.strided else None
    if node is None or depth == _DEEPEST:
        return None
    packet = getattr(node.op, "overloadpacket", None)
    if packet in _TRIANGLES:
        return _triangle(program, node, part, _TRIANGLES[packet])
    if packet in (aten._softmax, aten.exp):
        infinite = _infinite(program, depth + 1, node.args[0])
        return None if infinite is None else ~infinite
    maker = _Maker(program, node, partial(_nonzero, program, depth + 1), unknown=True)
    if packet in _ZERO_OF_ZERO:
        return maker.find(node.args[0])
    rule = _moved if packet in _MOVES else _NONZERO_RULES.get(packet)
    return None if rule is None else rule(maker)


def _triangle(
    program: LinearProgram, node: Node, part: Ref, kinds: Mapping[int, bool]
) -> Tensor | None:
    upper = kinds.get(node.outputs.index(part.number))
    if upper is None:
        return None
    if len(node.args) > 1 and isinstance(node.args[1], bool):  # cholesky_ex(a, upper)
        upper = node.args[1]
    upper = node.kwargs.get("upper", upper)
    ones = torch.ones(program.values[part.number].shape, dtype=torch.bool)
    return ones.triu() if upper else ones.tril()


def _moved(maker: _Maker) -> Tensor | None:
    node = maker.node
    kwargs = {key: map_refs(lambda r: maker.full(r).float(), v) for key, v in node.kwargs.items()}
    return node.op(*map_refs(lambda r: maker.full(r).float(), node.args), **kwargs) != 0


def _both(maker: _Maker) -> Tensor | None:
    return _spread(maker, maker.full(maker.node.args[0]) & maker.full(maker.node.args[1]))


def _either(maker: _Maker) -> Tensor | None:
    return _spread(maker, maker.full(maker.node.args[0]) | maker.full(maker.node.args[1]))


def _first(maker: _Maker) -> Tensor | None:
    return _spread(maker, maker.full(maker.node.args[0]))


def _chosen(maker: _Maker) -> Tensor | None:
    condition, a, b = maker.node.args
    known = maker.program.constants.get(condition.number)
    if known is None:
        return _spread(maker, maker.full(a) | maker.full(b))
    return _spread(maker, torch.where(known.cpu(), maker.full(a), maker.full(b)))


def _filled(maker: _Maker, holds: Callable[[Any], Tensor | None]) -> Tensor | None:
    tensor, mask, value = maker.node.args
    known, filling = maker.program.constants.get(mask.number), holds(value)
    if known is None or filling is None:
        return None
    return _spread(maker, torch.where(known.cpu(), filling, maker.full(tensor)))


def _spread(maker: _Maker, found: Tensor) -> Tensor:
    (shape,) = [maker.program.values[n].shape for n in maker.node.outputs if n is not None]
    return found.expand(shape)


def _infinite(program: LinearProgram, depth: int, part: Any) -> Tensor | None:
    """Where a tensor is minus infinity at every x, None for nowhere."""
    if not isinstance(part, Ref):
        return torch.tensor(part == -inf)
    constant, node = program.constants.get(part.number), program.makers.get(part.number)
    if constant is not None:
        return constant == -inf
    if node is None or depth == _DEEPEST:
        return None
    packet = getattr(node.op, "overloadpacket", None)
    maker = _Maker(program, node, partial(_infinite, program, depth + 1), unknown=False)
    rule = _moved if packet in _MOVES else _INFINITE_RULES.get(packet)
    found = None if rule is None else rule(maker)
    return found if found is not None and bool(found.any()) else None


def _scaled(maker: _Maker) -> Tensor | None:
    factor = maker.node.args[1]
    if isinstance(factor, Ref | complex) or factor <= 0:
        return None
    return _first(maker)


_NONZERO_RULES: Mapping[Any, Callable[[_Maker], Tensor | None]] = {
    aten.add: _either,
    aten.div: _first,
    aten.masked_fill: lambda maker: _filled(maker, maker.find),
    aten.mul: _both,
    aten.sub: _either,
    aten.where: _chosen,
}
_INFINITE_RULES: Mapping[Any, Callable[[_Maker], Tensor | None]] = {
    aten._to_copy: _first,
    aten.add: _either,
    aten.div: _scaled,
    aten.masked_fill: lambda maker: _filled(maker, maker.find),
    aten.mul: _scaled,
    aten.sub: _first,
    aten.where: _chosen,
}
