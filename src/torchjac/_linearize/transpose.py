"""The mirror of a linear program: from v -> J v to u -> J^T u, and back.

What is linear can be differentiated by autograd without loss: the program is run once on vectors
that require gradients, and its backward pass is recorded. That pass depends on the coefficients
and on u. Some operations take the vectors too, and look at their shapes only: they get zeros, with
which the products must be what they were, or the program was not linear.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.linearize import agree
from torchjac._linearize.program import LinearProgram, Node, Ref, dependents
from torchjac._linearize.record import Recorder
from torchjac._linearize.rerun import check_repeatable, random_vector, run_node
from torchjac._linearize.simplify import simplified
from torchjac._linearize.trace import Trace, evaluating
from torchjac._linearize.without_writes import without_writes
from torchjac._torch import fast_backward

aten = torch.ops.aten
# Of a tangent and a coefficient.
_SCALED = frozenset({aten.div.Tensor, aten.mul.Tensor})
_MIRROR = {"jvp": "vjp", "vjp": "jvp"}


class _Run(NamedTuple):
    """What took part in a run forward and back.

    Attributes:
        primals: x.
        vectors: v, one for each tangent.
        results: J v, without those that are zero throughout.
        seeds: u, one for each of them.
        products: J^T u, None where it is zero throughout.
        device: Where they lie.
    """

    primals: Sequence[Tensor]
    vectors: Sequence[Tensor]
    results: Sequence[Tensor]
    seeds: Sequence[Tensor]
    products: Sequence[Tensor | None]
    device: torch.device | None


def transposed(program: LinearProgram, primals: Sequence[Tensor]) -> LinearProgram:
    """The transposed program.

    Args:
        program: The map v -> J(x) v, or u -> J(x)^T u.
        primals: x, where it was traced.

    Returns:
        The program of the transposed map, at the same x, of the other direction. Its tangents are
        one vector for each output of `program` that is not None, its outputs one for each tangent.

    Raises:
        NotImplementedError: An operation of the program has no backward, draws random numbers, is
            not linear, or works with complex numbers on the outside.
    """
    began = perf_counter()
    ends = [n for n in (*program.tangents, *program.outputs) if n is not None]
    if not all([program.values[n].dtype.is_floating_point for n in ends]):
        raise NotImplementedError("no transposed program: its vectors are not real")
    recorder = Recorder()
    try:
        check_repeatable(program)
        with evaluating(primals), recorder:
            run, numbers = _forward_and_back(program, primals, recorder)
            outputs = recorder.leave(run.products)
    except RuntimeError as error:  # PyTorch's NotImplementedError is one
        reason = str(error).strip().split("\n")[0]
        raise NotImplementedError(f"no transposed program: {reason}") from error
    mirror = LinearProgram(
        nodes=tuple(recorder.nodes),
        values=tuple(recorder.values),
        primals=(*numbers[0], *numbers[1]),
        tangents=numbers[2],
        outputs=outputs,
        constants=recorder.constants,
        integers=recorder.integers,
        linear=frozenset(),
        direction=_MIRROR[program.direction],
        reads=program.reads,
    )
    if recorder.mutates:
        mirror = without_writes(mirror, [*run.primals, *run.vectors], run.seeds)
    zeros = _zeros(mirror, mirror.primals[len(primals) :], run.device)
    mirror = replace(mirror, constants={**mirror.constants, **zeros})
    mirror = replace(simplified(mirror, 0.0), primals=mirror.primals[: len(primals)])
    _certify(mirror, program, run, has_zeros=not zeros.keys().isdisjoint(mirror.constants))
    return replace(mirror, trace_s=program.trace_s + perf_counter() - began)


def _forward_and_back(
    program: LinearProgram, primals: Sequence[Tensor], recorder: Recorder
) -> tuple[_Run, tuple[tuple[int, ...], ...]]:
    generator = torch.Generator().manual_seed(0)
    inputs = [x.detach().clone() for x in primals]
    device = next((x.device for x in (*inputs, *program.constants.values())), None)
    vectors = [random_vector(program.values[n], device, generator) for n in program.tangents]
    numbers = recorder.enter(inputs), recorder.enter([v.requires_grad_() for v in vectors])
    known = dict(program.constants) | dict(zip(program.primals, inputs, strict=True))
    known |= dict(zip(program.tangents, vectors, strict=True))
    masked = _masked_products(program)
    later = {m.made for products in masked.values() for m in products}
    for node in program.nodes:
        for product in masked.get(node, ()):
            _multiply(product, known, program)
        if node not in later:
            run_node(node, known, program)
    results = [known[n] for n in program.outputs if n is not None]
    seeds = [
        torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.device, r.dtype)
        for r in results
    ]
    numbers = (*numbers, recorder.enter(tangents=seeds))
    products: Sequence[Tensor | None] = [None] * len(vectors)
    if any([r.requires_grad for r in results]):
        pairs = [(r, s) for r, s in zip(results, seeds, strict=True) if r.requires_grad]
        ends, starts = zip(*pairs, strict=True)
        products = fast_backward(ends, vectors, starts, create_graph=False, retain_graph=False)
    return _Run(inputs, vectors, results, seeds, products, device), numbers


class _Masked(NamedTuple):
    """A product or quotient of a tangent, and what puts zeros into it.

    Attributes:
        made: The multiplication or division.
        mask: A tensor of bool.
        where: What it is where the zeros are.
    """

    made: Node
    mask: Ref
    where: bool


def _masked_products(program: LinearProgram) -> Mapping[Node, Sequence[_Masked]]:
    """What puts zeros into products that nobody else uses, and these, first to last."""
    uses = Counter([*chain.from_iterable(n.inputs for n in program.nodes), *program.outputs])
    found: dict[Node, Sequence[_Masked]] = {}
    for node in program.nodes:
        known = _masked(node, program)
        if known is None or known[1].number in program.linear:
            continue
        product, mask, where = known
        shape = [program.values[n].shape for n in node.outputs if n is not None]
        made: list[_Masked] = []
        while uses[product.number] == 1 and [program.values[product.number].shape] == shape:
            maker = program.makers.get(product.number)
            vector = None if maker is None else _scaled(maker, program)
            if maker is None or vector is None:
                break
            made.insert(0, _Masked(maker, mask, where))
            product = vector
        if made:
            found[node] = made
    return found


def _scaled(node: Node, program: LinearProgram) -> Ref | None:
    """The tangent that an operation multiplies or divides, if that is all it does."""
    if node.op not in _SCALED or node.kwargs:
        return None
    vectors = [a for a in node.args if isinstance(a, Ref) and a.number in program.linear]
    is_divisor = node.op is aten.div.Tensor and vectors == list(node.args[1:])
    return vectors[0] if len(vectors) == 1 and not is_divisor else None


def _masked(node: Node, program: LinearProgram) -> tuple[Ref, Ref, bool] | None:
    """What zeros are put into, by which mask, and what the mask is there."""
    packet, args = getattr(node.op, "overloadpacket", None), node.args
    if packet is aten.masked_fill and _is_zero(args[2], program):
        return args[0], args[1], True
    if packet is aten.where and len(args) == 3:
        for kept, zeros, where in ((args[2], args[1], True), (args[1], args[2], False)):
            if isinstance(kept, Ref) and _is_zero(zeros, program):
                return kept, args[0], where
    return None


def _is_zero(part: Any, program: LinearProgram) -> bool:
    if isinstance(part, Ref):
        known = program.constants.get(part.number)
        return known is not None and known.layout is torch.strided and not bool(known.any())
    return part == 0


def _multiply(masked: _Masked, known: dict[int, Tensor], program: LinearProgram) -> None:
    """Multiply or divide as a mask leaves it: by zero, or one, where it puts zeros.

    A forward rule that divides by a norm masks what comes of zeros afterwards. Transposed, the
    mask comes first, and zero times what is not finite would be all that is left.
    """
    (number,) = masked.made.outputs
    if number is None:
        return
    mask = known[masked.mask.number]
    mask = mask if masked.where else ~mask
    neutral = 1 if masked.made.op is aten.div.Tensor else 0
    shape = program.values[number].shape

    def factor(part: Any) -> Any:
        if not isinstance(part, Ref):
            return part
        tensor = known[part.number]
        is_vector = part.number in program.linear
        return tensor if is_vector else tensor.expand(shape).masked_fill(mask, neutral)

    known[number] = masked.made.op(*map(factor, masked.made.args))


def _zeros(mirror: LinearProgram, vectors: Sequence[int], device: Any) -> dict[int, Tensor]:
    """Zeros for the vectors and what was made of them alone, in no memory."""
    made = dependents(mirror.nodes, vectors) - dependents(mirror.nodes, mirror.tangents)
    values = [(n, mirror.values[n]) for n in made]
    return {n: torch.zeros((), dtype=v.dtype, device=device).expand(v.shape) for n, v in values}


def _certify(mirror: LinearProgram, program: LinearProgram, run: _Run, *, has_zeros: bool) -> None:
    """See that u . (J v) is (J^T u) . v, with J^T u from the mirror as it is."""
    products = run.products
    if has_zeros:
        products = _products(mirror, run)
    there = Trace(program, tuple(run.vectors), tuple(run.results))
    back = Trace(mirror, tuple(run.seeds), tuple(products))
    if not agree(there, back):
        raise NotImplementedError("no transposed program: an operation is not linear in a tangent")


def _products(mirror: LinearProgram, run: _Run) -> list[Tensor | None]:
    known = dict(mirror.constants) | dict(zip(mirror.primals, run.primals, strict=True))
    known |= dict(zip(mirror.tangents, run.seeds, strict=True))
    with torch.no_grad():
        for node in mirror.nodes:
            run_node(node, known, mirror)
    return [None if n is None else known[n] for n in mirror.outputs]
