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
from torchjac._torch import coarsest_eps

# Rounding errors of a product, in units of the precision; half precision is capped.
TOLERANCE_EPS = 1000.0
TOLERANCE_CAP = 0.1
# So many outputs get a product each; more are summed into one.
FEW_OUTPUTS = 8


class Witness(NamedTuple):
    """Cotangents u of the outputs, and the products u^T J of groups of outputs with each input."""

    cotangents: tuple[Tensor, ...]
    groups: tuple[tuple[Sequence[int], Sequence[Tensor | None]], ...]
    eps: float
    floors: tuple[float, ...]

    def agrees(self, blocks: Blocks, batch: BatchDims | None = None) -> bool:
        """Whether u^T times `blocks` is what the tape said, for every group, input and sample."""
        return all(
            self._agree(*_contracted(self.cotangents, blocks, which, j, batch), product, j, batch)
            for which, products in self.groups
            for j, product in enumerate(products)
        )

    def _agree(
        self,
        ours: Tensor | None,
        bound: Tensor | None,
        tape: Tensor | None,
        j: int,
        batch: BatchDims | None,
    ) -> bool:
        if tape is not None:
            tape = tape.detach()
            tape = tape.reshape(1, -1) if batch is None else rows_of_samples(tape, batch.inputs)
        allowed = min(TOLERANCE_EPS * self.eps, TOLERANCE_CAP)
        # Samples may be of very different sizes, which one floor for all would hide.
        floor = self.floors[j] if batch is None else 0.0
        if ours is None or bound is None or tape is None:
            present = ours if tape is None else tape
            return present is None or bool((present.norm(dim=1) <= allowed * floor).all())
        tape = tape.to(ours)
        known = ours.isfinite() & tape.isfinite() & bound.isfinite()
        off = torch.where(known, ours - tape, 0).norm(dim=1)
        scale = torch.where(known, bound, 0).norm(dim=1) + floor
        return bool((off <= allowed * scale).all())


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
    return _witness(tape, cotangents, list(zip(groups, products, strict=True)))


def _witness(
    tape: Linearized,
    cotangents: Sequence[Tensor],
    groups: Sequence[tuple[Sequence[int], Sequence[Tensor | None]]],
) -> Witness:
    """With the coarsest precision in the graph, and for each input what rounding alone makes."""
    outputs = tape.outputs.tensors
    size = sum(
        [
            float(u.double().norm() * _finite(y).norm() / max(y.numel(), 1) ** 0.5)
            for u, y in zip(cotangents, outputs, strict=True)
            if not y.is_complex()
        ]
    )
    floors = [
        size / (1.0 + float(_finite(x).abs().max())) if x.numel() else 0.0 for x in tape.inputs
    ]
    return Witness(tuple(cotangents), tuple(groups), coarsest_eps(outputs), tuple(floors))


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
    return blocks, _witness(tape, cotangents, groups)


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


def _contracted(
    cotangents: tuple[Tensor, ...],
    blocks: Blocks,
    which: Sequence[int],
    j: int,
    batch: BatchDims | None,
) -> tuple[Tensor | None, Tensor | None]:
    """u^T J for input j, and |u|^T |J|, which bounds its rounding; one row per sample."""
    total = bound = None
    for i in which:
        block = blocks[i][j]
        if block is None or not block.numel():
            continue
        block = block.detach()
        u = cotangents[i].to(block)
        if batch is None:
            u, block = u.reshape(1, 1, -1), block.reshape(1, u.numel(), -1)
        else:
            u = rows_of_samples(u, batch.outputs).unsqueeze(1)
            block = block.reshape(u.shape[0], u.shape[2], -1)
        part, size = (u @ block).squeeze(1), (u.abs() @ block.abs()).squeeze(1)
        total = part if total is None else total + part
        bound = size if bound is None else bound + size
    return total, bound


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
