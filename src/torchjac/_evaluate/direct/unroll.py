"""Programs on long axes: what happens along narrow axes is written out.

An axis of three coordinates behind one of forty thousand points makes every loop three steps long.
Here such a tensor becomes three, each of forty thousand elements. Movements along narrow axes then
cost nothing, sums over them are a few additions, zeros and ones among their coefficients drop out,
and what is left is operations on long vectors, which a compiler fuses into one loop.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch

from torchjac._evaluate.direct import narrow_moves as moves
from torchjac._evaluate.direct import narrow_products as products
from torchjac._evaluate.direct import narrow_sums as sums
from torchjac._evaluate.direct.spread import NARROW, Spread
from torchjac._evaluate.direct.writer import Writer
from torchjac._linearize.program import LinearProgram, Node, Value, refs_in

aten = torch.ops.aten
# A program may become so many times as long.
_MOST_TIMES = 4
# Microseconds: of a call, of an element, of one in loops of a few steps, and of a multiplication
# in a product of narrow matrices.
_CALL, _ELEMENT, _SHORT_LOOP, _TERM = 1.5, 0.0005, 0.003, 0.001


class Speed(NamedTuple):
    """What runs a program.

    Attributes:
        call: Microseconds of an operation that can be fused with others.
        element: Of an element of such an operation.
        apart: Of one that cannot, which calls a library.
        enough: What may be left of the predicted time, for a longer program to be worth it.
    """

    call: float
    element: float
    apart: float
    enough: float


# What a compiler makes of a long program is harder to predict, and it takes long.
ONE_BY_ONE, FUSED = Speed(_CALL, _ELEMENT, _CALL, 0.85), Speed(0.03, 0.0001, 3.0, 0.5)
_VIEWS = frozenset(
    {
        aten.alias,
        aten.expand,
        aten.permute,
        aten.reshape,
        aten.select,
        aten.slice,
        aten.split,
        aten.squeeze,
        aten.unbind,
        aten.unsqueeze,
    }
)
_JOINTS = frozenset({aten.stack, aten.cat, aten.clone})
_PRODUCTS = frozenset({aten.mm, aten.bmm})


def unrolled(program: LinearProgram, speed: Speed, device: torch.device) -> LinearProgram:
    """The program with narrow axes written out, if that is predicted to be faster.

    Args:
        program: Operations that are linear in nothing.
        speed: Of what will run it.
        device: Where its tensors are.

    Returns:
        A program with the same results, or the same one.
    """
    shapes = [program.values[n].shape for node in program.nodes for n in node.inputs]
    if any([0 in shape for shape in shapes]):
        return program
    narrow = [node for node in program.nodes if _is_narrow(node, program.values)]
    before = _cost(program.nodes, program.values, speed)
    if _cost(narrow, program.values, speed) < (1 - speed.enough) * before:
        return program  # not even if nothing were left of them
    writer = Writer(program, device)
    for node in program.nodes:
        results = _written_out(writer, node)
        if results is None:
            writer.keep(node)
        else:
            writer.take(node, results)
        if len(writer.builder.nodes) > _MOST_TIMES * len(program.nodes) + 100:
            return program
    outputs = tuple([None if n is None else writer.whole(n).number for n in program.outputs])
    written = writer.builder.rewritten(program, outputs)
    is_slower = _cost(written.nodes, written.values, speed) > speed.enough * before
    return program if is_slower else written


def _is_narrow(node: Node, values: Sequence[Value]) -> bool:
    """Whether an operation has narrow axes."""
    numbers = [n for n in (*node.inputs, *node.outputs) if n is not None]
    return any([1 < length <= NARROW for n in numbers for length in values[n].shape])


def _cost(nodes: Sequence[Node], values: Sequence[Value], speed: Speed) -> float:
    """Microseconds that a program takes."""
    total = 0.0
    for node in nodes:
        packet: Any = getattr(node.op, "overloadpacket", None)
        if packet in _VIEWS:
            total += speed.call
            continue
        is_fused = torch.Tag.pointwise in getattr(node.op, "tags", ()) or packet in _JOINTS
        total += speed.call if is_fused else speed.apart
        for number in node.outputs:
            shape = () if number is None else values[number].shape
            inner = next((length for length in reversed(shape) if length > 1), 1)
            is_short = inner <= NARROW < prod(shape)
            element = speed.element if is_fused else _ELEMENT
            total += prod(shape) * (_SHORT_LOOP / _ELEMENT if is_short else 1) * element
            if packet in _PRODUCTS:
                total += prod(shape) * values[node.args[0].number].shape[-1] * _TERM
    return total


def _written_out(writer: Writer, node: Node) -> Sequence[Spread] | None:
    """The parts of the results of an operation, None if it is no rule's."""
    packet: Any = getattr(node.op, "overloadpacket", None)
    rule = _RULES.get(packet)
    if rule is None and torch.Tag.pointwise in getattr(node.op, "tags", ()):
        rule = sums.pointwise
    if rule is None or list(refs_in(tuple(node.kwargs.values()))):
        return None
    return rule(writer, node)


_RULES: Mapping[Any, Callable[[Writer, Node], Sequence[Spread] | None]] = {
    aten.alias: moves.unchanged,
    aten.clone: moves.unchanged,
    aten.reshape: moves.reshaped,
    aten._unsafe_view: moves.reshaped,
    aten.view: moves.reshaped,
    aten.permute: moves.permuted,
    aten.t: moves.turned,
    aten.unsqueeze: moves.unsqueezed,
    aten.expand: moves.expanded,
    aten.select: moves.selected,
    aten.unbind: moves.unbound,
    aten.slice: moves.sliced,
    aten.split: moves.split_up,
    aten.select_backward: moves.put_back,
    aten.stack: moves.stacked,
    aten.cat: moves.concatenated,
    aten.sum: sums.summed,
    aten.mean: sums.averaged,
    aten.index: sums.indexed,
    aten.linalg_cross: sums.crossed,
    aten.mm: products.multiplied,
    aten.bmm: products.multiplied,
}
