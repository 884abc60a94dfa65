"""Columns by forward mode for the drop-in, which keeps to what was asked for and returns it.

Unlike `Work` it follows PyTorch to the letter: inner `no_grad` blocks are ignored, the grad mode
of the caller holds, and results stay connected to the graph of the inputs.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.differentiate import evaluation
from torchjac._evaluate.forward import forward, replaying
from torchjac._evaluate.ladder import VMAP, Rung, batchings, climb_down
from torchjac._evaluate.memory import Budget, result_bytes
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.randomness import random_state
from torchjac._evaluate.report import is_listened_to, publish
from torchjac._evaluate.seeds import joint_basis
from torchjac._evaluate.sweep import Chunks
from torchjac._inputs.storage import is_part
from torchjac._torch import batched, inside_transform, push_forward, refuse_compiler

Evaluate = Callable[[list[Tensor]], tuple[Tensor, ...]]
# For so few seeds accounts of memory and passes take longer than the derivative.
FEW_SEEDS = 16


def forward_outright(
    api: str,
    evaluate: Evaluate,
    leaves: Sequence[Tensor],
    otherwise: Callable[[], Sequence[Sequence[Tensor]]],
) -> Sequence[Sequence[Tensor]]:
    """Columns of the Jacobian by forward mode, batched, or one by one where that fails.

    Args:
        api: Name of the public function, for messages.
        evaluate: The function of a list of tensors.
        leaves: Where to differentiate.
        otherwise: The same blocks by other means, where there is no forward rule.

    Returns:
        blocks[i][j], shape (*output i, *input j).
    """
    refuse_compiler()  # here, where no fallback catches it
    parts = [is_part(leaf) for leaf in leaves]

    def copying(duals: list[Tensor]) -> tuple[Tensor, ...]:
        # A copy would lack the memory around, which `as_strided` reads.
        pairs = zip(duals, parts, strict=True)
        return evaluate([dual if part else dual.clone() for dual, part in pairs])

    outside = not inside_transform()
    seeds = sum([leaf.numel() for leaf in leaves])
    if outside and seeds <= FEW_SEEDS and not is_listened_to():
        blocks = _at_once(copying, leaves)
        if blocks is not None:
            return blocks
    state = random_state(leaves)
    outputs = copying(list(leaves))
    flat = replaying(api, copying, outputs, state, nullcontext(), copies=False)
    size = result_bytes(outputs, leaves)

    accounts: list[Chunks] = []

    def compute(stacked: bool) -> Sequence[Sequence[Tensor]]:
        progress = Progress(shown=False)
        accounts.append(Chunks(Budget(api), size, not outside, leaves[0].device, progress))
        blocks = forward(flat, leaves, outputs, accounts[-1], stacked=stacked, create_graph=True)
        return _filled(blocks, outputs, leaves)

    rungs = batchings("forward-mode", (True, False), compute)
    used, blocks, refusals = climb_down([*rungs, Rung("reverse-mode", VMAP, otherwise)])
    if is_listened_to() and used.mode == "forward-mode":  # `otherwise` reports itself
        publish(evaluation(api, used, "asked for", seeds, accounts[-1]), refusals)
    return blocks


def _at_once(evaluate: Evaluate, leaves: Sequence[Tensor]) -> list[list[Tensor]] | None:
    """All columns in one batched pass, or None where PyTorch cannot."""
    counts = [leaf.numel() for leaf in leaves]
    outputs: list[Tensor] = []

    def flat(*duals: Tensor) -> list[Tensor]:
        outputs[:] = evaluate(list(duals))
        return outputs

    def push(tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return push_forward(flat, leaves, tangents)

    try:
        columns = batched(push, joint_basis(leaves, 0, sum(counts)), "same")
    except Exception:  # the ladder tries again
        return None
    cut = [
        [None] * len(counts) if c is None else c.movedim(0, -1).split(counts, -1) for c in columns
    ]
    blocks: Blocks = [
        [
            None if part is None else part.reshape(part.shape[:-1] + leaf.shape)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        for parts in cut
    ]
    return _filled(blocks, outputs, leaves)


def _filled(
    blocks: Blocks, outputs: Sequence[Tensor], leaves: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Blocks with zeros, of the dtype of the output, where nothing moves."""
    return [
        [
            torch.zeros(y.shape + x.shape, dtype=y.dtype, device=y.device) if b is None else b
            for b, x in zip(row, leaves, strict=True)
        ]
        for row, y in zip(blocks, outputs, strict=True)
    ]
