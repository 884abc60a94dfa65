"""A witness for a Jacobian: one random product by reverse mode, taken before the Jacobian exists.

u^T J, for one random u, compared with u^T times what was computed. It costs one backward pass.
It catches what makes forward and reverse mode differ (a custom `autograd.Function` whose two
derivatives do not belong together), and, for a Jacobian per sample, samples that are not
independent: the product from the tape then holds terms that no block has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, rows_to_block
from torchjac._evaluate.seeds import BatchDims, basis, rows_of_samples, seed_count
from torchjac._evaluate.sweep import owned
from torchjac._evaluate.tape import Linearized

# Rounding errors of a product, in units of the precision; half precision is capped.
TOLERANCE_EPS = 1000.0
TOLERANCE_CAP = 0.1


class Witness(NamedTuple):
    """u, and u^T J for each input."""

    cotangents: tuple[Tensor, ...]
    products: tuple[Tensor | None, ...]

    def agrees(self, blocks: Blocks, batch: BatchDims | None = None) -> bool:
        """Whether u^T times `blocks` is what the tape said."""
        return all(
            _agree(_contracted(self.cotangents, blocks, j, batch), product, batch)
            for j, product in enumerate(self.products)
        )


def testify(tape: Linearized) -> Witness:
    """Take one random product by reverse mode.

    Args:
        tape: The recorded function.

    Returns:
        The witness.
    """
    cotangents = tuple(random_like(tape.outputs.tensors))
    products = tape.pull(range(len(cotangents)), cotangents, stacked=False, create_graph=False)
    return Witness(cotangents, tuple(products))


def samples_at_once(
    tape: Linearized, batch: BatchDims, *, create_graph: bool
) -> tuple[Blocks, Witness]:
    """Rows of each sample of a small problem and their witness, in one pass per output.

    Args:
        tape: The recorded function.
        batch: Axes of independent samples.
        create_graph: Whether the rows are to be differentiable.

    Returns:
        blocks[i][j], shape (B, *output i of one sample, *input j of one sample), or None where
        it is zero; and the witness, whose cotangent went as one more seed.
    """
    blocks: Blocks = []
    cotangents = random_like(tape.outputs.tensors)
    products: list[Tensor | None] = [None] * len(tape.inputs)
    for i, output in enumerate(tape.outputs.tensors):
        count = seed_count(output, batch.outputs)
        seeds = torch.cat([basis(output, 0, count, batch.outputs), cotangents[i].unsqueeze(0)])
        rows = tape.pull([i], [seeds], stacked=True, create_graph=create_graph)
        blocks.append(
            [
                rows_to_block(r, output, x, batch)
                for r, x in zip(
                    owned([r if r is None else r[:count] for r in rows], create_graph),
                    tape.inputs,
                    strict=True,
                )
            ]
        )
        for j, row in enumerate(rows):
            if row is not None:
                known = products[j]
                products[j] = row[count] if known is None else known + row[count]
    return blocks, Witness(tuple(cotangents), tuple(products))


def random_like(tensors: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Standard normal numbers, other ones for each tensor, that leave the user's generators alone.

    Args:
        tensors: What they shall be like.
        seed: Calls with different seeds are independent.

    Returns:
        One tensor for each, with its shape, dtype and device.
    """
    generators = {
        t.device: torch.Generator(device=t.device).manual_seed(20_240 + seed) for t in tensors
    }
    return [
        torch.randn(t.shape, dtype=t.dtype, device=t.device, generator=generators[t.device])
        for t in tensors
    ]


def _contracted(
    cotangents: tuple[Tensor, ...], blocks: Blocks, j: int, batch: BatchDims | None
) -> Tensor | None:
    """u^T J for input j; with samples, shape (B, n)."""
    total: Tensor | None = None
    for u, row in zip(cotangents, blocks, strict=True):
        block = row[j]
        if block is None or not block.numel():
            continue
        u = u.to(block)
        if batch is None:
            part = torch.tensordot(u, block.detach(), dims=u.dim())
        else:
            apart = rows_of_samples(u, batch.outputs).unsqueeze(1)
            part = (apart @ block.detach().reshape(len(apart), apart.shape[2], -1)).squeeze(1)
        total = part if total is None else total + part
    return total


def _agree(ours: Tensor | None, tape: Tensor | None, batch: BatchDims | None) -> bool:
    if tape is not None and batch is not None:
        tape = rows_of_samples(tape, batch.inputs)
    if ours is None or tape is None:
        present = ours if tape is None else tape
        return present is None or not bool(present.any())
    return close(ours, tape)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by rounding alone, entries that are not finite left out."""
    a, b = a.detach(), b.detach()
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    allowed = min(TOLERANCE_EPS * eps, TOLERANCE_CAP)
    if bool((a - b).norm() <= allowed * a.norm()):
        return True
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    finite = a.isfinite() & b.isfinite()
    a, b = a[finite], b[finite]
    return bool((a - b).norm() <= allowed * (a.norm() + b.norm()))
