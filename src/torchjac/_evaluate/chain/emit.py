"""Emit the program of a Jacobian that is multiplied together part by part."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, prod
from typing import Any

import numpy as np
import scipy.sparse as sp
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
from torchjac._evaluate.direct.placed import Part, Placed, split, whole
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.transpose import transposed
from torchjac._pattern.pattern import SparsityPattern

# Derivatives of each tensor of a cut.
Carried = list[list[Part]]


def emit_bracket(
    bracket: Bracket,
    primals: Sequence[Tensor],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    scope: str = "global",
    most_bytes: float = inf,
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
        most_bytes: What large tensors may take at one time.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
        NotImplementedError: A part has no transposed program.
    """
    multiplication = Multiplication(bracket, primals, [bracket.root], scope, most_bytes)
    return multiplication.emit(bracket.root, sizes, pattern, like)


def emit_factors(
    bracket: Bracket,
    primals: Sequence[Tensor],
    sizes: Sequence[int],
    pattern: SparsityPattern | None,
    like: Tensor,
    scope: str = "global",
) -> tuple[tuple[DirectProgram, SparsityPattern], ...]:
    """Emit the factors of a Jacobian, each by itself.

    Args:
        bracket: Where it is cut, and the linear program.
        primals: x, where it was traced.
        sizes: Numbers of elements of its results, as for `emit_bracket`.
        pattern: Of the Jacobian; needed only where there is but one factor.
        like: A tensor with the dtype and device of the nonzeros.
        scope: As the pattern was detected.

    Returns:
        The program and the pattern of each factor, from last to first: their product in this
        order is the Jacobian.

    Raises:
        TooManyDerivativesError: A factor would hold too much.
        NotImplementedError: A part has no transposed program.
    """
    if pattern is not None and not bracket.factors:
        return ((emit_bracket(bracket, primals, sizes, pattern, like, scope), pattern),)
    stretches = [stretch for stretch, _ in bracket.factors]
    multiplication = Multiplication(bracket, primals, stretches, scope)
    found = []
    for stretch, relation in bracket.factors:
        matrix = relation.rows()
        if stretch.stop == len(bracket.cuts) - 1:
            matrix = _spread(matrix, bracket, sizes)
        part = SparsityPattern(matrix.shape, matrix.indptr, matrix.indices)
        part = part if bracket.program.direction == "jvp" else part.T
        found.append((multiplication.emit(stretch, sizes, part, like), part))
    return tuple(found[::-1] if bracket.program.direction == "jvp" else found)


def _spread(matrix: Any, bracket: Bracket, sizes: Sequence[int]) -> Any:
    """Rows for the elements of a cut as rows for those of the results, some repeated or empty."""
    widths = [prod(bracket.program.values[n].shape) for n in bracket.cuts[-1]]
    starts = np.cumsum([0, *widths])
    rows: list[Any] = [
        sp.csr_array((size, matrix.shape[1]), dtype=bool)
        if place is None
        else matrix[int(starts[place]) : int(starts[place + 1])]
        for place, size in zip(bracket.places, sizes, strict=True)
    ]
    return sp.vstack(rows, format="csr")


class Multiplication:
    """Stretches of a bracket as blocks of derivatives, and as programs.

    Args:
        bracket: The linear program, and where it is cut.
        primals: x, where it was traced.
        stretches: What will be asked for.
        scope: As the pattern was detected.
        most_bytes: What large tensors may take at one time.
    """

    def __init__(
        self,
        bracket: Bracket,
        primals: Sequence[Tensor],
        stretches: Sequence[Stretch],
        scope: str,
        most_bytes: float = inf,
    ) -> None:
        self._most_bytes = most_bytes
        self._bracket, self._primals, self._scope = bracket, primals, scope
        self._cuts, self._program = bracket.cuts, bracket.program
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

    def emit(
        self, stretch: Stretch, sizes: Sequence[int], pattern: SparsityPattern, like: Tensor
    ) -> DirectProgram:
        """The program of a stretch.

        Args:
            stretch: One of those asked for.
            sizes: Numbers of elements of the results of the linear program.
            pattern: Of the part of the Jacobian that the stretch is.
            like: A tensor with the dtype and device of the nonzeros.

        Returns:
            From x to its nonzeros.
        """
        is_last = stretch.stop == len(self._cuts) - 1
        is_adjoint = stretch.direction != TANGENT
        widths = self._widths(stretch.stop)
        places = self._bracket.places if is_last else range(len(widths))
        results = sizes if is_last else widths

        def carried(inputs: Sequence[Tensor], is_constant: IsConstant, room: int) -> Results:
            found = self.run(stretch, inputs, is_constant, room)
            found = [_folded(parts) for parts in found]
            if is_adjoint:
                return _renumbered(found, places, widths, results)
            return [None if place is None else found[place] for place in places]

        return emit_carried(
            carried,
            self._primals,
            self._widths(stretch.start) if is_adjoint else results,
            pattern,
            like,
            transposed=(self._program.direction == "vjp") != is_adjoint,
            most_bytes=self._most_bytes,
        )

    def _widths(self, cut: int) -> list[int]:
        return [prod(self._program.values[n].shape) for n in self._cuts[cut]]

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

        map_pieces = pieces([_in_blocks(parts) for parts in factor], shapes, by_output=by_output)
        carried = [_in_blocks(parts) for parts in before or []]
        return [list(blocks) for blocks in multiplied(carried, map_pieces, dtypes, check_room)]


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
    return [[_numbered(part, level) for part in parts for level in levels] for parts in carried]


def _folded(parts: Sequence[Part]) -> list[Part]:
    blocks, few = split(parts)
    return [*folded(blocks), *few]


def _in_blocks(parts: Sequence[Part]) -> list[Block]:
    return folded([whole(part) for part in parts])


def _numbered(part: Part, level: np.ndarray) -> Part:
    if isinstance(part, Placed):
        return replace(part, block=_relabelled(part.block, level))
    return _relabelled(part, level)


def _relabelled(block: Block, level: np.ndarray) -> Block:
    index = level[block.index]
    lost = (block.index > 0) & (index == 0)
    if not lost.any():
        return Block(index, block.values)
    zero = torch.zeros((), dtype=block.values.dtype, device=block.values.device)
    kept = torch.from_numpy(~lost).to(block.values.device)
    return Block(index, torch.where(kept, block.values, zero))
