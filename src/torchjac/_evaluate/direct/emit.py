"""Emit one plain tensor program from x to the nonzeros of the Jacobian."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from torchjac._evaluate.direct.assemble import Assembly, assemble
from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.peephole import shortened, without_repetitions
from torchjac._evaluate.direct.repeated import without_repeated_factors
from torchjac._evaluate.direct.rows import Places
from torchjac._evaluate.direct.scalars import light, with_numbers
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._evaluate.direct.unroll import unrolled
from torchjac._linearize.cost import Cost, cost_of
from torchjac._linearize.plain import plain
from torchjac._linearize.program import LinearProgram, Node, Ref, map_refs
from torchjac._linearize.record import Recorder, TooLongError, WrittenToError
from torchjac._linearize.simplify import trimmed
from torchjac._linearize.without_writes import without_writes
from torchjac._pattern.pattern import SparsityPattern

aten = torch.ops.aten
# More derivatives of one tensor than this many times the nonzeros, or than this in all, and
# compressed passes are better; fewer than the least are always carried.
MOST_TIMES, MOST_DERIVATIVES, FEW_DERIVATIVES = 32, 2**26, 2**20
# A longer program takes longer to run than passes do.
MOST_OPERATIONS = 4000

IsConstant = Callable[[Tensor], bool]
Results = Sequence[Sequence[Block] | None]


@dataclass(frozen=True, eq=False)
class DirectProgram:
    """A program without derivatives: the nonzeros of J as a function of x.

    Attributes:
        whole: Takes the inputs, returns the nonzeros in CSR order.
        varying: Takes the inputs, returns those nonzeros that depend on them; None if none does.
        targets: Places of these among the nonzeros, rising; None if they are all.
        operations: Number of operations of `whole`.
        nonzero_bytes: Size of the nonzeros.
        cost: Of `whole`.
    """

    whole: fx.GraphModule
    varying: fx.GraphModule | None
    targets: Tensor | slice | None
    operations: int
    nonzero_bytes: int
    cost: Cost


def emit_carried(
    carried: Callable[[Sequence[Tensor], IsConstant, int], Results],
    primals: Sequence[Tensor],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    *,
    transposed: bool,
) -> DirectProgram:
    """Emit the program of a Jacobian whose derivatives are carried in any way.

    Args:
        carried: Takes the inputs, what tells whether a tensor is the same at every x, and the
            most derivatives of one tensor; returns the blocks of each result.
        primals: x, where the program was traced.
        sizes: Numbers of elements of the results.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        transposed: Whether the results are those of a transposed program, its inputs rows.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
    """
    room = min(MOST_DERIVATIVES, max(FEW_DERIVATIVES, MOST_TIMES * pattern.nnz))

    def assembled(inputs: Sequence[Tensor], is_constant: IsConstant) -> Assembly:
        results = carried(inputs, is_constant, room)
        return assemble(
            results, sizes, pattern, like, transposed=transposed, is_constant=is_constant
        )

    try:
        recorded, targets = _recorded(assembled, primals, is_lean=True)
    except WrittenToError:  # some batching rules of PyTorch work in place
        recorded, targets = _recorded(assembled, primals, is_lean=False)
    outputs = recorded.outputs
    whole, alone = _program(recorded, 0)
    part = None if outputs[1] is None else whole
    if part is not None and outputs[1] != outputs[0]:
        part = _program(recorded, 1)[0]
    where = None if targets is None else as_slice(targets)
    if where is None and targets is not None:
        where = torch.from_numpy(targets.astype(np.int64)).to(like.device)
    size, cost = pattern.nnz * like.element_size(), cost_of(alone)
    return DirectProgram(whole, part, where, len(alone.nodes), size, cost)


def as_slice(places: NDArray[np.int64]) -> slice | None:
    """Places at equal steps as a slice, which is written to faster.

    Args:
        places: Rising numbers.

    Returns:
        The slice, or None if the steps differ.

    >>> as_slice(np.array([1, 4, 7]))
    slice(1, 8, 3)
    """
    steps = np.diff(places)
    if not len(steps) or not (steps == steps[0]).all():
        return None
    return slice(int(places[0]), int(places[-1]) + 1, int(steps[0]))


def _recorded(
    assembled: Callable[[Sequence[Tensor], IsConstant], Assembly],
    primals: Sequence[Tensor],
    *,
    is_lean: bool,
) -> tuple[LinearProgram, Places | None]:
    """What is recorded, as a program that writes to no tensor, linear in nothing."""
    recorder = Recorder(is_lean=is_lean, most=MOST_OPERATIONS)
    try:
        with torch.no_grad(), recorder:
            inputs = [x.detach().clone() for x in primals]
            numbers = recorder.enter(inputs)
            nonzeros, varying, targets = assembled(inputs, recorder.is_constant)
            outputs = recorder.leave([nonzeros, varying])
    except TooLongError:
        raise TooManyDerivativesError(f"more than {MOST_OPERATIONS:,} operations") from None
    program = LinearProgram(
        tuple(recorder.nodes),
        tuple(recorder.values),
        numbers,
        (),
        outputs,
        recorder.constants,
        recorder.integers,
        frozenset(),
        "jvp",
    )
    if recorder.mutates:
        program = without_writes(program, inputs, ())
    nodes, outputs = trimmed(program.nodes, program.values, program.constants, program.outputs)
    return replace(program, nodes=tuple(nodes), outputs=outputs), targets


def _program(recorded: LinearProgram, position: int) -> tuple[fx.GraphModule, LinearProgram]:
    """One of the results as a program, and the operations that it was made of."""
    values, constants = recorded.values, recorded.constants
    outputs = recorded.outputs[position : position + 1]
    nodes, outputs = trimmed(recorded.nodes, values, constants, outputs)
    nodes = without_repetitions(shortened(nodes, values, constants))
    nodes, outputs = trimmed(nodes, values, constants, outputs)
    alone = replace(recorded, nodes=tuple(nodes), outputs=outputs)
    alone = unrolled(without_repeated_factors(alone))
    values, constants = alone.values, alone.constants
    nodes = with_numbers(shortened(alone.nodes, values, constants), values, constants)
    nodes, outputs = trimmed(without_repetitions(nodes), values, constants, alone.outputs)
    (output,) = [number for number in outputs if number is not None]
    constants = light(constants, nodes, output)
    graph = _graph(nodes, constants, alone.primals, output)
    return graph, replace(alone, nodes=tuple(nodes), outputs=outputs, constants=constants)


def _graph(
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
            root.register_buffer(name, constants[ref.number])
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
    return fx.GraphModule(root, graph)


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
