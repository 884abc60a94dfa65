"""Emitted programs as candidates: made where they can pay, held against the passes, and timed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.chain.bracket import Bracket, choose_bracket, plain_bracket, rival_of
from torchjac._evaluate.chain.emit import emit_bracket
from torchjac._evaluate.direct.emit import DirectProgram
from torchjac._evaluate.direct.runner import CUDAGRAPHS, INDUCTOR, REPLAY, Direct
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.mistakes import can_be_left_out, described, is_our_own, left_out
from torchjac._inputs.signature import Signature
from torchjac._inputs.warn import warn
from torchjac._linearize.cost import Cost, cost_of
from torchjac._pattern.detect import Detection
from torchjac._planner.certificate import agree
from torchjac._planner.machine import learn, machine_of
from torchjac._planner.seeded import seeded_program
from torchjac._planner.structure import Candidate, Request, Structure
from torchjac._planner.timing import least_seconds, seconds_in_turns
from torchjac.errors import FallbackWarning

AUTO, EAGER = "auto", "eager"
# A program is timed so long, longer to tune.
REPEATED_S, TUNED_S = 2e-3, 2e-2
# To tune, what seems to take at most so many times as long as the best is timed side by side.
CLOSE = 2.0
# A program that holds more than this, and so many times the entries, is slower than passes.
MOST_WASTED, MOST_TIMES = 2**30, 32
# What takes so many times longer replayed than another program is not compiled.
HOPELESS = 5.0


class _Site(NamedTuple):
    """What candidates are made of.

    Attributes:
        request: What the user asked for.
        structure: With a scheme.
        seen: The linear program and its pattern.
        signature: The function, and where.
        leaves: What the program takes: x first.
        values: The entries there, from passes.
        by_passes: Computes them again.
    """

    request: Request
    structure: Structure
    seen: Detection
    signature: Signature
    leaves: Sequence[Tensor]
    values: Tensor
    by_passes: Callable[[], Tensor]


class _Emitted(NamedTuple):
    """A program, its name, how it multiplies, and the seconds that it took to make."""

    name: str
    how: str
    program: DirectProgram
    once_s: float


class _Made(NamedTuple):
    """A program that may be used, or None, and what is said of it."""

    direct: Direct | None
    candidate: Candidate


def with_programs(
    request: Request,
    structure: Structure,
    seen: Detection,
    signature: Signature,
    values: Tensor,
    by_passes: Callable[[], Tensor],
) -> Structure:
    """The structure with an emitted program, if that is possible and cheaper than passes.

    With `backend="auto"` a program is emitted unless it cannot pay in the stated number of
    evaluations, and compiled only if that pays too; with `tune=True` all are made and timed.

    Args:
        request: What the user asked for.
        structure: With a scheme.
        seen: The linear program and its pattern.
        signature: The function, and where.
        values: The entries there, from passes.
        by_passes: Computes them again.

    Returns:
        The structure, some candidates richer.
    """
    began = perf_counter()
    leaves = structure.taken(signature.leaves, signature.beside)
    site = _Site(request, structure, seen, signature, leaves, values, by_passes)
    planned = next(c for c in structure.candidates if c.is_chosen)
    passes = planned
    if request.tune:
        passes = replace(planned, predicted_s=_seconds(by_passes, values, request))
    made = _programs(site, passes)
    if request.tune:
        *made, (_, passes) = _side_by_side(site, [*made, _Made(None, passes)])
    ready = [m for m in made if m.direct is not None]
    if request.backend == AUTO:
        ready.append(_Made(None, passes))
    best = min(ready, key=lambda m: _total_s(m.candidate, request), default=_Made(None, passes))
    others = [c for c in structure.candidates if c is not planned]
    candidates = [
        replace(c, is_chosen=c is best.candidate)
        for c in (*[m.candidate for m in made], passes, *others)
    ]
    emit_s = perf_counter() - began
    return replace(structure, direct=best.direct, candidates=tuple(candidates), emit_s=emit_s)


def without_program(structure: Structure) -> Structure:
    """The structure with passes instead of an emitted program."""
    if structure.direct is None:
        return structure
    passes = [c for c in structure.candidates if c.seeds]
    sides = structure.scheme.sides if structure.scheme is not None else ()
    seeds = sum([side.seeds for side in sides])
    chosen = next((c for c in passes if c.seeds == seeds), None)
    passes = [replace(c, is_chosen=c is chosen) for c in passes]
    return replace(structure, direct=None, candidates=tuple(passes))


def _programs(site: _Site, passes: Candidate) -> list[_Made]:
    """All programs that may pay, the likely best first."""
    if refusal := _not_worth_emitting(site, passes):
        return [refusal]
    found = _carried(site, passes)
    ready = [m for m in found if m.direct is not None]
    enough_s = passes.predicted_s if site.request.backend == AUTO else inf
    if not ready or _least_s(ready) > enough_s:
        make = partial(seeded_program, site.structure, site.seen, site.signature, site.values)
        emitted = _emitted(site, passes.name, "", make)
        found += _of_one_way(site, emitted, passes, _least_s(ready))
    return found


def _carried(site: _Site, passes: Candidate) -> list[_Made]:
    """Programs that carry the derivatives of each entry."""
    seen, found = site.seen, list[_Made]()
    plain = plain_bracket(seen.program)
    try:
        best = choose_bracket(seen.program, site.leaves, site.structure.pattern, seen.scope)
    except NotImplementedError as error:
        return [_Made(None, _candidate(site, "direct", inf, _not_possible(error)))]
    except Exception as error:
        found = [_failed(site, "chain", "the search for waists", error)]
        best = plain
    ways = [best] if best.is_plain else [best, plain]
    for way in ways:
        rival = rival_of(way) if way is best else None
        if rival is None:
            emitted = _of_bracket(site, way)
        else:
            emitted, lost = _faster(site, way, rival)
            found += lost
        found += _of_one_way(site, emitted, passes, _least_s(found))
        if not site.request.tune and any([m.direct for m in found]):
            break
    return found


def _least_s(found: Sequence[_Made]) -> float:
    return min([m.candidate.predicted_s for m in found], default=inf)


def _faster(site: _Site, way: Bracket, rival: Bracket) -> tuple[_Emitted | _Made, list[_Made]]:
    """Of two ways the one that is faster run operation by operation; what failed on the way."""
    other = _of_bracket(site, rival)
    if isinstance(other, _Made):
        return _of_bracket(site, way), [other]
    tried = _tried(site, other, REPLAY)
    failed = [tried] if tried.direct is None else []
    other_s = tried.candidate.predicted_s
    if other_s < _predicted_s(site, way):
        return other, []
    one = _of_bracket(site, way)
    if isinstance(one, _Made):
        return other, [one]
    once_s = one.once_s + other.once_s
    tried = _tried(site, one, REPLAY)
    failed += [tried] if tried.direct is None else []
    return (other if other_s < tried.candidate.predicted_s else one)._replace(once_s=once_s), failed


def _predicted_s(site: _Site, way: Bracket) -> float:
    """Seconds of a bracket as it was counted, without what begins operations."""
    moved, work = int(way.bytes or 0), int(2 * (way.multiplications or 0))
    return machine_of(site.values.device).replayed_s(Cost(moved, moved, work, 0, 0))


def _of_one_way(
    site: _Site, emitted: _Emitted | _Made, passes: Candidate, rival_s: float
) -> list[_Made]:
    """A program replayed, compiled, or both; not compiled if a rival is far faster."""
    request, device = site.request, site.values.device
    if isinstance(emitted, _Made):
        return [emitted]
    program = emitted.program
    if request.uses is not None:
        learn(device, emit_s=emitted.once_s / max(len(site.seen.program.nodes), 1))
    if request.backend == INDUCTOR:
        return [_compiled(site, emitted)]
    replayed = _tried(site, emitted, CUDAGRAPHS if request.backend == CUDAGRAPHS else REPLAY)
    if request.backend != AUTO or replayed.direct is None:
        return [replayed]
    best_s = min(replayed.candidate.predicted_s, passes.predicted_s)
    if replayed.candidate.predicted_s > HOPELESS * rival_s:
        return [replayed]
    if request.tune or _pays_to_compile(site, program, best_s):
        return [_compiled(site, emitted), replayed]
    return [replayed]


def _name(way: Bracket) -> str:
    if way.is_plain:
        return "direct"
    return "direct, transposed" if way.is_transposed else "chain"


def _total_s(candidate: Candidate, request: Request) -> float:
    """Seconds of all evaluations that were announced, with what only this candidate has cost."""
    if request.uses is None:
        return candidate.predicted_s
    return candidate.once_s + request.uses * candidate.predicted_s


def _not_worth_emitting(site: _Site, passes: Candidate) -> _Made | None:
    """A candidate that says so, where a program cannot pay in the evaluations announced."""
    request, uses = site.request, site.request.uses
    if uses is None or request.tune or request.backend != AUTO:
        return None
    program, pattern = site.seen.program, site.structure.pattern
    machine = machine_of(site.values.device)
    once_s = machine.emit_s * len(program.nodes)
    slices = -(-pattern.nnz // max(1, *pattern.shape))
    predicted_s = machine.replayed_s(cost_of(program, slices))
    if once_s + uses * predicted_s < uses * passes.predicted_s:
        return None
    note = f"not made: does not pay in {uses:,} evaluation{'s' if uses > 1 else ''}"
    return _Made(None, _candidate(site, "direct", predicted_s, note, once_s))


def _pays_to_compile(site: _Site, program: DirectProgram, best_s: float) -> bool:
    uses = site.request.uses
    if uses is None:
        return False
    machine = machine_of(site.values.device)
    form = program.whole.one_by_one
    once_s = machine.compile_s * form.operations
    return once_s + uses * machine.compiled_s(form.cost) < uses * best_s


def _of_bracket(site: _Site, way: Bracket) -> _Emitted | _Made:
    """The program of a bracket, or what stands in the way."""
    structure, seen, leaves = site.structure, site.seen, site.leaves
    sizes = [leaf.numel() for leaf in leaves[: len(seen.program.outputs)]]
    if seen.direction == "jvp":
        sizes = [y.numel() for y in structure.outputs]
    pattern, scope = structure.pattern, seen.scope

    def make(most: float) -> DirectProgram:
        return emit_bracket(way, leaves, sizes, pattern, site.values, scope, most)

    return _emitted(site, _name(way), str(way), make)


def _emitted(
    site: _Site, name: str, how: str, make: Callable[[float], DirectProgram]
) -> _Emitted | _Made:
    """A program that may take so many bytes, or what stands in the way."""
    values, began = site.values, perf_counter()
    held = values.numel() * values.element_size()
    try:
        most = Budget(site.request.api, site.request.memory).pass_bytes(held, values.device)
        program = make(min(most, max(MOST_WASTED, MOST_TIMES * held)))
    except TooManyDerivativesError as error:
        return _Made(None, _candidate(site, name, inf, f"too large: {error}"))
    except Exception as error:
        return _failed(site, name, "emission", error)
    return _Emitted(name, how, program, perf_counter() - began)


def _compiled(site: _Site, emitted: _Emitted) -> _Made:
    """The program compiled; where that fails and nothing else was asked for, replayed."""
    leaves, api = tuple(site.leaves), site.request.api
    direct = Direct(emitted.program, INDUCTOR, leaves, api)
    began = perf_counter()
    try:
        with torch.no_grad():
            direct.nonzeros(leaves)
    except Exception as error:
        if isinstance(error, Warning):
            raise
        if site.request.backend == AUTO:
            name = f"{emitted.name}, {INDUCTOR}"
            if is_our_own(error):
                return _failed(site, name, "compilation", error)
            return _Made(None, _candidate(site, name, inf, _not_possible(error)))
        warn(
            f"{api}: the program of the Jacobian is replayed, not compiled: torch._inductor said "
            f"{_first_line(error)}. A C++ compiler is needed for backend='inductor'.",
            FallbackWarning,
        )
        return _tried(site, emitted, REPLAY)
    compile_s = perf_counter() - began
    learn(site.values.device, compile_s=compile_s / max(direct.form.operations, 1))
    return _tried(site, emitted._replace(once_s=emitted.once_s + compile_s), direct)


def _tried(site: _Site, emitted: _Emitted, run: str | Direct) -> _Made:
    """A program, run: what it gives is held against the passes, and timed."""
    leaves, values, program = tuple(site.leaves), site.values, emitted.program
    direct = Direct(program, run, leaves, site.request.api) if isinstance(run, str) else run
    name = f"{emitted.name}, {direct.backend}"
    try:
        with torch.no_grad():
            found = direct.nonzeros(leaves)
    except Exception as error:
        return _failed(site, name, "its first run", error)
    if not agree(found, values, site.structure.eps, site.structure.floor):
        return _Made(None, _candidate(site, name, inf, "gives other values: not used"))
    seconds = _seconds(partial(direct.nonzeros, leaves), values, site.request)
    ways = [] if emitted.name == "direct" or not emitted.how else [emitted.how]
    note = "; ".join([*ways, *[f"without {step}" for step in direct.form.left_out]])
    made = _candidate(site, name, seconds, note, emitted.once_s, direct.form.cost)
    return _Made(direct, made)


def _candidate(
    site: _Site,
    name: str,
    seconds: float,
    note: str,
    once_s: float = 0.0,
    cost: Cost | None = None,
) -> Candidate:
    held = site.values.numel() * site.values.element_size()
    if cost is not None:
        held = max(held, cost.peak_bytes)
    return Candidate(name, 0, held, seconds, note, once_s=once_s, cost=cost)


def _failed(site: _Site, name: str, step: str, error: Exception) -> _Made:
    """What is said of a way that failed; the passes, or another one, give the same answer."""
    # Operations that cannot be emitted are to be expected; anything else is not.
    if isinstance(error, NotImplementedError | torch.OutOfMemoryError):
        return _Made(None, _candidate(site, name, inf, _not_possible(error)))
    if not can_be_left_out(error):
        raise error
    warn(left_out(site.request.api, f"{name}, {step} ({described(error)})"), FallbackWarning)
    return _Made(None, _candidate(site, name, inf, f"{step} failed: {described(error)}"))


def _not_possible(error: Exception) -> str:
    return f"not possible: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _side_by_side(site: _Site, made: Sequence[_Made]) -> list[_Made]:
    """What was made, and last the passes, with better times for those that may be the fastest."""
    enough_s = CLOSE * min([m.candidate.predicted_s for m in made])
    close = [i for i, m in enumerate(made) if m.candidate.predicted_s <= enough_s]
    if len(close) < 2:
        return list(made)
    leaves = tuple(site.leaves)
    programs = [made[i].direct for i in close]
    runs = [site.by_passes if d is None else partial(d.nonzeros, leaves) for d in programs]
    with torch.no_grad():
        times = dict(zip(close, seconds_in_turns(runs, site.values.device), strict=True))
    return [
        m._replace(candidate=replace(m.candidate, predicted_s=times[i])) if i in times else m
        for i, m in enumerate(made)
    ]


def _seconds(run: Callable[[], Tensor], like: Tensor, request: Request) -> float:
    with torch.no_grad():
        return least_seconds(run, like.device, TUNED_S if request.tune else REPEATED_S)
