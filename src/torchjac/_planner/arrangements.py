"""Where the entries go in each tensor of a result."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.compressed import common_dtype
from torchjac._evaluate.memory import Budget
from torchjac._inputs.checks import BLOCKS
from torchjac._layout.arrange import Arrangement, arrange, arrange_blocks
from torchjac._layout.cut import Piece, cut
from torchjac._pattern.pattern import SparsityPattern
from torchjac._pattern.separable import find_blocks
from torchjac._planner.structure import Request
from torchjac.errors import ArgumentError, LayoutError

# Dense results up to this size are made without a look at how much memory is free.
_NEGLIGIBLE_BYTES = 2**26


def arrangements(
    pattern: SparsityPattern,
    request: Request,
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
) -> list[list[Arrangement]]:
    """Decide where the entries go, for each output and input, or for all of them as one.

    Args:
        pattern: Over all outputs and inputs raveled.
        request: What the user asked for.
        outputs: What the function returns.
        leaves: What is differentiated.

    Returns:
        arrangements[output][input]; one of one if the result is flat.

    Raises:
        ArgumentError: The block size does not divide a matrix.
        LayoutError: A matrix has no blocks along its diagonal, and they were asked for.
        MemoryBudgetError: The result is dense, and larger than the budget.
    """
    pieces = [[Piece(pattern, None)]]
    heights, widths = [(pattern.shape[0],)], [(pattern.shape[1],)]
    if not request.flat:
        pieces = cut(pattern, [y.numel() for y in outputs], [x.numel() for x in leaves])
        heights, widths = [tuple(y.shape) for y in outputs], [tuple(x.shape) for x in leaves]
    _check_blocksize(request, pieces)
    device = leaves[0].device
    made = [
        [
            _arranged(piece, request, device, _Place(i, j, output, inputs))
            for j, (piece, inputs) in enumerate(zip(row, widths, strict=True))
        ]
        for i, (row, output) in enumerate(zip(pieces, heights, strict=True))
    ]
    _check_memory(request, made, pattern.nnz, leaves)
    return made


class _Place(NamedTuple):
    """Which output and input, and their shapes."""

    row: int
    column: int
    output: tuple[int, ...]
    inputs: tuple[int, ...]


def _arranged(piece: Piece, request: Request, device: torch.device, place: _Place) -> Arrangement:
    layout, output, inputs = request.layout, place.output, place.inputs
    if layout != BLOCKS:
        shape = (*output, *inputs)
        return arrange(piece, layout, device, dense_shape=shape, blocksize=request.blocksize)
    blocks = find_blocks(piece.pattern, output, inputs)
    if blocks is None:
        what = "the flat matrix" if request.flat else f"output {place.row} by input {place.column}"
        raise LayoutError(
            f"{request.api}: layout={layout!r} needs axes that never mix, or equal blocks along "
            f"the diagonal: expected them in {what}, shapes {output} and {inputs}, got "
            f"{piece.pattern.nnz:,} entries that lie in no blocks. Use layout=torch.sparse_bsr or "
            "torch.sparse_csr, or torch.strided if most of it is nonzero."
        )
    return arrange_blocks(piece, blocks, device)


def _check_blocksize(request: Request, pieces: Sequence[Sequence[Piece]]) -> None:
    size = request.blocksize
    if size is None:
        return
    for m, n in [piece.pattern.shape for row in pieces for piece in row]:
        if m % size[0] or n % size[1]:
            raise ArgumentError(
                f"{request.api}: `blocksize` must divide the shape of every block: {size} does not "
                f"divide {(m, n)}."
            )


def _check_memory(
    request: Request,
    made: Sequence[Sequence[Arrangement]],
    nnz: int,
    leaves: Sequence[Tensor],
) -> None:
    """Refuse dense results that are too large; sparse ones hold little more than the entries."""
    sizes = [common_dtype(leaves).itemsize] if request.flat else [x.element_size() for x in leaves]
    dense = sum(
        [
            prod(where.shape) * size
            for row in made
            for where, size in zip(row, sizes, strict=True)
            if where.layout is torch.strided
        ]
    )
    if dense > _NEGLIGIBLE_BYTES or (request.memory is not None and dense):
        remedies = f"or use layout=torch.sparse_csr, which holds the {nnz:,} entries alone"
        result = "the dense " + ("Jacobian" if request.order == 1 else "Hessian")
        budget = Budget(request.api, request.memory, result=result, remedies=remedies)
        budget.pass_bytes(dense, leaves[0].device)
