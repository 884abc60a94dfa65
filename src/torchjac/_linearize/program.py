"""The derivative of a function as a list of operations, one part of them linear in the tangent."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["LinearProgram", "Node", "Ref", "Value", "dependents", "map_refs", "refs_in"]


class Ref(NamedTuple):
    """A tensor of a program, by its number."""

    number: int


class Value(NamedTuple):
    """What is known of a tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    strides: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        op: What was called, an operator of PyTorch.
        args: Its arguments, a `Ref` in place of each tensor, also inside of lists.
        kwargs: Likewise.
        outputs: Numbers of the tensors it returned, None for those undefined, in order.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """Name of the operator, such as "aten.mul"."""
        packet = getattr(self.op, "overloadpacket", self.op)
        return str(packet)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the tensors among the arguments."""
        return (*refs_in(self.args), *refs_in(tuple(self.kwargs.values())))


@dataclass(frozen=True, eq=False)
class LinearProgram:
    """The map v -> J(x) v, or u -> J(x)^T u, at one x.

    Attributes:
        nodes: The operations in order, those on `x` and those on the tangent.
        values: What is known of each tensor; `Ref.number` is an index into it.
        primals: Numbers of the inputs x, then of what else may change from call to call.
        tangents: Numbers of the vectors the program is linear in: one for each input ("jvp"),
            one for each output of the function ("vjp").
        outputs: Numbers of the results, None for one that is zero throughout.
        constants: Tensors that depend on neither, by number.
        integers: Integer and boolean tensors that depend on x, as they are at this x.
        linear: Numbers of the tensors that depend on the tangents.
        direction: "jvp" or "vjp".
        reads: What the function read out of tensors while it ran: its branch depends on them.
        reads_places: Whether it asked how tensors lie in memory, which may decide as well.
        trace_s: Seconds that tracing took.
        graded: Numbers of constants that came from outside and require gradients.
        generic: Constants with zeros that are made of these, as they are with other numbers
            there: only the zeros that are left are zeros for any weights.
    """

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    primals: tuple[int, ...]
    tangents: tuple[int, ...]
    outputs: tuple[int | None, ...]
    constants: Mapping[int, Tensor]
    integers: Mapping[int, Tensor]
    linear: frozenset[int]
    direction: str
    reads: tuple[Any, ...] = ()
    reads_places: bool = False
    trace_s: float = 0.0
    graded: frozenset[int] = frozenset()
    generic: Mapping[int, Tensor] = field(default_factory=dict)

    @cached_property
    def makers(self) -> Mapping[int, Node]:
        """The operation that made each tensor, by its number."""
        return {n: node for node in self.nodes for n in node.outputs if n is not None}

    def for_any_weights(self) -> "LinearProgram":
        """The program with constants whose zeros are those for any weights."""
        return replace(self, constants={**self.constants, **self.generic})

    @property
    def linear_nodes(self) -> tuple[Node, ...]:
        """The operations that are linear in the tangent."""
        return tuple([n for n in self.nodes if not self.linear.isdisjoint(n.inputs)])


def dependents(nodes: Iterable[Node], roots: Iterable[int]) -> frozenset[int]:
    """Numbers of the tensors that depend on any of `roots`, those included."""
    found = set(roots)
    for node in nodes:
        if not found.isdisjoint(node.inputs):
            found.update([n for n in node.outputs if n is not None])
    return frozenset(found)


def refs_in(tree: Any) -> Iterator[int]:
    """Numbers of the tensors in a tree of tuples and lists."""
    if isinstance(tree, Ref):
        yield tree.number
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from refs_in(part)


def map_refs(function: Callable[[Ref], Any], tree: Any) -> Any:
    """`tree` with `function` applied to each `Ref` in it; lists stay lists."""
    if isinstance(tree, Ref):
        return function(tree)
    if isinstance(tree, list):
        return [map_refs(function, part) for part in tree]
    if isinstance(tree, tuple):
        return tuple([map_refs(function, part) for part in tree])
    return tree
