"""Probes: one product in each mode, which shows that the mode works, what it costs, and the truth.

The product is kept: every answer of a plan that is new is held against it.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from torchjac._evaluate.compressed import Passes, common_dtype
from torchjac._evaluate.ladder import LOOP, climb_down
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import Refusal
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.witness import close, random_like
from torchjac._torch import load_jvp_decompositions

FORWARD, REVERSE = "forward-mode", "reverse-mode"
# Where a product takes longer than this, a pass costs nothing beside its seeds; it is not repeated.
LONG_S = 0.01
# Times are taken so long or so often, with several seeds at least twice, for at first memory is
# new; the least counts, for others run beside us.
REPEATED_S, MOST_REPEATS = 0.004, 3
# Seeds of the pass that tells what one more costs: so many that they outweigh what a pass costs
# whatever its size.
SEVERAL_BYTES, FEWEST, MOST = 2**20, 4, 32


@dataclass(frozen=True, eq=False)
class Probe:
    """What one product told.

    Attributes:
        mode: "forward-mode" or "reverse-mode".
        method: How PyTorch could do it: "vmap", "loop" or the like.
        vector: v or u, over everything raveled.
        product: J v or J^T u, from a single pass.
        first_s: Seconds of a pass with one seed.
        next_s: Seconds that each further seed adds.
        refusals: Faster methods that PyTorch could not take.
        disagrees: Whether a batched product was another one.
    """

    mode: str
    method: str
    vector: Tensor
    product: Tensor
    first_s: float
    next_s: float
    refusals: tuple[Refusal, ...]
    disagrees: bool = False

    def predict(self, seeds: int) -> float:
        """Seconds of a pass with that many seeds."""
        return self.first_s + max(seeds - 1, 0) * self.next_s if seeds else 0.0


def probe(passes: Passes, mode: str) -> Probe:
    """Take a random product and measure.

    Args:
        passes: The function at one point.
        mode: "forward-mode" or "reverse-mode".

    Returns:
        The probe.

    Raises:
        Exception: What PyTorch said, if it has no rule for this mode.
    """
    if mode == FORWARD:
        load_jvp_decompositions()
    vector = random_vector(passes, mode)

    def take(mode: str, method: str) -> Tensor:
        return run(passes, mode, method, vector[None])

    began = perf_counter()
    rung, batched, refusals = climb_down(passes.rungs(mode, take))
    first_s = next_s = perf_counter() - began
    method = rung.method
    product = batched
    if method != LOOP:
        began = perf_counter()
        product = run(passes, mode, LOOP, vector[None])
        first_s = next_s = min(first_s, perf_counter() - began)
    if disagrees := not close(batched, product):
        method = LOOP
    if first_s < LONG_S:
        first_s = next_s = _least_seconds(passes, method, mode, vector[None])
        if method != LOOP:
            size = max(vector.numel(), product.numel()) * vector.element_size()
            count = max(FEWEST, min(MOST, SEVERAL_BYTES // max(size, 1)))
            several = vector[None].repeat(count, 1)
            next_s = _least_seconds(passes, method, mode, several) - first_s
            next_s = max(next_s, 0.0) / (count - 1)
    return Probe(mode, method, vector, product[0].detach(), first_s, next_s, refusals, disagrees)


def random_vector(passes: Passes, mode: str) -> Tensor:
    """The v or u of a certificate, over everything raveled."""
    leaves = passes.signature.leaves
    likes = leaves if mode == FORWARD else passes.likes
    size = sum([like.numel() for like in likes])
    like = torch.empty(size, dtype=common_dtype(likes), device=leaves[0].device)
    return random_like([like], seed=1 if mode == FORWARD else 2)[0]


def run(passes: Passes, mode: str, method: str, seeds: Tensor) -> Tensor:
    """A few products in one pass, without accounts; one for each row of `seeds`."""
    device = passes.signature.leaves[0].device
    chunks = Chunks(Budget(passes.signature.api), 0, True, device, Progress(shown=False))
    take = passes.push if mode == FORWARD else passes.pull
    return take(lambda start, stop: seeds[start:stop], len(seeds), chunks, method)


def _least_seconds(passes: Passes, method: str, mode: str, seeds: Tensor) -> float:
    """Time of one evaluation as a plan makes it, the tape included; short ones are repeated."""
    again = passes.signature._replace(call=passes.signature.recall)
    times: list[float] = []
    least = min(len(seeds), 2)
    while len(times) < least or (sum(times) < REPEATED_S and len(times) < MOST_REPEATS):
        fresh = replace(passes, signature=again, tape=None, value=None)
        with passes.state.replayed():
            _wait(seeds)
            began = perf_counter()
            run(fresh, mode, method, seeds)
            _wait(seeds)
            times.append(perf_counter() - began)
    return min(times)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
