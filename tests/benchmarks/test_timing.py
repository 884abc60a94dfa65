"""Who is timed how often."""

from collections.abc import Callable

from benchmarks.timing import Effort, measure


class Clock:
    """A clock that goes on only while somebody is called."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[float] = []

    def taking(self, seconds: float) -> Callable[[], None]:
        """A call that takes so long."""

        def call() -> None:
            self.calls.append(seconds)
            self.now_s += seconds

        return call


def test_a_slow_call_is_made_once_and_others_in_every_round() -> None:
    clock = Clock()
    effort = Effort(1.0, fewest=3, most=5, block_s=0.0, slow_s=0.4, clock=lambda: clock.now_s)
    samples = measure({"slow": clock.taking(0.5), "quick": clock.taking(0.25)}, effort)
    assert clock.calls == [0.5, *[0.25] * 5]
    assert samples["slow"].by_round == {0: 0.5}
    assert samples["quick"].by_round == dict.fromkeys(range(4), 0.25)
