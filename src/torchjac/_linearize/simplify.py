"""Leave out of a program what is not needed, and see which part is linear in the tangent."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from torchjac._linearize.program import LinearProgram, Node, Ref, Value, map_refs

aten = torch.ops.aten
# The result is the first argument once more, if shape and dtype are the same.
_COPIES = frozenset(
    {
        aten.alias,
        aten.clone,
        aten.contiguous,
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
    same = _copies(program.nodes, program.values)
    nodes = [_renamed(node, same) for node in program.nodes if node.outputs[0] not in same]
    outputs = tuple([None if n is None else same.get(n, n) for n in program.outputs])
    nodes, needed = _needed(nodes, outputs)
    nodes = [node for node in nodes if node.outputs[0] not in program.constants]
    linear = _linear(nodes, program.tangents)
    used = {number for node in nodes for number in node.inputs} | needed.intersection(outputs)
    return replace(
        program,
        nodes=tuple(nodes),
        outputs=tuple([n if n in linear else None for n in outputs]),
        constants={n: t for n, t in program.constants.items() if n in used},
        integers={n: t for n, t in program.integers.items() if n in used},
        linear=linear,
        trace_s=trace_s,
    )


def _copies(nodes: tuple[Node, ...], values: tuple[Value, ...]) -> Mapping[int, int]:
    """What each copy is a copy of."""
    same: dict[int, int] = {}
    for node in nodes:
        if getattr(node.op, "overloadpacket", None) not in _COPIES:
            continue
        source: int = node.args[0].number
        copy = node.outputs[0]
        if copy is not None and values[source] == values[copy]:
            same[copy] = same.get(source, source)
    return same


def _renamed(node: Node, same: Mapping[int, int]) -> Node:
    if not any([number in same for number in node.inputs]):
        return node

    def rename(ref: Ref) -> Any:
        return Ref(same.get(ref.number, ref.number))

    kwargs = {key: map_refs(rename, value) for key, value in node.kwargs.items()}
    return Node(node.op, map_refs(rename, node.args), kwargs, node.outputs)


def _needed(
    nodes: list[Node], outputs: tuple[int | None, ...]
) -> tuple[list[Node], set[int | None]]:
    needed: set[int | None] = set(outputs) - {None}
    kept: list[Node] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1], needed


def _linear(nodes: list[Node], tangents: tuple[int, ...]) -> frozenset[int]:
    linear = set(tangents)
    for node in nodes:
        if not linear.isdisjoint(node.inputs):
            linear.update([n for n in node.outputs if n is not None])
    return frozenset(linear)
