"""Peak memory of whole processes: what PyTorch takes, and whether `memory=` is kept.

Every contender runs in a process of its own, `python -m benchmarks.memory CASE CONTENDER FILE`,
which warms up on a small problem and then reports how much its resident set grew at most.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev

import torchjac
from benchmarks.alone import forget_peak, status
from benchmarks.compare import WrongAnswerError
from benchmarks.model import Growth
from torchjac._evaluate.memory import MemoryMeter

N = 768
LAYERS = 32  # how many times as wide as its input the function is inside
MIB = 2**20
RESULT_BYTES = N * N * 8
# A budget of passes whose tensors the C library maps and returns one by one, and a small one,
# whose tensors it takes from a heap that keeps what was freed.
BUDGETS = (192 * MIB, 24 * MIB)
# The function must be one where memory matters: what the result is multiplied with by PyTorch.
LEAST_BLOWUP = 10
TOLERANCE = 1e-10

Function = Callable[[Tensor], Tensor]


def wide(x: Tensor) -> Tensor:
    """A function with as many outputs as inputs, and far more numbers inside."""
    inside = torch.linspace(0.5, 1.5, LAYERS, dtype=x.dtype).outer(x)
    for _ in range(2):
        inside = torch.sin(inside + inside.roll(1, 1))
    return inside.sum(0)


def energy(x: Tensor) -> Tensor:
    """A scalar function with far more numbers inside than it has inputs."""
    return (wide(x) ** 2).sum()


# The peer and torchjac, for each case.
CASES: dict[str, tuple[str, Callable[[Tensor], Any], Callable[..., Any]]] = {
    "reverse": ("jacrev", jacrev(wide), lambda x, **kwargs: torchjac.jacobian(wide, x, **kwargs)),
    "forward": (
        "jacfwd",
        jacfwd(wide),
        lambda x, **kwargs: torchjac.jacobian(wide, x, strategy="forward-mode", **kwargs),
    ),
    "hessian": (
        "torch.func.hessian",
        hessian(energy),
        lambda x, **kwargs: torchjac.hessian(energy, x, **kwargs),
    ),
}
PEER, FREE = "peer", "free"  # beside a number of bytes, what a process can be asked to run


def growths(repeats: int, budgets: Sequence[int | None]) -> Iterator[Growth]:
    """Run the peer and torchjac in all cases.

    Args:
        repeats: Processes for each, of which the largest growth counts.
        budgets: What torchjac is given as `memory=`, one process after the other.

    Yields:
        One result per contender, the peer of a case first.

    Raises:
        WrongAnswerError: Answers differ.
        ValueError: The function does not need enough memory to show anything.
    """
    for case, (peer, _, _) in CASES.items():
        reference, report = _worst_of(case, PEER, repeats)
        if report["growth_bytes"] < LEAST_BLOWUP * RESULT_BYTES:
            raise ValueError(f"memory/{case}: {peer} needs too little memory to show anything")
        yield Growth(case, peer, None, **report)
        for budget in budgets:
            answer, report = _worst_of(case, FREE if budget is None else str(budget), repeats)
            _compare(f"memory/{case}, {budget}", answer, reference)
            if budget is None:
                yield Growth(case, "torchjac", None, **report)
            else:
                name = f"torchjac, memory={budget // MIB} MiB"
                yield Growth(case, name, RESULT_BYTES + budget, **report)


def _compare(what: str, answer: Tensor, reference: Tensor) -> None:
    try:
        torch.testing.assert_close(answer, reference, rtol=TOLERANCE, atol=TOLERANCE)
    except AssertionError as error:
        raise WrongAnswerError(f"{what}: {error}") from error


def _worst_of(case: str, contender: str, repeats: int) -> tuple[Tensor, dict[str, Any]]:
    found = [_in_process(case, contender) for _ in range(repeats)]
    return max(found, key=lambda pair: pair[1]["growth_bytes"])


def _in_process(case: str, contender: str) -> tuple[Tensor, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.pt"
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", case, contender, str(file)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=Path(__file__).resolve().parents[1],
        )
        if run.returncode != 0:
            raise ValueError(f"memory/{case}, {contender}: the process failed:\n{run.stderr}")
        return torch.load(file), json.loads(run.stdout)


def _report(case: str, contender: str, file: str) -> dict[str, Any]:
    """Inside the process: warm up, measure, save the answer."""
    _, peer, ours = CASES[case]

    def call(x: Tensor) -> Tensor:
        if contender == PEER:
            return peer(x)
        return ours(x, memory=None if contender == FREE else int(contender))

    call(torch.linspace(0, 1, 8, dtype=torch.float64))
    x = torch.linspace(0, 3, N, dtype=torch.float64)
    gc.collect()
    forget_peak()
    before = status("VmRSS")
    begin = time.perf_counter()
    answer = call(x)
    wall_s = time.perf_counter() - begin
    growth_bytes = status("VmHWM") - before
    torch.save(answer, file)
    del answer
    with torchjac.record() as runs, MemoryMeter() as meter:
        call(x)
    return {
        "growth_bytes": growth_bytes,
        "meter_bytes": meter.peak_bytes,
        "wall_s": wall_s,
        "runs": [f"{r.mode}/{r.method}, {r.passes} passes of <= {r.chunk_size}" for r in runs],
    }


if __name__ == "__main__":
    print(json.dumps(_report(*sys.argv[1:])))
