"""Forward mode: columns of the Jacobian, one Jacobian-vector product per input element."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, apply_seeds, columns_to_block
from torchjac._evaluate.randomness import RandomState
from torchjac._evaluate.seeds import BatchDims, basis, seed_count
from torchjac._evaluate.sweep import Chunks, Pass, sweep
from torchjac._evaluate.watch import Watch
from torchjac._torch import load_jvp_decompositions
from torchjac.errors import ChangedShapeError

Flat = Callable[..., tuple[Tensor, ...]]


def replaying(
    api: str,
    evaluate: Callable[[list[Tensor]], Sequence[Tensor]],
    first: Sequence[Tensor],
    state: RandomState,
    *,
    warn: bool = False,
) -> Flat:
    """The function on flat tensors, for evaluations after the first.

    Each starts from the same random numbers, leaves buffers alone, works on copies of its
    arguments, and must return the shapes that the first returned.

    Args:
        api: Name of the public function, for messages.
        evaluate: The function of a list of tensors.
        first: What the first evaluation returned.
        state: Where the generators stood before it.
        warn: Whether to warn of values that are pulled out, as recording does.

    Returns:
        A function of the leaves that returns the flat outputs.
    """
    expected = [output.shape for output in first]

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        with state.replayed(), Watch(api, warn=warn):
            outputs = tuple(evaluate([leaf.clone() for leaf in leaves]))
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
        blocks[i][j], shape (*output i, *input j).
    """
    load_jvp_decompositions()
    dim = None if batch is None else batch.inputs
    chunks.progress.expect(sum(seed_count(leaf, dim) for leaf in leaves))
    columns = [
        sweep(
            seed_count(leaf, dim),
            _columns(flat, leaves, len(outputs), j, dim, stacked=stacked),
            chunks,
            differentiable=create_graph,
        )
        for j, leaf in enumerate(leaves)
    ]
    return [
        [columns_to_block(columns[j][i], output, leaf, batch) for j, leaf in enumerate(leaves)]
        for i, output in enumerate(outputs)
    ]


def push(flat: Flat, leaves: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """J v: one Jacobian-vector product."""
    return torch.func.jvp(flat, tuple(leaves), tuple(tangents))[1]


def push_stacked(flat: Flat, leaves: Sequence[Tensor], j: int, seeds: Tensor) -> tuple[Tensor, ...]:
    """J v for a stack of tangents of input j, the other inputs standing still."""

    def one(seed: Tensor) -> tuple[Tensor, ...]:
        return push(flat, leaves, _only(leaves, j, seed))

    return torch.func.vmap(one, randomness="same")(seeds)


def _only(leaves: Sequence[Tensor], j: int, seed: Tensor) -> list[Tensor]:
    return [seed if k == j else torch.zeros_like(leaf) for k, leaf in enumerate(leaves)]


def _columns(
    flat: Flat, leaves: Sequence[Tensor], count: int, j: int, dim: int | None, *, stacked: bool
) -> Pass:
    def product(seeds: Sequence[Tensor], last: bool) -> tuple[Tensor, ...]:  # noqa: ARG001
        if stacked:
            return push_stacked(flat, leaves, j, seeds[0])
        return push(flat, leaves, _only(leaves, j, seeds[0]))

    def run(start: int, stop: int, last: bool) -> Sequence[Tensor | None]:
        if start == stop:
            return [None] * count
        return apply_seeds(
            product, [basis(leaves[j], start, stop, dim)], stacked=stacked, last=last
        )

    return run
