"""Evaluate a random function again with the same random numbers.

A Jacobian that needs several evaluations (forward mode, replicated batches) must see one dropout
mask, or its columns belong to different functions.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomState(NamedTuple):
    """States of the default generators of the CPU and of the CUDA devices concerned."""

    cpu: Tensor
    cuda: tuple[tuple[int, Tensor], ...]

    @contextmanager
    def replayed(self) -> Generator[None]:
        """Start the block from this state, and go on after it as if it had not been."""
        with torch.random.fork_rng(devices=[index for index, _ in self.cuda]):
            self.restore()
            yield

    def restore(self) -> None:
        """Go on from this state, as if nothing had been drawn since."""
        torch.set_rng_state(self.cpu)
        for index, state in self.cuda:
            torch.cuda.set_rng_state(state, index)

    def was_used(self) -> bool:
        """Whether random numbers were drawn since this state was taken."""
        return not torch.equal(self.cpu, torch.get_rng_state()) or any(
            not torch.equal(state, torch.cuda.get_rng_state(index)) for index, state in self.cuda
        )


def random_state(tensors: Sequence[Tensor]) -> RandomState:
    """The state of the generators that a function of `tensors` draws from."""
    if not any([t.is_cuda for t in tensors]):
        return RandomState(torch.get_rng_state(), ())
    indices = sorted({t.device.index or 0 for t in tensors if t.is_cuda})
    return RandomState(
        torch.get_rng_state(), tuple((index, torch.cuda.get_rng_state(index)) for index in indices)
    )
