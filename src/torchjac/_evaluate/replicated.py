"""Rows per sample without vmap: the batch repeated once per seed.

Where samples do not mix, k copies of the batch are k·B samples. One ordinary backward pass with
another seed for each copy gives k rows, with no op batched in a way that it does not know.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, rows_to_block
from torchjac._evaluate.seeds import BatchDims, basis, seed_count
from torchjac._evaluate.sweep import Chunks, Pass, sweep
from torchjac._evaluate.tape import grad_recorded, leaf_of
from torchjac._inputs.signature import Signature
from torchjac._torch import fast_backward
from torchjac.errors import ChangedShapeError


def replicated(
    signature: Signature,
    outputs: Sequence[Tensor],
    chunks: Chunks,
    batch: BatchDims,
    *,
    create_graph: bool,
) -> Blocks:
    """Rows of the Jacobian of each sample, by evaluating on copies of the batch.

    Args:
        signature: The function.
        outputs: Its value, for the shapes.
        chunks: Sizes of the passes.
        batch: Axes of independent samples.
        create_graph: Whether the rows are to be differentiable.

    Returns:
        blocks[i][j], shape (B, *output i of one sample, *input j of one sample).
    """
    chunks.progress.expect(sum(seed_count(output, batch.outputs) for output in outputs))
    blocks: Blocks = []
    for i, output in enumerate(outputs):
        run = _rows(signature, outputs, i, batch, create_graph=create_graph)
        rows = sweep(seed_count(output, batch.outputs), run, chunks, differentiable=create_graph)
        blocks.append(
            [
                rows_to_block(r, output, x, batch)
                for r, x in zip(rows, signature.leaves, strict=True)
            ]
        )
    return blocks


def _rows(
    signature: Signature,
    outputs: Sequence[Tensor],
    i: int,
    batch: BatchDims,
    *,
    create_graph: bool,
) -> Pass:
    expected = outputs[i].shape

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        copies = stop - start
        with grad_recorded():
            repeated = [
                torch.cat([leaf_of(leaf, create_graph)] * copies, batch.inputs)
                for leaf in signature.leaves
            ]
            if not create_graph:
                repeated = [leaf.detach().requires_grad_() for leaf in repeated]
            output = signature.replay([leaf.clone() for leaf in repeated]).tensors[i]
        wanted = list(expected)
        wanted[batch.outputs] *= copies
        if list(output.shape) != wanted:
            raise ChangedShapeError(
                f"{signature.api}: `func` returned shape {tuple(output.shape)} for {copies} copies "
                f"of the batch, expected {tuple(wanted)}."
            )
        if not output.requires_grad:
            return [None] * len(repeated)
        seeds = basis(outputs[i], start, stop, batch.outputs).movedim(0, batch.outputs)
        seeds = seeds.flatten(batch.outputs, batch.outputs + 1)
        grads = fast_backward([output], repeated, [seeds], create_graph=create_graph)
        return [
            None if g is None else g.unflatten(batch.inputs, (copies, -1)).movedim(batch.inputs, 0)
            for g in grads
        ]

    return run
