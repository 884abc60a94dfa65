"""The emitted program as a candidate: made, held against the passes, and timed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.direct.emit import emit
from torchjac._evaluate.direct.runner import INDUCTOR, REPLAY, Direct
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._inputs.warn import warn
from torchjac._pattern.detect import Detection
from torchjac._planner.structure import Candidate, Structure
from torchjac.errors import FallbackWarning

EAGER = "eager"
# Times are taken so often; the least counts, for others run beside us.
REPEATS = 3
# Rounding that two ways to compute may differ by, in units of the precision.
ROUNDING_UNITS = 1e5


class Made(NamedTuple):
    """A program that may be used, and what is said of it."""

    direct: Direct | None
    candidate: Candidate


def with_direct(
    api: str,
    structure: Structure,
    seen: Detection,
    leaves: Sequence[Tensor],
    values: Tensor,
    backend: str,
) -> Structure:
    """The structure with an emitted program, if that is possible and faster than passes.

    Args:
        api: Name of the public function, for messages.
        structure: With a scheme.
        seen: The linear program and its pattern.
        leaves: x.
        values: The entries there, from passes.
        backend: "auto", or the one that the user wants: "replay" or "inductor".

    Returns:
        The structure, a candidate richer.
    """
    began = perf_counter()
    made = _made(api, structure, seen, leaves, values, REPLAY if backend == "auto" else backend)
    emit_s = perf_counter() - began
    chosen = next(c for c in structure.candidates if c.is_chosen)
    direct = made.direct
    if backend == "auto" and made.candidate.predicted_s > chosen.predicted_s:
        direct = None
    candidates = [
        replace(c, is_chosen=c.is_chosen and direct is None) for c in structure.candidates
    ]
    candidates.insert(0, replace(made.candidate, is_chosen=direct is not None))
    return replace(structure, direct=direct, candidates=tuple(candidates), emit_s=emit_s)


def without_direct(structure: Structure) -> Structure:
    """The structure with passes instead of an emitted program."""
    if structure.direct is None:
        return structure
    passes = [c for c in structure.candidates if not c.name.startswith("direct")]
    columns = structure.scheme.sides if structure.scheme is not None else ()
    seeds = sum([side.seeds for side in columns])
    chosen = next((c for c in passes if c.seeds == seeds), None)
    passes = [replace(c, is_chosen=c is chosen) for c in passes]
    return replace(structure, direct=None, candidates=tuple(passes))


def _made(
    api: str,
    structure: Structure,
    seen: Detection,
    leaves: Sequence[Tensor],
    values: Tensor,
    backend: str,
) -> Made:
    name = f"direct, {backend}"
    sizes = [leaf.numel() for leaf in leaves]
    if seen.direction == "jvp":
        sizes = [y.numel() for y in structure.outputs]
    try:
        program = emit(seen.program, leaves, sizes, structure.pattern, values, seen.scope)
        direct, found = _first(api, Direct(program, backend, tuple(leaves)), leaves)
    except TooManyDerivativesError as error:
        return Made(None, _candidate(name, values, float("inf"), f"too large: {error}"))
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        return Made(None, _candidate(name, values, float("inf"), f"not possible: {reason}"))
    scale = values[values.isfinite()].abs().max() if values.numel() else 0.0
    allowed = ROUNDING_UNITS * torch.finfo(values.dtype).eps * float(scale)
    if not torch.allclose(found, values, rtol=0.0, atol=allowed, equal_nan=True):
        return Made(None, _candidate(name, values, float("inf"), "gives other values: not used"))
    seconds = _seconds(lambda: direct.nonzeros(leaves), values)
    return Made(direct, _candidate(f"direct, {direct.backend}", values, seconds, ""))


def _first(api: str, direct: Direct, leaves: Sequence[Tensor]) -> tuple[Direct, Tensor]:
    """The first run, which compiles; where there is no compiler, replayed."""
    with torch.no_grad():
        try:
            return direct, direct.nonzeros(leaves)
        except Exception as error:
            if direct.backend != INDUCTOR:
                raise
            reason = str(error).strip().split("\n")[0]
            warn(
                f"{api}: the program of the Jacobian is replayed, not compiled: torch._inductor "
                f"said {reason}. A C++ compiler is needed for backend='inductor'.",
                FallbackWarning,
            )
            direct = Direct(direct.program, REPLAY, direct.examples)
            return direct, direct.nonzeros(leaves)


def _candidate(name: str, values: Tensor, seconds: float, note: str) -> Candidate:
    return Candidate(name, 0, values.numel() * values.element_size(), seconds, note)


def _seconds(run: Callable[[], Tensor], like: Tensor) -> float:
    times = []
    with torch.no_grad():
        for _ in range(REPEATS):
            began = perf_counter()
            run()
            if like.is_cuda:
                torch.cuda.synchronize(like.device)
            times.append(perf_counter() - began)
    return min(times)
