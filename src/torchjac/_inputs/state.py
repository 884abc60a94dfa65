"""All that a function can read besides its arguments, so that a change of it can be seen.

A structure or a program that was found once must not be used when the function has become another
one: a time step in an attribute, a global, a weight. Python objects that are understood are looked
through; where there is one that is not, the state says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchjac._inputs.glance import Glance
from torchjac._inputs.numbers import Bytes, Copies, numbers_of
from torchjac._inputs.reach import Walk


@dataclass(frozen=True, eq=False)
class State:
    """What a function can read, at one time.

    Attributes:
        is_complete: Whether all of it is understood; if not, what is not may change unseen.
        marks: Equal for two states only if plain values, objects and the numbers of writes to
            tensors are the same.
        kept: All objects that were seen, held so that no new one takes the number of an old one.
        numbers: What tensors and arrays held: `tensor.data` and arrays that share memory can be
            written to without leaving a mark.
        value: What the state was taken of.
        glance: The marks in short.
    """

    is_complete: bool
    marks: tuple[Any, ...]
    kept: tuple[Any, ...]
    numbers: tuple[Bytes | Copies, ...]
    value: Any
    glance: Glance

    def still_holds(self, value: Any, apart: Sequence[Tensor] = ()) -> bool:
        """Whether there is now what there was then, as far as can be seen.

        Args:
            value: The function or values that the state was taken of.
            apart: Tensors that do not count, as then.

        Returns:
            Whether all marks and numbers are the same.
        """
        if value is self.value and self.is_complete and self.glance.is_same():
            return all([numbers.are_there() for numbers in self.numbers])
        now = _walked(value, apart)
        if now.is_complete != self.is_complete or tuple(now.marks) != self.marks:
            return False
        return all([numbers.are_same() for numbers in self.numbers])


def state_of(value: Any, apart: Sequence[Tensor] = ()) -> State:
    """All that a function can read besides its arguments.

    Args:
        value: Any callable, or a list of values.
        apart: Tensors that do not count, because they are differentiated.

    Returns:
        The state.

    >>> class Simulation:
    ...     dt = 0.1
    ...     def step(self, x):
    ...         return x + self.dt * x**2
    >>> simulation = Simulation()
    >>> before = state_of(simulation.step)
    >>> simulation.dt = 0.2
    >>> before.is_complete, before.still_holds(simulation.step)
    (True, False)
    """
    walk = _walked(value, apart)
    numbers = tuple(map(numbers_of, walk.data))
    marks, kept = tuple(walk.marks), tuple(walk.kept)
    return State(walk.is_complete, marks, kept, numbers, value, walk.glance)


def _walked(value: Any, apart: Sequence[Tensor]) -> Walk:
    walk = Walk(apart)
    walk.visit(value)
    walk.finish()
    return walk
