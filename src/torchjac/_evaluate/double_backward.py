"""Columns of the Jacobian from reverse mode alone, where an op has no forward rule.

u -> J^T u is linear in u, so that its own transpose, taken by a second backward pass, is
v -> J v. Source: the double-backward trick as described by Townsend (2017).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, apply_seeds, columns_to_block
from torchjac._evaluate.seeds import BatchDims, basis, seed_count
from torchjac._evaluate.sweep import Chunks, Pass, sweep
from torchjac._evaluate.tape import Linearized
from torchjac._torch import batched, fast_backward, refuse_wrong_batching, survey_graph


def double_backward(
    tape: Linearized,
    chunks: Chunks,
    *,
    stacked: bool,
    create_graph: bool,
    batch: BatchDims | None = None,
) -> Blocks:
    """Columns of the Jacobian by differentiating u -> J^T u.

    Args:
        tape: The recorded function.
        chunks: Sizes of the passes.
        stacked: Run the seeds of a chunk together (vmap), or one after the other.
        create_graph: Whether the columns are to be differentiable.
        batch: Axes of independent samples, which share their seeds.

    Returns:
        blocks[i][j], shape (*output i, *input j), or None where it is zero.
    """
    outputs = tape.outputs.tensors
    with torch.enable_grad():
        cotangents = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = tape.pull(range(len(outputs)), cotangents, stacked=False, create_graph=True)
    dim = None if batch is None else batch.inputs
    chunks.progress.expect(sum(seed_count(x, dim) for x in tape.inputs))
    columns = [
        sweep(
            seed_count(x, dim),
            _columns(back, x, dim, cotangents, stacked=stacked, create_graph=create_graph),
            chunks,
            differentiable=create_graph,
        )
        for back, x in zip(pulled, tape.inputs, strict=True)
    ]
    return [
        [columns_to_block(columns[j][i], output, x, batch) for j, x in enumerate(tape.inputs)]
        for i, output in enumerate(outputs)
    ]


def _columns(
    back: Tensor | None,
    x: Tensor,
    dim: int | None,
    cotangents: Sequence[Tensor],
    *,
    stacked: bool,
    create_graph: bool,
) -> Pass:
    pulled = cotangents[0] if back is None else back  # never run without `back`

    def product(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
        def once(tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
            return fast_backward([pulled], cotangents, tangents, create_graph=create_graph)

        if not stacked:
            return once(seeds)
        refuse_wrong_batching(survey_graph([pulled]).node_names)
        return batched(once, seeds)

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        if back is None or start == stop:
            return [None] * len(cotangents)
        columns = apply_seeds(product, [basis(x, start, stop, dim)], stacked=stacked)
        if all(column is None for column in columns):
            raise NotImplementedError("the backward pass cannot be differentiated itself")
        return columns

    return run
