"""Run an emitted program: replayed operation by operation, compiled, or as a CUDA graph."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd.graph import increment_version

from torchjac._evaluate.direct.captured import captured
from torchjac._evaluate.direct.compiled import compiled
from torchjac._evaluate.direct.emit import DirectProgram
from torchjac._evaluate.direct.replayed import Run, replayed
from torchjac._evaluate.direct.strides import laid_out, strides_of
from torchjac._evaluate.direct.written import Form, Written
from torchjac._evaluate.mistakes import can_be_left_out, described, left_out
from torchjac._inputs.warn import warn
from torchjac.errors import FallbackWarning

REPLAY, INDUCTOR, CUDAGRAPHS = "replay", "inductor", "cudagraphs"
aten = torch.ops.aten


@dataclass(eq=False)
class Direct:
    """The nonzeros of a Jacobian as a program of x.

    Attributes:
        program: The operations.
        backend: "replay", "inductor" or "cudagraphs".
        examples: Tensors like the inputs, for the compiler.
        api: Name of the public function, for messages.
    """

    program: DirectProgram
    backend: str
    examples: tuple[Tensor, ...]
    api: str = "plan"
    _whole: Run | None = field(default=None, init=False, repr=False)
    _storing: Run | None = field(default=None, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    def nonzeros(self, leaves: Sequence[Tensor]) -> Tensor:
        """All nonzeros, in CSR order.

        Args:
            leaves: x.

        Returns:
            Shape (nnz,), new memory.
        """
        if self._whole is None:
            self._whole = self._runner(self._graph(self.form), self.examples)
        return self._whole(leaves)

    def refill(self, nonzeros: Tensor, leaves: Sequence[Tensor]) -> None:
        """Write those that depend on x over those of another x.

        Args:
            nonzeros: All of them, as `nonzeros` returned them; written to.
            leaves: x.
        """
        varying = self.program.varying
        if varying is None:
            return
        # A CUDA graph writes to memory of its own only, and one element alone has any stride.
        is_plain = nonzeros.is_contiguous() and nonzeros.numel() > 1
        if self.backend == CUDAGRAPHS or not is_plain:
            nonzeros.copy_(self.nonzeros(leaves))
            return
        if self._storing is None:
            self._storing = self._storer(varying, torch.zeros_like(nonzeros))
        self._storing([nonzeros, *leaves])
        if self.backend == INDUCTOR:  # autograd has to hear of it
            increment_version(nonzeros)

    def differentiable(self, leaves: Sequence[Tensor]) -> Tensor:
        """All nonzeros, in CSR order, for autograd to differentiate as often as wanted.

        Derivatives are those of the operations of the program, which need not be those of the
        function that it was emitted for, where that hides something from autograd.

        Args:
            leaves: x.

        Returns:
            Shape (nnz,), with a graph.
        """
        if self.backend != INDUCTOR:
            return self.one_by_one(*laid_out(leaves, strides_of(self.examples)))
        return _Differentiable.apply(self, *leaves)

    @property
    def one_by_one(self) -> fx.GraphModule:
        """The program of all nonzeros that autograd can look into."""
        return self._graph(self.program.whole.one_by_one)

    @property
    def form(self) -> Form:
        """The program of all nonzeros as it runs here."""
        return self._form(self.program.whole)

    def _form(self, written: Written) -> Form:
        return written.fused if self.backend == INDUCTOR else written.one_by_one

    def _graph(self, form: Form) -> fx.GraphModule:
        """The operations of a form, after a word about what it lacks."""
        untold = [step for step in form.left_out if step not in self._told]
        if untold:
            self._told.update(untold)
            warn(left_out(self.api, "; ".join(untold)), FallbackWarning)
        return form.graph

    def _storer(self, varying: Written, nonzeros: Tensor) -> Run:
        """What takes all nonzeros and the inputs, and writes those that vary."""
        try:
            graph = storing(self._graph(self._form(varying)), self.program.targets)
            return self._runner(graph, (nonzeros, *self.examples))
        except Exception as error:
            if not can_be_left_out(error):
                raise
            step = f"a program that writes only what depends on x ({described(error)})"
            warn(left_out(self.api, step), FallbackWarning)
            return lambda tensors: tensors[0].copy_(self.nonzeros(tensors[1:]))

    def _runner(self, graph: fx.GraphModule, examples: Sequence[Tensor]) -> Run:
        if self.backend == INDUCTOR:
            return compiled(self.api, graph, examples)
        if self.backend == CUDAGRAPHS:
            return captured(replayed(graph, examples), examples)
        return replayed(graph, examples)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which belongs to this process."""
        return dict(self.__dict__, _whole=None, _storing=None)


def storing(varying: fx.GraphModule, targets: Tensor | slice | None) -> fx.GraphModule:
    """The program that writes the nonzeros that vary over those of another x.

    Args:
        varying: Takes the inputs, returns these nonzeros.
        targets: Their places among all, None if they are all.

    Returns:
        Takes all nonzeros, which it writes to, and the inputs.
    """
    root, graph = torch.nn.Module(), fx.Graph()
    nonzeros = graph.placeholder("nonzeros")
    values: Any = graph.graph_copy(varying.graph, {})
    for name, constant in varying.named_buffers(remove_duplicate=False):
        root.register_buffer(name, constant)
    if isinstance(targets, Tensor):
        root.register_buffer("targets", targets)
        target = graph.get_attr("targets")
        written = graph.call_function(aten.index_copy_.default, (nonzeros, 0, target, values))
    else:
        place = nonzeros
        if targets is not None:
            bounds = (targets.start, targets.stop, targets.step)
            place = graph.call_function(aten.slice.Tensor, (nonzeros, 0, *bounds))
        written = graph.call_function(aten.copy_.default, (place, values))
    graph.output(written)
    return fx.GraphModule(root, graph)


class _Differentiable(torch.autograd.Function):
    """A compiled program, whose derivative is that of the same program replayed."""

    @staticmethod
    def forward(ctx: Any, direct: Direct, *leaves: Tensor) -> Tensor:
        ctx.direct, ctx.strides = direct, strides_of(direct.examples)
        ctx.save_for_backward(*leaves)
        return direct.nonzeros([leaf.detach() for leaf in leaves])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        leaves, again = ctx.saved_tensors, torch.is_grad_enabled()
        if not again:
            leaves = [leaf.detach().requires_grad_(leaf.requires_grad) for leaf in leaves]
        live = [leaf for leaf in leaves if leaf.requires_grad]
        with torch.enable_grad():
            nonzeros = ctx.direct.one_by_one(*laid_out(leaves, ctx.strides))
            found: Sequence[Tensor | None] = [None] * len(live)
            if nonzeros.requires_grad:
                found = torch.autograd.grad(
                    nonzeros, live, *cotangents, create_graph=again, allow_unused=True
                )
        gradients = iter(found)
        return None, *[next(gradients) if leaf.requires_grad else None for leaf in leaves]
