"""Jacobians of the samples of a batch: seeds shared by all samples, mixing refused."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from torchjac._evaluate.choose import Choice, choose
from torchjac._evaluate.differentiate import Solution, climb, evaluate, filled
from torchjac._evaluate.memory import is_negligible
from torchjac._evaluate.mixing import mixed_samples
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.seeds import BatchDims, seed_count
from torchjac._evaluate.witness import testify
from torchjac._inputs.signature import Signature
from torchjac.errors import MixedSamplesError, ShapeError


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
        MixedSamplesError: The samples are not independent.
        ShapeError: An axis of samples is missing or of another length.
    """
    api = signature.api
    size = _batch_size(api, signature.leaves, batch.inputs)
    point = evaluate(signature, options, always_record=True)
    tape, outputs = point.recorded(), point.outputs
    for i, output in enumerate(outputs.tensors):
        _check_axis(api, f"output {i}", output, "out_dim", batch.outputs, size)
    witness = testify(tape)
    choice = choose(
        options.strategy,
        sum([seed_count(leaf, batch.inputs) for leaf in signature.leaves]),
        sum([seed_count(output, batch.outputs) for output in outputs.tensors]),
    )
    negligible = is_negligible(outputs.tensors, signature.leaves, batch)
    with Progress(shown=options.progress, label=api) as progress:
        work = point.work(options, batch, negligible, progress)
        blocks = climb(work, choice)
        if not witness.agrees(blocks, batch) and choice.mode == "forward-mode":
            blocks = climb(work, Choice("reverse-mode", "forward mode gives another answer"))
    if not witness.agrees(blocks, batch):
        raise MixedSamplesError(mixed_samples(api, func, tape, batch))
    return Solution(outputs, filled(blocks, outputs, signature.leaves, batch))


def _batch_size(api: str, leaves: tuple[Tensor, ...], dim: int) -> int:
    size = -1
    for j, leaf in enumerate(leaves):
        size = _check_axis(api, f"input {j}", leaf, "in_dim", dim, size)
    return size


def _check_axis(api: str, place: str, tensor: Tensor, name: str, dim: int, size: int) -> int:
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
