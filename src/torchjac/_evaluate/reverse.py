"""Reverse mode: rows of the Jacobian, one vector-Jacobian product per output element."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, apply_seeds, rows_to_block
from torchjac._evaluate.seeds import (
    FEW,
    BatchDims,
    are_many_and_small,
    basis,
    joint_basis,
    seed_count,
)
from torchjac._evaluate.sweep import Chunks, Pass, owned, sweep
from torchjac._evaluate.tape import Linearized
from torchjac._torch import has_numbers


def reverse(
    tape: Linearized,
    chunks: Chunks,
    *,
    stacked: bool,
    create_graph: bool,
    batch: BatchDims | None = None,
) -> Blocks:
    """Rows of the Jacobian by reverse mode.

    Row r of J[i, j] is e_r^T J[i, j]: one vector-Jacobian product with the seed e_r.

    Args:
        tape: The recorded function.
        chunks: Sizes of the passes.
        stacked: Run the seeds of a chunk together (vmap), or one after the other.
        create_graph: Whether the rows are to be differentiable.
        batch: Axes of independent samples, which share their seeds.

    Returns:
        blocks[i][j], shape (*output i, *input j), or None where it is zero.
    """
    outputs = tape.outputs.tensors
    dim = None if batch is None else batch.outputs
    counts = [seed_count(output, dim) for output in outputs]
    chunks.progress.expect(sum(counts))
    if batch is None and not create_graph and are_many_and_small(counts):
        run = _rows(tape, range(len(outputs)), None, stacked=stacked, create_graph=create_graph)
        rows = sweep(sum(counts), run, chunks, differentiable=create_graph)
        if not _are_polluted(rows):
            return _cut(tape, rows)
    blocks: Blocks = []
    for i, (output, count) in enumerate(zip(outputs, counts, strict=True)):
        run = _rows(tape, [i], dim, stacked=stacked and count > 1, create_graph=create_graph)
        rows = sweep(count, run, chunks, differentiable=create_graph)
        blocks.append(
            [rows_to_block(r, output, x, batch) for r, x in zip(rows, tape.inputs, strict=True)]
        )
    return blocks


def _rows(
    tape: Linearized, which: Sequence[int], dim: int | None, *, stacked: bool, create_graph: bool
) -> Pass:
    outputs = [tape.outputs.tensors[i] for i in which]

    def pull(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return tape.pull(which, seeds, stacked=stacked, create_graph=create_graph)

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        if start == stop:
            return [None] * len(tape.inputs)
        if len(outputs) == 1:
            seeds = [basis(outputs[0], start, stop, dim)]
        else:
            seeds = joint_basis(outputs, start, stop)
        return apply_seeds(pull, seeds, stacked=stacked)

    return run


def _cut(tape: Linearized, rows: Sequence[Tensor | None]) -> Blocks:
    """Cut rows over all outputs into one row of blocks per output."""
    blocks: Blocks = []
    start = 0
    for output in tape.outputs.tensors:
        stop = start + output.numel()
        part = [r if r is None else r[start:stop] for r in rows]
        blocks.append([rows_to_block(r, output, x) for r, x in zip(part, tape.inputs, strict=True)])
        start = stop
    return blocks


def reverse_at_once(tape: Linearized, *, create_graph: bool) -> Blocks:
    """Rows of a small Jacobian, all seeds batched, without accounts of memory and passes.

    For a function of a few numbers those take longer than the derivative.

    Args:
        tape: The recorded function.
        create_graph: Whether the rows are to be differentiable.

    Returns:
        As `reverse`.
    """
    outputs = tape.outputs.tensors
    if len(outputs) > FEW and not create_graph:  # together, constants would get a graph
        total = sum([output.numel() for output in outputs])
        run = _rows(tape, range(len(outputs)), None, stacked=True, create_graph=create_graph)
        rows = owned(run(0, total), create_graph)
        if not _are_polluted(rows):
            return _cut(tape, rows)
    return [_block_row(tape, i, create_graph) for i in range(len(outputs))]


def _block_row(tape: Linearized, i: int, create_graph: bool) -> list[Tensor | None]:
    output = tape.outputs.tensors[i]
    size = output.numel()
    if size == 0:
        return [None] * len(tape.inputs)
    if size > 1:
        seeds = basis(output, 0, size)
        rows = owned(
            tape.pull((i,), (seeds,), stacked=True, create_graph=create_graph), create_graph
        )
    else:  # nothing to batch; a plain pass may return constants of the graph: copy
        ones = torch.ones_like(output)
        rows = tape.pull((i,), (ones,), stacked=False, create_graph=create_graph)
        rows = [r if r is None else r.clone() for r in rows]
        if output.dim() == 0:
            return rows
    return [rows_to_block(r, output, x) for r, x in zip(rows, tape.inputs, strict=True)]


def _are_polluted(rows: Sequence[Tensor | None]) -> bool:
    """Whether 0 * inf in the passes of other outputs may have left NaN in the rows of one."""
    known = [row for row in rows if row is not None and has_numbers(row)]
    return any([bool(row.isnan().any()) for row in known])
