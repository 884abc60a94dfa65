"""Columns by forward mode alone, for callers that asked for just that."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchjac._evaluate.forward import forward, replaying
from torchjac._evaluate.ladder import Rung, climb_down
from torchjac._evaluate.memory import Budget, result_bytes
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.randomness import RandomState
from torchjac._evaluate.sweep import Chunks
from torchjac._torch import inside_transform

# For so few seeds measuring costs more than batching them all could.
FEW_SEEDS = 8


def forward_outright(
    api: str,
    evaluate: Callable[[list[Tensor]], Sequence[Tensor]],
    leaves: Sequence[Tensor],
    outputs: Sequence[Tensor],
    state: RandomState,
    otherwise: Callable[[], Sequence[Sequence[Tensor]]],
) -> Sequence[Sequence[Tensor]]:
    """Columns of the Jacobian by forward mode, batched, or one by one where that fails.

    Args:
        api: Name of the public function, for messages.
        evaluate: The function of a list of tensors.
        leaves: Where to differentiate.
        outputs: Its value there.
        state: Where the random generators stood before it.
        otherwise: The same blocks by other means, where there is no forward rule.

    Returns:
        blocks[i][j], shape (*output i, *input j), connected to the graph of the leaves.
    """
    flat = replaying(api, evaluate, outputs, state)
    size = result_bytes(outputs, leaves)
    few = inside_transform() or sum([leaf.numel() for leaf in leaves]) <= FEW_SEEDS

    def rung(stacked: bool) -> Rung[Sequence[Sequence[Tensor]]]:
        def attempt() -> Sequence[Sequence[Tensor]]:
            progress = Progress(shown=False)
            chunks = Chunks(Budget(api), size, few, leaves[0].device, progress)
            blocks = forward(flat, leaves, outputs, chunks, stacked=stacked, create_graph=True)
            return [
                [
                    x.new_zeros(y.shape + x.shape) if b is None else b
                    for b, x in zip(row, leaves, strict=True)
                ]
                for row, y in zip(blocks, outputs, strict=True)
            ]

        return Rung("forward-mode", "vmap" if stacked else "loop", attempt)

    with torch.enable_grad():
        rungs = [rung(True), rung(False), Rung("reverse-mode", "vmap", otherwise)]
        _, blocks, _ = climb_down(rungs)
    return blocks
