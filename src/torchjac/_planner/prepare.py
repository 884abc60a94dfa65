"""Make a plan for one branch of a function: evaluate, detect, probe, color, compute, certify."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._coloring.coloring import Coloring, Kind
from torchjac._coloring.select import color_pattern
from torchjac._evaluate.compressed import Passes, common_dtype
from torchjac._evaluate.differentiate import Point, evaluate, explain_refusals, look_for_zeros
from torchjac._evaluate.direct.runner import CUDAGRAPHS
from torchjac._evaluate.ladder import LOOP, Rung
from torchjac._evaluate.memory import bound_of_seed
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import Refusal
from torchjac._evaluate.strict import check_dependence
from torchjac._evaluate.tape import Tape
from torchjac._inputs.modules import Buffers
from torchjac._inputs.signature import Signature
from torchjac._inputs.storage import reads_memory
from torchjac._inputs.warn import warn
from torchjac._layout.decompress import decompressor
from torchjac._linearize.cost import costs_of
from torchjac._pattern.detect import Detection, detect
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.apply import (
    Account,
    Entries,
    find_suspects,
    measured_chunks,
    planned_chunks,
    take_entries,
    tell,
)
from torchjac._planner.arrangements import arrangements
from torchjac._planner.certificate import confirm, floor_of
from torchjac._planner.choose import Choice, choose
from torchjac._planner.elsewhere import held_elsewhere
from torchjac._planner.probe import FORWARD, REVERSE, Probe, probe
from torchjac._planner.programs import EAGER, with_programs
from torchjac._planner.structure import SYMMETRIC, Found, Request, Scheme, Side, Structure
from torchjac._torch import coarsest_eps
from torchjac.errors import ArgumentError, DisagreementWarning, FallbackWarning, ShapeError

# Zeros in inputs that are not differentiated count if they leave this part of the pattern at most:
# a triangle, a band. Others are there by chance.
MEANT_ZEROS = 0.75


class Given(NamedTuple):
    """What is known beforehand.

    Attributes:
        pattern: Entries that can be nonzero, None to detect them.
        coloring: A coloring or the kind of one, None to choose.
        source: Who says so: "given" or "loaded".
    """

    pattern: SparsityPattern | None = None
    coloring: Coloring | Kind | None = None
    source: str = "given"


class Prepared(NamedTuple):
    """A structure, and the first answer that was computed by it."""

    structure: Structure
    passes: Passes
    entries: Entries


class _Probes(NamedTuple):
    """Probes of the modes that may be chosen, and of all that can bear witness."""

    usable: tuple[Probe, ...]
    witnesses: tuple[Probe, ...]


class _Workshop(NamedTuple):
    """What the steps of the making share."""

    request: Request
    given: Given
    point: Point
    passes: Passes


def prepare(
    signature: Signature,
    request: Request,
    options: Options,
    given: Given,
    buffers: Buffers | None,
) -> Prepared:
    """Find and choose everything that does not depend on the numbers.

    Args:
        signature: The function and where.
        request: What the user asked for.
        options: How to evaluate.
        given: A pattern or coloring that the user brought.
        buffers: Of modules, which an evaluation may change; None if there are none.

    Returns:
        The structure, certified, and the entries at this point.
    """
    point = evaluate(signature, options)
    tape, leaves = point.tape, point.signature.leaves
    outputs = tape.outputs.tensors
    if options.strict:
        check_dependence(tape, create_graph=False)
    if not (options.quiet or options.allow_constant):
        carried = [[y if y.requires_grad else None] for y in outputs]
        look_for_zeros(request.api, tape.outputs, carried)
    is_stateful = (buffers is not None and buffers.have_moved()) or point.state.was_used()
    pattern, found, seen = _find(point.signature, request, given, outputs)
    by_place = _reads_places(seen, tape)
    passes = Passes(point.signature, outputs, options, point.state, tape)
    probes = _probes(passes, request, pattern)
    structure = Structure(
        pattern,
        found,
        outputs=tuple([torch.empty_like(y, device="meta") for y in outputs]),
        tree=tape.outputs.spec,
        dtypes=(common_dtype(leaves),) if request.flat else tuple([x.dtype for x in leaves]),
        arrangements=arrangements(pattern, request, outputs, leaves),
        eps=coarsest_eps(outputs),
        floor=floor_of(outputs, leaves),
        is_stateful=is_stateful,
        methods={p.mode: p.method for p in probes.witnesses},
        strides=tuple([x.stride() for x in leaves]) if by_place else None,
        is_live=seen is not None and len(seen.program.primals) > len(leaves),
    )
    structure, entries = _settle(structure, _Workshop(request, given, point, passes), probes)
    structure = _finished(structure, request, seen, passes, entries.values.detach())
    if request.api == "plan" and seen is not None:  # used at other points too
        structure = held_elsewhere(request, structure, seen, passes)
    _explain(request.api, _in_use(structure, probes.witnesses))
    return Prepared(structure, passes, entries)


def _finished(
    structure: Structure,
    request: Request,
    seen: Detection | None,
    passes: Passes,
    values: Tensor,
) -> Structure:
    """The structure with what makes later calls faster, where it holds for every x."""
    scheme = structure.scheme
    if seen is None or seen.scope != "global" or scheme is None:
        return structure
    if seen.is_constant:
        return replace(structure, constant=values)
    one, two = costs_of(seen.program, [1, 2])
    costs = [
        replace(c, cost=one.extended(two, c.seeds)) if c.seeds else c for c in structure.candidates
    ]
    structure = replace(structure, candidates=tuple(costs))
    if request.backend == EAGER or structure.is_stateful or seen.program.reads:
        return structure
    again = partial(_again, scheme, request, passes)
    signature = passes.signature._replace(call=passes.signature.recall)
    return with_programs(request, structure, seen, signature, values, again)


def _again(scheme: Scheme, request: Request, passes: Passes) -> Tensor:
    """The entries by passes once more, as a plan computes them, the tape included."""
    leaves = passes.signature.leaves
    signature = passes.signature._replace(call=passes.signature.recall)
    chunks = [planned_chunks(side, request, leaves[0].device) for side in scheme.sides]
    with passes.state.replayed(), torch.enable_grad():
        fresh = replace(passes, signature=signature, tape=None, value=None)
        return take_entries(scheme, fresh, chunks, certified=False).values


def _find(
    signature: Signature, request: Request, given: Given, outputs: Sequence[Tensor]
) -> tuple[SparsityPattern, Found, Detection | None]:
    """The pattern, how it was found, and all that was seen on the way."""
    seen = None
    if given.pattern is None:
        seen = _seen(signature, request)
        found = Found(
            "detected",
            seen.scope,
            seen.direction,
            seen.opaque_ops,
            seen.dense_ops,
            seen.program.reads,
            int(seen.constant.sum()),
            seen.trace_s,
            seen.pattern_s,
        )
        pattern = seen.pattern
    else:
        pattern, found = given.pattern, Found(given.source, request.scope)
        coloring = given.coloring
        if isinstance(coloring, Coloring) and coloring.pattern != pattern:
            raise ArgumentError(
                f"{request.api}: `coloring` was made for another pattern, {coloring.pattern!r}: "
                f"expected one for {pattern!r}. Color that one with `torchjac.color`."
            )
        shape = tuple([sum([t.numel() for t in group]) for group in (outputs, signature.leaves)])
        if pattern.shape != shape:
            raise ShapeError(
                f"{request.api}: `pattern` must have a row for each element of the outputs and a "
                f"column for each of the inputs: expected shape {shape}, got {pattern.shape}."
            )
    return (pattern.symmetrized() if request.order == 2 else pattern), found, seen


def _seen(signature: Signature, request: Request) -> Detection:
    """The pattern, for any numbers in tensors that are not differentiated if that is possible."""
    beside = signature.beside
    on_device = request.backend != CUDAGRAPHS or all([t.is_cuda for t in beside])
    if not beside or request.api != "plan" or request.scope != "global" or not on_device:
        return detect(signature, request.scope)
    seen = detect(signature, request.scope, live=True)
    if seen.program.reads or seen.program.reads_places:  # the function may look at them too
        return detect(signature, request.scope)
    if any([t.numel() > 1 and not bool(t.all()) for t in beside]):
        as_they_are = detect(signature, request.scope)
        if as_they_are.pattern.nnz <= MEANT_ZEROS * seen.pattern.nnz:
            return as_they_are
    return seen


def _probes(passes: Passes, request: Request, pattern: SparsityPattern) -> _Probes:
    """A probe of each mode that is possible; reverse mode is a witness even where not allowed."""
    if 0 in pattern.shape:
        return _Probes((), ())
    probes: list[Probe] = []
    refusals: list[Refusal] = []
    for mode in (FORWARD, REVERSE):
        if mode == FORWARD and request.strategy == REVERSE:
            continue
        try:
            probes.append(probe(passes, mode))
        except Exception as error:
            if isinstance(error, Warning) or (mode == REVERSE and not probes):
                raise
            refusals.append(Refusal(mode, str(error).strip().split("\n")[0]))
    usable = [p for p in probes if request.strategy in ("auto", p.mode)]
    if not usable:  # forward mode alone was allowed, and there is no rule
        usable = probes
        rung = Rung(REVERSE, usable[0].method, bool)
        warn(explain_refusals(request.api, rung, refusals), FallbackWarning)
    return _Probes(tuple(usable), tuple(probes))


def _settle(structure: Structure, shop: _Workshop, probes: _Probes) -> tuple[Structure, Entries]:
    """Choose a scheme whose entries pass the certificates."""
    leaves = shop.point.signature.leaves
    if not probes.usable:
        nothing = torch.empty(0, dtype=common_dtype(leaves), device=leaves[0].device)
        return structure, Entries(nothing, ())
    api, given = shop.request.api, shop.given
    itemsize = common_dtype(leaves).itemsize
    choice = choose(shop.request, structure.pattern, probes.usable, itemsize, given.coloring)
    structure, entries = _first(structure, shop, choice)
    proofs = tuple([(p.mode, p.vector, p.product) for p in probes.witnesses])
    rows, columns = find_suspects(structure, entries._replace(proofs=proofs))
    modes = {side.mode for side in choice.sides}
    if modes == {REVERSE}:
        # The columns decide: forward rules may be wrong, and nothing was computed by them.
        wrong = len(columns) > 0
    elif len(columns) and not len(rows) and len(probes.witnesses) == 2:
        warn(
            f"{api}: forward and reverse mode disagree for this function, as with an "
            "autograd.Function whose `jvp` and `backward` do not belong together. The plan "
            "computes rows by reverse mode; `torchjac.check` shows the numbers.",
            DisagreementWarning,
        )
        usable = given.coloring if shop.request.order == 2 else None
        shop = shop._replace(given=given._replace(coloring=usable))
        backward = tuple([p for p in probes.witnesses if p.mode == REVERSE])
        return _settle(structure, shop, _Probes(backward, backward))
    else:
        wrong = len(rows) + len(columns) > 0
    if wrong:
        confirm(api, structure, shop.passes, entries, (rows, columns))
    return structure, entries


def _reads_places(seen: Detection | None, tape: Tape) -> bool:
    """Whether the function reads memory by its place, or asks how its inputs lie there."""
    if seen is not None and seen.program.reads_places:
        return True
    return reads_memory(tape.survey().node_names)


def _in_use(structure: Structure, probes: Sequence[Probe]) -> Sequence[Probe]:
    """Probes of the modes by which later calls will compute."""
    if structure.scheme is None or not structure.needs_passes:
        return ()
    modes = {side.mode for side in structure.scheme.sides}
    return [p for p in probes if p.mode in modes]


def _explain(api: str, used: Sequence[Probe]) -> None:
    """Warn of what made the modes in use slow."""
    for probed in used:
        if probed.refusals:
            rung = Rung(probed.mode, probed.method, bool)
            warn(explain_refusals(api, rung, probed.refusals), FallbackWarning)
        if probed.disagrees:
            warn(
                f"{api}: batched {probed.mode} products disagree with single ones for this "
                "function, as with an autograd.Function whose vmap rule is wrong or whose backward "
                "looks at the shape of its gradient. The plan takes single ones.",
                DisagreementWarning,
            )


def _first(structure: Structure, shop: _Workshop, choice: Choice) -> tuple[Structure, Entries]:
    """Compute once, and keep the sizes of the passes that proved right."""
    tape, request = shop.point.tape, shop.request
    total, seeds = tape.survey().gradient_bytes, sum([side.seeds for side in choice.sides])
    bound = bound_of_seed(total, tape.outputs.tensors, tape.inputs, seeds)
    chosen = next(c for c in choice.candidates if c.is_chosen)
    with Progress(shown=shop.passes.options.progress, label=request.api) as progress:
        progress.expect(seeds)
        account = Account(shop.point.held_bytes, bound, chosen.bytes, progress)
        chunks = [
            measured_chunks(side, request, tape.inputs[0].device, account) for side in choice.sides
        ]
        scheme = Scheme(choice.coloring, choice.sides, decompressor(choice.coloring))
        entries = take_entries(scheme, shop.passes, chunks, certified=False)
    tell(request.api, choice.sides, chunks, chosen.bytes, chosen.name)
    sides = [
        side._replace(chunk_size=request.chunk_size or c.settled(side.seeds))
        for side, c in zip(choice.sides, chunks, strict=True)
    ]
    structure = replace(
        structure,
        scheme=replace(scheme, sides=tuple(sides)),
        candidates=choice.candidates,
        coloring_s=structure.coloring_s + choice.coloring_s,
    )
    return structure, entries


def rows_scheme(structure: Structure, passes: Passes) -> Scheme | None:
    """A scheme of reverse mode alone, whose results can be differentiated.

    PyTorch's forward rules of solve, det, layer_norm and others have a wrong derivative.

    Args:
        structure: What the plan knows.
        passes: The function at one point.

    Returns:
        The plan's own scheme where it is one.
    """
    scheme = structure.scheme
    if scheme is None:
        return scheme
    method = _method_of_rows(structure, passes)
    if all(side.mode == REVERSE for side in scheme.sides):
        sides = tuple([side._replace(method=method) for side in scheme.sides])
        return replace(scheme, sides=sides)
    coloring = scheme.coloring
    if coloring.kind not in SYMMETRIC:
        coloring = color_pattern(structure.pattern, "row")
    count = coloring.num_colors
    size = next((s.chunk_size for s in scheme.sides), None)
    side = Side(REVERSE, method, count, size)
    return Scheme(coloring, (side,), decompressor(coloring))


def _method_of_rows(structure: Structure, passes: Passes) -> str:
    """How differentiable products by reverse mode are run: some may not be batched then."""
    method = structure.methods.get(REVERSE)
    try:
        if method not in (None, LOOP) and passes.tape is not None:
            passes.tape.refuse_batching(create_graph=True)
    except NotImplementedError:
        method = None
    if method is not None:
        return method
    probed = probe(passes, REVERSE)
    _explain(passes.signature.api, [probed])
    return probed.method
