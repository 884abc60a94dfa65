"""A program with fused operations taken apart."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from torchjac._linearize.attention import FUSED
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.record import Recorder
from torchjac._linearize.rerun import check_repeatable, random_vector, run_node
from torchjac._linearize.simplify import simplified
from torchjac._linearize.trace import evaluating
from torchjac._linearize.without_writes import without_writes


def expanded(program: LinearProgram, primals: Sequence[Tensor]) -> LinearProgram:
    """The same map, fused operations written as what they stand for.

    Args:
        program: The program.
        primals: x, where it was traced.

    Returns:
        A program with other numbers, or `program` itself if it holds no fused operation.

    Raises:
        NotImplementedError: It does not do the same when it is run again.
    """
    if not any([getattr(node.op, "overloadpacket", None) in FUSED for node in program.nodes]):
        return program
    began = perf_counter()
    check_repeatable(program)
    recorder = Recorder()
    generator = torch.Generator().manual_seed(0)
    with evaluating(primals), torch.no_grad(), recorder:
        inputs = [x.detach().clone() for x in primals]
        device = next((x.device for x in (*inputs, *program.constants.values())), None)
        vectors = [random_vector(program.values[n], device, generator) for n in program.tangents]
        entered = recorder.enter(inputs), recorder.enter(tangents=vectors)
        known = dict(program.constants) | dict(zip(program.primals, inputs, strict=True))
        known |= dict(zip(program.tangents, vectors, strict=True))
        for node in program.nodes:
            run_node(node, known, program)
        outputs = recorder.leave([None if n is None else known[n] for n in program.outputs])
    found = replace(
        program,
        nodes=tuple(recorder.nodes),
        values=tuple(recorder.values),
        primals=entered[0],
        tangents=entered[1],
        outputs=outputs,
        constants=recorder.constants,
        integers=recorder.integers,
    )
    if recorder.mutates:
        found = without_writes(found, inputs, vectors)
    return simplified(found, program.trace_s + perf_counter() - began)
