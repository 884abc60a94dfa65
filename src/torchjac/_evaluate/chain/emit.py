"""Emit the program of a Jacobian that is multiplied together part by part."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.chain.bracket import Bracket
from torchjac._evaluate.chain.factor import pieces
from torchjac._evaluate.chain.fold import folded
from torchjac._evaluate.chain.multiply import multiplied
from torchjac._evaluate.chain.segment import segment
from torchjac._evaluate.chain.stretch import TANGENT, Stretch
from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.carry import carry
from torchjac._evaluate.direct.emit import DirectProgram, IsConstant, Results, emit_carried
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.transpose import transposed
from torchjac._pattern.pattern import SparsityPattern

# Blocks of each tensor of a cut.
Carried = list[list[Block]]


def emit_bracket(
    bracket: Bracket,
    primals: Sequence[Tensor],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    scope: str = "global",
) -> DirectProgram:
    """Emit the program of a Jacobian.

    Args:
        bracket: How it is multiplied together, and the linear program.
        primals: x, where it was traced.
        sizes: Numbers of elements of its results: the outputs of the function, or, for a
            transposed program, its inputs.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        scope: As the pattern was detected.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
        NotImplementedError: A part has no transposed program.
    """
    program = bracket.program
    multiplication = Multiplication(bracket, primals, [bracket.root], scope)
    rows_by_slices = bracket.root.direction != TANGENT
    places = [None if n is None else bracket.cuts[-1].index(n) for n in program.outputs]

    def carried(inputs: Sequence[Tensor], is_constant: IsConstant, room: int) -> Results:
        found = multiplication.run(bracket.root, inputs, is_constant, room)
        found = [folded(blocks) for blocks in found]
        if not rows_by_slices:
            return [None if place is None else found[place] for place in places]
        shapes = [program.values[n].shape for n in bracket.cuts[-1]]
        return _renumbered(found, places, [prod(shape) for shape in shapes], sizes)

    shapes = [program.values[n].shape for n in program.tangents]
    return emit_carried(
        carried,
        primals,
        [prod(shape) for shape in shapes] if rows_by_slices else sizes,
        pattern,
        like,
        transposed=(program.direction == "vjp") != rows_by_slices,
    )


class Multiplication:
    """Stretches of a bracket as blocks of derivatives.

    Args:
        bracket: The linear program, and where it is cut.
        primals: x, where it was traced.
        stretches: What will be asked for.
        scope: As the pattern was detected.
    """

    def __init__(
        self,
        bracket: Bracket,
        primals: Sequence[Tensor],
        stretches: Sequence[Stretch],
        scope: str,
    ) -> None:
        self._cuts, self._program, self._scope = bracket.cuts, bracket.program, scope
        # Made beforehand: what is recorded later are the derivatives alone.
        self._parts: dict[tuple[int, int, str], LinearProgram] = {}
        for stretch in stretches:
            for part in stretch.parts:
                if part.factor is None:
                    start, stop = part.rest
                    between = segment(self._program, self._cuts[start], self._cuts[stop])
                    if part.direction != TANGENT:
                        between = transposed(between, primals)
                    self._parts[start, stop, part.direction] = between

    def run(
        self, stretch: Stretch, inputs: Sequence[Tensor], is_constant: IsConstant, room: int
    ) -> Carried:
        """The derivatives of a stretch.

        Args:
            stretch: One of those asked for.
            inputs: x.
            is_constant: Whether a tensor is the same at every x.
            room: Most derivatives of one tensor.

        Returns:
            For tangents, blocks of each tensor of its last cut, which count the elements of its
            first; for adjoints the other way round.
        """
        before = None
        if stretch.before is not None:
            before = self.run(stretch.before, inputs, is_constant, room)
        if stretch.factor is None:
            part = self._parts[*stretch.rest, stretch.direction]
            starts = None
            if before is not None:
                starts = dict(zip(part.tangents, before, strict=True))
            found = carry(part, inputs, is_constant, self._scope, room, starts)
            return [blocks or [] for blocks in found]
        factor = self.run(stretch.factor, inputs, is_constant, room)
        start, stop = stretch.rest
        ends = (start, stop) if stretch.factor.direction == TANGENT else (stop, start)
        shapes = [self._program.values[n].shape for n in self._cuts[ends[0]]]
        by_output = stretch.factor.direction != stretch.direction
        target = stop if stretch.direction == TANGENT else start
        dtypes = [self._program.values[n].dtype for n in self._cuts[target]]

        def check_room(derivatives: int) -> None:
            if derivatives > room:
                raise TooManyDerivativesError(f"{derivatives:,} derivatives in a product")

        map_pieces = pieces([folded(blocks) for blocks in factor], shapes, by_output=by_output)
        carried = [folded(blocks) for blocks in before or []]
        return multiplied(carried, map_pieces, dtypes, check_room)


def _renumbered(
    carried: Carried, places: Sequence[int | None], widths: Sequence[int], sizes: Sequence[int]
) -> Carried:
    """Blocks by elements of a cut as blocks by elements of the results, which may repeat them."""
    starts = np.cumsum([0, *sizes])
    firsts = np.cumsum([0, *widths])
    levels: list[np.ndarray] = []
    for place, start in zip(places, starts, strict=False):
        if place is None:
            continue
        numbers = np.arange(1, widths[place] + 1, dtype=np.int32) + np.int32(start)
        span = slice(int(firsts[place]) + 1, int(firsts[place + 1]) + 1)
        level = next((lv for lv in levels if not lv[span].any()), None)
        if level is None:
            level = np.zeros(int(firsts[-1]) + 1, np.int32)
            levels.append(level)
        level[span] = numbers
    return [[_numbered(block, level) for block in blocks for level in levels] for blocks in carried]


def _numbered(block: Block, level: np.ndarray) -> Block:
    index = level[block.index]
    lost = (block.index > 0) & (index == 0)
    if not lost.any():
        return Block(index, block.values)
    zero = torch.zeros((), dtype=block.values.dtype, device=block.values.device)
    kept = torch.from_numpy(~lost).to(block.values.device)
    return Block(index, torch.where(kept, block.values, zero))
