"""Run many seeds through one kind of pass, in chunks that fit, into one result.

The first two chunks are probes, measured: what one seed takes, and what a second adds. The rest
are sized by that, and on an out-of-memory error from the device the size is halved and the sweep
goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchjac._evaluate.memory import (
    HEADROOM,
    REVERSE_PASS_BYTES,
    Budget,
    MemoryMeter,
    human,
    is_out_of_memory,
)
from torchjac._evaluate.progress import Progress
from torchjac._inputs.warn import warn
from torchjac._torch import is_wrapped
from torchjac.errors import MemoryBudgetWarning

# run(start, stop) -> one tensor (stop - start, *shape) per target, or None for zero
Pass = Callable[[int, int], Sequence[Tensor | None]]
# Two measured passes, of one seed and of two, tell what a pass costs and what a seed adds.
SECOND_PROBE = 2


@dataclass(slots=True)
class Chunks:
    """How many seeds go into the next pass; learns from each.

    Attributes:
        budget: What the user allows.
        result_bytes: Size of the whole result.
        negligible: Whether all seeds at once need so little that nothing is measured.
        device: Where the passes run.
        progress: The progress bar.
        worthwhile_bytes: Size beyond which a pass on a CPU gains nothing.
        passes: Passes so far.
        largest: Most seeds in one of them.
        seed_bytes: Bytes that one more seed takes, 0 while unknown.
    """

    budget: Budget
    result_bytes: int
    negligible: bool
    device: torch.device
    progress: Progress
    worthwhile_bytes: int = REVERSE_PASS_BYTES
    passes: int = 0
    largest: int = 0
    seed_bytes: int = 0
    _fixed_bytes: int = 0
    _allowed: int = 0
    _warned: bool = False
    _measured: list[tuple[int, int]] = field(default_factory=list)
    _cap: int = field(default=2**62)

    def next_size(self, remaining: int) -> int:
        """Seeds for the next pass."""
        if self.budget.chunk_size is not None:
            return min(self.budget.chunk_size, remaining, self._cap)
        if self.negligible:
            size = remaining
        elif not self._measured:
            self._allowed_bytes()  # refuses a result that cannot fit
            size = 1
        else:
            size = self._affordable()
        # The same for each pass that is left: for a short last one the allocator would keep memory
        # of another size beside what it kept for those before.
        passes = -(-remaining // max(1, min(size, self._cap)))
        return -(-remaining // passes) if passes else 0

    def _allowed_bytes(self) -> int:
        """Decided once: the result takes of what is free as it fills."""
        if not self._allowed:
            self._allowed = self.budget.pass_bytes(self.result_bytes, self.device)
        return self._allowed

    def begin(self) -> None:
        """Start on another part of the result, whose seeds may cost more."""
        self._measured = []
        self._fixed_bytes = 0
        if self.budget.memory is not None:
            self._allowed_bytes()  # refuses a result that cannot fit

    def _affordable(self) -> int:
        """Seeds that fit a pass, and on a CPU are worth one."""
        room = self._allowed_bytes() * HEADROOM - self._fixed_bytes
        if self.measures():
            return max(1, min(SECOND_PROBE, int(room / self.seed_bytes)))
        if self.budget.memory is None and self.device.type == "cpu":
            room = min(room, self.worthwhile_bytes)
        return max(1, int(room / self.seed_bytes))

    def measures(self) -> bool:
        """Whether the next pass is worth measuring."""
        return self.budget.chunk_size is None and not self.negligible and len(self._measured) < 2

    def learn(self, size: int, peak_bytes: int) -> None:
        """Take in what a measured pass took: peak = fixed + size * seed."""
        self._measured.append((size, peak_bytes))
        self.seed_bytes = max(1, peak_bytes // size)
        first_size, first_peak = self._measured[0]
        if size > first_size and peak_bytes > first_peak:
            self.seed_bytes = max(1, (peak_bytes - first_peak) // (size - first_size))
            self._fixed_bytes = max(0, first_peak - first_size * self.seed_bytes)
        if size == 1 and isinstance(self.budget.memory, int) and not self._warned:
            self._warn_if_one_seed_is_too_much(peak_bytes)

    def _warn_if_one_seed_is_too_much(self, peak_bytes: int) -> None:
        allowed = self._allowed_bytes()
        if peak_bytes > allowed:
            self._warned = True
            warn(
                f"{self.budget.api}: one seed needs {human(peak_bytes)}, more than the "
                f"{human(allowed)} that `memory=` leaves beside what is held; going on one seed "
                "at a time. Checkpoint the function, or raise `memory=`.",
                MemoryBudgetWarning,
            )

    def settled(self, total: int) -> int | None:
        """Seeds per pass of a later sweep over as many, None for all at once."""
        if self.passes <= 1:
            return None
        # Of passes that were measured one has two seeds, whether or not they are worth it.
        size = self.largest if self.measures() else min(self._affordable(), self._cap)
        return min(size, total)

    def halve(self, size: int) -> None:
        """Make every later pass at most half of `size`."""
        self._cap = max(1, size // 2)


def sweep(total: int, run: Pass, chunks: Chunks, *, differentiable: bool) -> list[Tensor | None]:
    """Run all seeds.

    Args:
        total: Number of seeds.
        run: One pass over seeds start to stop.
        chunks: Sizes of the passes.
        differentiable: Whether the pieces carry a graph, and so must not be copied into place.

    Returns:
        For each target a tensor (total, *shape), or None where it is zero.
    """
    chunks.begin()
    pieces: list[tuple[int, Sequence[Tensor | None]]] = []
    whole: list[Tensor | None] = []
    start = 0
    while start < total or (total == 0 and not pieces):
        size = chunks.next_size(total - start)
        stop = start + size
        try:
            part = _measured(run, start, stop, total, chunks, differentiable=differentiable)
        except Exception as error:
            if size <= 1 or not is_out_of_memory(error):
                raise
            chunks.halve(size)
            continue
        chunks.passes += 1
        chunks.largest = max(chunks.largest, size)
        chunks.progress.advance(size)
        if stop == total and not start:
            return owned(part, differentiable)
        if differentiable:
            pieces.append((size, part))
        else:
            whole = whole or [None] * len(part)
            _write(whole, part, start, stop, total)
        start = stop
        del part  # before the next pass, or both would be held at once
    return _joined(pieces) if differentiable else whole


def _measured(
    run: Pass, start: int, stop: int, total: int, chunks: Chunks, *, differentiable: bool
) -> Sequence[Tensor | None]:
    if stop - start == total or not chunks.measures():
        return run(start, stop)
    with MemoryMeter() as meter:
        part = run(start, stop)
    chunks.learn(stop - start, meter.peak_bytes)
    # Some backward passes are differentiated in another, worse way if a mode listened to them.
    return run(start, stop) if differentiable else part


def owned(pieces: Sequence[Tensor | None], differentiable: bool) -> list[Tensor | None]:
    """The pieces, each with memory of its own.

    Broadcasting leaves tensors that overlap themselves, and a backward pass may hand the same
    tensor to two inputs; nobody expects that of blocks of a Jacobian.

    Args:
        pieces: Results of one pass.
        differentiable: Whether to keep their graph.

    Returns:
        As many tensors, None where there was none.
    """
    results: list[Tensor | None] = []
    seen: set[int] = set()
    for piece in pieces:
        result = piece if piece is None or differentiable else piece.detach()
        if result is not None and not is_wrapped(result):
            if 0 in result.stride() and result.numel() > 1:
                result = result.contiguous()
            storage = result.untyped_storage()._cdata
            if storage in seen:
                result = result.clone()
            seen.add(storage)
        results.append(result)
    return results


def _write(
    whole: list[Tensor | None],
    part: Sequence[Tensor | None],
    start: int,
    stop: int,
    total: int,
) -> None:
    """Copy a chunk into its place; a target that was zero so far gets its room now."""
    for k, piece in enumerate(part):
        room = whole[k]
        if piece is not None:
            if room is None:
                make = piece.new_zeros if start else piece.new_empty
                room = whole[k] = make(total, *piece.shape[1:])
            room[start:stop] = piece.detach()
        elif room is not None:
            room[start:stop] = 0


def _joined(pieces: list[tuple[int, Sequence[Tensor | None]]]) -> list[Tensor | None]:
    sizes = [size for size, _ in pieces]
    return [
        None if like is None else torch.cat(filled_rows(column, sizes, like))
        for column in zip(*(part for _, part in pieces), strict=True)
        for like in [next((p for p in column if p is not None), None)]
    ]


def filled_rows(
    column: Sequence[Tensor | None], sizes: Sequence[int], like: Tensor
) -> list[Tensor]:
    """Chunks of rows, with zeros for those that are None."""
    return [
        like.new_zeros(size, *like.shape[1:]) if piece is None else piece
        for piece, size in zip(column, sizes, strict=True)
    ]
