"""How much memory there is, what a pass needs, and how many seeds fit into one."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from torchjac._evaluate.seeds import BatchDims, seed_count
from torchjac._torch import TorchDispatchMode, gradient_bytes, pytree
from torchjac.errors import MemoryBudgetError

MIB = 2**20
GIB = 2**30
# Below this, measuring costs more than it could save.
NEGLIGIBLE_BYTES = 128 * MIB
# For so many seeds it is settled at once what a bound must be to be negligible.
FEW_SEEDS = 2048
# On a CPU a pass that outgrows the caches and faults in fresh pages costs several times more per
# seed than one that does not. A forward pass evaluates the function anew, so that it pays to
# share it among more seeds.
REVERSE_PASS_BYTES = 8 * MIB
FORWARD_PASS_BYTES = 64 * MIB
# Of the free memory: what a result may take, and what a pass may take of the rest.
RESULT_SHARE = 0.9
PASS_SHARE = 0.5
# What the allocator and temporaries inside kernels may add to what is measured.
HEADROOM = 0.8


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return min(psutil.virtual_memory().available, _control_group_free())


def _control_group_free() -> int:
    """What the container allows beyond what it has taken; unlimited outside of one."""
    folder = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no control groups here, or no limit set ("max")
        limit = int((folder / "memory.max").read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / "memory.current").read_text()) - int(fields["inactive_file"])
        return limit - used
    return 2**62


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of storages made while it is active, and their peak.

    Works on every device and for forward and backward passes alike, since it sees each ATen op
    after batching. It does not see scratch space inside a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._live_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Some ops crash the interpreter on PyTorch's implicit zeros under any dispatch mode.
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value.layout is torch.strided:
                self._note(value, is_new=False)
        real = pytree.tree_map(_materialized, args)
        result = func(*real, **pytree.tree_map(_materialized, kwargs or {}))
        for value in result if isinstance(result, list | tuple) else (result,):
            if isinstance(value, Tensor) and value.layout is torch.strided:
                self._note(value, is_new=True)
        return result

    def _note(self, tensor: Tensor, *, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._alive.get(key)
        if known is not None and not known[0].expired():
            return
        if known is not None:
            self._live_bytes -= known[1]
        size = storage.nbytes() if is_new else 0  # what was there before costs nothing
        self._alive[key] = (StorageWeakRef(storage), size)
        self._live_bytes += size
        if self._live_bytes > self.peak_bytes:
            self.peak_bytes = max(self.peak_bytes, self.live_bytes())

    def live_bytes(self) -> int:
        """Bytes made under the meter that are still held."""
        self._alive = {k: entry for k, entry in self._alive.items() if not entry[0].expired()}
        self._live_bytes = sum(size for _, size in self._alive.values())
        return self._live_bytes


def _materialized(value: Any) -> Any:
    if isinstance(value, Tensor) and value._is_zerotensor():
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
    return value


@dataclass(frozen=True, slots=True)
class Budget:
    """What the user allows: `memory=` and `chunk_size=`.

    Attributes:
        api: Name of the public function, for messages.
        memory: As the user gave it.
        chunk_size: As the user gave it.
        held_bytes: What is held beside the result and the passes.
        result: What the result is, for messages.
        remedies: What to do about a result that is too large, besides raising `memory=`.
    """

    api: str
    memory: int | float | None = None
    chunk_size: int | None = None
    held_bytes: int = 0
    result: str = "the Jacobian"
    remedies: str = (
        "differentiate fewer inputs with `wrt=`; use `batch_jacobian` if samples do not mix; or "
        "take products with `torchjac.functional.jvp` and `vjp`, which never hold it"
    )

    def pass_bytes(self, result_bytes: int, device: torch.device) -> int:
        """Bytes that one pass may take beside the result.

        Args:
            result_bytes: Size of the result.
            device: Where it will be.

        Returns:
            The number of bytes, at least 1.

        Raises:
            MemoryBudgetError: The result itself is larger than the budget.
        """
        if isinstance(self.memory, int):
            limit = self.memory
            beside = self.memory - self.held_bytes
        else:
            free = free_bytes(device)
            limit = int(free * (RESULT_SHARE if self.memory is None else self.memory))
            share = PASS_SHARE if self.memory is None else self.memory
            beside = int((free - result_bytes) * share)
        if result_bytes > limit:
            raise MemoryBudgetError(
                f"{self.api}: {self.result} needs {human(result_bytes)}, more than the memory "
                f"budget of {human(limit)}. Ways out: raise `memory=`; {self.remedies}."
            )
        return max(beside, 1)


def result_bytes(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], batch: BatchDims | None = None
) -> int:
    """Bytes of the Jacobian of `outputs` with respect to `leaves`, or of its samples."""
    width = sum([x.numel() * x.element_size() for x in leaves])
    dim = None if batch is None else batch.outputs
    return width * sum([seed_count(output, dim) for output in outputs])


def bound_of_seed(
    total: int, outputs: Sequence[Tensor], leaves: Sequence[Tensor], seeds: int = FEW_SEEDS
) -> int:
    """Bytes of all gradients that one seed makes in the graph between, counted while small.

    Args:
        total: Bytes of all gradients in the graph, those of branches that lead elsewhere too.
        outputs: Where the graph begins.
        leaves: Where it ends.
        seeds: How many there will be.

    Returns:
        `total` where that is negligible, or a closer bound from another walk of the graph.
    """
    if 2 * seeds * total <= NEGLIGIBLE_BYTES:
        return total
    return gradient_bytes(outputs, leaves, NEGLIGIBLE_BYTES)


def is_negligible(seeds: int, bound_bytes: int | None, result_bytes: int) -> bool:
    """Whether all seeds at once need less than is worth measuring.

    Args:
        seeds: Rows or columns.
        bound_bytes: What `bound_of_seed` says, None where there was no graph to ask.
        result_bytes: Size of the result.

    Returns:
        True if they do.

    >>> is_negligible(10, 1000, 80), is_negligible(10**6, 1000, 80), is_negligible(10, None, 80)
    (True, False, False)
    """
    if bound_bytes is None:
        return seeds <= 1
    # Twice the gradients: temporaries of their size may stand beside them.
    return 2 * seeds * bound_bytes + result_bytes <= NEGLIGIBLE_BYTES


def human(size: int) -> str:
    """A number of bytes in the unit that reads best.

    Args:
        size: The number.

    Returns:
        Text with a unit.

    >>> human(3 * 2**30)
    '3.00 GiB'
    """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device has no memory left."""
    if isinstance(error, MemoryBudgetError):
        return False
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
