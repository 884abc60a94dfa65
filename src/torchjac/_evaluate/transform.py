"""Jacobians from inside a `torch.func` transform: differentiable, batched by whoever is outside."""

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.choose import choose
from torchjac._evaluate.forward import forward
from torchjac._evaluate.ladder import Rung, climb_down
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.reverse import reverse
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.tape import TransformTape, record_in_transform
from torchjac._inputs.signature import Outputs, Signature
from torchjac.errors import ArgumentError


def differentiate_in_transform(signature: Signature, options: Options) -> tuple[Outputs, Blocks]:
    """Evaluate a function and its Jacobian inside `vmap`, `grad`, `vjp` or `jvp`.

    The sizes seen are those of one sample, and nothing can be measured; `chunk_size` still
    holds.

    Args:
        signature: The function and where to differentiate it.
        options: How.

    Returns:
        The value and the blocks, both differentiable by the transform outside.

    Raises:
        ArgumentError: `strict=True`, which needs a graph of its own.
    """
    if options.strict:
        raise ArgumentError(
            f"{signature.api}: `strict=True` cannot be checked inside a torch.func transform; "
            "call it outside, or use strict=False."
        )
    tape = record_in_transform(signature.evaluate, signature.leaves)
    sizes = [sum(t.numel() for t in side) for side in (tape.inputs, tape.outputs.tensors)]
    choice = choose(options.strategy, *sizes, holomorphic=signature.holomorphic)

    def rung(stacked: bool) -> Rung[Blocks]:
        method = "vmap" if stacked else "loop"
        return Rung(
            choice.mode, method, lambda: _blocks(signature, tape, options, choice.mode, stacked)
        )

    _, blocks, _ = climb_down([rung(stacked) for stacked in options.stackings])
    return tape.outputs, blocks


def _blocks(
    signature: Signature, tape: TransformTape, options: Options, mode: str, stacked: bool
) -> Blocks:
    size = options.chunk_size or 2**62
    chunks = Chunks(
        Budget(signature.api, chunk_size=size), 0, True, torch.device("cpu"), Progress(shown=False)
    )
    if mode == "reverse-mode":
        return reverse(tape, chunks, stacked=stacked, create_graph=True)

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        return signature.replay([leaf.clone() for leaf in leaves]).tensors

    return forward(
        flat, tape.inputs, tape.outputs.tensors, chunks, stacked=stacked, create_graph=True
    )
