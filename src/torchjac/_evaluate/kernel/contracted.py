"""Jacobians of samples by parameters whose uses no rule knows: each sample by itself.

The function is evaluated on one sample at a time, all of them batched where PyTorch can, and a
seed for each output gives the rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchjac._evaluate.blocks import apply_seeds
from torchjac._evaluate.tape import grad_recorded
from torchjac._torch import batched

# of_sample(inputs of a batch of one, parameters) -> output of that batch
OfSample = Callable[[list[Tensor], Sequence[Tensor]], Tensor]


def rows_of_samples_alone(
    of_sample: OfSample,
    samples: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    stacked: bool,
) -> list[Tensor]:
    """Jacobians of samples, one evaluation for each.

    Args:
        of_sample: The function of a batch of one sample, and of the parameters.
        samples: Tensors of all samples along axis 0.
        parameters: What to differentiate by.
        stacked: Evaluate all samples and seeds together (vmap), or one after the other.

    Returns:
        For each parameter its rows, shape (outputs, samples, elements of the parameter).
    """

    def batched_rows(sample: Sequence[Tensor]) -> Sequence[Tensor | None]:
        def flat(*values: Tensor) -> Tensor:
            return of_sample([part.unsqueeze(0) for part in sample], values).flatten()

        value, pull, *_ = torch.func.vjp(flat, *parameters)
        seeds = torch.eye(value.numel(), dtype=value.dtype, device=value.device)
        return batched(lambda seed: pull(*seed), [seeds])

    def single_rows(sample: Sequence[Tensor]) -> Sequence[Tensor | None]:
        with grad_recorded():
            leaves = [parameter.detach().requires_grad_() for parameter in parameters]
            value = of_sample([part.unsqueeze(0) for part in sample], leaves).flatten()

        def pull(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
            found = torch.autograd.grad(
                value, leaves, seeds[0], retain_graph=True, materialize_grads=True
            )
            return [grad.to_dense() for grad in found]

        seeds = torch.eye(value.numel(), dtype=value.dtype, device=value.device)
        return apply_seeds(pull, [seeds], stacked=False)

    made = apply_seeds(
        (lambda parts: batched(batched_rows, parts)) if stacked else single_rows,
        samples,
        stacked=stacked,
    )
    return [
        part.detach().transpose(0, 1).reshape(part.shape[1], part.shape[0], parameter.numel())
        for part, parameter in zip(made, parameters, strict=True)
        if part is not None
    ]
