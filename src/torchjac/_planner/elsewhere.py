"""A second point: what was found at x is held against the function at another one.

Where x is zero, or its elements stand in a certain order, a wrong pattern or program may give
right entries all the same. At another point, chosen at random, such a coincidence has probability
zero; one product of the function shows whether the entries there are right.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.compressed import Passes
from torchjac._evaluate.ladder import LOOP
from torchjac._pattern.detect import Detection
from torchjac._planner.apply import Entries, find_suspects, planned_chunks, take_entries
from torchjac._planner.certificate import agree, confirm
from torchjac._planner.probe import FORWARD, REVERSE, random_vector, run
from torchjac._planner.programs import without_program
from torchjac._planner.structure import Request, Scheme, Structure

# Elements move by this part of their size at most, and keep their sign: few functions end there.
FARTHEST = 0.25


def moved(leaves: Sequence[Tensor], *, shuffled: bool) -> list[Tensor]:
    """Another point near x, without zeros.

    Args:
        leaves: x.
        shuffled: Put the elements of each tensor in another order too.

    Returns:
        Tensors like these: each element within a quarter of its size; those that are zero as
        large as others usually are, and positive.

    >>> [x.sign().tolist() for x in moved([torch.tensor([-2.0, 0.0, 3.0])], shuffled=False)]
    [[-1.0, 1.0, 1.0]]
    """
    generator = torch.Generator().manual_seed(3)

    def shift(x: Tensor) -> Tensor:
        x = x.detach()
        if shuffled:
            order = torch.randperm(x.numel(), generator=generator).to(x.device)
            x = x.reshape(-1)[order].reshape(x.shape)
        at_random = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x)
        sizes = x.abs().nan_to_num(0.0, 0.0, 0.0)
        usual = sizes.sum() / (sizes != 0).sum().clamp(min=1)
        usual = torch.where(usual == 0, torch.ones_like(usual), usual)
        other = x * (1 + FARTHEST * (2 * at_random - 1))
        return torch.where(x == 0, usual * (1 + at_random) / 2, other)

    return [shift(x) for x in leaves]


def held_elsewhere(
    request: Request, structure: Structure, seen: Detection, passes: Passes
) -> Structure:
    """Hold a pattern, and a program, against the function at another point.

    Args:
        request: What the user asked for.
        structure: With a scheme, found at x.
        seen: How it was found.
        passes: The function at x.

    Returns:
        The structure, without its program if that gives other values there. As it is where the
        function has no derivative at the points that were tried. Where forward and reverse mode
        contradict each other at a point, outside of its domain say, the next one decides.

    Raises:
        PatternError: The pattern lacks entries.
    """
    scheme = structure.scheme
    if scheme is None or not scheme.sides or not _may_move(structure, seen, passes):
        return structure
    held = structure
    with passes.state.replayed():
        for shuffled in (True, False):
            there = _at(passes, shuffled=shuffled, is_live=structure.is_live)
            try:
                proof = _proof(scheme, there)
            except Exception:  # outside of its domain, whatever it says there
                continue
            if bool(proof[2].isfinite().all()):
                held = _held(request, structure, scheme, there, proof)
                if held is structure or not _contradicts_itself(there):
                    break
    return held


def _may_move(structure: Structure, seen: Detection, passes: Passes) -> bool:
    """Whether the function does the same elsewhere, and does no harm."""
    if seen.scope == "local" or seen.program.reads:
        return False
    if structure.is_stateful or structure.strides is not None:  # it reads beside its inputs
        return False
    # Indices made of x may be out of range there, which ends a process that uses CUDA.
    return not (seen.program.integers and passes.signature.leaves[0].is_cuda)


def _at(passes: Passes, *, shuffled: bool, is_live: bool) -> Passes:
    signature = passes.signature
    beside = moved(signature.beside, shuffled=shuffled) if is_live else signature.beside
    recall = signature.recall

    def there(leaves: Sequence[Tensor]) -> Any:
        return recall([*leaves, *[x.clone() for x in beside]])

    signature = signature._replace(
        leaves=tuple(moved(signature.leaves, shuffled=shuffled)),
        beside=tuple(beside),
        call=there,
        recall=there,
    )
    options = passes.options._replace(create_graph=False, quiet=True)
    return Passes(signature, passes.likes, options, passes.state)


def _proof(scheme: Scheme, there: Passes) -> tuple[str, Tensor, Tensor]:
    # The mode that computes: what the other one makes of a kink is not the question here.
    mode = scheme.sides[0].mode
    vector = random_vector(there, mode)
    return mode, vector, run(there, mode, LOOP, vector[None])[0].detach()


def _contradicts_itself(there: Passes) -> bool:
    """Whether u (J v) by forward mode is not (u J) v by reverse mode."""
    v, u = random_vector(there, FORWARD), random_vector(there, REVERSE)
    try:
        pushed = u * run(there, FORWARD, LOOP, v[None])[0].detach()
    except Exception:  # PyTorch has no rule for it
        return False
    pulled = v * run(there, REVERSE, LOOP, u[None])[0].detach()
    off, size = (pushed.sum() - pulled.sum()).abs(), pushed.abs().sum() + pulled.abs().sum()
    return bool(off > size * torch.finfo(off.dtype).eps ** 0.5)  # more than rounding


def _held(
    request: Request,
    structure: Structure,
    scheme: Scheme,
    there: Passes,
    proof: tuple[str, Tensor, Tensor],
) -> Structure:
    def suspects(values: Tensor) -> tuple[Tensor, Tensor]:
        return find_suspects(structure, Entries(values, (proof,)))

    quick = structure.constant
    if structure.direct is not None:
        with torch.no_grad():
            leaves, beside = there.signature.leaves, there.signature.beside
            quick = structure.direct.nonzeros(structure.taken(leaves, beside))
    if quick is not None and not any(map(len, suspects(quick))):
        return structure
    right = _by_passes(request, scheme, there)
    found = suspects(right)
    if any(map(len, found)):
        confirm(request.api, structure, there, Entries(right, (proof,)), found)
    if quick is None or agree(quick, right, structure.eps, structure.floor):
        return structure
    return replace(_without_program(structure), constant=None)


def _by_passes(request: Request, scheme: Scheme, there: Passes) -> Tensor:
    device = there.signature.leaves[0].device
    chunks = [planned_chunks(side, request, device) for side in scheme.sides]
    return take_entries(scheme, there, chunks, certified=False).values.detach()


def _without_program(structure: Structure) -> Structure:
    """Passes instead of a program that is wrong."""
    note = "gives other values at another point: not used"
    wrong = [
        replace(c, is_chosen=False, predicted_s=inf, note=note)
        for c in structure.candidates
        if c.is_chosen and structure.direct is not None
    ]
    passes = without_program(structure)
    return replace(passes, candidates=(*wrong, *passes.candidates))
