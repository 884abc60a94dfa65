"""What was done for a Jacobian, kept for whoever asks."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from torchjac._evaluate.memory import human


@dataclass(frozen=True, slots=True)
class Refusal:
    """A way of computing that PyTorch could not take, and what it said."""

    method: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How one Jacobian was computed.

    Attributes:
        api: The public function that was called.
        mode: "reverse-mode", "forward-mode" or "double-backward".
        method: "vmap", "replicated batch", "vmap, some ops one by one", "loop" or the like.
        why: Why this mode.
        seeds: Rows or columns that were needed.
        passes: Passes that computed them.
        chunk_size: Most seeds in one pass.
        seed_bytes: Measured bytes per seed, 0 where it was not worth measuring.
        result_bytes: Bytes of the Jacobian.
        refusals: Ways that were tried before, and what went wrong.
    """

    api: str
    mode: str
    method: str
    why: str
    seeds: int
    passes: int
    chunk_size: int
    seed_bytes: int
    result_bytes: int
    refusals: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        """Several short lines for people."""
        lines = [
            f"{self.api}: {self.mode}, {self.method}: {self.why}",
            f"  seeds {self.seeds}, passes {self.passes}, at most {self.chunk_size} a pass",
            f"  result {human(self.result_bytes)}"
            + (f", {human(self.seed_bytes)} a seed" if self.seed_bytes else ""),
        ]
        lines += [f"  not {refusal.method}: {refusal.reason}" for refusal in self.refusals]
        return "\n".join(lines)


_listeners: ContextVar[tuple[list[Evaluation], ...]] = ContextVar("listeners", default=())


@contextmanager
def record() -> Generator[list[Evaluation]]:
    """Collect how every Jacobian inside the block was computed.

    Yields:
        A list that grows by one `Evaluation` for each Jacobian, oldest first.

    >>> import torch, torchjac
    >>> with torchjac.record() as runs:
    ...     J = torchjac.jacobian(lambda x: x.sin(), torch.ones(3))
    >>> runs[0].mode, runs[0].seeds, runs[0].passes
    ('reverse-mode', 3, 1)
    """
    collected: list[Evaluation] = []
    token = _listeners.set((*_listeners.get(), collected))
    try:
        yield collected
    finally:
        _listeners.reset(token)


def is_listened_to() -> bool:
    """Whether anybody asked for evaluations."""
    return bool(_listeners.get())


def publish(evaluation: Evaluation, refusals: tuple[Refusal, ...]) -> None:
    """Hand an evaluation to everyone who listens."""
    for collected in _listeners.get():
        collected.append(replace(evaluation, refusals=refusals))
