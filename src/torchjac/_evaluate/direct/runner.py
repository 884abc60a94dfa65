"""Run an emitted program: replayed operation by operation, or compiled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from torchjac._evaluate.direct.emit import DirectProgram
from torchjac._torch import compile_graph

REPLAY, INDUCTOR = "replay", "inductor"
Run = Callable[..., Tensor]


@dataclass(eq=False)
class Direct:
    """The nonzeros of a Jacobian as a program of x.

    Attributes:
        program: The operations.
        backend: "replay" or "inductor".
        examples: Tensors like the inputs, for the compiler.
    """

    program: DirectProgram
    backend: str
    examples: tuple[Tensor, ...]
    _whole: Run | None = field(default=None, init=False, repr=False)
    _varying: Run | None = field(default=None, init=False, repr=False)

    def nonzeros(self, leaves: Sequence[Tensor]) -> Tensor:
        """All nonzeros, in CSR order.

        Args:
            leaves: x.

        Returns:
            Shape (nnz,), new memory.
        """
        if self._whole is None:
            self._whole = self._runner(self.program.whole)
        return self._whole(*leaves)

    def refill(self, nonzeros: Tensor, leaves: Sequence[Tensor]) -> None:
        """Write those that depend on x over those of another x.

        Args:
            nonzeros: All of them, as `nonzeros` returned them; written to.
            leaves: x.
        """
        program = self.program
        if program.varying is None:
            return
        if self._varying is None:
            self._varying = self._runner(program.varying)
        values = self._varying(*leaves)
        if program.targets is None:
            nonzeros.copy_(values)
        elif isinstance(program.targets, slice):
            nonzeros[program.targets].copy_(values)
        else:
            nonzeros.index_copy_(0, program.targets, values)

    def _runner(self, graph: fx.GraphModule) -> Run:
        if self.backend == INDUCTOR:
            return compile_graph(graph, self.examples)
        return graph.forward

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which belongs to this process."""
        return dict(self.__dict__, _whole=None, _varying=None)
