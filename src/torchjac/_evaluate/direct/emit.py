"""Emit one plain tensor program from x to the nonzeros of the Jacobian."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from torchjac._evaluate.direct.assemble import assemble
from torchjac._evaluate.direct.carry import carry
from torchjac._evaluate.direct.peephole import without_ones
from torchjac._linearize.program import LinearProgram, Node, Ref, map_refs
from torchjac._linearize.record import Recorder
from torchjac._linearize.simplify import trimmed
from torchjac._pattern.pattern import SparsityPattern

aten = torch.ops.aten
# Without copies a tensor may have other strides than when the program was recorded.
_BY_STRIDES = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}


@dataclass(frozen=True, eq=False)
class DirectProgram:
    """A program without derivatives: the nonzeros of J as a function of x.

    Attributes:
        graph: Takes the inputs, returns the nonzeros in CSR order.
        operations: How many it has.
    """

    graph: fx.GraphModule
    operations: int


def emit(
    program: LinearProgram,
    primals: Sequence[Tensor],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    scope: str = "global",
) -> DirectProgram:
    """Emit the program of a Jacobian.

    Args:
        program: The linear program.
        primals: x, where it was traced.
        sizes: Numbers of elements of its results: the outputs of the function, or, for a
            transposed program, its inputs.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        scope: As the pattern was detected.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
    """
    recorder = Recorder()
    with torch.no_grad(), recorder:
        inputs = [x.detach().clone() for x in primals]
        numbers = recorder.enter(inputs)
        nonzeros = assemble(
            carry(program, inputs, recorder.is_constant, scope),
            sizes,
            pattern,
            like,
            transposed=program.direction == "vjp",
            is_constant=recorder.is_constant,
        )
        output = recorder.number_of(nonzeros)
    nodes, outputs = trimmed(recorder.nodes, recorder.values, recorder.constants, (output,))
    nodes = without_ones(nodes, recorder.values, recorder.constants)
    nodes, outputs = trimmed(nodes, recorder.values, recorder.constants, outputs)
    return DirectProgram(_graph(nodes, recorder.constants, numbers, outputs[0]), len(nodes))


def _graph(
    nodes: Sequence[Node],
    constants: Mapping[int, Tensor],
    inputs: Sequence[int],
    output: int | None,
) -> fx.GraphModule:
    """The operations as a graph that runs by itself."""
    root, graph = torch.nn.Module(), fx.Graph()
    made = {n: graph.placeholder(f"x{k}") for k, n in enumerate(inputs)}

    def fetch(ref: Ref) -> fx.Node:
        if ref.number not in made:
            name = f"constant{ref.number}"
            root.register_buffer(name, constants[ref.number])
            made[ref.number] = graph.get_attr(name)
        return made[ref.number]

    for node in nodes:
        kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
        target = _BY_STRIDES.get(node.op, node.op)
        result = graph.call_function(target, map_refs(fetch, node.args), kwargs)
        if len(node.outputs) == 1 and not _returns_list(node.op):
            made[node.outputs[0]] = result
            continue
        for position, number in enumerate(node.outputs):
            if number is not None:
                made[number] = graph.call_function(getitem, (result, position))
    graph.output(fetch(Ref(output)))
    return fx.GraphModule(root, graph)


def _returns_list(op: Any) -> bool:
    returns = op._schema.returns if hasattr(op, "_schema") else ()
    return len(returns) != 1 or str(returns[0].type) != "Tensor"
