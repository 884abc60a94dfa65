"""Emitted programs as candidates: made where they can pay, held against the passes, and timed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.direct.emit import DirectProgram, emit
from torchjac._evaluate.direct.runner import INDUCTOR, REPLAY, Direct
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._inputs.warn import warn
from torchjac._linearize.cost import Cost, cost_of
from torchjac._pattern.detect import Detection
from torchjac._planner.machine import learn, machine_of
from torchjac._planner.structure import Candidate, Request, Structure
from torchjac.errors import FallbackWarning

AUTO, EAGER = "auto", "eager"
# Times are taken at least so often, and then so long or so often; the least counts.
REPEATS, REPEATED_S, MOST_REPEATS = 3, 2e-3, 100
# Rounding that two ways to compute may differ by, in units of the precision.
ROUNDING_UNITS = 1e5


class _Site(NamedTuple):
    """What candidates are made of.

    Attributes:
        request: What the user asked for.
        structure: With a scheme.
        seen: The linear program and its pattern.
        leaves: x.
        values: The entries there, from passes.
        by_passes: Computes them again.
    """

    request: Request
    structure: Structure
    seen: Detection
    leaves: Sequence[Tensor]
    values: Tensor
    by_passes: Callable[[], Tensor]


class _Made(NamedTuple):
    """A program that may be used, or None, and what is said of it."""

    direct: Direct | None
    candidate: Candidate


def with_programs(
    request: Request,
    structure: Structure,
    seen: Detection,
    leaves: Sequence[Tensor],
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
        leaves: x.
        values: The entries there, from passes.
        by_passes: Computes them again.

    Returns:
        The structure, some candidates richer.
    """
    began = perf_counter()
    site = _Site(request, structure, seen, leaves, values, by_passes)
    planned = next(c for c in structure.candidates if c.is_chosen)
    passes = replace(planned, predicted_s=_seconds(by_passes, values)) if request.tune else planned
    made = _programs(site, passes)
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
    request, device = site.request, site.values.device
    if refusal := _not_worth_emitting(site, passes):
        return [refusal]
    began = perf_counter()
    program = _emitted(site)
    if isinstance(program, _Made):
        return [program]
    once_s = perf_counter() - began
    if request.uses is not None:
        learn(device, emit_s=once_s / max(len(site.seen.program.nodes), 1))
    if request.backend not in (AUTO, REPLAY):
        return [_compiled(site, program, once_s)]
    replayed = _tried(site, Direct(program, REPLAY, tuple(site.leaves), request.api), once_s)
    if request.backend == REPLAY or replayed.direct is None:
        return [replayed]
    best_s = min(replayed.candidate.predicted_s, passes.predicted_s)
    if request.tune or _pays_to_compile(site, program, best_s):
        return [_compiled(site, program, once_s), replayed]
    return [replayed]


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
    note = f"not made: does not pay in {uses:,} evaluations"
    return _Made(None, _candidate(site, "direct", predicted_s, note, once_s))


def _pays_to_compile(site: _Site, program: DirectProgram, best_s: float) -> bool:
    uses = site.request.uses
    if uses is None:
        return False
    machine = machine_of(site.values.device)
    once_s = machine.compile_s * program.operations
    return once_s + uses * machine.compiled_s(program.cost) < uses * best_s


def _emitted(site: _Site) -> DirectProgram | _Made:
    """The program, or what stands in the way."""
    structure, seen, leaves = site.structure, site.seen, site.leaves
    sizes = [leaf.numel() for leaf in leaves]
    if seen.direction == "jvp":
        sizes = [y.numel() for y in structure.outputs]
    name = "direct"
    try:
        return emit(seen.program, leaves, sizes, structure.pattern, site.values, seen.scope)
    except TooManyDerivativesError as error:
        return _Made(None, _candidate(site, name, inf, f"too large: {error}"))
    except RuntimeError as error:
        return _Made(None, _candidate(site, name, inf, f"not possible: {_first_line(error)}"))


def _compiled(site: _Site, program: DirectProgram, once_s: float) -> _Made:
    """The program compiled; where that fails and nothing else was asked for, replayed."""
    leaves = tuple(site.leaves)
    direct = Direct(program, INDUCTOR, leaves, site.request.api)
    began = perf_counter()
    try:
        with torch.no_grad():
            direct.nonzeros(leaves)
    except Exception as error:
        if site.request.backend == AUTO:
            note = f"not possible: {_first_line(error)}"
            return _Made(None, _candidate(site, f"direct, {INDUCTOR}", inf, note))
        warn(
            f"{site.request.api}: the program of the Jacobian is replayed, not compiled: "
            f"torch._inductor said {_first_line(error)}. A C++ compiler is needed for "
            "backend='inductor'.",
            FallbackWarning,
        )
        return _tried(site, Direct(program, REPLAY, leaves, site.request.api), once_s)
    compile_s = perf_counter() - began
    learn(site.values.device, compile_s=compile_s / max(program.operations, 1))
    return _tried(site, direct, once_s + compile_s)


def _tried(site: _Site, direct: Direct, once_s: float) -> _Made:
    """A program, run: what it gives is held against the passes, and timed."""
    leaves, values = site.leaves, site.values
    name = f"direct, {direct.backend}"
    try:
        with torch.no_grad():
            found = direct.nonzeros(leaves)
    except RuntimeError as error:
        note = f"not possible: {_first_line(error)}"
        return _Made(None, _candidate(site, name, inf, note))
    scale = values[values.isfinite()].abs().max() if values.numel() else 0.0
    allowed = ROUNDING_UNITS * torch.finfo(values.dtype).eps * float(scale)
    if not torch.allclose(found, values, rtol=0.0, atol=allowed, equal_nan=True):
        return _Made(None, _candidate(site, name, inf, "gives other values: not used"))
    seconds = _seconds(lambda: direct.nonzeros(leaves), values)
    cost = direct.program.cost
    return _Made(direct, _candidate(site, name, seconds, "", once_s, cost))


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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _seconds(run: Callable[[], Tensor], like: Tensor) -> float:
    times: list[float] = []
    with torch.no_grad():
        while len(times) < REPEATS or (sum(times) < REPEATED_S and len(times) < MOST_REPEATS):
            began = perf_counter()
            run()
            if like.is_cuda:
                torch.cuda.synchronize(like.device)
            times.append(perf_counter() - began)
    return min(times)
