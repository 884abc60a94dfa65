"""The Laplacian: the trace of the Hessian of every output.

It is the trace of the Jacobian of the gradient, reverse over reverse, one component of the output
at a time. Forward mode over forward mode would move all outputs at once, but PyTorch's forward
rules of some ops (solve, det, layer_norm) have a wrong derivative.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.attention import with_math_attention
from torchjac._evaluate.diagonal import diagonal_entries, linearized
from torchjac._evaluate.mixing import refuse_mixing
from torchjac._evaluate.options import Options
from torchjac._evaluate.randomness import random_state
from torchjac._evaluate.samples import check_axis
from torchjac._evaluate.seeds import BatchDims, rows_of_samples, seed_count
from torchjac._evaluate.tape import Linearized, outside_inference_mode
from torchjac._inputs.selection import copied_tensors
from torchjac._inputs.signature import Signature
from torchjac._torch import inside_transform
from torchjac.errors import ShapeError


@outside_inference_mode
def laplacian_of(
    signature: Signature, options: Options, batch: BatchDims | None, func: Callable[..., Any]
) -> Tensor:
    """Sum of the second derivatives along every axis, for each output.

    l[o] = sum_i d^2 func(x)[o] / d x[i]^2

    Args:
        signature: A function of one tensor that returns one tensor.
        options: How.
        batch: Axes of independent samples, None for one point.
        func: The user's function, to name the cause if samples mix.

    Returns:
        Shape of the output.

    Raises:
        ShapeError: The function returns several tensors.
    """
    state = random_state(signature.leaves)
    tape = linearized(signature, options)
    replayed = state.replayed if state.was_used() else nullcontext
    again = signature.recall

    def same_numbers(leaves: Sequence[Tensor]) -> Any:
        with replayed():
            return again(leaves)

    # Fused attention has no second derivative.
    signature = with_math_attention(signature._replace(recall=same_numbers))
    if len(tape.outputs.tensors) != 1:
        raise ShapeError(
            f"{signature.api}: `func` must return one tensor, got {len(tape.outputs.tensors)}."
        )
    if batch is not None:
        size = signature.leaves[0].shape[batch.inputs]
        check_axis(
            signature.api, "the output", tape.outputs.tensors[0], "batch_dim", batch.outputs, size
        )
        refuse_mixing(signature.api, func, tape, batch)
    return _by_gradients(signature, options, tape, batch, func)


def _by_gradients(
    signature: Signature,
    options: Options,
    tape: Linearized,
    batch: BatchDims | None,
    func: Callable[..., Any],
) -> Tensor:
    """The trace of the Jacobian of the gradient, one output component at a time."""
    output = tape.outputs.tensors[0]
    if batch is None:
        parts = [
            diagonal_entries(_gradient_of(signature, None, c), options, None, None).sum()
            for c in range(output.numel())
        ]
        return torch.stack(parts).reshape(output.shape) if parts else torch.zeros_like(output)
    sample = [size for axis, size in enumerate(output.shape) if axis != batch.outputs]
    parts = [
        rows_of_samples(
            diagonal_entries(_gradient_of(signature, batch, c), options, batch.inputs, func),
            batch.inputs,
        ).sum(1)
        for c in range(seed_count(output, batch.outputs))
    ]
    whole = torch.stack(parts).reshape(*sample, output.shape[batch.outputs])
    return whole.movedim(-1, batch.outputs)


def _gradient_of(signature: Signature, batch: BatchDims | None, component: int) -> Signature:
    """The gradient of one component of the output, for all samples, as a function."""

    def value(*leaves: Tensor) -> Tensor:
        output = signature.replay(copied_tensors(list(leaves))).tensors[0]
        if batch is None:
            return output.reshape(-1)[component]
        return rows_of_samples(output, batch.outputs)[:, component].sum()

    def gradient(leaves: Sequence[Tensor]) -> Any:
        if inside_transform():
            return torch.func.grad(value)(*leaves)
        y = value(*leaves)
        if not y.requires_grad:
            return torch.zeros_like(leaves[0])
        (grad,) = torch.autograd.grad(
            y, leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return grad

    return signature._replace(call=gradient, recall=gradient, has_aux=False)
