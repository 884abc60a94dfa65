"""A witness for a Jacobian: one random product by reverse mode, taken before the Jacobian exists.

u^T J, for one random u, compared with u^T times what was computed. It costs one backward pass.
It catches what makes forward and reverse mode differ (a custom `autograd.Function` whose two
derivatives do not belong together), and, for a Jacobian per sample, samples that are not
independent: the product from the tape then holds terms that no block has.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.blocks import Blocks, rows_to_block
from torchjac._evaluate.seeds import BatchDims, basis, rows_of_samples, seed_count
from torchjac._evaluate.sweep import owned
from torchjac._evaluate.tape import Linearized
from torchjac._torch import coarsest_eps

# Rounding errors of a product, in units of the precision; half precision is capped.
TOLERANCE_EPS = 1000.0
TOLERANCE_CAP = 0.1
# So many outputs get a product each; more are summed into one.
FEW_OUTPUTS = 8


class Witness(NamedTuple):
    """Cotangents u of the outputs, and the products u^T J of groups of outputs with each input."""

    tape: Linearized
    cotangents: Sequence[Tensor]
    groups: Sequence[tuple[Sequence[int], Sequence[Tensor | None]]]

    def agrees(self, blocks: Blocks, batch: BatchDims | None = None) -> bool:
        """Whether u^T times `blocks` is what the tape said, for every group, input and sample."""
        return all(
            self._agree(blocks, which, j, product, batch)
            for which, products in self.groups
            for j, product in enumerate(products)
        )

    def _agree(
        self,
        blocks: Blocks,
        which: Sequence[int],
        j: int,
        product: Tensor | None,
        batch: BatchDims | None,
    ) -> bool:
        if product is not None:
            product = product.detach()
            product = (
                product.reshape(1, -1) if batch is None else rows_of_samples(product, batch.inputs)
            )
        parts = [
            _parts(self.cotangents[i], block, batch)
            for i in which
            for block in [blocks[i][j]]
            if block is not None and block.numel()
        ]
        ours = _summed([u @ block for u, block in parts]) if parts else None
        if ours is None or product is None:
            present = ours if product is None else product
            if present is None:
                return True
            small = self._allowed() * self._floor(j, batch)
            return bool((present.norm(dim=1) <= small).all())
        product = product.to(ours)
        off = ours - product
        # The product is no larger than the bound on its rounding below, which costs a pass more.
        least = min(TOLERANCE_EPS * torch.finfo(ours.dtype).eps, TOLERANCE_CAP)
        if bool((off.norm(dim=1) <= least * ours.norm(dim=1)).all()):
            return True
        if not torch.equal(ours.isnan(), product.isnan()):  # 0 * NaN spreads another way
            return False
        bound = _summed([u.abs() @ block.abs() for u, block in parts])
        known = ours.isfinite() & product.isfinite() & bound.isfinite()
        scale = torch.where(known, bound, 0).norm(dim=1) + self._floor(j, batch)
        off = torch.where(known, off, 0).norm(dim=1)
        return bool((off <= self._allowed() * scale).all())

    def _allowed(self) -> float:
        """Rounding relative to the coarsest precision in the graph."""
        return min(TOLERANCE_EPS * coarsest_eps(self.tape.outputs.tensors), TOLERANCE_CAP)

    def _floor(self, j: int, batch: BatchDims | None) -> float:
        """What rounding alone makes of the derivative by input j."""
        x = self.tape.inputs[j]
        # Samples may be of very different sizes, which one floor for all would hide.
        if batch is not None or not x.numel():
            return 0.0
        scale = 1.0 + float(_finite(x).abs().max())
        return sum(
            # Zeros tell nothing of the numbers that they came from.
            float(u.double().norm()) * (_mean_size(y) / scale or 1.0)
            for u, y in zip(self.cotangents, self.tape.outputs.tensors, strict=True)
            if not y.is_complex()
        )


def testify(tape: Linearized) -> Witness:
    """Take random products by reverse mode.

    Args:
        tape: The recorded function.

    Returns:
        The witness.
    """
    cotangents = tuple(random_like(tape.outputs.tensors))
    count = len(cotangents)
    groups = [[i] for i in range(count)] if count <= FEW_OUTPUTS else [list(range(count))]
    products = [
        tape.pull(which, [cotangents[i] for i in which], stacked=False, create_graph=False)
        for which in groups
    ]
    return Witness(tape, cotangents, list(zip(groups, products, strict=True)))


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
    groups: list[tuple[Sequence[int], Sequence[Tensor | None]]] = []
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
        groups.append(([i], [row if row is None else row[count] for row in rows]))
    return blocks, Witness(tape, cotangents, groups)


def _mean_size(output: Tensor) -> float:
    """Root mean square."""
    return float(_finite(output).norm()) / max(output.numel(), 1) ** 0.5


def _finite(tensor: Tensor) -> Tensor:
    """The values in double precision, zero where they are not finite."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to(wide).nan_to_num(0.0, 0.0, 0.0)


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


def _parts(u: Tensor, block: Tensor, batch: BatchDims | None) -> tuple[Tensor, Tensor]:
    """u^T and J of one output, with an axis of samples in front."""
    block = block.detach()
    u = u.to(block)
    u = u.reshape(1, -1) if batch is None else rows_of_samples(u, batch.outputs)
    return u.unsqueeze(1), block.reshape(u.shape[0], u.shape[1], -1)


def _summed(products: Sequence[Tensor]) -> Tensor:
    """The sum over outputs, one row per sample."""
    return reduce(torch.add, products).squeeze(1)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by rounding alone, entries that are not finite left out."""
    return rows_are_close(a.reshape(1, -1), b.reshape(1, -1))


def rows_are_close(a: Tensor, b: Tensor) -> bool:
    """Whether every row of two matrices differs by rounding alone."""
    a, b = a.detach(), b.detach()
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    allowed = min(TOLERANCE_EPS * eps, TOLERANCE_CAP)
    known = a.isfinite() & b.isfinite()
    off = torch.where(known, a - b, 0).norm(dim=1)
    return bool((off <= allowed * torch.where(known, a, 0).norm(dim=1)).all())
