"""Carry out a scheme: seeds through passes, entries out of products."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.certify import suspects
from torchjac._evaluate.compressed import Passes, Seeds, common_dtype
from torchjac._evaluate.direct.runner import Direct
from torchjac._evaluate.memory import FORWARD_PASS_BYTES, REVERSE_PASS_BYTES, Budget, is_negligible
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import Evaluation, is_listened_to, publish
from torchjac._evaluate.sweep import Chunks
from torchjac._planner.probe import FORWARD, REVERSE, random_vector
from torchjac._planner.structure import SYMMETRIC, Request, Scheme, Side, Structure


class Entries(NamedTuple):
    """The entries in CSR order, and what certificates need.

    Attributes:
        values: Shape (nnz,).
        proofs: For each side that took a random seed along: its mode, v or u, J v or J^T u.
    """

    values: Tensor
    proofs: tuple[tuple[str, Tensor, Tensor], ...]


def take_entries(
    scheme: Scheme, passes: Passes, chunks: Sequence[Chunks], *, certified: bool
) -> Entries:
    """Compute every entry.

    Args:
        scheme: How.
        passes: The function at one point.
        chunks: Sizes of the passes, for each side.
        certified: Take one random seed along, for a certificate.

    Returns:
        The entries.
    """
    products: dict[str, Tensor] = {}
    proofs = []
    for side, sizes in zip(scheme.sides, chunks, strict=True):
        vector = random_vector(passes, side.mode) if certified else None
        take = passes.push if side.mode == FORWARD else passes.pull
        count = side.seeds + (vector is not None)
        made = take(_seeds(scheme, side, passes, vector), count, sizes, side.method)
        if vector is not None:
            proofs.append((side.mode, vector, made[side.seeds]))
            made = made[: side.seeds]
        products[side.mode] = made
    return Entries(read_entries(scheme, products, passes.signature.leaves), tuple(proofs))


def read_entries(
    scheme: Scheme, products: Mapping[str, Tensor], leaves: Sequence[Tensor]
) -> Tensor:
    """The entries, in the order of the pattern.

    Args:
        scheme: How they are had.
        products: The products of each mode, shape (k, total elements).
        leaves: x.

    Returns:
        Shape (nnz,).
    """
    if not products:
        return torch.empty(0, dtype=common_dtype(leaves), device=leaves[0].device)
    if len(products) > 1:
        dtype = common_dtype(list(products.values()))
        products = {mode: product.to(dtype) for mode, product in products.items()}
    if scheme.coloring.kind in SYMMETRIC:
        return scheme.decompressor(next(iter(products.values())))
    return scheme.decompressor(products.get(FORWARD), products.get(REVERSE))


def _seeds(scheme: Scheme, side: Side, passes: Passes, vector: Tensor | None) -> Seeds:
    leaves = passes.signature.leaves
    likes = leaves if side.mode == FORWARD else passes.likes
    dtype, device = common_dtype(likes), leaves[0].device
    coloring = scheme.coloring
    by_column = side.mode == FORWARD or coloring.kind in SYMMETRIC
    colored = coloring.column_seeds if by_column else coloring.row_seeds

    def seeds(start: int, stop: int) -> Tensor:
        if vector is None or stop <= side.seeds:
            return colored(start, stop, dtype=dtype, device=device)
        last = vector[None].to(dtype)
        if start >= side.seeds:
            return last
        return torch.cat([colored(start, side.seeds, dtype=dtype, device=device), last])

    return seeds


def planned_chunks(side: Side, request: Request, device: torch.device) -> Chunks:
    """Sizes that were settled when the plan was made."""
    budget = Budget(request.api, chunk_size=side.chunk_size)
    progress = Progress(shown=False)
    return Chunks(budget, 0, side.chunk_size is None, device, progress)


class Account(NamedTuple):
    """What is known before the first evaluation.

    Attributes:
        held_bytes: Bytes of the graph.
        seed_bytes: Bytes that one seed needs at most.
        result_bytes: Bytes of the result.
        progress: The progress bar.
    """

    held_bytes: int
    seed_bytes: int
    result_bytes: int
    progress: Progress


def measured_chunks(side: Side, request: Request, device: torch.device, account: Account) -> Chunks:
    """Sizes that are found out while the first evaluation runs.

    Args:
        side: The products.
        request: What the user allows.
        device: Where they are taken.
        account: What is known of memory.

    Returns:
        The accounts.
    """
    budget = Budget(request.api, request.memory, request.chunk_size, account.held_bytes)
    small = request.memory is None and is_negligible(
        side.seeds, account.seed_bytes, account.result_bytes
    )
    worthwhile = FORWARD_PASS_BYTES if side.mode == FORWARD else REVERSE_PASS_BYTES
    return Chunks(budget, account.result_bytes, small, device, account.progress, worthwhile)


def tell(
    api: str, sides: Sequence[Side], chunks: Sequence[Chunks], result_bytes: int, why: str
) -> None:
    """Report an evaluation to those who listen with `torchjac.record`."""
    if not is_listened_to():
        return
    report = Evaluation(
        api=api,
        mode=" and ".join([side.mode for side in sides]),
        method=" and ".join([f"compressed, {side.method}" for side in sides]),
        why=why,
        seeds=sum([side.seeds for side in sides]),
        passes=sum([c.passes for c in chunks]),
        chunk_size=max([c.largest for c in chunks], default=0),
        seed_bytes=max([c.seed_bytes for c in chunks], default=0),
        result_bytes=result_bytes,
    )
    publish(report, ())


def tell_direct(api: str, program: Direct) -> None:
    """Report an evaluation without passes."""
    if is_listened_to():
        size = program.program.nonzero_bytes
        publish(Evaluation(api, "direct", program.backend, "planned", 0, 1, 0, 0, size), ())


def find_suspects(
    structure: Structure, entries: Entries, slack: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Rows and columns in which the entries contradict their proofs.

    Args:
        structure: Where the entries belong.
        entries: With proofs; a mode without one leaves its side empty.
        slack: What more is let pass, by mode, for each row or column.

    Returns:
        Numbers of the rows, and of the columns.
    """
    found = {FORWARD: torch.empty(0, dtype=torch.int64), REVERSE: torch.empty(0, dtype=torch.int64)}
    for mode, vector, product in entries.proofs:
        found[mode] = suspects(
            structure.pattern,
            entries.values,
            vector,
            product,
            structure.eps,
            floor=structure.floor,
            slack=None if slack is None else slack[mode],
            transposed=mode == REVERSE,
        )
    return found[FORWARD], found[REVERSE]
