"""How the part of a Jacobian between two cuts is had: a tree of moves."""

from collections.abc import Iterator
from dataclasses import dataclass

TANGENT, ADJOINT = "tangent", "adjoint"


@dataclass(frozen=True)
class Stretch:
    """How the Jacobian between two cuts is had.

    Attributes:
        start: The one cut, 0 for the tangents.
        stop: The other.
        direction: "tangent": columns, by elements of the cut `start`; "adjoint": rows, by
            elements of the cut `stop`.
        before: What is had first, in the same direction; None if it begins with the identity.
        factor: What it is multiplied with, None if it is sent through the program.
    """

    start: int
    stop: int
    direction: str
    before: "Stretch | None" = None
    factor: "Stretch | None" = None

    @property
    def rest(self) -> tuple[int, int]:
        """What is left beside `before`."""
        if self.before is None:
            return self.start, self.stop
        if self.direction == TANGENT:
            return self.before.stop, self.stop
        return self.start, self.before.start

    def __str__(self) -> str:
        names = " ".join([f"J{k}" for k in range(self.rest[1], self.rest[0], -1)])
        left = f"({self.factor})" if self.factor is not None else names
        if self.before is None:
            return f"{names} by {self.direction}s" if " " in names else names
        right = f"({self.before})"
        pair = f"{left} {right}" if self.direction == TANGENT else f"{right} {left}"
        return pair if self.factor is not None else f"{pair} by {self.direction}s"

    @property
    def parts(self) -> Iterator["Stretch"]:
        """This stretch and all that it is made of."""
        yield self
        for part in (self.before, self.factor):
            if part is not None:
                yield from part.parts
