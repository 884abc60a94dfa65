"""The gradient of a scalar function, as a function: what a Hessian is the Jacobian of."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.strict import fill_missing, require_grad
from torchjac._inputs.signature import Outputs, Signature
from torchjac._inputs.storage import copies_in_place
from torchjac._torch import inside_transform, pytree
from torchjac.errors import ShapeError


def gradient_signature(signature: Signature, *, strict: bool) -> Signature:
    """The function x -> grad f(x), with the aux of f.

    Args:
        signature: A function that returns one element.
        strict: Refuse inputs that the function or its gradient does not depend on.

    Returns:
        The signature of its gradient: one output per input, differentiable.
    """
    count = len(signature.leaves)

    def gradient(outputs: Outputs, values: Sequence[Tensor]) -> Any:
        leaves = values[:count]
        value = scalar(signature.api, outputs)
        if strict:
            require_grad([value], "outputs")
        if not value.requires_grad:
            return tuple(map(torch.zeros_like, leaves)), outputs.aux
        grads: Sequence[Tensor | None] = torch.autograd.grad(
            value, leaves, create_graph=True, allow_unused=True
        )
        if strict:
            require_grad(grads, "jacobian")
        return tuple(
            fill_missing(grads, leaves, "back", strict=False, create_graph=True)
        ), outputs.aux

    def call(values: Sequence[Tensor]) -> Any:
        if inside_transform():
            return _gradient_in_transform(signature, values)
        return gradient(signature.evaluate(copies_in_place(values)), values)

    def recall(values: Sequence[Tensor]) -> Any:
        if inside_transform():
            return _gradient_in_transform(signature, values)
        return gradient(signature.replay(copies_in_place(values)), values)

    return signature._replace(call=call, recall=recall, has_aux=True)


def scalar_signature(signature: Signature) -> Signature:
    """The same function, refused as soon as it returns more than one element."""

    def checked(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(leaves: Sequence[Tensor]) -> Any:
            result = function(leaves)
            scalar(signature.api, signature.read(result))
            return result

        return wrapped

    return signature._replace(call=checked(signature.call), recall=checked(signature.recall))


def scalar(api: str, outputs: Outputs) -> Tensor:
    """The one element of the output.

    Args:
        api: Name of the public function, for messages.
        outputs: What the function returned.

    Returns:
        The element, without axes.

    Raises:
        ShapeError: There are more elements, or more tensors.
    """
    if len(outputs.tensors) != 1 or outputs.tensors[0].numel() != 1:
        shapes = [tuple(t.shape) for t in outputs.tensors]
        raise ShapeError(
            f"{api}: `func` must return one tensor with one element, got shapes {shapes}. "
            "Reduce it, with .sum() say, or use `torchjac.jacobian`."
        )
    return outputs.tensors[0].squeeze()


def _gradient_in_transform(signature: Signature, values: Sequence[Tensor]) -> Any:
    held: list[Any] = []

    def value(*inner: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = signature.replay(copies_in_place(inner))
        flat, spec = pytree.tree_flatten(outputs.aux)
        held[:] = [flat, spec]
        return scalar(signature.api, outputs), [t for t in flat if isinstance(t, Tensor)]

    numbers = tuple(range(len(signature.leaves)))
    gradient, tensors = torch.func.grad(value, numbers, has_aux=True)(*values)
    flat, spec = held
    given = iter(tensors)  # as the transform hands them out, in place of those inside of it
    flat = [next(given) if isinstance(t, Tensor) else t for t in flat]
    return gradient, pytree.tree_unflatten(flat, spec)
