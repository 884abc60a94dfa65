"""Rewrite a program that writes to tensors into one that does not.

Functions that fill a tensor piece by piece write through views. The program is run once more
under `torch.func.functionalize`, which knows what a view is a view of, and recorded again.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from torchjac._linearize.program import LinearProgram, Ref, map_refs
from torchjac._linearize.record import Recorder


def without_writes(
    program: LinearProgram, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> LinearProgram:
    """The same program, every operation of which returns something new.

    Args:
        program: As recorded, with the constants that it started from.
        primals: The inputs that it was recorded with.
        tangents: The vectors that it was recorded with.

    Returns:
        A program with the same results.
    """
    made = {n for node in program.nodes for n in node.outputs if n is not None}
    given = {n: t for n, t in program.constants.items() if n not in made}
    recorder = Recorder()
    starts = [*program.primals, *program.tangents, *given]

    def run(*tensors: Tensor) -> list[Tensor]:
        known = dict(zip(starts, tensors, strict=True))

        def fetch(ref: Ref) -> Tensor:
            return known[ref.number]

        for node in program.nodes:
            kwargs = {k: map_refs(fetch, v) for k, v in node.kwargs.items()}
            result = node.op(*map_refs(fetch, node.args), **kwargs)
            results = result if isinstance(result, tuple | list) else (result,)
            for number, tensor in zip(node.outputs, results, strict=True):
                if number is not None:
                    known[number] = tensor
        return [known[n] for n in program.outputs if n is not None]

    with torch.random.fork_rng(), torch.no_grad(), recorder:
        primals = [t.detach().clone() for t in primals]
        tangents = [t.detach().clone() for t in tangents]
        entered = recorder.enter(primals), recorder.enter(tangents=tangents)
        results = torch.func.functionalize(run)(*primals, *tangents, *given.values())
        numbers = iter([recorder.number_of(t) for t in results])
        outputs = tuple([None if n is None else next(numbers) for n in program.outputs])
        graded = [recorder.number_of(given[n]) for n in program.graded]
    return replace(
        program,
        nodes=tuple(recorder.nodes),
        values=tuple(recorder.values),
        primals=entered[0],
        tangents=entered[1],
        outputs=outputs,
        constants=recorder.constants,
        integers=recorder.integers,
        graded=frozenset([n for n in graded if n is not None]),
    )
