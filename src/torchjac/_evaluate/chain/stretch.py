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

    >>> right = Stretch(0, 2, ADJOINT)
    >>> print(Stretch(0, 3, TANGENT, right, Stretch(2, 3, TANGENT)))
    J3 · (J2 J1 by adjoints)
    >>> print(Stretch(0, 4, ADJOINT, Stretch(1, 4, ADJOINT)))
    (J4 J3 J2 by adjoints) J1 by adjoints
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
        if self.before is None:
            return f"{names} by {self.direction}s" if " " in names else names
        is_product = self.factor is not None
        pair = [names if self.factor is None else _grouped(self.factor), _grouped(self.before)]
        text = (" · " if is_product else " ").join(pair[:: 1 if self.direction == TANGENT else -1])
        return text if is_product else f"{text} by {self.direction}s"

    @property
    def parts(self) -> Iterator["Stretch"]:
        """This stretch and all that it is made of."""
        yield self
        for part in (self.before, self.factor):
            if part is not None:
                yield from part.parts


def _grouped(stretch: Stretch) -> str:
    return f"({stretch})" if " " in str(stretch) else str(stretch)
