"""The diagonal of a Jacobian, without the rest of it.

Row r is computed like any other, and only its element r is kept: n passes of time, but the
memory of one chunk of rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.blocks import apply_seeds
from torchjac._evaluate.differentiate import evaluate, evaluation, explain_refusals
from torchjac._evaluate.ladder import batchings, climb_down
from torchjac._evaluate.memory import Budget, bound_of_seed, is_negligible
from torchjac._evaluate.mixing import refuse_mixing
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import is_listened_to, publish
from torchjac._evaluate.seeds import BatchDims, basis, seed_count
from torchjac._evaluate.sweep import Chunks, Pass, sweep
from torchjac._evaluate.tape import Linearized, outside_inference_mode, record_in_transform
from torchjac._inputs.signature import Signature
from torchjac._inputs.warn import warn
from torchjac._torch import inside_transform
from torchjac.errors import FallbackWarning, ShapeError


@outside_inference_mode
def diagonal_entries(
    signature: Signature, options: Options, dim: int | None, func: Callable[..., Any] | None
) -> Tensor:
    """Diagonal of the Jacobian of a function whose output has the shape of its input.

    d[i] = d func(x)[i] / d x[i]

    Args:
        signature: A function of one tensor.
        options: How.
        dim: Axis of independent samples, None for one point.
        func: The user's function, to refuse samples that mix; None if that is settled.

    Returns:
        The diagonal, with the shape of the input.

    Raises:
        ShapeError: The output has another shape.
    """
    tape = linearized(signature, options)
    x = tape.inputs[0]
    if len(tape.outputs.tensors) != 1 or tape.outputs.tensors[0].shape != x.shape:
        shapes = [tuple(output.shape) for output in tape.outputs.tensors]
        raise ShapeError(
            f"{signature.api}: `func` must return one tensor with the shape of its input, "
            f"{tuple(x.shape)}; got {shapes}."
        )
    if dim is not None and func is not None:
        refuse_mixing(signature.api, func, tape, BatchDims(dim, dim))
    count = seed_count(x, dim)
    entries = best_rung(
        signature.api,
        options,
        tape,
        count,
        lambda chunks, stacked, graph: sweep(
            count, _entries(tape, dim, stacked, graph), chunks, differentiable=graph
        ),
    )[0]
    if entries is None:
        return torch.zeros_like(x)
    if dim is None:
        return entries.reshape(x.shape)
    sample = [size for axis, size in enumerate(x.shape) if axis != dim]
    return entries.reshape(*sample, x.shape[dim]).movedim(-1, dim)


def linearized(signature: Signature, options: Options) -> Linearized:
    """The function recorded, inside a transform of `torch.func` or outside."""
    if inside_transform():
        return record_in_transform(signature.evaluate, signature.leaves)
    return evaluate(signature, options).tape


def best_rung(
    api: str,
    options: Options,
    tape: Linearized,
    seeds: int,
    compute: Callable[[Chunks, bool, bool], list[Tensor | None]],
) -> list[Tensor | None]:
    """Run batched passes, or single ones where PyTorch cannot batch.

    Args:
        api: Name of the public function, for messages.
        options: How.
        tape: The recorded function.
        seeds: How many seeds there will be.
        compute: The computation, given accounts, whether to batch, and whether to keep a graph.

    Returns:
        What the first way that works computes.
    """
    outside = not inside_transform()
    bound = bound_of_seed(tape.survey().gradient_bytes, tape.outputs.tensors, tape.inputs)
    small = not outside or is_negligible(seeds, bound, 0)
    graph = options.create_graph or not outside
    size = sum([x.numel() * x.element_size() for x in tape.inputs])

    accounts: list[Chunks] = []

    def attempt(stacked: bool) -> list[Tensor | None]:
        budget = Budget(api, options.memory, options.chunk_size)
        device = tape.inputs[0].device
        accounts.append(Chunks(budget, size, small, device, Progress(shown=False)))
        return compute(accounts[-1], stacked, graph)

    used, result, refusals = climb_down(batchings("reverse-mode", options.stackings, attempt))
    if refusals:
        warn(explain_refusals(api, used, refusals), FallbackWarning)
    if is_listened_to():
        why = "of each row only its entry on the diagonal is kept"
        publish(evaluation(api, used, why, seeds, accounts[-1]), refusals)
    return result


def _entries(tape: Linearized, dim: int | None, stacked: bool, create_graph: bool) -> Pass:
    output, x = tape.outputs.tensors[0], tape.inputs[0]
    batch = stacked and seed_count(output, dim) > 1

    def pull(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return tape.pull([0], seeds, stacked=batch, create_graph=create_graph)

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        if start == stop:
            return [None]
        seeds = [basis(output, start, stop, dim)]
        rows = apply_seeds(pull, seeds, stacked=batch)[0]
        if rows is None:
            return [None]
        if dim is None:
            return [rows.reshape(stop - start, x.numel()).diagonal(start).clone()]
        rows = rows.movedim(dim + 1, 1).reshape(stop - start, x.shape[dim], seed_count(x, dim))
        return [rows.diagonal(start, 0, 2).movedim(-1, 0).clone()]

    return run
