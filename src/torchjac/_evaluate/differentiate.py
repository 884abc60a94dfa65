"""The evaluation as a whole: record, choose, climb down the ladder, check, hand over."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

from torch import Tensor

from torchjac._evaluate.attention import uses_fused_attention, with_math_attention
from torchjac._evaluate.blocks import Blocks, block_shape
from torchjac._evaluate.choose import Choice, choose, columns_are_cheaper
from torchjac._evaluate.ladder import Rung, climb_down
from torchjac._evaluate.memory import (
    Budget,
    MemoryMeter,
    bound_of_seed,
    is_negligible,
    result_bytes,
)
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.randomness import RandomState, random_state
from torchjac._evaluate.report import Evaluation, Refusal, is_listened_to, publish
from torchjac._evaluate.reverse import reverse_at_once
from torchjac._evaluate.seeds import BatchDims
from torchjac._evaluate.strict import check_dependence
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.tape import Linearized, Tape, outside_inference_mode, record
from torchjac._evaluate.transform import differentiate_in_transform
from torchjac._evaluate.watch import Watch
from torchjac._evaluate.witness import Witness, testify
from torchjac._evaluate.work import Work
from torchjac._inputs.signature import Outputs, Signature
from torchjac._inputs.storage import in_place, is_part, misses_memory, reads_memory
from torchjac._inputs.warn import warn
from torchjac._torch import BatchingRulesOnly, has_numbers, inside_transform
from torchjac.errors import (
    ChangedFunctionError,
    DisagreementWarning,
    FallbackWarning,
    IndependenceWarning,
)


class Solution(NamedTuple):
    """The value of a function, with its graph where it has one, and its Jacobian, flat."""

    outputs: Outputs
    blocks: list[list[Tensor]]


@outside_inference_mode
def differentiate(signature: Signature, options: Options) -> Solution:
    """Evaluate a function and its Jacobian.

    Args:
        signature: The function and where to differentiate it.
        options: How.

    Returns:
        The value and blocks[i][j], shape (*output i, *input j).
    """
    leaves = signature.leaves
    if inside_transform():
        outputs, blocks = differentiate_in_transform(signature, options)
        return Solution(outputs, filled(blocks, outputs, leaves))
    return differentiate_at(evaluate(signature, options), options)


def differentiate_at(point: "Point", options: Options) -> Solution:
    """The Jacobian of a function that was evaluated.

    Args:
        point: The function, evaluated.
        options: How.

    Returns:
        As `differentiate`.
    """
    signature, tape, outputs = point.signature, point.tape, point.tape.outputs
    leaves = signature.leaves
    if options.strict:
        check_dependence(tape, create_graph=options.create_graph)
    blocks = _small_rows(signature, options, tape)
    if blocks is None:
        rows = sum([output.numel() for output in outputs.tensors])
        columns = sum([leaf.numel() for leaf in leaves])
        choice = choose(options.strategy, columns, rows, rows_only=_needs_rows(signature, options))
        seeds = columns if choice.mode == "forward-mode" else rows
        bound = bound_of_seed(tape.survey().gradient_bytes, outputs.tensors, tape.inputs, seeds)
        with Progress(shown=options.progress, label=signature.api) as progress:
            blocks = compute(point.work(options, None, bound, progress), choice)
    if is_full(blocks):
        return Solution(outputs, blocks)
    if any([leaf.numel() for leaf in leaves]) and not (options.quiet or options.allow_constant):
        look_for_zeros(signature.api, outputs, blocks)
    return Solution(outputs, filled(blocks, outputs, leaves))


def _small_rows(signature: Signature, options: Options, tape: Tape) -> Blocks | None:
    """Rows of a small problem with nothing special about it; None for all others."""
    if signature.holomorphic or not options.is_plain:
        return None
    outputs = tape.outputs.tensors
    rows = sum([output.numel() for output in outputs])
    columns = sum([leaf.numel() for leaf in tape.inputs])
    if columns_are_cheaper(columns, rows) and not _needs_rows(signature, options):
        return None
    survey = tape.survey()
    if survey.has_custom_functions:
        return None
    bound = bound_of_seed(survey.gradient_bytes, outputs, tape.inputs, rows)
    if not is_negligible(rows, bound, result_bytes(outputs, tape.inputs)):
        return None
    return try_at_once(tape, create_graph=options.create_graph)


def _needs_rows(signature: Signature, options: Options) -> str:
    """Why columns are out of the question, empty where they are not."""
    if options.create_graph:
        # PyTorch's forward rules of solve, det, layer_norm and others have a wrong derivative,
        # and some double-backwards too.
        return "the result shall be differentiable"
    if signature.holomorphic and options.strategy == "auto":
        return "the function is complex"
    if options.strategy == "auto" and not all(map(has_numbers, signature.leaves)):
        return "columns face a witness, which needs numbers"
    return ""


class Point(NamedTuple):
    """The function evaluated once, with its graph."""

    signature: Signature
    state: RandomState
    tape: Tape
    held_bytes: int

    def work(
        self,
        options: Options,
        batch: BatchDims | None,
        bound_bytes: int,
        progress: Progress,
    ) -> Work:
        """Start on the Jacobian at this point."""
        budget = Budget(self.signature.api, options.memory, options.chunk_size, self.held_bytes)
        leaves = self.signature.leaves
        if options.memory is not None:  # refuse what cannot fit before any pass
            size = result_bytes(self.tape.outputs.tensors, leaves, batch)
            budget.pass_bytes(size, leaves[0].device)
        return Work(
            self.signature,
            options,
            batch,
            self.state,
            self.tape,
            budget,
            bound_bytes,
            progress,
        )


def evaluate(signature: Signature, options: Options) -> Point:
    """Evaluate the function once.

    Args:
        signature: The function and where to differentiate it.
        options: How.

    Returns:
        Everything that is known of the function at this point.
    """
    state = random_state(signature.leaves)
    watch = None if options.quiet or signature.is_arithmetic else Watch(signature.api)
    graph = options.create_graph
    held_bytes = 0
    if isinstance(options.memory, int):
        with MemoryMeter() as meter:
            signature, tape = _first(signature, state, watch, create_graph=graph)
        held_bytes = meter.live_bytes()
    else:
        signature, tape = _first(signature, state, watch, create_graph=graph)
    if graph and uses_fused_attention(tape.survey().node_names):
        # Its backward pass has no derivative, which would show only when one asks for it.
        signature = with_math_attention(signature)
        with state.replayed():
            tape = record(signature._replace(call=signature.recall), create_graph=True)
    return Point(signature, state, tape, held_bytes)


def is_full(blocks: Blocks) -> TypeGuard[list[list[Tensor]]]:
    """Whether a path leads from every output to every input."""
    return all([block is not None for row in blocks for block in row])


def _first(
    signature: Signature, state: RandomState, watch: Watch | None, *, create_graph: bool
) -> tuple[Signature, Tape]:
    """Record a function, again if it reads memory around its inputs that their copies lack."""
    try:
        tape = record(signature, create_graph=create_graph, watch=watch)
    except RuntimeError as error:
        if not misses_memory(error) or not any(map(is_part, signature.leaves)):
            raise
        state.restore()
        placed = _placed(signature)
        return placed, record(placed, create_graph=create_graph, watch=watch)
    if not reads_memory(tape.survey().node_names) or not any(map(is_part, signature.leaves)):
        return signature, tape
    placed = _placed(signature)
    with state.replayed():
        return placed, record(placed._replace(call=placed.recall), create_graph=create_graph)


def _placed(signature: Signature) -> Signature:
    call, recall = (in_place(f, signature.leaves) for f in (signature.call, signature.recall))
    return signature._replace(call=call, recall=recall)


def look_for_zeros(api: str, outputs: Outputs, blocks: Blocks) -> None:
    """Warn of outputs that no path leads to."""
    for i, (output, row) in enumerate(zip(outputs.tensors, blocks, strict=True)):
        if all([block is None for block in row]) and output.numel():
            warn(
                f"{api}: output {i} of `func` carries no derivative: it does not depend on the "
                "inputs, was detached, or was computed under no_grad. Its block of the Jacobian "
                "is zero. strict=True makes this an error; return constants as aux.",
                IndependenceWarning,
            )


def try_at_once(tape: Linearized, *, create_graph: bool) -> Blocks | None:
    """Rows of a small problem, or None where somebody wants to know or PyTorch cannot batch."""
    if is_listened_to():
        return None
    try:
        with BatchingRulesOnly():
            return reverse_at_once(tape, create_graph=create_graph)
    except Exception:  # the ladder tries again, and says what PyTorch said
        return None


def compute(work: Work, choice: Choice) -> Blocks:
    """Climb down the ladder; forward mode must face a witness.

    PyTorch has forward rules that are wrong, ops that forward mode takes as constant without a
    word, and users have functions that differ from call to call.

    Args:
        work: The function, evaluated.
        choice: The mode to begin with.

    Returns:
        The blocks.

    Raises:
        ChangedFunctionError: Forward mode was asked for, and the function is another at each call.
    """
    if choice.mode == "reverse-mode" or work.signature.holomorphic:
        return _rows(work, choice)
    witness = _witness(work.tape)
    try:
        blocks = climb(work, choice)
    except ChangedFunctionError:
        if work.options.strategy == "forward-mode" and not work.is_reproducible():
            raise
        return climb(work, Choice("reverse-mode", "the function changes from call to call"))
    if witness is None or witness.agrees(blocks):
        return blocks
    warn_of_disagreement(work)
    return climb(work, Choice("reverse-mode", "forward mode gives another answer"))


def _rows(work: Work, choice: Choice) -> Blocks:
    """Rows, with a witness if a user wrote a backward pass: in a batch it may be another one."""
    if work.signature.holomorphic or not work.tape.survey().has_custom_functions:
        return climb(work, choice)
    witness = testify(work.tape)
    blocks = climb(work, choice)
    return blocks if witness.agrees(blocks) else unless_wrong_in_a_batch(work, witness, blocks)


def unless_wrong_in_a_batch(work: Work, witness: Witness, blocks: Blocks) -> Blocks:
    """The blocks, or those of single passes if these are what the witness meant.

    If they are not either, it was rounding, or a backward pass that is not linear.

    Args:
        work: The function, evaluated.
        witness: A single product that the blocks contradict.
        blocks: Made by batched passes.

    Returns:
        The blocks to believe.
    """
    if work.options.vectorize is not None:
        return blocks
    work.options = work.options._replace(vectorize=False)
    single = climb(work, Choice("reverse-mode", "batched passes give another answer"))
    if not witness.agrees(single, work.batch):
        return blocks
    if not work.options.quiet:
        warn(
            f"{work.signature.api}: batched backward passes disagree with single ones for this "
            "function, as with an autograd.Function whose backward looks at the shape of its "
            "gradient. The answer is that of single passes.",
            DisagreementWarning,
        )
    return single


def _witness(tape: Tape) -> Witness | None:
    """A witness, or None where an op has no backward rule and forward mode is all there is."""
    try:
        return testify(tape)
    except RuntimeError:
        return None


def warn_of_disagreement(work: Work) -> None:
    """Say that forward mode was given up for reverse mode."""
    if not work.options.quiet:
        warn(
            f"{work.signature.api}: forward and reverse mode disagree for this function, as with "
            "an autograd.Function whose `jvp` and `backward` do not belong together. The answer "
            "is that of reverse mode; `torchjac.check` shows the numbers.",
            DisagreementWarning,
        )


def climb(work: Work, choice: Choice) -> Blocks:
    """Climb down the ladder and report.

    Args:
        work: The function, evaluated.
        choice: The mode to begin with.

    Returns:
        The blocks.
    """
    rung, blocks, refusals = climb_down(work.rungs(choice.mode))
    if refusals and not work.options.quiet:
        warn(explain_refusals(work.signature.api, rung, refusals), FallbackWarning)
    if is_listened_to():
        seeds = work.seeds(rows=rung.mode == "reverse-mode")
        told = evaluation(work.signature.api, rung, choice.why, seeds, work.chunks)
        publish(told, refusals)
    if choice.mode == "forward-mode" and work.options.strategy == "auto":
        # What a block is, dtype and device, must not depend on the mode that was chosen here.
        leaves = work.signature.leaves
        return [
            [b if b is None else b.to(x) for b, x in zip(row, leaves, strict=True)]
            for row in blocks
        ]
    return blocks


def explain_refusals(api: str, rung: Rung[Any], refusals: Sequence[Refusal]) -> str:
    """What a `FallbackWarning` says."""
    reasons = "; ".join(f"{refusal.method}: {refusal.reason}" for refusal in refusals)
    return f"{api}: computed by {rung.name}, since PyTorch cannot take a faster way ({reasons})."


def evaluation(api: str, rung: Rung[Any], why: str, seeds: int, chunks: Chunks) -> Evaluation:
    """What is told of a Jacobian that was computed."""
    return Evaluation(
        api=api,
        mode=rung.mode,
        method=rung.method,
        why=why,
        seeds=seeds,
        passes=chunks.passes,
        chunk_size=chunks.largest,
        seed_bytes=chunks.seed_bytes,
        result_bytes=chunks.result_bytes,
    )


def filled(
    blocks: Blocks, outputs: Outputs, leaves: Sequence[Tensor], batch: BatchDims | None = None
) -> list[list[Tensor]]:
    """Blocks with zeros where there is no path."""
    return [
        [
            x.new_zeros(block_shape(output, x, batch)) if block is None else block
            for block, x in zip(row, leaves, strict=True)
        ]
        for row, output in zip(blocks, outputs.tensors, strict=True)
    ]
