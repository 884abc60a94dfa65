"""Compile an emitted program: in parts if it is long, with constants as inputs of the parts."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby, pairwise
from operator import getitem
from typing import NamedTuple

import torch
from torch import Tensor, fx

from torchjac._evaluate.direct.replayed import Run
from torchjac._evaluate.direct.strides import Strides, laid_out
from torchjac._evaluate.mistakes import described, left_out
from torchjac._inputs.warn import warn
from torchjac._torch import compile_graph, lacks_a_way_from_cpp
from torchjac.errors import FallbackWarning

# Beyond this length what the compiler needs grows faster than what it is given.
MOST_NODES = 1000
# A second thread costs microseconds to wake, and milliseconds where another process has its core.
PARALLEL_FROM = 2**15

# What belongs together: an operation, and the items of the list that it returns.
_Group = list[fx.Node]


class Part(NamedTuple):
    """Operations that are carried out together.

    Attributes:
        nodes: The operations, in order.
        takes: Values from before that they use, constants first.
        gives: Values of theirs that are used later.
        is_eager: Whether they are run one by one, because the compiler gave up on them.
    """

    nodes: tuple[fx.Node, ...]
    takes: tuple[fx.Node, ...]
    gives: tuple[fx.Node, ...]
    is_eager: bool


class _Step(NamedTuple):
    """A part ready to run.

    Attributes:
        call: Takes a list, which it may empty, and returns what the part gives.
        constants: The first of its inputs.
        takes: The others.
        gives: Its outputs.
        frees: Values that nobody uses afterwards.
    """

    call: Callable[[list[Tensor]], Sequence[Tensor]]
    constants: tuple[Tensor, ...]
    takes: tuple[fx.Node, ...]
    gives: tuple[fx.Node, ...]
    frees: tuple[fx.Node, ...]


def compiled(api: str, program: fx.GraphModule, examples: Sequence[Tensor]) -> Run:
    """A program compiled for inputs like `examples`.

    An operation that the compiler gives up on runs by itself, between compiled parts.

    Args:
        api: Name of the public function, for messages.
        program: Takes tensors, returns one.
        examples: Tensors with the shapes, strides, dtypes and devices of its inputs.

    Returns:
        What runs it. Inputs that lie otherwise are copied.

    Raises:
        Exception: The compiler failed for another reason, or there is none.
    """
    apart: set[str] = set()
    # An expanded tensor has several elements in one place; compiled code is not made for it.
    examples = [x.detach().clone() for x in examples]
    while True:
        try:
            return _compiled(api, program, examples, apart)
        except Exception as error:
            name = _operation_in(error)
            if name in apart or all(name != str(node.target) for node in program.graph.nodes):
                raise
            apart.add(name)
            warn(
                f"{api}: PyTorch cannot compile `{name}`, which runs by itself between compiled "
                "parts of the program.",
                FallbackWarning,
            )


def _operation_in(error: Exception) -> str:
    """The operation that the compiler says it failed at, or nothing."""
    found = re.search(r"target: (\S+)", str(error))
    return found[1] if found else ""


def _compiled(
    api: str, program: fx.GraphModule, examples: Sequence[Tensor], apart: Collection[str]
) -> Run:
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    (output,) = program.graph.output_node().all_input_nodes
    values = dict(zip(inputs, examples, strict=True))
    for node in program.graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(program, str(node.target)).detach()
    parts = parts_of(program.graph, MOST_NODES, apart)
    steps = []
    for number, part in enumerate(parts):
        given = [values[node] for node in part.takes]
        call = _eager(part) if part.is_eager else _call(api, part, given)
        # The next part is compiled for what this one gives, as it lies in memory.
        values.update(zip(part.gives, call(list(given)), strict=True))
        later = {node for after in parts[number + 1 :] for node in after.takes}
        fixed = [node for node in part.takes if node.op == "get_attr"]
        takes = part.takes[len(fixed) :]
        frees = tuple([node for node in (*takes, *part.gives) if node not in later | {output}])
        steps.append(_Step(call, tuple([values[n] for n in fixed]), takes, part.gives, frees))
    strides = [x.stride() for x in examples]
    if len(steps) == 1 and steps[0].takes == tuple(inputs):
        return _whole(steps[0], strides)
    return _stepwise(steps, inputs, output, strides)


def _whole(step: _Step, strides: Strides) -> Run:
    call, constants = step.call, step.constants

    def run(leaves: Sequence[Tensor]) -> Tensor:
        if [x.stride() for x in leaves] != strides:
            leaves = laid_out(leaves, strides)
        return call([*constants, *leaves])[0]

    return run


def _stepwise(
    steps: Sequence[_Step],
    inputs: Sequence[fx.Node],
    output: fx.Node,
    strides: Strides,
) -> Run:
    def run(leaves: Sequence[Tensor]) -> Tensor:
        if [x.stride() for x in leaves] != strides:
            leaves = laid_out(leaves, strides)
        values = dict(zip(inputs, leaves, strict=True))
        for call, constants, takes, gives, frees in steps:
            made = call([*constants, *[values[node] for node in takes]])
            values.update(zip(gives, made, strict=True))
            for node in frees:
                values.pop(node, None)
        return values[output]

    return run


def _graph_of(part: Part) -> fx.GraphModule:
    graph = fx.Graph()
    made = {node: graph.placeholder(f"value{k}") for k, node in enumerate(part.takes)}
    for node in part.nodes:
        made[node] = graph.node_copy(node, made.__getitem__)
    graph.output([made[node] for node in part.gives])
    return fx.GraphModule(torch.nn.Module(), graph)


def _call(
    api: str, part: Part, given: Sequence[Tensor]
) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """A part compiled; on a CPU with the calls between its loops, if C++ can make them."""
    failure = ""
    if given and all([tensor.device.type == "cpu" for tensor in given]):
        try:
            call = compile_graph(_graph_of(part), given, PARALLEL_FROM, in_cpp=True)
            call(list(given))
            return call
        except Exception as error:
            if not lacks_a_way_from_cpp(error):
                failure = described(error)
    call = compile_graph(_graph_of(part), given, PARALLEL_FROM, in_cpp=False)
    if failure:  # of this alone, and not of the compiler
        warn(left_out(api, f"calls in C++ ({failure})"), FallbackWarning)
    return call


def _eager(part: Part) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    forward = _graph_of(part).forward
    return lambda values: forward(*values)


def parts_of(graph: fx.Graph, most: int, apart: Collection[str] = ()) -> list[Part]:
    """Cut a graph where few values are alive.

    Args:
        graph: Of operators.
        most: Operations of a part.
        apart: Names of operations that are not compiled.

    Returns:
        The parts, in order; the first takes all inputs of the graph.
    """
    groups = _groups(graph)
    alive = _alive(groups)
    runs = groupby(range(len(groups)), key=lambda k: str(groups[k][0].target) in apart)
    chunks = []
    for is_eager, run in runs:
        bounds = list(run)
        ends = _cuts(bounds[0], bounds[-1] + 1, [len(g) for g in groups], alive, most)
        chunks += [(range(a, b), is_eager) for a, b in pairwise(ends)]
    inputs = tuple([node for node in graph.nodes if node.op == "placeholder"])
    parts = []
    for chunk, is_eager in chunks:
        nodes = [node for k in chunk for node in groups[k]]
        parts.append(_part(nodes, () if parts else inputs, is_eager))
    return parts


def _part(nodes: Sequence[fx.Node], inputs: tuple[fx.Node, ...], is_eager: bool) -> Part:
    own = set(nodes)
    used = dict.fromkeys([n for node in nodes for n in node.all_input_nodes if n not in own])
    fixed = [node for node in used if node.op == "get_attr"]
    others = dict.fromkeys([*inputs, *[node for node in used if node.op != "get_attr"]])
    gives = [node for node in nodes if any(user not in own for user in node.users)]
    return Part(tuple(nodes), (*fixed, *others), tuple(gives), is_eager)


def _groups(graph: fx.Graph) -> list[_Group]:
    groups: dict[fx.Node, _Group] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            if node.target is getitem:
                groups[node.all_input_nodes[0]].append(node)
            else:
                groups[node] = [node]
    return list(groups.values())


def _alive(groups: Sequence[_Group]) -> list[int]:
    """After each group, how many values wait to be used."""
    place = {node: k for k, group in enumerate(groups) for node in group}
    change = [0] * (len(groups) + 1)
    for node, k in place.items():
        last = max([place.get(user, len(groups)) for user in node.users], default=k)
        change[k] += 1
        change[last] -= 1
    alive = 0
    return [alive := alive + c for c in change[:-1]]


def _cuts(
    start: int, stop: int, sizes: Sequence[int], alive: Sequence[int], most: int
) -> Iterator[int]:
    """Bounds of the parts between two groups."""
    yield start
    while sum(sizes[start:stop]) > most:
        length, window = 0, []
        for k in range(start, stop):
            length += sizes[k]
            if length > most and window:
                break
            if 2 * length >= most:
                window.append(k + 1)
        # Of equally narrow places the last.
        start = min(reversed(window), key=lambda end: alive[end - 1])
        yield start
    yield stop
