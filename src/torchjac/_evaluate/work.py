"""What is known once the function was recorded, and the ways from there to a Jacobian."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torchjac._evaluate.attention import uses_fused_attention, with_math_attention
from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.double_backward import double_backward
from torchjac._evaluate.forward import forward, replaying
from torchjac._evaluate.ladder import LOOP, VMAP, Rung, batchings
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
from torchjac._evaluate.witness import close, testify
from torchjac._inputs.signature import Signature
from torchjac.errors import ChangedShapeError

METHODS = {True: VMAP, False: LOOP}
MATH = "vmap, math attention"


@dataclass(slots=True)
class Work:
    """One evaluation under way.

    Attributes:
        signature: The function.
        options: How to compute.
        batch: Axes of independent samples, None for the whole Jacobian.
        state: Where the random generators stood before the function ran.
        tape: Its value and graph.
        budget: What memory may be used.
        bound_bytes: Bytes of all gradients of one seed.
        progress: The progress bar.
        chunks: The accounts of the way that was taken last.
    """

    signature: Signature
    options: Options
    batch: BatchDims | None
    state: RandomState
    tape: Tape
    budget: Budget
    bound_bytes: int
    progress: Progress
    chunks: Chunks = field(init=False)

    def rungs(self, mode: str) -> list[Rung[Blocks]]:
        """Ways to compute, fastest first."""
        if mode == "reverse-mode":
            return self._reverse_rungs()
        double = batchings("double-backward", self.options.stackings, self._double)
        return [*self._forward_rungs(), *double, *self._reverse_rungs()]

    def _reverse_rungs(self) -> list[Rung[Blocks]]:
        between: list[Rung[Blocks]] = []
        if self._uses_fused_attention():
            between.append(Rung("reverse-mode", MATH, lambda: self._reverse(True, True)))
        if self.batch is not None and not self.state.was_used():
            between.append(Rung("reverse-mode", "replicated batch", self._replicated))
        return self._with("reverse-mode", self._reverse, between)

    def _forward_rungs(self) -> list[Rung[Blocks]]:
        between: list[Rung[Blocks]] = []
        if self._uses_fused_attention():
            between.append(Rung("forward-mode", MATH, lambda: self._forward(True, True)))
        return self._with("forward-mode", self._forward, between)

    def _with(
        self, mode: str, compute: Callable[[bool], Blocks], between: list[Rung[Blocks]]
    ) -> list[Rung[Blocks]]:
        """Batchings of a mode, with other ways to batch after the first."""
        rungs = batchings(mode, self.options.stackings, compute)
        return [rungs[0], *between, *rungs[1:]] if rungs[0].method == VMAP else rungs

    def _uses_fused_attention(self) -> bool:
        return uses_fused_attention(self.tape.survey().node_names)

    def is_reproducible(self) -> bool:
        """Whether a plain second evaluation gives what the first gave."""
        again = self._recorded(self.signature).outputs.tensors
        first = self.tape.outputs.tensors
        if [a.shape for a in again] != [b.shape for b in first]:
            return False
        return all(close(a, b) for a, b in zip(again, first, strict=True))

    def _reverse(self, stacked: bool, math_attention: bool = False) -> Blocks:
        tape = self.tape
        if math_attention:
            tape = self._recorded(with_math_attention(self.signature))
        blocks = reverse(
            tape,
            self._new_chunks(rows=True, stacked=stacked),
            stacked=stacked,
            create_graph=self.options.create_graph,
            batch=self.batch,
        )
        if self.signature.holomorphic:  # PyTorch pulls back with the conjugate transpose
            return [[None if b is None else b.conj().resolve_conj() for b in r] for r in blocks]
        return blocks

    def _double(self, stacked: bool) -> Blocks:
        tape = self.tape
        chunks = self._new_chunks(rows=False, stacked=stacked)
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
                self.tape.outputs.tensors,
                self._new_chunks(rows=True, stacked=True),
                self.batch,
                create_graph=self.options.create_graph,
            )
        except ChangedShapeError as error:
            raise NotImplementedError("the function needs a batch of this size") from error
        if not testify(self.tape).agrees(blocks, self.batch):
            raise NotImplementedError("copies of the batch are treated differently")
        return blocks

    def _forward(self, stacked: bool, math_attention: bool = False) -> Blocks:
        signature = with_math_attention(self.signature) if math_attention else self.signature
        with grad_recorded():
            leaves = [t.detach().contiguous() for t in signature.leaves]
            return forward(
                replaying(
                    signature.api,
                    lambda copies: signature.replay(copies).tensors,
                    self.tape.outputs.tensors,
                    self.state,
                    Watch(signature.api, warn=False),
                ),
                [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves],
                self.tape.outputs.tensors,
                self._new_chunks(rows=False, stacked=stacked, worthwhile_bytes=FORWARD_PASS_BYTES),
                stacked=stacked,
                create_graph=False,
                batch=self.batch,
            )

    def seeds(self, *, rows: bool) -> int:
        """Rows or columns of the Jacobian, or of that of one sample."""
        if rows:
            dim = None if self.batch is None else self.batch.outputs
            return sum([seed_count(output, dim) for output in self.tape.outputs.tensors])
        dim = None if self.batch is None else self.batch.inputs
        return sum([seed_count(leaf, dim) for leaf in self.signature.leaves])

    def _recorded(self, other: Signature) -> Tape:
        """The function, or a variant of it, recorded once more."""
        with self.state.replayed():
            return record(other._replace(call=other.recall), create_graph=self.options.create_graph)

    def _new_chunks(
        self, *, rows: bool, stacked: bool, worthwhile_bytes: int = REVERSE_PASS_BYTES
    ) -> Chunks:
        size = result_bytes(self.tape.outputs.tensors, self.signature.leaves, self.batch)
        small = self.options.memory is None and is_negligible(
            self.seeds(rows=rows), self.bound_bytes, size
        )
        device = self.signature.leaves[0].device
        budget = self.budget if stacked else replace(self.budget, chunk_size=1)
        self.chunks = Chunks(budget, size, small, device, self.progress, worthwhile_bytes)
        return self.chunks
