"""A program on its way through steps that make it faster, each of which it can do without."""

from collections.abc import Callable
from dataclasses import dataclass

from torchjac._evaluate.mistakes import can_be_left_out, described
from torchjac._linearize.program import LinearProgram


@dataclass(frozen=True, eq=False)
class Draft:
    """A program, and the steps that failed.

    Attributes:
        program: As it is after the other steps.
        left_out: For each step that failed its name, and the error.
    """

    program: LinearProgram
    left_out: tuple[str, ...] = ()

    def after(self, name: str, step: Callable[[LinearProgram], LinearProgram]) -> "Draft":
        """The program after one more step, or as it is where that fails.

        Args:
            name: Of the step, for people.
            step: Takes a program, which it leaves alone, and returns one with the same results.

        Returns:
            What the next step takes.

        Raises:
            Exception: Memory ran out.
        """
        try:
            return Draft(step(self.program), self.left_out)
        except Exception as error:
            if not can_be_left_out(error):
                raise
            return Draft(self.program, (*self.left_out, f"{name} ({described(error)})"))
