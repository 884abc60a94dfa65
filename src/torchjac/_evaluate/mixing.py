"""Why samples of a batch are not independent, for the message that says so."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchjac._evaluate.seeds import BatchDims, rows_of_samples
from torchjac._evaluate.tape import Linearized
from torchjac._evaluate.witness import close, random_like
from torchjac._inputs.closure import reachable
from torchjac.errors import MixedSamplesError

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
        MixedSamplesError: They are not.
    """
    plain, weighed = [], []
    samples = [output.detach().select(batch.outputs, 0) for output in tape.outputs.tensors]
    first = tape.outputs.tensors[0].detach()
    (weights,) = random_like([first.new_empty(first.shape[batch.outputs])], seed=1)
    for output, sample in zip(tape.outputs.tensors, random_like(samples), strict=True):
        plain.append(sample.unsqueeze(batch.outputs).expand_as(output))
        shape = [-1 if d == batch.outputs else 1 for d in range(output.dim())]
        weighed.append(plain[-1] * weights.to(sample).reshape(shape))
    which = range(len(plain))
    ones, others = (
        tape.pull(which, seeds, stacked=False, create_graph=False) for seeds in (plain, weighed)
    )
    for g, w in zip(ones, others, strict=True):
        if g is None or w is None:
            continue
        g, w = (rows_of_samples(t.detach(), batch.inputs) for t in (g, w))
        if not close(g * weights.to(g).unsqueeze(1), w):
            raise MixedSamplesError(mixed_samples(api, func, tape, batch))


def mixed_samples(api: str, func: Callable[..., Any], tape: Linearized, batch: BatchDims) -> str:
    """The message that names what mixes the samples."""
    return (
        f"{api}: the samples are not independent: {cause_of_mixing(func, tape, batch)}. "
        "For the whole Jacobian with its cross terms use `torchjac.jacobian`."
    )


def cause_of_mixing(func: Callable[..., Any], tape: Linearized, batch: BatchDims) -> str:
    """Name what mixes the samples.

    Args:
        func: The user's function.
        tape: Its record.
        batch: Axes of samples.

    Returns:
        One or two sentences.
    """
    found = ", ".join(_training_norms(func))
    if found:
        return (
            f"batch normalisation in training mode ({found}) uses the mean of the whole batch. "
            "Call .eval() on the module first"
        )
    for i, output in enumerate(tape.outputs.tensors):
        pair = _first_pair(tape, i, output, batch)
        if pair is not None:
            return (
                f"output {i} of sample {pair[0]} depends on input {pair[1]} of sample {pair[2]}. "
                "Look for a reduction, a normalisation or a reshape over the batch axis, or "
                "wrong `in_dim` or `out_dim`"
            )
    return "the outputs of a sample depend on other samples"


def _training_norms(func: Callable[..., Any]) -> Iterator[str]:
    values = [("", func), *reachable(func)]
    for prefix, module in values:
        if isinstance(module, nn.Module):
            for name, part in module.named_modules(prefix=prefix):
                if isinstance(part, _BATCH_NORMS) and (part.training or part.running_mean is None):
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
