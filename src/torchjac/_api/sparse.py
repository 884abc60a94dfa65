"""Sparse results in one shot: detect, color, evaluate, and keep nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torchjac._evaluate.options import Options
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._inputs.checks import Layout
from torchjac._inputs.signature import Outputs, Signature, Wrt
from torchjac._planner.call import Call
from torchjac._planner.prepare import Given, prepare
from torchjac._planner.probe import REVERSE
from torchjac._planner.result import rebuild
from torchjac._planner.structure import Request
from torchjac._torch import inside_transform
from torchjac.errors import LayoutError


class SparseSolution(NamedTuple):
    """The value of a function, or its gradient, and the sparse result in the tree of the user."""

    outputs: Outputs
    result: Any


@outside_inference_mode
def differentiate_sparsely(
    func: Callable[..., Any],
    signature: Signature,
    options: Options,
    layout: Layout,
    *,
    wrt: Wrt,
    gradient: Signature | None = None,
) -> SparseSolution:
    """A Jacobian or Hessian in a sparse layout.

    Args:
        func: The user's function.
        signature: The function and where to differentiate it.
        options: How.
        layout: Layout of the result.
        wrt: What is differentiated.
        gradient: The gradient of the function, whose Jacobian is the Hessian.

    Returns:
        The value and the result.

    Raises:
        LayoutError: Inside a transform of torch.func, or for a holomorphic function.
    """
    refuse_transforms(signature.api)
    if signature.holomorphic:
        raise LayoutError(
            f"{signature.api}: layout={layout!r} is for real functions: use layout=torch.strided "
            "with holomorphic=True, or differentiate the real pair."
        )
    if options.create_graph:  # forward rules of PyTorch have wrong derivatives
        options = options._replace(strategy=REVERSE)
    order = 1 if gradient is None else 2
    request = Request(
        signature.api,
        order,
        layout,
        strategy=options.strategy,
        chunk_size=options.chunk_size,
        memory=options.memory,
        vectorize=options.vectorize,
    )
    buffers = Call(func, wrt, signature.has_aux, order).buffers()
    made = prepare(gradient or signature, request, options, Given(), buffers)
    values = made.entries.values
    if not options.create_graph:
        values = values.detach()
    outputs = made.passes.evaluate(keep_graph=True)
    return SparseSolution(outputs, rebuild(made.structure, signature, request, values))


def refuse_transforms(api: str) -> None:
    """Refuse to look for structure inside a transform, where there are no numbers."""
    if inside_transform():
        raise LayoutError(
            f"{api}: sparse results cannot be computed inside vmap, grad, vjp or jvp of "
            "torch.func. Use layout=torch.strided there, or `torchjac.func`."
        )
