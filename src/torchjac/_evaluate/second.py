"""The Laplacian: the trace of the Hessian of every output.

For one output per sample it is the trace of the Jacobian of the gradient, reverse over reverse.
For several, forward mode over forward mode along each axis moves all outputs at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.diagonal import best_rung, diagonal_entries, linearized
from torchjac._evaluate.differentiate import explain_refusals
from torchjac._evaluate.ladder import Rung, climb_down
from torchjac._evaluate.mixing import refuse_mixing
from torchjac._evaluate.options import Options
from torchjac._evaluate.seeds import BatchDims, basis, rows_of_samples, seed_count
from torchjac._evaluate.sweep import Chunks, sweep
from torchjac._evaluate.tape import Linearized, leaf_of
from torchjac._inputs.signature import Signature
from torchjac._inputs.warn import warn
from torchjac._torch import inside_transform, load_jvp_decompositions
from torchjac.errors import FallbackWarning, ShapeError


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
    tape = linearized(signature, options)
    if len(tape.outputs.tensors) != 1:
        raise ShapeError(
            f"{signature.api}: `func` must return one tensor, got {len(tape.outputs.tensors)}."
        )
    if batch is not None:
        refuse_mixing(signature.api, func, tape, batch)
    rungs = [
        Rung("reverse over reverse", "vmap", lambda: _by_gradients(signature, options, tape, batch))
    ]
    output = tape.outputs.tensors[0]
    if seed_count(output, None if batch is None else batch.outputs) > 1:
        rungs.insert(
            0,
            Rung("forward over forward", "vmap", lambda: _nested(signature, options, tape, batch)),
        )
    used, result, refusals = climb_down(rungs)
    if refusals:
        warn(explain_refusals(signature.api, used, refusals), FallbackWarning)
    return result


def _nested(
    signature: Signature, options: Options, tape: Linearized, batch: BatchDims | None
) -> Tensor:
    """sum_i d/dt d/ds f(x + t e_i + s e_i), for all outputs at once."""
    load_jvp_decompositions()
    graph = options.create_graph or inside_transform()
    given = signature.leaves[0]
    x = given if inside_transform() else leaf_of(given, graph)
    dim = None if batch is None else batch.inputs

    def along(seed: Tensor) -> Tensor:
        def first(point: Tensor) -> Tensor:
            return torch.func.jvp(
                lambda inner: signature.replay([inner.clone()]).tensors[0], (point,), (seed,)
            )[1]

        return torch.func.jvp(first, (x,), (seed,))[1]

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        if start == stop:
            return [None]
        return [torch.vmap(along, randomness="same")(basis(x, start, stop, dim))]

    def compute(chunks: Chunks, stacked: bool, graph: bool) -> list[Tensor | None]:  # noqa: ARG001
        return sweep(seed_count(x, dim), run, chunks, differentiable=graph)

    terms = best_rung(signature.api, options, tape, compute)[0]
    return torch.zeros_like(tape.outputs.tensors[0]) if terms is None else terms.sum(0)


def _by_gradients(
    signature: Signature, options: Options, tape: Linearized, batch: BatchDims | None
) -> Tensor:
    """The trace of the Jacobian of the gradient, one output component at a time."""
    output = tape.outputs.tensors[0]
    if batch is None:
        parts = [
            diagonal_entries(_gradient_of(signature, None, c), options, None, None).sum()
            for c in range(output.numel())
        ]
        return torch.stack(parts).reshape(output.shape) if parts else torch.zeros_like(output)
    sample = output.select(batch.outputs, 0)
    parts = [
        rows_of_samples(
            diagonal_entries(_gradient_of(signature, batch, c), options, batch.inputs, None),
            batch.inputs,
        ).sum(1)
        for c in range(sample.numel())
    ]
    whole = torch.stack(parts).reshape(*sample.shape, output.shape[batch.outputs])
    return whole.movedim(-1, batch.outputs)


def _gradient_of(signature: Signature, batch: BatchDims | None, component: int) -> Signature:
    """The gradient of one component of the output, for all samples, as a function."""

    def value(*leaves: Tensor) -> Tensor:
        output = signature.replay(leaves).tensors[0]
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
