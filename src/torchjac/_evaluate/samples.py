"""Jacobians of the samples of a batch: seeds shared by all samples, mixing refused."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.choose import Choice, choose
from torchjac._evaluate.differentiate import (
    Solution,
    climb,
    evaluate,
    filled,
    look_for_zeros,
    unless_wrong_in_a_batch,
    warn_of_disagreement,
)
from torchjac._evaluate.memory import bound_of_seed, is_negligible, result_bytes
from torchjac._evaluate.mixing import refuse_if_mixed
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import is_listened_to
from torchjac._evaluate.seeds import BatchDims, seed_count
from torchjac._evaluate.tape import Tape, outside_inference_mode
from torchjac._evaluate.witness import samples_at_once, testify
from torchjac._evaluate.work import Work
from torchjac._inputs.signature import Signature
from torchjac._torch import BatchingRulesOnly, inside_transform
from torchjac.errors import ArgumentError, ShapeError


@outside_inference_mode
def differentiate_samples(
    signature: Signature, options: Options, batch: BatchDims, func: Callable[..., Any]
) -> Solution:
    """Evaluate a function and the Jacobian of each of its samples.

    One seed serves all B samples: sum_b e_r^T J_b is e_r^T J_b in the rows of sample b, if the
    samples do not mix. A random product, which weighs the samples differently, tells if they do.

    Args:
        signature: The function and where to differentiate it.
        options: How.
        batch: Axes of samples.
        func: The user's function, to name the cause if samples mix.

    Returns:
        The value and blocks[i][j], shape (B, *output i of one sample, *input j of one sample).

    Raises:
        ArgumentError: The call is inside a transform, where nothing can be checked.
        ShapeError: An axis of samples is missing or of another length.
    """
    api = signature.api
    if inside_transform():
        raise ArgumentError(
            f"{api}: cannot be checked for mixing samples inside a torch.func transform. Call it "
            "outside, or transform `torchjac.jacobian` of one sample."
        )
    size = _batch_size(api, signature.leaves, batch.inputs)
    point = evaluate(signature, options)
    tape, outputs = point.tape, point.tape.outputs
    for i, output in enumerate(outputs.tensors):
        check_axis(api, f"output {i}", output, "out_dim", batch.outputs, size)
    rows = sum([seed_count(output, batch.outputs) for output in outputs.tensors])
    columns = sum([seed_count(leaf, batch.inputs) for leaf in signature.leaves])
    choice = choose(
        options.strategy,
        columns,
        rows,
        rows_only="the result shall be differentiable" if options.create_graph else "",
    )
    seeds = columns if choice.mode == "forward-mode" else rows
    bound = bound_of_seed(tape.survey().gradient_bytes, outputs.tensors, tape.inputs, seeds)
    blocks = None
    plain = options.is_plain and not tape.survey().has_custom_functions
    if plain and choice.mode == "reverse-mode" and not is_listened_to():
        expected = result_bytes(outputs.tensors, signature.leaves, batch)
        if is_negligible(rows, bound, expected):
            blocks = _at_once(tape, batch, create_graph=options.create_graph)
    if blocks is None:
        with Progress(shown=options.progress, label=api) as progress:
            blocks = _compute(point.work(options, batch, bound, progress), choice, batch, func)
    look_for_zeros(api, outputs, blocks)
    return Solution(outputs, filled(blocks, outputs, signature.leaves, batch))


def _compute(work: Work, choice: Choice, batch: BatchDims, func: Callable[..., Any]) -> Blocks:
    """Climb down the ladder, and have a witness look for samples that mix."""
    witness = testify(work.tape)
    blocks = climb(work, choice)
    if choice.mode == "forward-mode" and not witness.agrees(blocks, batch):
        blocks = climb(work, Choice("reverse-mode", "forward mode gives another answer"))
        if witness.agrees(blocks, batch):
            warn_of_disagreement(work)
    if not witness.agrees(blocks, batch):
        refuse_if_mixed(work.signature.api, func, work.tape, batch)
        return unless_wrong_in_a_batch(work, witness, blocks)
    return blocks


def _at_once(tape: Tape, batch: BatchDims, *, create_graph: bool) -> Blocks | None:
    """Blocks of a small problem, or None where PyTorch cannot batch or samples seem to mix."""
    try:
        with BatchingRulesOnly():
            blocks, witness = samples_at_once(tape, batch, create_graph=create_graph)
    except Exception:  # the ladder tries again, and says what PyTorch said
        return None
    return blocks if witness.agrees(blocks, batch) else None


def _batch_size(api: str, leaves: tuple[Tensor, ...], dim: int) -> int:
    size = -1
    for j, leaf in enumerate(leaves):
        size = check_axis(api, f"input {j}", leaf, "in_dim", dim, size)
    return size


def check_axis(api: str, place: str, tensor: Tensor, name: str, dim: int, size: int) -> int:
    """Refuse a tensor without an axis of `size` samples (-1: any), and return the size."""
    if tensor.dim() <= dim:
        raise ShapeError(
            f"{api}: {place} has no axis {name}={dim}: expected samples along it, got shape "
            f"{tuple(tensor.shape)}."
        )
    if size not in (-1, tensor.shape[dim]):
        raise ShapeError(
            f"{api}: {place} has {tensor.shape[dim]} samples along axis {name}={dim}, expected "
            f"{size}; its shape is {tuple(tensor.shape)}."
        )
    return tensor.shape[dim]
