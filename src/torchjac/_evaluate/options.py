"""The options of an evaluation, checked once."""

from typing import NamedTuple

from torchjac._evaluate.progress import check_progress
from torchjac._inputs.checks import STRATEGIES, check_choice, check_chunk_size, check_memory

STACKINGS: dict[bool | None, tuple[bool, ...]] = {
    None: (True, False),
    True: (True,),
    False: (False,),
}


class Options(NamedTuple):
    """How a Jacobian is to be computed.

    Attributes:
        create_graph: Make the result differentiable.
        strict: Refuse outputs that do not depend on an input.
        vectorize: True: batched passes or an error; False: one seed at a time; None: batched,
            and one at a time where PyTorch cannot.
        strategy: "auto", "reverse-mode" or "forward-mode".
        chunk_size: Seeds per pass, None to let the memory decide.
        memory: Bytes (int), fraction of what is free (float), or None for a default fraction.
        progress: Show a progress bar.
        quiet: Issue no warnings.
        allow_constant: Outputs without a derivative are expected, not warned of.
    """

    create_graph: bool = False
    strict: bool = False
    vectorize: bool | None = None
    strategy: str = "auto"
    chunk_size: int | None = None
    memory: int | float | None = None
    progress: bool = False
    quiet: bool = False
    allow_constant: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for that bears on how passes are made."""
        return self[1:7] == (False, None, "auto", None, None, False)

    def checked(self, api: str) -> "Options":
        """These options, or an error that names the one at fault.

        Args:
            api: Name of the public function.

        Returns:
            The options themselves.

        Raises:
            ArgumentError: A value is out of range.
        """
        if self.is_plain:
            return self
        check_choice(api, "strategy", self.strategy, STRATEGIES)
        check_choice(api, "vectorize", self.vectorize, (None, True, False))
        check_chunk_size(api, self.chunk_size)
        check_memory(api, self.memory)
        check_progress(shown=self.progress)
        return self

    @property
    def stackings(self) -> tuple[bool, ...]:
        """Whether to batch the seeds, in the order to try."""
        return STACKINGS[self.vectorize]
