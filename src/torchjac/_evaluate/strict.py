"""`strict=True`: refuse derivatives that are missing or constant, in PyTorch's words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._evaluate.tape import Linearized
from torchjac.errors import StrictError

# Of a derivative that is missing, by the pass that it is missing from.
MISSING = {
    "back": "The output of the user-provided function is independent of input {i}."
    " This is not allowed in strict mode.",
    "back_trick": "The gradient with respect to the input is independent of entry {i}"
    " in the grad_outputs when using the double backward trick to compute"
    " forward mode gradients. This is not allowed in strict mode.",
    "double_back": "The jacobian of the user-provided function is independent of input {i}."
    " This is not allowed in strict mode.",
    "double_back_trick": "The hessian of the user-provided function is independent of entry {i}"
    " in the grad_jacobian. This is not allowed in strict mode as it prevents from using the"
    " double backward trick to replace forward mode AD.",
}
# Of a derivative that does not depend on the input itself.
CONSTANT = (
    "The {what} of the user-provided function is independent of input {i}."
    " This is not allowed in strict mode when create_graph=True."
)
# Of a tensor without a graph, by what it is.
NO_GRADIENT = {
    "outputs": "Output {i} of the user-provided function does not require gradients."
    " The outputs must be computed in a differentiable manner from the input"
    " when running in strict mode.",
    "grad_inputs": "The gradient with respect to input {i} is independent of the inputs of the"
    " user-provided function. This is not allowed in strict mode.",
    "jacobian": "While computing the hessian, found that the jacobian of the user-provided"
    " function with respect to input {i} is independent of the input. This is not"
    " allowed in strict mode. You should ensure that your function is twice"
    " differentiable and that the jacobian depends on the inputs (this would be"
    " violated by a linear function for example).",
}


def require_grad(tensors: Sequence[Tensor | None], kind: str) -> None:
    """Refuse a tensor without a graph.

    Args:
        tensors: Outputs or gradients; None is a gradient that does not exist.
        kind: "outputs", "grad_inputs" or "jacobian".

    Raises:
        StrictError: One has none.
    """
    for i, tensor in enumerate(tensors):
        if tensor is None:
            raise StrictError(MISSING["back"].format(i=i))
        if not tensor.requires_grad:
            raise StrictError(NO_GRADIENT[kind].format(i=i))


def fill_missing(
    grads: Sequence[Tensor | None],
    like: Sequence[Tensor],
    stage: str,
    *,
    strict: bool,
    create_graph: bool,
) -> list[Tensor]:
    """Zeros for derivatives that are missing, or with `strict` an error.

    Args:
        grads: Derivatives.
        like: Tensors of their shapes.
        stage: The pass they come from, a key of `MISSING`.
        strict: Refuse instead.
        create_graph: Then also refuse derivatives that are constant.

    Returns:
        All derivatives.

    Raises:
        StrictError: One is missing or constant.
    """
    filled: list[Tensor] = []
    for i, (grad, other) in enumerate(zip(grads, like, strict=True)):
        if grad is None and strict:
            raise StrictError(MISSING[stage].format(i=i))
        if grad is not None and strict and create_graph and not grad.requires_grad:
            what = "hessian" if stage.startswith("double") else "jacobian"
            raise StrictError(CONSTANT.format(what=what, i=i))
        filled.append(torch.zeros_like(other) if grad is None else grad)
    return filled


def check_dependence(tape: Linearized, *, create_graph: bool) -> None:
    """Refuse outputs without a graph, and pairs of output and input without a path.

    One backward pass per output tells: all elements of an output share its graph.

    Args:
        tape: The recorded function.
        create_graph: Then also refuse derivatives that are constant.

    Raises:
        StrictError: There is no path, or its derivative is constant.
    """
    require_grad(tape.outputs.tensors, "outputs")
    for i, output in enumerate(tape.outputs.tensors):
        if not output.numel():
            continue
        seed = torch.zeros_like(output)
        rows = tape.pull([i], [seed], stacked=False, create_graph=create_graph)
        for j, row in enumerate(rows):
            if row is None:
                raise StrictError(
                    f"Output {i} of the user-provided function is independent of input {j}. "
                    "This is not allowed in strict mode."
                )
            if create_graph and not row.requires_grad:
                raise StrictError(CONSTANT.format(what="jacobian", i=i))
