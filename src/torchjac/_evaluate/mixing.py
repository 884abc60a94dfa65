"""Why samples of a batch are not independent, for the message that says so."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchjac._evaluate.seeds import BatchDims, rows_of_samples
from torchjac._evaluate.tape import Linearized
from torchjac._evaluate.witness import random_like, rows_are_close
from torchjac._inputs.closure import owner_of, reachable
from torchjac._torch import inside_transform
from torchjac.errors import ArgumentError, MixedSamplesError

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def refuse_mixing(api: str, func: Callable[..., Any], tape: Linearized, batch: BatchDims) -> None:
    """Refuse a function whose samples are not independent, by two random products.

    With the same cotangent u for every sample, once plain and once weighed by a random number
    r_b per sample, independent samples give G_r[b] = r_b G_1[b].

    Args:
        api: Name of the public function, for messages.
        func: The user's function, to name the cause.
        tape: Its record.
        batch: Axes of samples.

    Raises:
        ArgumentError: The call is inside a transform, where nothing can be checked.
    """
    if inside_transform():
        raise ArgumentError(
            f"{api}: a batch cannot be checked for mixing samples inside a torch.func transform. "
            "Call it outside, or without `batch_dim` for one sample."
        )
    outputs = [output.detach() for output in tape.outputs.tensors]
    if any(output.shape[batch.outputs] < 2 for output in outputs):
        return  # nothing to mix
    samples = [output.select(batch.outputs, 0) for output in outputs]
    (weights,) = random_like([outputs[0].new_empty(outputs[0].shape[batch.outputs])], seed=1)
    for i, (output, sample) in enumerate(zip(outputs, random_like(samples), strict=True)):
        plain = sample.unsqueeze(batch.outputs).expand_as(output)
        shape = [-1 if d == batch.outputs else 1 for d in range(output.dim())]
        weighed = plain * weights.to(sample).reshape(shape)
        ones, others = (
            tape.pull([i], [seed], stacked=False, create_graph=False) for seed in (plain, weighed)
        )
        for g, w in zip(ones, others, strict=True):
            if g is None or w is None:
                continue
            g, w = (rows_of_samples(t.detach(), batch.inputs) for t in (g, w))
            if not rows_are_close(g * weights.to(g).unsqueeze(1), w):
                refuse_if_mixed(api, func, tape, batch)
                return


def refuse_if_mixed(api: str, func: Callable[..., Any], tape: Linearized, batch: BatchDims) -> None:
    """Look for a sample that depends on another one, exactly, and name the cause.

    Args:
        api: Name of the public function, for messages.
        func: The user's function.
        tape: Its record.
        batch: Axes of samples.

    Raises:
        MixedSamplesError: There is one.
    """
    for i, output in enumerate(tape.outputs.tensors):
        pair = _first_pair(tape, i, output, batch)
        if pair is None:
            continue
        cause = because_of_batch_norm(func) or (
            f"output {i} of sample {pair[0]} depends on input {pair[1]} of sample {pair[2]}. "
            "Look for a reduction, a normalisation or a reshape over the batch axis, or a wrong "
            + ("`in_dim` or `out_dim`" if api == "batch_jacobian" else "`batch_dim`")
        )
        raise MixedSamplesError(
            f"{api}: the samples are not independent: {cause}. "
            "For the whole Jacobian with its cross terms use `torchjac.jacobian`."
        )


def because_of_batch_norm(func: Callable[..., Any]) -> str:
    """What to say of batch norms that mix samples; empty where `func` holds none."""
    training = ", ".join(_batch_norms(func, training=True))
    if training:
        return (
            f"batch normalisation in training mode ({training}) uses the mean of the whole "
            "batch. Call .eval() on the module first"
        )
    untracked = ", ".join(_batch_norms(func, training=False))
    if untracked:
        return (
            f"batch normalisation without running statistics ({untracked}) uses the mean of "
            "the whole batch. Make it with track_running_stats=True"
        )
    return ""


def _batch_norms(func: Callable[..., Any], *, training: bool) -> Iterator[str]:
    """Names of the layers that use statistics of the batch, in training mode or in any."""
    held = [("", func), ("", owner_of(func)), *reachable(func)]
    for prefix, module in held:
        if not isinstance(module, nn.Module):
            continue
        for name, part in module.named_modules(prefix=prefix):
            if isinstance(part, _BATCH_NORMS) and (
                part.training if training else part.running_mean is None
            ):
                yield name or type(part).__name__


def _first_pair(
    tape: Linearized, i: int, output: Tensor, batch: BatchDims
) -> tuple[int, int, int] | None:
    """The first sample of output i that depends on another sample, on which input, on which."""
    for sample in range(output.shape[batch.outputs]):
        seed = torch.zeros_like(output)
        one = seed.select(batch.outputs, sample)
        one.copy_(random_like([one])[0])
        rows = tape.pull([i], [seed], stacked=False, create_graph=False)
        for j, row in enumerate(rows):
            if row is None:
                continue
            others = rows_of_samples(row, batch.inputs).any(dim=1)
            others[sample] = False
            if bool(others.any()):
                return sample, j, int(others.nonzero()[0])
    return None
