"""A Jacobian as factors: cut where the function is narrow, each factor by a program of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.chain.bracket import choose_bracket, plain_bracket
from torchjac._evaluate.chain.emit import emit_factors
from torchjac._evaluate.compressed import Passes, common_dtype
from torchjac._evaluate.direct.runner import Direct
from torchjac._evaluate.ladder import LOOP
from torchjac._evaluate.options import Options
from torchjac._evaluate.tape import record
from torchjac._inputs.signature import Signature
from torchjac._inputs.storage import reads_memory
from torchjac._linearize.linearize import linearize
from torchjac._pattern.detect import detect
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.certificate import floor_of
from torchjac._planner.probe import FORWARD, REVERSE, random_vector, run
from torchjac._planner.structure import Request
from torchjac._torch import coarsest_eps


class Proof(NamedTuple):
    """A random product of the function itself.

    Attributes:
        mode: "forward-mode" or "reverse-mode".
        vector: v or u.
        product: J v or J^T u.
    """

    mode: str
    vector: Tensor
    product: Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """What is known of the factors of one branch of a function.

    Attributes:
        cut: Where the function is cut, in words.
        programs: For each factor, from last to first, what computes its nonzeros.
        patterns: For each factor the places of these.
        outputs: What the function returns, tensors without numbers.
        is_guarded: Whether the function reads values, or memory by its place: what holds here
            may not hold elsewhere.
        eps: Coarsest precision in the function.
        floor: A size of entries that rounding may leave, in units of it.
        trace_s: Seconds that tracing took.
        emit_s: Seconds that everything else took.
    """

    cut: str
    programs: tuple[Direct, ...]
    patterns: tuple[SparsityPattern, ...]
    outputs: tuple[Tensor, ...]
    is_guarded: bool
    eps: float
    floor: float
    trace_s: float
    emit_s: float

    def entries(self, leaves: Sequence[Tensor]) -> list[tuple[Tensor, SparsityPattern]]:
        """The nonzeros of each factor, from last to first, with their places.

        Args:
            leaves: x.

        Returns:
            New tensors.
        """
        inputs = [leaf.detach() for leaf in leaves]
        with torch.no_grad():
            values = [program.nonzeros(inputs) for program in self.programs]
        return list(zip(values, self.patterns, strict=True))


def factorize(signature: Signature, request: Request, backend: str) -> Factors:
    """Find the factors of a Jacobian that hold it with few numbers.

    Args:
        signature: The function and where.
        request: What the user asked for.
        backend: "replay" or "inductor".

    Returns:
        The factors, one if the function is narrow nowhere.

    Raises:
        TooManyDerivativesError: A factor would hold too much.
        RuntimeError: An operation cannot be emitted, such as one that draws random numbers.
    """
    program, outputs = linearize(signature)
    began = perf_counter()
    leaves = signature.leaves
    is_zero = all([number is None for number in program.outputs])
    bracket = plain_bracket(program)
    if not is_zero:
        bracket = choose_bracket(program, leaves, None, request.scope)
    pattern = None if bracket.factors else detect(signature, request.scope).pattern
    sizes = [t.numel() for t in (outputs if program.direction == "jvp" else leaves)]
    like = torch.empty(0, dtype=common_dtype(leaves), device=leaves[0].device)
    parts = emit_factors(bracket, leaves, sizes, pattern, like, request.scope)
    tape = record(signature, create_graph=False)
    return Factors(
        str(bracket),
        tuple([Direct(part, backend, tuple(leaves), request.api) for part, _ in parts]),
        tuple([places for _, places in parts]),
        tuple([torch.empty_like(y, device="meta") for y in outputs]),
        bool(program.reads) or reads_memory(tape.survey().node_names),
        coarsest_eps(tape.outputs.tensors),
        floor_of(tape.outputs.tensors, leaves),
        program.trace_s,
        perf_counter() - began,
    )


def proofs(signature: Signature, outputs: Sequence[Tensor], modes: Sequence[str]) -> list[Proof]:
    """Random products of the function.

    Args:
        signature: The function and where.
        outputs: What it returns.
        modes: Those wanted; forward mode is left out where PyTorch has no rule.

    Returns:
        The products.

    Raises:
        RuntimeError: Reverse mode failed.
    """
    passes = Passes.begin(signature, outputs, Options(quiet=True))
    found = []
    for mode in modes:
        vector = random_vector(passes, mode)
        try:
            product = run(passes, mode, LOOP, vector[None])[0].detach()
        except (RuntimeError, NotImplementedError):
            if mode == REVERSE:
                raise
            continue
        found.append(Proof(mode, vector, product))
    return found


BOTH = (FORWARD, REVERSE)
ONE = (REVERSE,)
