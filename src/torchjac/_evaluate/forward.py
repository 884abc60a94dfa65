"""Forward mode: columns of the Jacobian, one Jacobian-vector product per input element."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, apply_seeds, columns_to_block
from torchjac._evaluate.randomness import RandomState
from torchjac._evaluate.seeds import BatchDims, are_many_and_small, basis, joint_basis, seed_count
from torchjac._evaluate.sweep import Chunks, Pass, sweep
from torchjac._evaluate.witness import close
from torchjac._torch import batched, is_wrapped, push_forward
from torchjac.errors import ChangedFunctionError, ChangedShapeError

Flat = Callable[..., tuple[Tensor, ...]]


def replaying(
    api: str,
    evaluate: Callable[[list[Tensor]], Sequence[Tensor]],
    first: Sequence[Tensor],
    state: RandomState,
    watch: AbstractContextManager[Any],
    *,
    copies: bool = True,
) -> Flat:
    """The function on flat tensors, for evaluations after the first.

    Each starts from the same random numbers, leaves buffers alone, works on copies of its
    arguments, and must return the shapes that the first returned.

    Args:
        api: Name of the public function, for messages.
        evaluate: The function of a list of tensors.
        first: What the first evaluation returned.
        state: Where the generators stood before it.
        watch: Looks on while the function runs.
        copies: Whether to copy the arguments; `evaluate` sees to it otherwise.

    Returns:
        A function of the leaves that returns the flat outputs.
    """
    expected = [output.shape for output in first]
    replayed = state.replayed if state.was_used() else nullcontext

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        with replayed(), watch:
            outputs = tuple(evaluate([leaf.clone() if copies else leaf for leaf in leaves]))
        shapes = [output.shape for output in outputs]
        if shapes != expected:
            raise ChangedShapeError(
                f"{api}: `func` returned shapes {[tuple(s) for s in shapes]} when it was "
                f"evaluated again, after {[tuple(s) for s in expected]}: it must return the same "
                'shapes for the same input. strategy="reverse-mode" evaluates it only once.'
            )
        return outputs

    return flat


def forward(
    flat: Flat,
    leaves: Sequence[Tensor],
    outputs: Sequence[Tensor],
    chunks: Chunks,
    *,
    stacked: bool,
    create_graph: bool,
    batch: BatchDims | None = None,
) -> Blocks:
    """Columns of the Jacobian by forward mode.

    Column c of J[i, j] is J[i, j] e_c: one Jacobian-vector product with the seed e_c.

    Args:
        flat: The function on flat tensors.
        leaves: Where to differentiate.
        outputs: Its value there, for the shapes.
        chunks: Sizes of the passes.
        stacked: Run the seeds of a chunk together (vmap), or one after the other.
        create_graph: Whether the columns are to be differentiable.
        batch: Axes of independent samples, which share their seeds.

    Returns:
        blocks[i][j], shape (*output i, *input j), or None where it is zero.
    """
    observe = _compared_with(chunks.budget.api, outputs)
    dim = None if batch is None else batch.inputs
    counts = [seed_count(leaf, dim) for leaf in leaves]
    chunks.progress.expect(sum(counts))
    if batch is None and are_many_and_small(counts, few=1):
        run = _columns(flat, leaves, range(len(leaves)), None, observe, stacked=stacked)
        columns = _cut(sweep(sum(counts), run, chunks, differentiable=create_graph), counts)
    else:
        columns = [
            sweep(
                count,
                _columns(flat, leaves, [j], dim, observe, stacked=stacked),
                chunks,
                differentiable=create_graph,
            )
            for j, count in enumerate(counts)
        ]
    return [
        [
            columns_to_block(part[i] if part else None, output, leaf, batch)
            for part, leaf in zip(columns, leaves, strict=True)
        ]
        for i, output in enumerate(outputs)
    ]


def _compared_with(api: str, outputs: Sequence[Tensor]) -> Callable[[list[Tensor]], None]:
    """What refuses values that differ from those of the first evaluation."""

    def observe(values: list[Tensor]) -> None:
        for i, (value, output) in enumerate(zip(values, outputs, strict=True)):
            if not (is_wrapped(value) or is_wrapped(output)) and not close(value, output):
                raise ChangedFunctionError(
                    f"{api}: output {i} of `func` had other values when it was evaluated again: "
                    "its columns would belong to different functions. Hold its state and its "
                    'random numbers still, or use strategy="reverse-mode", which evaluates it once.'
                )

    return observe


def _cut(columns: Sequence[Tensor | None], counts: Sequence[int]) -> list[Sequence[Tensor | None]]:
    """Cut columns over all inputs into those of each input."""
    parts: list[Sequence[Tensor | None]] = []
    start = 0
    for count in counts:
        stop = start + count
        parts.append([c if c is None else c[start:stop] for c in columns])
        start = stop
    return parts


def _columns(
    flat: Flat,
    leaves: Sequence[Tensor],
    which: Sequence[int],
    dim: int | None,
    observe: Callable[[list[Tensor]], None],
    *,
    stacked: bool,
) -> Pass:
    def product(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
        def once(tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
            return push_forward(flat, leaves, _standing_but(leaves, which, tangents), observe)

        return batched(once, seeds, "same") if stacked else once(seeds)

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        if start == stop:
            return []
        if len(which) == 1:
            seeds = [basis(leaves[which[0]], start, stop, dim)]
        else:
            seeds = joint_basis(leaves, start, stop)
        return apply_seeds(product, seeds, stacked=stacked)

    return run


def _standing_but(
    leaves: Sequence[Tensor], which: Sequence[int], tangents: Sequence[Tensor]
) -> list[Tensor]:
    """Tangents for all inputs: those that are not seeded stand still."""
    full = [None if j in which else torch.zeros_like(leaf) for j, leaf in enumerate(leaves)]
    moving = iter(tangents)
    return [next(moving) if t is None else t for t in full]
