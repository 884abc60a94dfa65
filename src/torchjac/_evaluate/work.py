"""What is known once the function was recorded, and the ways from there to a Jacobian."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torchjac._evaluate.attention import uses_fused_attention, with_math_attention
from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.double_backward import double_backward
from torchjac._evaluate.forward import forward, replaying
from torchjac._evaluate.ladder import Rung
from torchjac._evaluate.memory import (
    FORWARD_PASS_BYTES,
    REVERSE_PASS_BYTES,
    Budget,
    is_negligible,
    result_bytes,
)
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.randomness import RandomState
from torchjac._evaluate.replicated import replicated
from torchjac._evaluate.reverse import reverse
from torchjac._evaluate.seeds import BatchDims, seed_count
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.tape import Tape, grad_recorded, record
from torchjac._evaluate.watch import Watch
from torchjac._evaluate.witness import testify
from torchjac._inputs.signature import Outputs, Signature
from torchjac._torch import node_names
from torchjac.errors import ChangedShapeError

METHODS = {True: "vmap", False: "loop"}


@dataclass(slots=True)
class Work:
    """One evaluation under way.

    Attributes:
        signature: The function.
        options: How to compute.
        batch: Axes of independent samples, None for the whole Jacobian.
        state: Where the random generators stood before the function ran.
        outputs: Its value.
        tape: Its graph, while it is kept.
        budget: What memory may be used.
        bound_bytes: Bytes of all gradients of one seed, None where there was no graph to ask.
        progress: The progress bar.
        chunks: The accounts of the way that was taken last.
    """

    signature: Signature
    options: Options
    batch: BatchDims | None
    state: RandomState
    outputs: Outputs
    tape: Tape | None
    budget: Budget
    bound_bytes: int | None
    progress: Progress
    chunks: Chunks = field(init=False)

    def rungs(self, mode: str) -> list[Rung[Blocks]]:
        """Ways to compute, fastest first."""
        if mode == "reverse-mode" or self.options.create_graph:
            # Differentiable columns are not to be had: PyTorch's forward rules of solve, det,
            # layer_norm and others have a wrong derivative, and some double-backwards too.
            return list(self._reverse_rungs())
        return [*self._forward_rungs(), *self._double_rungs(), *self._reverse_rungs()]

    def _reverse_rungs(self) -> Iterator[Rung[Blocks]]:
        for stacked in self.options.stackings:
            yield Rung("reverse-mode", METHODS[stacked], lambda s=stacked: self._reverse(s))
            if stacked and self._uses_fused_attention():
                yield Rung(
                    "reverse-mode", "vmap, math attention", lambda: self._reverse(True, True)
                )
            if stacked and self.batch is not None and not self.state.was_used():
                yield Rung("reverse-mode", "replicated batch", self._replicated)

    def _forward_rungs(self) -> Iterator[Rung[Blocks]]:
        for stacked in self.options.stackings:
            yield Rung("forward-mode", METHODS[stacked], lambda s=stacked: self._forward(s))
            if stacked and self._uses_fused_attention():
                yield Rung(
                    "forward-mode", "vmap, math attention", lambda: self._forward(True, True)
                )

    def _double_rungs(self) -> Iterator[Rung[Blocks]]:
        for stacked in self.options.stackings:
            yield Rung("double-backward", METHODS[stacked], lambda s=stacked: self._double(s))

    def _uses_fused_attention(self) -> bool:
        # Without a graph nobody knows; the rung is then worth a try.
        return self.tape is None or uses_fused_attention(node_names(self.tape.outputs.tensors))

    def _reverse(self, stacked: bool, math_attention: bool = False) -> Blocks:
        tape = self._recorded(with_math_attention(self.signature) if math_attention else None)
        blocks = reverse(
            tape,
            self._new_chunks(rows=True),
            stacked=stacked,
            create_graph=self.options.create_graph,
            batch=self.batch,
        )
        if self.signature.holomorphic:  # PyTorch pulls back with the conjugate transpose
            return [[None if b is None else b.conj().resolve_conj() for b in r] for r in blocks]
        return blocks

    def _double(self, stacked: bool) -> Blocks:
        tape = self._recorded()
        chunks = self._new_chunks(rows=False)
        blocks = double_backward(
            tape, chunks, stacked=stacked, create_graph=False, batch=self.batch
        )
        # A backward pass that is not linear in its cotangents has another derivative than the
        # function, and zero slopes at infinite values lose their NaN.
        finite = all(bool(b.isfinite().all()) for row in blocks for b in row if b is not None)
        if not (finite and testify(tape).agrees(blocks, self.batch)):
            raise NotImplementedError("the derivative of the backward pass is not the Jacobian")
        return blocks

    def _replicated(self) -> Blocks:
        if self.batch is None:
            raise ValueError("a batch is repeated along an axis of samples, and there is none")
        try:
            blocks = replicated(
                self.signature,
                self.outputs.tensors,
                self._new_chunks(rows=True),
                self.batch,
                create_graph=self.options.create_graph,
            )
        except ChangedShapeError as error:
            raise NotImplementedError("the function needs a batch of this size") from error
        if not testify(self._recorded()).agrees(blocks, self.batch):
            raise NotImplementedError("copies of the batch are treated differently")
        return blocks

    def _forward(self, stacked: bool, math_attention: bool = False) -> Blocks:
        signature = with_math_attention(self.signature) if math_attention else self.signature
        warn = self.tape is None and not self.options.quiet
        with grad_recorded():
            leaves = [t.detach().contiguous() for t in signature.leaves]
            return forward(
                replaying(
                    signature.api,
                    lambda copies: signature.replay(copies).tensors,
                    self.outputs.tensors,
                    self.state,
                    Watch(signature.api, warn=warn),
                ),
                [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves],
                self.outputs.tensors,
                self._new_chunks(rows=False, worthwhile_bytes=FORWARD_PASS_BYTES),
                stacked=stacked,
                create_graph=False,
                batch=self.batch,
            )

    def seeds(self, *, rows: bool) -> int:
        """Rows or columns of the Jacobian, or of that of one sample."""
        if rows:
            dim = None if self.batch is None else self.batch.outputs
            return sum([seed_count(output, dim) for output in self.outputs.tensors])
        dim = None if self.batch is None else self.batch.inputs
        return sum([seed_count(leaf, dim) for leaf in self.signature.leaves])

    def _recorded(self, other: Signature | None = None) -> Tape:
        """The tape, recorded again where it was let go or another function is asked for."""
        if other is None and self.tape is not None:
            return self.tape
        again = (other or self.signature)._replace(call=(other or self.signature).recall)
        with self.state.replayed():
            return record(again, create_graph=self.options.create_graph)

    def _new_chunks(self, *, rows: bool, worthwhile_bytes: int = REVERSE_PASS_BYTES) -> Chunks:
        size = result_bytes(self.outputs.tensors, self.signature.leaves, self.batch)
        small = self.options.memory is None and is_negligible(
            self.seeds(rows=rows), self.bound_bytes, size
        )
        device = self.signature.leaves[0].device
        self.chunks = Chunks(self.budget, size, small, device, self.progress, worthwhile_bytes)
        return self.chunks
