"""Jacobians of tensors that are computed already, through the graph that they carry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.choose import Choice, choose
from torchjac._evaluate.differentiate import explain_refusals, filled, try_at_once
from torchjac._evaluate.double_backward import double_backward
from torchjac._evaluate.ladder import Rung, climb_down
from torchjac._evaluate.memory import Budget, bound_of_seed, is_negligible, result_bytes
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import Evaluation, is_listened_to, publish
from torchjac._evaluate.reverse import reverse
from torchjac._evaluate.strict import check_dependence
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.tape import Linearized, outside_inference_mode
from torchjac._evaluate.witness import testify
from torchjac._evaluate.work import METHODS
from torchjac._inputs.warn import warn
from torchjac.errors import ArgumentError, FallbackWarning, IndependenceWarning


@dataclass(slots=True)
class _Existing:
    """The Jacobian of a tape under way; there is no function that could be called again."""

    api: str
    tape: Linearized
    options: Options
    progress: Progress
    bound_bytes: int
    chunks: Chunks = field(init=False)

    def climb(self, mode: str, why: str) -> Blocks:
        """Climb down the ladder from `mode`."""
        stackings = self.options.stackings
        rungs = [Rung("reverse-mode", METHODS[s], self._reverse(s)) for s in stackings]
        if mode == "double-backward":
            double = [Rung(mode, METHODS[s], self._double(s)) for s in stackings]
            rungs = double + rungs
        rung, blocks, refusals = climb_down(rungs)
        if refusals and not self.options.quiet:
            warn(explain_refusals(self.api, rung, refusals), FallbackWarning)
        if is_listened_to():
            publish(self._evaluation(rung, why), refusals)
        return blocks

    def _reverse(self, stacked: bool) -> Callable[[], Blocks]:
        graph = self.options.create_graph
        seeded = self.tape.outputs.tensors
        return lambda: reverse(self.tape, self._fresh(seeded), stacked=stacked, create_graph=graph)

    def _double(self, stacked: bool) -> Callable[[], Blocks]:
        graph = self.options.create_graph
        return lambda: double_backward(
            self.tape, self._fresh(self.tape.inputs), stacked=stacked, create_graph=graph
        )

    def _fresh(self, seeded: Sequence[Tensor]) -> Chunks:
        outputs, leaves = self.tape.outputs.tensors, self.tape.inputs
        budget = Budget(self.api, self.options.memory, self.options.chunk_size)
        size = result_bytes(outputs, leaves)
        small = is_negligible(sum(t.numel() for t in seeded), self.bound_bytes, size)
        self.chunks = Chunks(budget, size, small, leaves[0].device, self.progress)
        return self.chunks

    def _evaluation(self, rung: Rung[Blocks], why: str) -> Evaluation:
        rows = rung.mode == "reverse-mode"
        seeded = self.tape.outputs.tensors if rows else self.tape.inputs
        return Evaluation(
            api=self.api,
            mode=rung.mode,
            method=rung.method,
            why=why,
            seeds=sum(t.numel() for t in seeded),
            passes=self.chunks.passes,
            chunk_size=self.chunks.largest,
            seed_bytes=self.chunks.seed_bytes,
            result_bytes=self.chunks.result_bytes,
        )


@outside_inference_mode
def differentiate_existing(api: str, tape: Linearized, options: Options) -> list[list[Tensor]]:
    """Blocks of the Jacobian of the outputs of a tape.

    There is no function to call, so that forward mode is out of reach; columns come from
    double-backward where they are far fewer, and are compared with a witness.

    Args:
        api: Name of the public function, for messages.
        tape: Outputs, inputs and whether to keep the graph.
        options: How.

    Returns:
        blocks[i][j], shape (*output i, *input j).

    Raises:
        ArgumentError: The graph was freed.
        RuntimeError: What PyTorch raises in the backward pass.
    """
    try:
        blocks = _blocks(api, tape, options)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise ArgumentError(
            f"{api}: the graph of `outputs` was freed by an earlier backward pass. Pass "
            "retain_graph=True there, or compute the outputs again."
        ) from error
    for j in range(len(tape.inputs)):
        if not options.quiet and all(row[j] is None for row in blocks):
            warn(
                f"{api}: input {j} is not in the graph of `outputs`: its blocks are zero. Pass the "
                "very tensor that the outputs were computed from, not a copy or a view of it made "
                "later. strict=True makes this an error.",
                IndependenceWarning,
            )
    return filled(blocks, tape.outputs, tape.inputs)


def _blocks(api: str, tape: Linearized, options: Options) -> Blocks:
    if options.strict:
        check_dependence(tape, create_graph=options.create_graph)
    outputs, leaves = tape.outputs.tensors, tape.inputs
    choice = _choice(tape)
    bound = bound_of_seed(outputs, leaves)
    seeds = sum([output.numel() for output in outputs])
    small = is_negligible(seeds, bound, result_bytes(outputs, leaves))
    if small and choice.mode == "reverse-mode" and options.is_plain:
        blocks = try_at_once(tape, create_graph=options.create_graph)
        if blocks is not None:
            return blocks
    with Progress(shown=options.progress, label=api) as progress:
        existing = _Existing(api, tape, options, progress, bound)
        if choice.mode == "reverse-mode":
            return existing.climb(choice.mode, choice.why)
        witness = testify(tape)
        blocks = existing.climb(choice.mode, choice.why)
        if witness.agrees(blocks):
            return [
                [b if b is None else b.to(x) for b, x in zip(row, leaves, strict=True)]
                for row in blocks
            ]
        return existing.climb("reverse-mode", "double-backward gives another answer")


def _choice(tape: Linearized) -> Choice:
    n_in = sum([x.numel() for x in tape.inputs])
    n_out = sum([output.numel() for output in tape.outputs.tensors])
    choice = choose("auto", n_in, n_out)
    if choice.mode == "forward-mode":
        return Choice("double-backward", choice.why)
    return choice
