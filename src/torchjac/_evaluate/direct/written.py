"""What was recorded as graphs: one to run operation by operation, and one for a compiler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from torchjac._evaluate.direct.draft import Draft
from torchjac._evaluate.direct.gathers import put_directly
from torchjac._evaluate.direct.peephole import shortened, without_repetitions
from torchjac._evaluate.direct.reassociate import reassociated
from torchjac._evaluate.direct.repeated import without_repeated_factors
from torchjac._evaluate.direct.scalars import light, with_numbers
from torchjac._evaluate.direct.unroll import FUSED, ONE_BY_ONE, Speed, unrolled
from torchjac._linearize.cost import Cost, cost_of
from torchjac._linearize.plain import plain
from torchjac._linearize.program import LinearProgram, Node, Ref, map_refs
from torchjac._linearize.simplify import trimmed
from torchjac._torch import LazyGraphModule

aten = torch.ops.aten


class Form(NamedTuple):
    """A program ready to run.

    Attributes:
        graph: Takes the inputs, returns the result.
        operations: How many there are.
        cost: Of all of them.
        left_out: Steps that would have made it faster, but failed, and why.
    """

    graph: fx.GraphModule
    operations: int
    cost: Cost
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Written:
    """A program that returns one tensor, written as suits what runs it.

    Attributes:
        program: The operations, linear in nothing.
        device: Where its tensors are.
        left_out: Steps that failed on the way here, and why.
    """

    program: LinearProgram = field(repr=False)
    device: torch.device
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, recorded: LinearProgram, position: int, device: torch.device) -> "Written":
        """One of the results of what was recorded.

        Args:
            recorded: Operations that are linear in nothing and write to nothing.
            position: Which result.
            device: Where its tensors are.

        Returns:
            The program of this result alone.
        """
        draft = Draft(
            _trimmed(replace(recorded, outputs=recorded.outputs[position : position + 1]))
        )
        draft = draft.after("what changes nothing", _shortened)
        draft = draft.after("repeated factors", without_repeated_factors)
        draft = draft.after("the order of products", reassociated)
        alone = draft.program
        used = {n for node in alone.nodes for n in node.inputs}.union(alone.outputs)
        constants = {n: t for n, t in alone.constants.items() if n in used}
        return cls(replace(alone, constants=constants), device, draft.left_out)

    @cached_property
    def one_by_one(self) -> Form:
        """To be run operation by operation."""
        return _form(self, ONE_BY_ONE)

    @cached_property
    def fused(self) -> Form:
        """For a compiler, which makes one loop of many operations."""
        return _form(self, FUSED)

    def __getstate__(self) -> dict[str, Any]:
        """Both forms; operators by themselves cannot be pickled, those in graphs can."""
        return {"device": self.device, "one_by_one": self.one_by_one, "fused": self.fused}


def _form(written: Written, speed: Speed) -> Form:
    draft = Draft(written.program, written.left_out)
    draft = draft.after("narrow axes", lambda program: unrolled(program, speed, written.device))
    draft = draft.after("numbers for constants", _with_numbers)
    draft = draft.after("gathers", put_directly)
    draft = draft.after("light constants", _light)
    ready = draft.program
    graph = graph_of(ready.nodes, ready.constants, ready.primals, _output(ready))
    return Form(graph, len(ready.nodes), cost_of(ready), draft.left_out)


def _output(program: LinearProgram) -> int:
    (output,) = [number for number in program.outputs if number is not None]
    return output


def _trimmed(program: LinearProgram) -> LinearProgram:
    values, constants = program.values, program.constants
    nodes, outputs = trimmed(program.nodes, values, constants, program.outputs)
    return replace(program, nodes=tuple(nodes), outputs=outputs)


def _shortened(program: LinearProgram) -> LinearProgram:
    nodes = shortened(program.nodes, program.values, program.constants)
    return _trimmed(replace(program, nodes=tuple(without_repetitions(nodes))))


def _with_numbers(program: LinearProgram) -> LinearProgram:
    values, constants = program.values, program.constants
    nodes = with_numbers(shortened(program.nodes, values, constants), values, constants)
    return _trimmed(replace(program, nodes=tuple(without_repetitions(nodes))))


def _light(program: LinearProgram) -> LinearProgram:
    constants = light(program.constants, program.nodes, _output(program))
    return replace(program, constants=constants)


def graph_of(
    nodes: Sequence[Node],
    constants: Mapping[int, Tensor],
    inputs: Sequence[int],
    output: int,
) -> fx.GraphModule:
    """The operations as a graph that runs by itself."""
    root, graph = torch.nn.Module(), fx.Graph()
    made = {n: graph.placeholder(f"x{k}") for k, n in enumerate(inputs)}

    def fetch(ref: Ref) -> fx.Node:
        if ref.number not in made:
            name = f"constant{ref.number}"
            # A result must not carry a graph that leads to a weight.
            root.register_buffer(name, constants[ref.number].detach())
            made[ref.number] = graph.get_attr(name)
        return made[ref.number]

    for node in nodes:
        kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
        target = plain(node.op)
        result = graph.call_function(target, map_refs(fetch, node.args), kwargs)
        if len(node.outputs) == 1 and not _returns_list(node.op):
            made.update(dict.fromkeys([n for n in node.outputs if n is not None], result))
            continue
        for position, number in enumerate(node.outputs):
            if number is not None:
                made[number] = graph.call_function(getitem, (result, position))
    result = fetch(Ref(output))
    if _may_be_borrowed(result):
        result = graph.call_function(aten.clone.default, (result,))
    graph.output(result)
    return LazyGraphModule(root, graph)  # most are never called, and need no code


def _may_be_borrowed(result: fx.Node) -> bool:
    """Whether a result may lie in the memory of an input or a constant."""
    while result.op == "call_function" and result.target is not getitem:
        schema: Any = getattr(result.target, "_schema", None)
        is_view = schema is None or any([a.alias_info is not None for a in schema.arguments])
        if not is_view and result.target is not aten.reshape.default:
            return False
        result = result.all_input_nodes[0]
    return True


def _returns_list(op: Any) -> bool:
    returns = op._schema.returns if hasattr(op, "_schema") else ()
    return len(returns) != 1 or str(returns[0].type) != "Tensor"
