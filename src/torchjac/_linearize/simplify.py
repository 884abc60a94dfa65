"""Leave out of a program what is not needed, and see which part is linear in the tangent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import LinearProgram, Node, Ref, Value, dependents, map_refs

aten = torch.ops.aten
# The result is the first argument once more, if shape and dtype are the same.
_COPIES = frozenset(
    {
        aten.alias,
        aten.clone,
        aten.contiguous,
        aten.copy,
        aten.detach,
        aten.expand,
        aten.lift_fresh,
        aten.lift_fresh_copy,
        aten.reshape,
        aten.to,
        aten._to_copy,
        aten._unsafe_view,
        aten.view,
    }
)


def simplified(program: LinearProgram, trace_s: float) -> LinearProgram:
    """The program without copies and without what no output needs; its linear part marked.

    Autograd leaves behind aliases, checks of sizes, casts to the same dtype and expansions that
    do nothing.

    Args:
        program: As recorded.
        trace_s: Seconds that tracing took.

    Returns:
        A program with the same results.
    """
    nodes, outputs = trimmed(program.nodes, program.values, program.constants, program.outputs)
    linear = dependents(nodes, program.tangents)
    used = {number for node in nodes for number in node.inputs}.union(outputs)
    return replace(
        program,
        nodes=tuple(nodes),
        outputs=tuple([n if n in linear else None for n in outputs]),
        constants={n: t for n, t in program.constants.items() if n in used},
        integers={n: t for n, t in program.integers.items() if n in used},
        linear=linear,
        trace_s=trace_s,
    )


def trimmed(
    nodes: Sequence[Node],
    values: Sequence[Value],
    constants: Mapping[int, Tensor],
    outputs: Sequence[int | None],
) -> tuple[list[Node], tuple[int | None, ...]]:
    """Operations without copies, without constant ones, and without what no output needs.

    Args:
        nodes: The operations.
        values: What is known of each tensor.
        constants: Tensors whose numbers are known.
        outputs: What is needed.

    Returns:
        The operations left, and what the outputs are called now.
    """
    same = _copies(nodes, values)
    kept = [_renamed(n, same) for n in nodes if n.outputs[0] not in same] if same else nodes
    renamed = tuple([None if n is None else same.get(n, n) for n in outputs])
    needed = leading_to(kept, renamed)
    return [node for node in needed if node.outputs[0] not in constants], renamed


def _copies(nodes: Sequence[Node], values: Sequence[Value]) -> Mapping[int, int]:
    """What each copy is a copy of."""
    same: dict[int, int] = {}
    for node in nodes:
        packet = getattr(node.op, "overloadpacket", None)
        place = 1 if packet is aten.copy else 0
        first = node.args[place] if len(node.args) > place else None
        if packet not in _COPIES or not isinstance(first, Ref):
            continue
        source = first.number
        copy = node.outputs[0]
        if copy is not None and values[source] == values[copy]:
            same[copy] = same.get(source, source)
    return same


def _renamed(node: Node, same: Mapping[int, int]) -> Node:
    if same.keys().isdisjoint(node.inputs):
        return node

    def rename(ref: Ref) -> Any:
        return Ref(same.get(ref.number, ref.number))

    kwargs = {key: map_refs(rename, value) for key, value in node.kwargs.items()}
    return Node(node.op, map_refs(rename, node.args), kwargs, node.outputs)


def leading_to(nodes: Sequence[Node], outputs: Iterable[int | None]) -> list[Node]:
    """Those of the operations that some tensors need.

    Args:
        nodes: Operations, in order.
        outputs: Numbers of these tensors.

    Returns:
        In order.
    """
    needed: set[int | None] = set(outputs) - {None}
    kept: list[Node] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]
