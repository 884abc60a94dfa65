"""Jacobians of tensors that are computed already, through the graph that they carry."""

from torch import Tensor

from torchjac._evaluate.blocks import Blocks
from torchjac._evaluate.differentiate import evaluation, explain_refusals, filled, try_at_once
from torchjac._evaluate.ladder import LOOP, batchings, climb_down
from torchjac._evaluate.memory import Budget, bound_of_seed, is_negligible, result_bytes
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import is_listened_to, publish
from torchjac._evaluate.reverse import reverse
from torchjac._evaluate.strict import check_dependence
from torchjac._evaluate.sweep import Chunks
from torchjac._evaluate.tape import Linearized, outside_inference_mode
from torchjac._evaluate.witness import testify
from torchjac._inputs.warn import warn
from torchjac.errors import ArgumentError, FallbackWarning, IndependenceWarning


@outside_inference_mode
def differentiate_existing(api: str, tape: Linearized, options: Options) -> list[list[Tensor]]:
    """Blocks of the Jacobian of the outputs of a tape.

    Rows, always: there is no function to call, so that forward mode is out of reach.

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
        if tape.inputs[j].numel() and not options.quiet and all(row[j] is None for row in blocks):
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
    seeds = sum([output.numel() for output in outputs])
    size = result_bytes(outputs, leaves)
    bound = bound_of_seed(tape.survey().gradient_bytes, outputs, leaves)
    small = options.memory is None and is_negligible(seeds, bound, size)
    custom = tape.survey().has_custom_functions
    if small and options.is_plain and not custom:
        blocks = try_at_once(tape, create_graph=options.create_graph)
        if blocks is not None:
            return blocks
    accounts: list[Chunks] = []

    def compute(stacked: bool) -> Blocks:
        budget = Budget(api, options.memory, options.chunk_size if stacked else 1)
        accounts.append(Chunks(budget, size, small, leaves[0].device, progress))
        return reverse(tape, accounts[-1], stacked=stacked, create_graph=options.create_graph)

    witness = testify(tape) if custom else None
    with Progress(shown=options.progress, label=api) as progress:
        used, blocks, refusals = climb_down(batchings("reverse-mode", options.stackings, compute))
    if refusals and not options.quiet:
        warn(explain_refusals(api, used, refusals), FallbackWarning)
    if is_listened_to():
        publish(
            evaluation(api, used, "there is no function to call", seeds, accounts[-1]), refusals
        )
    if witness is not None and used.method != LOOP and not witness.agrees(blocks):
        single = compute(False)  # a user's backward pass may be another one in a batch
        return single if witness.agrees(single) else blocks
    return blocks
