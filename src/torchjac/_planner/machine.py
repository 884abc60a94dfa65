"""How fast this machine is: measured once, and kept in the user's cache folder."""

import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter

import platformdirs
import torch

from torchjac._linearize.cost import Cost

COPIED_BYTES, WIDTH, REPEATS = 2**25, 512, 5
# An operation on a few numbers is short, and so measured in a row.
ROW = 200
# Launches that a call of a compiled program costs.
CALL_LAUNCHES = 4
# The share of what was known that one more compilation leaves.
KEPT = 0.5


@dataclass(frozen=True)
class Machine:
    """Speeds.

    Attributes:
        launch_s: Seconds of an operation of PyTorch on a few numbers.
        bytes_per_s: Read and written by a large copy.
        work_per_s: Floating-point operations in a product of matrices.
        compile_s: Seconds that an operation of a program adds to its compilation; a guess until
            a program was compiled here.
        emit_s: Likewise of an operation of a linear program, to its emission.
    """

    launch_s: float
    bytes_per_s: float
    work_per_s: float
    compile_s: float = 0.03
    emit_s: float = 5e-4

    def replayed_s(self, cost: Cost) -> float:
        """Seconds of a program that is run operation by operation."""
        traffic_s = max(cost.moved_bytes / self.bytes_per_s, cost.work / self.work_per_s)
        return cost.launches * self.launch_s + traffic_s

    def compiled_s(self, cost: Cost) -> float:
        """Seconds of a program whose pointwise operations are fused with their neighbours."""
        traffic_s = max(cost.fused_bytes / self.bytes_per_s, cost.work / self.work_per_s)
        return CALL_LAUNCHES * self.launch_s + traffic_s


def machine_of(device: torch.device) -> Machine:
    """The speeds of a device, from the cache folder where it was measured before.

    Args:
        device: Where the inputs are.

    Returns:
        The speeds.
    """
    return _measured(device, torch.get_num_threads())


def learn(device: torch.device, *, compile_s: float = 0.0, emit_s: float = 0.0) -> None:
    """Remember what compiling or emitting has cost.

    Args:
        device: Where the inputs are.
        compile_s: Seconds for each operation of a program, 0 if none was compiled.
        emit_s: Seconds for each operation of a linear program, 0 if none was emitted.
    """
    old, threads = machine_of(device), torch.get_num_threads()
    new = replace(
        old,
        compile_s=_mixed(old.compile_s, compile_s),
        emit_s=_mixed(old.emit_s, emit_s),
    )
    _known[device, threads] = new
    _write(_file(device, threads), new)


def _mixed(old: float, new: float) -> float:
    return KEPT * old + (1 - KEPT) * new if new else old


_known: dict[tuple[torch.device, int], Machine] = {}


def _measured(device: torch.device, threads: int) -> Machine:
    found = _known.get((device, threads))
    if found is None:
        file = _file(device, threads)
        found = _read(file)
        if found is None:
            found = _measure(device)
            _write(file, found)
        _known[device, threads] = found
    return found


@cache
def _file(device: torch.device, threads: int) -> Path:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    words = [torch.__version__, device.type, name, str(os.cpu_count()), str(threads)]
    kept = ["".join([c if c.isalnum() else "_" for c in word]) for word in words]
    return platformdirs.user_cache_path("torchjac") / f"machine-{'-'.join(kept)}.json"


def _read(file: Path) -> Machine | None:
    """What the file says, None if there is none or it is another version's."""
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))
        found = Machine(**{name: float(number) for name, number in numbers.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return found if all([number > 0 for number in asdict(found).values()]) else None


def _write(file: Path, machine: Machine) -> None:
    # Who may not write there measures again in the next process.
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(asdict(machine)), encoding="utf-8")
        part.replace(file)


def _measure(device: torch.device) -> Machine:
    few = torch.zeros(16, device=device)
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target, square = torch.empty_like(source), torch.ones(WIDTH, WIDTH, device=device)

    def row() -> None:
        for _ in range(ROW):
            few.add(few)

    with torch.no_grad():
        launches = _least_s(row, device)
        copy = _least_s(lambda: target.copy_(source), device)
        product = _least_s(lambda: square @ square, device)
    return Machine(launches / ROW, 2 * COPIED_BYTES / copy, 2 * WIDTH**3 / product)


def _least_s(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(perf_counter() - began)
    return max(min(times), 1e-9)
