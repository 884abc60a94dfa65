"""What takes part: a way to the answer of a problem, and the names it goes by."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple

import torch


class UnableError(Exception):
    """A contender cannot solve a problem, and the message says why."""


class Ready(NamedTuple):
    """A contender that has done all that is done once, but for what its first call does.

    Attributes:
        call: Computes the answer.
        once: Seconds by what they were spent on.
        work: Passes, seeds or operations of a call, in words.
    """

    call: Callable[[], Any]
    once: Mapping[str, float]
    work: str


def same(answer: Any) -> Any:
    """An answer that is in the form of the others, or of which all was computed."""
    return answer


@dataclass(frozen=True)
class Contender:
    """One way to the answer of a problem.

    Attributes:
        library: Whose, a name of `benchmarks.model`.
        way: What of that library.
        make: Does what is done once.
        form: Brings an answer into the form of the others.
        part: Takes from an answer of the others, in that form, what `call` computes of it.
        share: How much of the answer that is; the time of the rest is extrapolated.
        note: What one should know when reading the time.
    """

    library: str
    way: str
    make: Callable[[], Ready]
    form: Callable[[Any], Any] = same
    part: Callable[[Any], Any] = same
    share: float = 1.0
    note: str = ""

    @property
    def name(self) -> str:
        """Library and way."""
        return f"{self.library}: {self.way}"


def as_it_is(call: Callable[[], Any], work: str = "") -> Callable[[], Ready]:
    """A call that needs no preparation."""
    return lambda: Ready(call, {}, work)


def compiled(func: Callable[..., Any], *inputs: Any, work: str = "") -> Callable[[], Ready]:
    """A call compiled by PyTorch, for the shapes of these inputs alone."""

    def make() -> Ready:
        program = torch.compile(_of_its_own(func), dynamic=False)
        began = time.perf_counter()
        program(*inputs)
        return Ready(lambda: program(*inputs), {"compile": time.perf_counter() - began}, work)

    return make


def _of_its_own(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a code object of its own.

    PyTorch keeps what it compiled with the code, and looks through all of that in each call: what
    `jacrev` returns has the same code every time.
    """

    def call(*inputs: Any) -> Any:
        return func(*inputs)

    code = call.__code__.replace()
    return FunctionType(code, call.__globals__, closure=call.__closure__)
