"""A Laplacian as a program: found, emitted, certified, and timed where that is asked for."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.attention import with_math_attention
from torchjac._evaluate.differentiate import evaluate
from torchjac._evaluate.direct.bilinear import second_order
from torchjac._evaluate.direct.collapsed import emit_collapsed
from torchjac._evaluate.direct.runner import INDUCTOR, REPLAY, Direct
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._evaluate.gradients import gradient_signature
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.mistakes import can_be_left_out, described
from torchjac._evaluate.options import Options
from torchjac._evaluate.second import laplacian_of
from torchjac._evaluate.seeds import BatchDims
from torchjac._inputs.modules import Buffers
from torchjac._inputs.signature import Signature
from torchjac._inputs.storage import reads_memory
from torchjac._inputs.warn import warn
from torchjac._pattern.detect import Detection, detect
from torchjac._pattern.pattern import SparsityPattern
from torchjac._pattern.separable import separable_axes
from torchjac._planner.certificate import agree
from torchjac._planner.programs import AUTO, EAGER
from torchjac._planner.second_certificate import fault_of
from torchjac._planner.structure import Request
from torchjac._planner.timing import seconds_in_turns
from torchjac._planner.trace_seeds import refuse_many, trace_seeds
from torchjac._torch import coarsest_eps, inside_transform
from torchjac.errors import FallbackWarning, MemoryBudgetError, MixedSamplesError, ShapeError


class Timed(NamedTuple):
    """A way to compute, and the seconds of one evaluation."""

    name: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Laplacian:
    """What is known of a Laplacian before it is computed.

    Attributes:
        output: What the function returns, without numbers.
        batch: Axes of independent samples, None if there are none.
        direct: The program; its result has the shape of the output. None if there is none.
        why: Why there is none.
        hessian: Which second derivatives of the outputs can be nonzero, None if that is unknown.
        seeds: Vectors along which the program differentiates twice.
        candidates: What was timed.
        trace_s: Seconds that tracing took.
        pattern_s: Seconds that finding the seeds took.
        program_s: Seconds that emitting, certifying and timing took.
    """

    output: Tensor
    batch: BatchDims | None = None
    direct: Direct | None = None
    why: str = ""
    hessian: SparsityPattern | None = None
    seeds: int = 0
    candidates: tuple[Timed, ...] = ()
    trace_s: float = 0.0
    pattern_s: float = 0.0
    program_s: float = 0.0

    def by_passes(self, signature: Signature, options: Options, func: Any) -> Tensor:
        """The Laplacian by passes of reverse mode, one axis at a time.

        Args:
            signature: The function, and where.
            options: How.
            func: The user's function. On another branch, or with what it holds now, its samples
                may mix, which is looked at each time.

        Returns:
            Shape of the output.
        """
        if self.batch is not None and not inside_transform():
            with suppress(MixedSamplesError, ShapeError):
                return laplacian_of(signature, options, self.batch, func)
        return laplacian_of(signature, options, None, func)


def find_laplacian(
    signature: Signature, request: Request, buffers: Buffers | None, *, is_watched: bool
) -> Laplacian:
    """Find how a Laplacian is computed best.

    Args:
        signature: A function of one tensor that returns one, and where.
        request: What the user asked for.
        buffers: Of modules, which an evaluation may change; None if there are none.
        is_watched: Whether all that the function can read besides its input is known.

    Returns:
        The Laplacian, certified if it has a program.

    Raises:
        ShapeError: The function returns several tensors.
    """
    api = request.api
    point = evaluate(signature, Options(memory=request.memory, allow_constant=True))
    outputs = point.tape.outputs.tensors
    if len(outputs) != 1:
        raise ShapeError(f"{api}: `func` must return one tensor, got {len(outputs)}.")
    like = outputs[0].detach()
    is_stateful = (buffers is not None and buffers.have_moved()) or point.state.was_used()
    by_place = reads_memory(point.tape.survey().node_names)
    eps = coarsest_eps(outputs)
    found = Laplacian(torch.empty_like(like, device="meta"))
    # Fused attention has no second derivative, and buffers shall stay as they are from now on.
    signature = with_math_attention(signature._replace(call=signature.recall))
    try:
        with point.state.replayed():
            seen = detect(signature)
        found = replace(found, batch=_batch(seen, like), trace_s=seen.trace_s)
        why = _unfit(request, seen, is_stateful, by_place, is_watched)
        if not why and request.backend != EAGER:
            return _with_program(found, seen, signature, request, like, eps)
    except (NotImplementedError, TooManyDerivativesError, MemoryBudgetError) as error:
        why = str(error).strip().split("\n")[0]
    except Exception as error:
        if not can_be_left_out(error):
            raise
        why = described(error)
    if request.backend != EAGER:
        warn(
            f"{api}: there is no program for the Laplacian of this function: {why}. The plan "
            "computes it by passes of reverse mode, one axis at a time.",
            FallbackWarning,
        )
    return replace(found, why=why)


def _unfit(
    request: Request, seen: Detection, is_stateful: bool, by_place: bool, is_watched: bool
) -> str:
    """Why a program would not do for a function at every x, empty if it does."""
    if is_stateful:
        return "it draws random numbers, or changes buffers"
    if seen.program.reads:
        return "it reads values, which may be others elsewhere"
    if by_place or seen.program.reads_places:
        return "it reads memory by its place"
    if request.backend == AUTO and not is_watched:
        return (
            "nobody can watch what it reads besides its input, which backend='replay' trusts to "
            "stay as it is"
        )
    return ""


def _batch(seen: Detection, like: Tensor) -> BatchDims | None:
    (x,) = seen.program.primals
    pairs = separable_axes(seen.pattern, like.shape, seen.program.values[x].shape)
    return BatchDims(pairs[0][1], pairs[0][0]) if pairs else None


def _with_program(
    found: Laplacian,
    seen: Detection,
    signature: Signature,
    request: Request,
    like: Tensor,
    eps: float,
) -> Laplacian:
    """The Laplacian with a program; what stands in the way of one is raised."""
    began = perf_counter()
    x = signature.leaves[0].detach()
    most = Budget(request.api, request.memory).pass_bytes(
        like.numel() * like.element_size(), x.device
    )
    hessian = _hessian(signature)
    seeds = _seeds(hessian, x, most)
    pattern_s, began = perf_counter() - began, perf_counter()

    def emitted(*, nested: bool) -> tuple[Direct, str]:
        second = second_order(signature, seen.program, nested=nested)
        program = emit_collapsed(second, x, seeds, like, most)
        direct = Direct(program, REPLAY, (x,), request.api)
        with torch.no_grad():
            fault = fault_of(second, lambda p: direct.nonzeros([p]), seeds, signature, like, eps)
        return direct, fault

    direct, fault = emitted(nested=False)
    if fault:  # something may be hidden from second derivatives
        with suppress(RuntimeError):  # no forward rule, or none that has one
            direct, other = emitted(nested=True)
            fault = other and fault
    if fault:
        raise NotImplementedError(fault)
    direct, candidates = _chosen(direct, request, x, eps)
    return replace(
        found,
        direct=direct,
        hessian=hessian,
        seeds=len(seeds),
        candidates=candidates,
        pattern_s=pattern_s,
        program_s=perf_counter() - began,
    )


def _seeds(hessian: SparsityPattern | None, x: Tensor, most_bytes: float) -> Tensor:
    """As few as the pattern allows; one for each axis where there is none."""
    if hessian is not None:
        return trace_seeds(hessian, x, most_bytes)
    refuse_many(x.numel(), x, most_bytes)
    return torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(x.numel(), *x.shape)


def _hessian(signature: Signature) -> SparsityPattern | None:
    """Second derivatives of all outputs that can be nonzero; None where that cannot be found."""

    def total(values: Sequence[Tensor]) -> Tensor:
        (y,) = signature.replay(values).tensors
        # Of the same size, but random: terms of different outputs may not cancel.
        generator = torch.Generator().manual_seed(4)
        weights = 0.5 + torch.rand(y.shape, generator=generator, dtype=torch.float64).to(y)
        return (y * weights).sum()

    scalar = signature._replace(call=total, recall=total, has_aux=False, is_arithmetic=False)
    try:
        return detect(gradient_signature(scalar, strict=False)).pattern
    except Exception as error:
        if not can_be_left_out(error):
            raise
        return None


def _chosen(
    direct: Direct, request: Request, x: Tensor, eps: float
) -> tuple[Direct, tuple[Timed, ...]]:
    """The program as it shall run."""
    if request.backend == REPLAY or not (request.tune or request.backend != AUTO):
        return direct, ()
    backend = INDUCTOR if request.backend == AUTO else request.backend
    other = replace(direct, backend=backend)
    try:
        with torch.no_grad():
            found, expected = other.nonzeros([x]), direct.nonzeros([x])
    except Exception as error:
        if not can_be_left_out(error):
            raise
        warn(
            f"{request.api}: the program is replayed, not run by {backend!r}, which said "
            f"{described(error)}.",
            FallbackWarning,
        )
        return direct, ()
    if not agree(found, expected, eps):
        return direct, (Timed(f"{backend} (gives other values: not used)", inf),)
    if not request.tune:
        return other, ()
    runs = [direct, other]
    times = seconds_in_turns([partial(run.nonzeros, [x]) for run in runs], x.device)
    named = [Timed(run.backend, seconds) for run, seconds in zip(runs, times, strict=True)]
    return min(zip(times, runs, strict=True), key=lambda pair: pair[0])[1], tuple(named)
