"""Trace the derivative program of a function at a point.

The function runs once, with the real numbers, under forward mode or recorded by autograd; what
PyTorch then carries out is the program. Tracing the function alone and differentiating the trace
would lose custom backward passes, `detach` and blocks under `no_grad`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.generic import generic_constants
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.reads import Reads
from torchjac._linearize.record import Recorder
from torchjac._linearize.simplify import simplified
from torchjac._linearize.without_writes import without_writes
from torchjac._torch import fast_backward, push_forward

Flat = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Trace(NamedTuple):
    """A program, the vectors it was traced with, and its results for them."""

    program: LinearProgram
    seeds: tuple[Tensor, ...]
    products: tuple[Tensor | None, ...]


def trace_jvp(
    flat: Flat,
    leaves: Sequence[Tensor],
    seeds: Sequence[Tensor],
    beside: Sequence[Tensor] = (),
) -> Trace:
    """The program v -> J(x) v.

    Args:
        flat: The function, of flat tensors.
        leaves: x.
        seeds: v, one for each input with its shape.
        beside: What else the function takes, after x, and the program too.

    Returns:
        The program, and J v.

    Raises:
        RuntimeError: PyTorch has no forward rule for an operation.
    """
    began = perf_counter()
    recorder = Recorder()
    reads = Reads(recorder.expose)

    def observed(*inner: Tensor) -> Sequence[Tensor]:
        with reads:
            return flat([leaf.clone() for leaf in (*inner, *others)])

    # A random function shall not notice that it was traced.
    with evaluating(leaves), recorder:
        primals = [leaf.detach().clone() for leaf in leaves]
        others = [tensor.detach().clone() for tensor in beside]
        tangents = [seed.detach().clone() for seed in seeds]
        entered = recorder.enter([*primals, *others]), recorder.enter(tangents=tangents)
        products = push_forward(observed, primals, tangents)
        outputs = recorder.leave(products)
    program = _program(recorder, reads, entered, outputs, "jvp")
    program = _finished(program, recorder, [*primals, *others], tangents, began)
    return Trace(program, tuple(seeds), tuple(products))


def trace_vjp(
    flat: Flat,
    leaves: Sequence[Tensor],
    make_seeds: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    beside: Sequence[Tensor] = (),
) -> Trace:
    """The program u -> J(x)^T u.

    Args:
        flat: The function, of flat tensors.
        leaves: x.
        make_seeds: From the outputs of the function to u, one for each with its shape.
        beside: What else the function takes, after x, and the program too.

    Returns:
        The program, and J^T u.
    """
    began = perf_counter()
    recorder = Recorder()
    reads = Reads(is_constant=recorder.is_constant)
    with evaluating(leaves), recorder:
        primals = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        others = [tensor.detach().clone() for tensor in beside]
        entered_primals = recorder.enter([*primals, *others])
        with reads:
            values = flat([leaf.clone() for leaf in (*primals, *others)])
        seeds = [seed.detach().clone() for seed in make_seeds(values)]
        entered = entered_primals, recorder.enter(tangents=seeds)
        live = [i for i, value in enumerate(values) if value.requires_grad]
        products: Sequence[Tensor | None] = [None] * len(leaves)
        if live:
            with Reads(recorder.expose):
                products = fast_backward(
                    [values[i] for i in live],
                    primals,
                    [seeds[i] for i in live],
                    create_graph=False,
                    retain_graph=False,
                )
        outputs = recorder.leave(products)
    program = _program(recorder, reads, entered, outputs, "vjp")
    program = _finished(program, recorder, [*primals, *others], seeds, began)
    return Trace(program, tuple(seeds), tuple(products))


def evaluating(leaves: Sequence[Tensor]) -> ExitStack:
    """What surrounds a run that is recorded: random numbers kept, gradients on.

    Args:
        leaves: x.

    Returns:
        What to enter.
    """
    stack = ExitStack()
    devices = sorted({leaf.device.index or 0 for leaf in leaves if leaf.is_cuda})
    stack.enter_context(torch.random.fork_rng(devices=devices))
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    return stack


def _program(
    recorder: Recorder,
    reads: Reads,
    entered: tuple[tuple[int, ...], tuple[int, ...]],
    outputs: tuple[int | None, ...],
    direction: str,
) -> LinearProgram:
    return LinearProgram(
        nodes=tuple(recorder.nodes),
        values=tuple(recorder.values),
        primals=entered[0],
        tangents=entered[1],
        outputs=outputs,
        constants=recorder.constants,
        integers=recorder.integers,
        linear=frozenset(),
        direction=direction,
        reads=reads.values,
        reads_places=reads.places,
        graded=frozenset(recorder.graded),
    )


def _finished(
    program: LinearProgram,
    recorder: Recorder,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    began: float,
) -> LinearProgram:
    if recorder.mutates:
        program = without_writes(program, primals, tangents)
    found = simplified(program, trace_s=perf_counter() - began)
    if not program.graded:
        return found
    constants = program.constants
    generic = generic_constants(program.nodes, constants, program.graded, found.constants)
    return replace(found, generic=generic)
