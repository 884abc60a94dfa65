"""Jacobians from inside a `torch.func` transform: differentiable, batched by whoever is outside."""

import torch

from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.choose import choose
from torchjac._evaluate.forward import forward, replaying
from torchjac._evaluate.ladder import batchings, climb_down
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.randomness import RandomState, random_state
from torchjac._evaluate.reverse import reverse
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.tape import TransformTape, record_in_transform
from torchjac._evaluate.watch import Watch
from torchjac._inputs.signature import Outputs, Signature
from torchjac.errors import ArgumentError


def differentiate_in_transform(signature: Signature, options: Options) -> tuple[Outputs, Blocks]:
    """Evaluate a function and its Jacobian inside `vmap`, `grad`, `vjp` or `jvp`.

    The sizes seen are those of one sample, and nothing can be measured; `chunk_size` still
    holds. Rows, unless columns are asked for: PyTorch's forward rules of some ops are wrong under
    a second transform.

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
    state = random_state(signature.leaves)
    with Watch(signature.api, warn=not options.quiet):
        tape = record_in_transform(signature.evaluate, signature.leaves)
    mode = choose(options.strategy, 1, 1).mode

    def compute(stacked: bool) -> Blocks:
        if mode == "reverse-mode":
            return _rows(signature, tape, options, stacked)
        return _columns(signature, tape, options, state, stacked)

    _, blocks, _ = climb_down(batchings(mode, options.stackings, compute))
    return tape.outputs, blocks


def _chunks(signature: Signature, options: Options) -> Chunks:
    budget = Budget(signature.api, chunk_size=options.chunk_size or 2**62)
    return Chunks(budget, 0, True, torch.device("cpu"), Progress(shown=False))


def _rows(signature: Signature, tape: TransformTape, options: Options, stacked: bool) -> Blocks:
    chunks = _chunks(signature, options)
    blocks = reverse(tape, chunks, stacked=stacked, create_graph=True)
    if signature.holomorphic:  # PyTorch pulls back with the conjugate transpose
        return [[None if b is None else b.conj().resolve_conj() for b in row] for row in blocks]
    return blocks


def _columns(
    signature: Signature, tape: TransformTape, options: Options, state: RandomState, stacked: bool
) -> Blocks:
    flat = replaying(
        signature.api,
        lambda copies: signature.replay(copies).tensors,
        tape.outputs.tensors,
        state,
        Watch(signature.api, warn=False),
    )
    return forward(
        flat,
        tape.inputs,
        tape.outputs.tensors,
        _chunks(signature, options),
        stacked=stacked,
        create_graph=True,
    )
