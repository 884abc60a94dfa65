"""The second derivative of a function as a program that is linear in two vectors.

With t = J(x) v as a list of operations (a linear program), these are carried out once more under
forward mode by x: what is recorded of that is D^2 f(x)[v, w]. It honours what autograd really does
(custom Functions, `detach`, blocks without gradients), because the linear program does. Tensors in
it are told apart by degree: 0 for those of x alone, 1 for those linear in v or in w, 2 for those
that are linear in both.

For D^2 f[v, v] one name serves v and w, and most of what is linear in w alone repeats what is
linear in v: it is computed once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.direct.byproducts import restored
from torchjac._evaluate.direct.peephole import without_repetitions
from torchjac._inputs.signature import Signature
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram, Node, Ref, Value, map_refs
from torchjac._linearize.rerun import check_repeatable, random_vector, run_node
from torchjac._linearize.simplify import simplified, trimmed
from torchjac._linearize.transpose import transposed
from torchjac._torch import push_forward

aten = torch.ops.aten
# The other forms take numbers or lists.
_SUMS = frozenset({aten.add.Tensor, aten.sub.Tensor})


@dataclass(frozen=True, eq=False)
class SecondOrder:
    """The map v -> D^2 f(x)[v, v].

    Attributes:
        program: The operations; x is its first input, v the second.
        degrees: Of each tensor that is no constant and not of x alone.
        output: Number of the result, None if it is zero at every x.
        products: Of elementwise operations that were looked at, whether they multiply.
    """

    program: LinearProgram
    degrees: Mapping[int, int]
    output: int | None
    products: dict[Node, bool] = field(default_factory=dict, repr=False)

    def degree(self, number: int | None) -> int:
        """How often a tensor depends on v; 0 for one of x alone."""
        return 0 if number is None else self.degrees.get(number, 0)


def second_order(
    signature: Signature, program: LinearProgram, *, nested: bool = False
) -> SecondOrder:
    """Differentiate a linear program once more.

    Args:
        signature: A function of one tensor that returns one, and where.
        program: Its linear program.
        nested: Take forward mode of the function under forward mode, not of the program. That
            honours what is hidden from second derivatives, but some forward rules of PyTorch
            (of layer_norm, say) have a wrong derivative.

    Returns:
        The second derivative along one vector, twice.

    Raises:
        RuntimeError: The program cannot be run again, or has no forward rule.
    """
    check_repeatable(program)
    (x,) = signature.leaves
    forward = program if program.direction == "jvp" else transposed(program, [x])
    forward = _without_absent(forward, _memberships(forward, [forward.tangents]), x.device)
    if forward.outputs[0] is None:
        return SecondOrder(forward, {}, None)
    generator = torch.Generator().manual_seed(3)
    v = random_vector(forward.values[forward.tangents[0]], x.device, generator)
    inner = _derivative(signature) if nested else _product(forward, x)
    once = signature._replace(
        call=inner, recall=inner, has_aux=False, is_arithmetic=False, beside=(v,)
    )
    twice, _ = linearize(once, live=True)
    check_repeatable(twice)
    if twice.direction == "vjp":
        twice = transposed(twice, [x, v])
    sources = twice.primals[1:], twice.tangents
    twice = _without_absent(twice, _memberships(twice, sources), x.device)
    return _merged(twice, _memberships(twice, sources))


def _derivative(signature: Signature) -> Callable[[Sequence[Tensor]], Any]:
    """The function (x, v) -> J(x) v by forward mode."""

    def derivative(values: Sequence[Tensor]) -> Tensor:
        x, v = values
        (product,) = push_forward(lambda *inner: signature.replay(inner).tensors, [x], [v])
        return torch.zeros_like(signature.replay([x]).tensors[0]) if product is None else product

    return derivative


def _product(program: LinearProgram, x: Tensor) -> Callable[[Sequence[Tensor]], Any]:
    """The function (x, v) -> J(x) v of tensors."""
    rules = restored(program, x)
    (output,) = [n for n in program.outputs if n is not None]

    def product(values: Sequence[Tensor]) -> Tensor:
        starts = (*program.primals, *program.tangents)
        known = dict(program.constants) | dict(zip(starts, values, strict=True))
        for node in program.nodes:
            run_node(node, known, program)
            if node in rules:
                results = [None if n is None else known[n] for n in node.outputs]
                args = map_refs(lambda ref: known[ref.number], node.args)
                moving = zip(node.outputs, rules[node](args, results), strict=True)
                known.update({n: result for n, result in moving if n is not None})
        return known[output]

    return product


def _memberships(
    program: LinearProgram, sources: Sequence[Sequence[int]]
) -> Mapping[int, frozenset[int]]:
    """For each tensor on which of some vectors it depends, by their position."""
    known = {n: frozenset({k}) for k, source in enumerate(sources) for n in source}
    for node in program.nodes:
        found = frozenset[int]().union(*[known.get(n, frozenset()) for n in node.inputs])
        if found:
            known.update({n: found for n in node.outputs if n is not None})
    return known


def _without_absent(
    program: LinearProgram, members: Mapping[int, frozenset[int]], device: torch.device
) -> LinearProgram:
    """The program without summands that must be zero.

    What is linear in a vector is zero where the vector is: a summand that does not depend on the
    vector is zero throughout. Forward rules leave such summands behind for arguments that do not
    move (the weights of a layer).

    Args:
        program: Linear in each of some vectors.
        members: For each tensor on which of them it depends.
        device: Where its tensors are.

    Returns:
        The same map.
    """
    nodes: list[Node] = []
    values = list(program.values)
    constants = dict(program.constants)
    for node in program.nodes:
        absent = _absent(node, members)
        if absent is not None:
            number = len(values)
            values.append(values[absent.number])
            zero = torch.zeros((), dtype=values[number].dtype, device=device)
            constants[number] = zero.expand(values[number].shape)
            node = _summand(node, absent, Ref(number), values)
        nodes.append(node)
    changed = replace(program, nodes=tuple(nodes), values=tuple(values), constants=constants)
    return simplified(changed, program.trace_s)


def _absent(node: Node, members: Mapping[int, frozenset[int]]) -> Ref | None:
    """The summand that must be zero, if one must."""
    if node.op not in _SUMS or not all([isinstance(a, Ref) for a in node.args]):
        return None
    one, other = [members.get(ref.number, frozenset()) for ref in node.args]
    if one < other:
        return node.args[0]
    return node.args[1] if other < one else None


def _summand(node: Node, absent: Ref, zero: Ref, values: Sequence[Value]) -> Node:
    """The other summand alone, or with zeros if they give it another shape, or a sign."""
    first, second = node.args
    kept, (number,) = (second if absent == first else first), node.outputs
    is_plain = kept == first or (node.op is aten.add.Tensor and not node.kwargs)
    if is_plain and number is not None and values[kept.number][:2] == values[number][:2]:
        return Node(aten.alias.default, (kept,), {}, node.outputs)
    args = tuple([zero if part == absent else part for part in node.args])
    return Node(node.op, args, node.kwargs, node.outputs)


def _merged(program: LinearProgram, members: Mapping[int, frozenset[int]]) -> SecondOrder:
    """The program for one vector in place of two, with nothing computed twice."""
    (v,), (w,) = program.primals[1:], program.tangents
    same = _equal_constants(program.constants) | {w: v}

    def rename(ref: Ref) -> Ref:
        return Ref(same.get(ref.number, ref.number))

    nodes = [
        Node(n.op, map_refs(rename, n.args), _mapped(rename, n.kwargs), n.outputs)
        for n in program.nodes
    ]
    nodes, outputs = trimmed(
        without_repetitions(nodes), program.values, program.constants, program.outputs
    )
    (output,) = outputs
    known = {number: len(found) for number, found in members.items()}
    merged = replace(program, nodes=tuple(nodes), tangents=(), outputs=outputs)
    return SecondOrder(
        merged, known, output if output is not None and known.get(output) == 2 else None
    )


def _mapped(rename: Callable[[Ref], Ref], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: map_refs(rename, value) for key, value in kwargs.items()}


def _equal_constants(constants: Mapping[int, Tensor]) -> dict[int, int]:
    """One number for constants that are the same."""
    alike: dict[Any, list[int]] = {}
    same: dict[int, int] = {}
    for number, tensor in constants.items():
        if tensor.layout is not torch.strided:
            continue
        group = alike.setdefault((tensor.shape, tensor.dtype, tensor.stride()), [])
        first = next((n for n in group if torch.equal(constants[n], tensor)), None)
        if first is None:
            group.append(number)
        else:
            same[number] = first
    return same
