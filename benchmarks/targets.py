"""What the project promises of a problem, and whether a run keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import FUNC, LOOP, OURS, VECTORIZED, Contender
from benchmarks.timing import Samples

# Small: no slower than torch.autograd.functional, whatever it is asked for.
SMALL_LIMIT = 1.0
# Large: hardly slower than the best of torch.func, far faster than a loop over rows.
LARGE_LIMIT = 1.1
LOOP_LIMIT = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether one contender of torchjac's keeps one promise.

    Attributes:
        what: The peers that are compared with.
        ratio: Time relative to the fastest of them.
        limit: What the ratio may be.
    """

    what: str
    ratio: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.ratio <= self.limit

    def __str__(self) -> str:
        """The verdict in a few words."""
        sign = "<=" if self.met else ">"
        return (
            f"{'met' if self.met else 'MISSED'} {self.ratio:.2f} {sign} {self.limit:g} {self.what}"
        )


_PROMISES = {
    "": (),
    "small": (
        ("loop", (LOOP,), SMALL_LIMIT),
        ("vectorized", (VECTORIZED,), SMALL_LIMIT),
    ),
    "large": (("torch.func", (FUNC,), LARGE_LIMIT), ("loop", (LOOP,), LOOP_LIMIT)),
}


def ratio_to_best(
    own: Samples,
    contenders: Sequence[Contender],
    samples: Mapping[str, Samples],
    roles: Sequence[str],
) -> float:
    """Time relative to the fastest contender with one of `roles`."""
    peers = [samples[c.name] for c in contenders if c.role in roles]
    return own.ratio_to(min(peers, key=lambda peer: peer.median_s))


def judge(
    target: str, contenders: Sequence[Contender], samples: Mapping[str, Samples]
) -> dict[str, list[Verdict]]:
    """Compare torchjac's contenders with what is promised.

    Args:
        target: "small", "large" or nothing.
        contenders: All contenders.
        samples: Their times, by name.

    Returns:
        Verdicts by the name of the contender.
    """
    return {
        own.name: [
            Verdict(what, ratio_to_best(samples[own.name], contenders, samples, roles), limit)
            for what, roles, limit in _PROMISES[target]
        ]
        for own in contenders
        if own.role == OURS
    }
