"""The empirical neural tangent kernel, block by block of samples.

One pass with a seed for each output of a sample serves all samples of a block, and stops at the
outputs of layers: no Jacobian by a weight is made where the structure of a layer will do.

Source: Novak, Sohl-Dickstein & Schoenholz (2022), Fast Finite Width Neural Tangent Kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.kernel.block import (
    Block,
    Recorded,
    Subject,
    factorise,
    not_independent,
    record_samples,
)
from torchjac._evaluate.kernel.factors import Explicit, Outer, contract, inner
from torchjac._evaluate.kernel.structure import Factor
from torchjac._evaluate.memory import Budget, human
from torchjac._evaluate.mixing import because_of_batch_norm
from torchjac._evaluate.report import Evaluation, Refusal, is_listened_to, publish
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._evaluate.witness import close
from torchjac._inputs.warn import warn
from torchjac._torch import pytree
from torchjac.errors import IndependenceWarning, MemoryBudgetWarning, MixedSamplesError

# Of what a pass may take: the factors of two blocks at a time, the rest is for their products.
FACTORS_SHARE = 0.75
# What is made at a time is arranged for a matrix product, and summed.
COPIES = 3


@dataclass(frozen=True, slots=True)
class Samples:
    """Some inputs of the function, and how many samples they are."""

    inputs: Any
    count: int

    def part(self, start: int, stop: int) -> "Samples":
        """Some of them."""
        inputs = pytree.tree_map(
            lambda t: t[start:stop] if isinstance(t, Tensor) else t, self.inputs
        )
        return Samples(inputs, min(stop, self.count) - start)


@outside_inference_mode
def kernel_of(
    subject: Subject, first: Samples, second: Samples | None, kind: str, budget: Budget
) -> Tensor:
    """Inner products of the Jacobians of pairs of samples.

    Args:
        subject: The function.
        first: Samples of the rows.
        second: Samples of the columns; None: the same.
        kind: "full", "diagonal" or "trace".
        budget: What memory and how many samples at a time may be used.

    Returns:
        Shape (B1, B2, *output, *output), (B1, B2, *output) or (B1, B2).

    Raises:
        MixedSamplesError: Samples are not independent.
        MemoryBudgetError: The result does not fit the budget.
    """
    work = _Work(subject, first, first if second is None else second, kind, budget)
    return work.run(symmetric=second is None)


class _Work:
    """One kernel under way."""

    def __init__(
        self, subject: Subject, first: Samples, second: Samples, kind: str, budget: Budget
    ) -> None:
        self._subject, self._kind, self._budget = subject, kind, budget
        self._first, self._second = first, second
        self._probed = max(first, second, key=lambda samples: samples.count)
        self._probe = _alone(subject, self._probed)
        self._passes = 0
        self._reasons: dict[int, str] = {}
        self._most = 0

    def run(self, *, symmetric: bool) -> Tensor:
        """All blocks."""
        output = self._probe.output
        shape = tuple(output.shape[1:])
        counts = (self._first.count, self._second.count)
        ends = {"full": (*shape, *shape), "diagonal": shape, "trace": ()}[self._kind]
        dtype = _kernel_dtype(self._probe)
        result = torch.empty(0, dtype=dtype, device=output.device)
        size = torch.Size((*counts, *ends)).numel() * result.element_size()
        step = self._samples_at_a_time(size)
        result = result.new_zeros(*counts, *ends)
        if not output.requires_grad:
            self._warn_of_constant()
        elif result.numel() and output.numel():
            flat = result.view(*counts, *[output[:1].numel()] * _OUTPUT_AXES[self._kind])
            self._fill(flat, step, symmetric=symmetric)
        if is_listened_to():
            self._report(size, step)
        return result

    def _samples_at_a_time(self, result_bytes: int) -> int:
        """How many fit: the factors of two blocks are held at a time."""
        output = self._probe.output
        allowed = self._budget.pass_bytes(result_bytes, output.device)
        self._most = int(allowed * (1 - FACTORS_SHARE)) // (COPIES * output.element_size())
        if self._budget.chunk_size is not None:
            return self._budget.chunk_size
        each = max(1, 2 * self._probe.held_bytes() + self._probe.pass_bytes())
        if each > allowed and isinstance(self._budget.memory, int):
            warn(
                f"{self._subject.api}: one sample needs about {human(each)}, more than the "
                f"{human(allowed)} that `memory=` leaves beside the result; going on one sample at "
                "a time. Raise `memory=`, or ask for fewer parameters with `wrt=`.",
                MemoryBudgetWarning,
            )
        most = max(1, int(allowed * FACTORS_SHARE) // each)
        blocks = -(-max(self._probed.count, 1) // most)
        return -(-max(self._probed.count, 1) // blocks)

    def _fill(self, result: Tensor, step: int, *, symmetric: bool) -> None:
        for start in range(0, self._first.count, step):
            ours = self._block(self._first, start, step)
            for begin in range(start if symmetric else 0, self._second.count, step):
                same = symmetric and begin == start
                theirs = ours if same else self._block(self._second, begin, step)
                part = _arranged(self._kind, _products(self._kind, ours, theirs, self._most))
                if part is None:
                    continue
                result[start : start + step, begin : begin + step] = part
                if symmetric and not same:
                    turned = part.transpose(0, 1)
                    turned = turned.transpose(2, 3) if self._kind == "full" else turned
                    result[begin : begin + step, start : start + step] = turned

    def _block(self, samples: Samples, start: int, step: int) -> Block:
        part = samples.part(start, start + step)
        recorded = record_samples(self._subject, part.inputs, part.count, quiet=True)
        probed = self._probed.count // 2 - start
        if samples is self._probed and 0 <= probed < part.count:
            among, alone = recorded.output[probed], self._probe.output[0]
            if not close(among, alone):
                raise MixedSamplesError(not_independent(self._subject))
        block = factorise(recorded)
        self._passes += 1
        self._reasons.update(block.reasons)
        return block

    def _warn_of_constant(self) -> None:
        warn(
            f"{self._subject.api}: the output of `func` carries no derivative by the parameters: "
            "it does not depend on them, was detached, or was computed under no_grad. The kernel "
            "is zero.",
            IndependenceWarning,
        )

    def _report(self, result_bytes: int, step: int) -> None:
        names = self._subject.names
        structured = [name for k, name in enumerate(names) if k not in self._reasons]
        alone = [names[k] for k in sorted(self._reasons)]
        told = [f"from layers: {', '.join(structured)}"] * bool(structured)
        told += [f"from single samples: {', '.join(alone)}"] * bool(alone)
        method = ["structure of layers"] * bool(structured) + ["single samples"] * bool(alone)
        publish(
            Evaluation(
                api=self._subject.api,
                mode="reverse-mode",
                method=" and ".join(method),
                why="; ".join(told),
                seeds=self._probe.output.numel(),
                passes=self._passes,
                chunk_size=min(step, self._probed.count),
                seed_bytes=0,
                result_bytes=result_bytes,
            ),
            tuple(Refusal(f"layer of {names[k]}", why) for k, why in self._reasons.items()),
        )


_OUTPUT_AXES = {"full": 2, "diagonal": 1, "trace": 0}


def _alone(subject: Subject, samples: Samples) -> Recorded:
    """A sample from the middle by itself; all of them if there are none."""
    middle = samples.count // 2
    one = samples.part(middle, middle + 1)
    try:
        return record_samples(subject, one.inputs, one.count, quiet=False)
    except ValueError as error:
        if because_of_batch_norm(subject.func) or because_of_batch_norm(subject.module):
            raise MixedSamplesError(not_independent(subject)) from error
        raise


def _kernel_dtype(probe: Recorded) -> torch.dtype:
    dtype = probe.output.dtype
    for parameter in probe.tape.inputs:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype


def _products(kind: str, first: Block, second: Block, most: int) -> Tensor | None:
    """Sums over parameters of the inner products of their Jacobians."""
    ours, theirs = _by_parameters(first.factors), _by_parameters(second.factors)
    if not _match(ours, theirs):
        ours, theirs = (_by_parameters(side.separate()) for side in (first, second))
    total: Tensor | None = None
    for numbers in ours.keys() & theirs.keys():
        a, b = ours[numbers].jacobian, theirs[numbers].jacobian
        if isinstance(a, Outer) and isinstance(b, Outer):
            part = contract(kind, a, b, most)
        else:
            part = inner(kind, a.multiplied_out(), b.multiplied_out())
        if total is None:
            total = part
        else:
            total = total.add_(part) if part.dtype == total.dtype else total + part
    return total


def _by_parameters(factors: Sequence[Factor]) -> dict[tuple[int, ...], Factor]:
    return {factor.parameters: factor for factor in factors}


def _match(first: dict[tuple[int, ...], Factor], second: dict[tuple[int, ...], Factor]) -> bool:
    """Whether both blocks went the same way for every parameter."""
    if first.keys() != second.keys():
        return False
    for numbers, factor in first.items():
        a, b = factor.jacobian, second[numbers].jacobian
        if isinstance(a, Explicit) and isinstance(b, Explicit):
            continue
        if not (isinstance(a, Outer) and isinstance(b, Outer) and a.fits(b)):
            return False
        if factor.flipped != second[numbers].flipped:
            return False
    return True


def _arranged(kind: str, products: Tensor | None) -> Tensor | None:
    """Samples in front, outputs behind."""
    if products is None or kind == "trace":
        return products
    return products.permute(1, 3, 0, 2) if kind == "full" else products.movedim(0, -1)
