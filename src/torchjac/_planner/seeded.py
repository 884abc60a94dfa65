"""The passes of a scheme as one program, for where nothing else can be emitted or is faster."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._coloring.coloring import Coloring
from torchjac._evaluate.direct.emit import DirectProgram
from torchjac._evaluate.direct.seeded import emit_seeded
from torchjac._inputs.signature import Signature
from torchjac._linearize.linearize import backward_program
from torchjac._pattern.detect import Detection
from torchjac._planner.apply import read_entries
from torchjac._planner.probe import FORWARD, REVERSE
from torchjac._planner.structure import SYMMETRIC, Side, Structure


def seeded_program(
    structure: Structure, seen: Detection, signature: Signature, like: Tensor, most: float
) -> DirectProgram:
    """The program that multiplies by all seeds of a scheme, and reads the entries.

    Args:
        structure: With a scheme.
        seen: The linear program.
        signature: The function, and where.
        like: A tensor like the entries.
        most: Bytes that large tensors may take at one time.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
        NotImplementedError: The scheme takes products from both sides or in chunks, or the
            function has no forward rule to be trusted.
    """
    scheme = structure.scheme
    if scheme is None or len(scheme.sides) != 1 or scheme.sides[0].chunk_size is not None:
        raise NotImplementedError("passes from both sides, or in chunks")
    (side,) = scheme.sides
    xs, program = signature.leaves, seen.program
    starts, results = (xs, structure.outputs) if side.mode == FORWARD else (structure.outputs, xs)
    if side.mode == FORWARD and program.direction == "vjp":
        raise NotImplementedError("no forward rules for columns")
    if side.mode == REVERSE and program.direction == "jvp":
        # PyTorch's own: a transposed one divides by zero where a mask hides that.
        program = backward_program(signature, live=structure.is_live)
    seeds = _cut(_seeds(scheme.coloring, side, like), starts)
    taken = structure.taken(xs, signature.beside)

    def read(products: Sequence[Tensor | None]) -> Tensor:
        parts = [
            like.new_zeros(side.seeds, result.numel())
            if product is None
            else product.reshape(side.seeds, result.numel()).to(like.dtype)
            for product, result in zip(products, results, strict=True)
        ]
        return read_entries(scheme, {side.mode: torch.cat(parts, 1)}, xs)

    return emit_seeded(program, taken, seeds, read, like, most)


def _seeds(coloring: Coloring, side: Side, like: Tensor) -> Tensor:
    by_column = side.mode == FORWARD or coloring.kind in SYMMETRIC
    colored = coloring.column_seeds if by_column else coloring.row_seeds
    return colored(0, side.seeds, dtype=like.dtype, device=like.device)


def _cut(seeds: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    """Seeds over everything raveled, cut into those of each tensor."""
    parts = seeds.split([start.numel() for start in starts], 1)
    return [
        part.to(start.dtype).reshape(len(seeds), *start.shape)
        for part, start in zip(parts, starts, strict=True)
    ]
