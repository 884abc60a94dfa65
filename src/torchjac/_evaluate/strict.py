"""`strict=True`: refuse outputs that do not depend on inputs."""

import torch

from torchjac._evaluate.tape import Tape
from torchjac.errors import StrictError


def check_outputs(tape: Tape) -> None:
    """Refuse outputs without a graph.

    Raises:
        StrictError: An output does not require gradients.
    """
    for i, output in enumerate(tape.outputs.tensors):
        if not output.requires_grad:
            raise StrictError(
                f"Output {i} of the user-provided function does not require gradients."
                " The outputs must be computed in a differentiable manner from the input"
                " when running in strict mode."
            )


def check_dependence(tape: Tape, *, create_graph: bool) -> None:
    """Refuse pairs of an output and an input between which there is no path.

    One backward pass per output tells: all elements of an output share its graph.

    Raises:
        StrictError: There is no path, or its derivative is constant and `create_graph` is set.
    """
    for i, output in enumerate(tape.outputs.tensors):
        if not output.numel():
            continue
        rows = tape.pull(
            [i], [torch.zeros_like(output)], stacked=False, create_graph=create_graph, last=False
        )
        for j, row in enumerate(rows):
            if row is None:
                raise StrictError(
                    f"Output {i} of the user-provided function is independent of input {j}. "
                    "This is not allowed in strict mode."
                )
            if create_graph and not row.requires_grad:
                raise StrictError(
                    f"The jacobian of the user-provided function is independent of input {i}. "
                    "This is not allowed in strict mode when create_graph=True."
                )
