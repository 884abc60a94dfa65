"""What a program costs to run: memory traffic, arithmetic, kernel launches, memory."""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch

from torchjac._linearize.program import LinearProgram, Node, Ref, Value
from torchjac._torch import flops_of

# They return what they were given, under another shape.
_FREE = frozenset({"aten.reshape", "aten._unsafe_view", "aten._reshape_alias", "aten.contiguous"})


class Cost(NamedTuple):
    """What running a program once takes.

    Attributes:
        moved_bytes: Read and written by all operations, each by itself.
        fused_bytes: The same if elementwise operations cost no traffic beside their neighbours'.
        work: Floating-point operations.
        launches: Operations that compute something.
        peak_bytes: Most bytes of its own tensors alive at once.
    """

    moved_bytes: int
    fused_bytes: int
    work: int
    launches: int
    peak_bytes: int

    def extended(self, two: "Cost", seeds: int) -> "Cost":
        """The cost for any number of seeds, from this one for one seed.

        Args:
            two: The cost for two seeds.
            seeds: How many.

        Returns:
            The cost; all parts but the peak grow in proportion, and that nearly does.
        """
        return Cost(*[a + (seeds - 1) * (b - a) for a, b in zip(self, two, strict=True)])


def cost_of(program: LinearProgram, seeds: int = 1) -> Cost:
    """The cost of a program for so many tangents at once.

    Args:
        program: Any program, such as one that is linear in nothing.
        seeds: Tangents that are pushed through together.

    Returns:
        The cost, by the shapes of all tensors: an operation reads what it is given and writes
        what it returns; views are free; products count two operations for each term.
    """
    return costs_of(program, [seeds])[0]


def costs_of(program: LinearProgram, counts: Sequence[int]) -> list[Cost]:
    """The costs of a program for several numbers of tangents.

    Args:
        program: Any program.
        counts: How many tangents are pushed through together.

    Returns:
        What `cost_of` says of each.
    """
    sizes = [bytes_of(value) for value in program.values]
    counted = [_counted(node, program) for node in program.nodes if not is_view(node)]
    return [_cost(program, _grown(program, sizes, seeds), counted, seeds) for seeds in counts]


class _Counted(NamedTuple):
    """An operation that computes something.

    Attributes:
        tensors: Numbers of what it is given and returns.
        is_pointwise: Whether it can be fused with others.
        is_linear: Whether it is done for each tangent.
        work: Floating-point operations for one.
    """

    tensors: list[int]
    is_pointwise: bool
    is_linear: bool
    work: int


def _counted(node: Node, program: LinearProgram) -> _Counted:
    return _Counted(
        [n for n in (*node.inputs, *node.outputs) if n is not None],
        torch.Tag.pointwise in getattr(node.op, "tags", ()),
        not program.linear.isdisjoint(node.inputs),
        _work(node, program.values),
    )


def _grown(program: LinearProgram, sizes: Sequence[int], seeds: int) -> Sequence[int]:
    """Bytes of each tensor, those on the tangents for all seeds."""
    grown = list(sizes)
    for number in program.linear if seeds != 1 else ():
        grown[number] *= seeds
    return grown


def _cost(
    program: LinearProgram, sizes: Sequence[int], counted: Sequence[_Counted], seeds: int
) -> Cost:
    traffic = [sum([sizes[n] for n in one.tensors]) for one in counted]
    constants = [n for node in program.nodes for n in node.inputs if n in program.constants]
    ends = {*program.primals, *program.tangents, *program.outputs, *constants}
    apart = [t for one, t in zip(counted, traffic, strict=True) if not one.is_pointwise]
    fused = sum([sizes[n] for n in ends if n is not None]) + sum(apart)
    work = sum([one.work * (seeds if one.is_linear else 1) for one in counted])
    return Cost(sum(traffic), fused, work, len(counted), _peak(program, sizes))


def is_view(node: Node) -> bool:
    """Whether an operation returns the memory that it was given."""
    return hasattr(node.op, "_schema") and _returns_its_memory(node.op)


@cache
def _returns_its_memory(op: Any) -> bool:
    aliases = [a.alias_info for a in op._schema.arguments]
    is_alias = any([alias is not None and not alias.is_write for alias in aliases])
    return is_alias or str(getattr(op, "overloadpacket", op)) in _FREE


def bytes_of(value: Value) -> int:
    """Memory that holds the numbers of a tensor; what is repeated by a step of zero counts once."""
    lengths = value.shape
    if 0 in value.strides and 0 not in lengths:
        lengths = [s for s, step in zip(lengths, value.strides, strict=True) if step]
    return prod(lengths) * value.dtype.itemsize


def _work(node: Node, values: Sequence[Value]) -> int:
    """Floating-point operations for one seed."""
    results = [() if n is None else values[n].shape for n in node.outputs]
    result: Any = results[0] if len(results) == 1 else results
    try:
        known = flops_of(node.op, _shapes(node.args, values), result)
    except (IndexError, TypeError):  # it needs the shape of a result that nobody uses
        known = None
    if known is not None:
        return known
    return max([prod(values[n].shape) for n in (*node.inputs, *node.outputs) if n is not None])


def _shapes(args: Any, values: Sequence[Value]) -> Any:
    """The arguments, with shapes in place of tensors."""
    return [values[arg.number].shape if isinstance(arg, Ref) else arg for arg in args]


def _peak(program: LinearProgram, sizes: Sequence[int]) -> int:
    """Most bytes alive at once, if memory is freed after its last use."""
    owner: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, node in enumerate(program.nodes):
        used = [owner.get(n, n) for n in node.inputs]
        made = [n for n in node.outputs if n is not None]
        owner |= {n: used[0] if used and is_view(node) else n for n in made}
        last |= dict.fromkeys([*used, *[owner[n] for n in made]], k)
    last |= {owner.get(n, n): len(program.nodes) for n in program.outputs if n is not None}
    freed: dict[int, int] = {}
    for number in set(owner.values()).intersection(owner):
        freed[last[number]] = freed.get(last[number], 0) + sizes[number]
    alive = peak = 0
    for k, node in enumerate(program.nodes):
        alive += sum([sizes[n] for n in node.outputs if n is not None and owner[n] == n])
        peak = max(peak, alive)
        alive -= freed.get(k, 0)
    return peak
