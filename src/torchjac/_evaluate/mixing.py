"""Why samples of a batch are not independent, for the message that says so."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchjac._evaluate.seeds import BatchDims
from torchjac._evaluate.tape import Linearized
from torchjac._evaluate.witness import random_like
from torchjac._inputs.closure import reachable

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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
        seed.select(batch.outputs, sample).copy_(random_like(seed.select(batch.outputs, sample)))
        rows = tape.pull([i], [seed], stacked=False, create_graph=False, last=False)
        for j, row in enumerate(rows):
            if row is None:
                continue
            others = row.movedim(batch.inputs, 0).flatten(1).any(dim=1)
            others[sample] = False
            if bool(others.any()):
                return sample, j, int(others.nonzero()[0])
    return None
