"""Drop-in for `torch.autograd.functional`: the same six functions.

Signatures, defaults, return structure, error types and messages are those of PyTorch 2.13, so
that changing one import line changes nothing but speed and memory. Where PyTorch loops over rows
here they are batched, in chunks that fit the memory, and fall back to a loop where an op cannot
be batched. Two things differ because PyTorch's answer would be wrong: under `inference_mode` the
derivative is computed (PyTorch returns zeros), and an empty output has an empty Jacobian (PyTorch
fails).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.existing import differentiate_existing
from torchjac._evaluate.options import Options
from torchjac._evaluate.outright import forward_outright
from torchjac._evaluate.randomness import random_state
from torchjac._evaluate.seeds import joint_basis
from torchjac._evaluate.tape import Linearized, Tape, grad_recorded, leaf_of, record_in_transform
from torchjac._inputs.signature import Outputs
from torchjac._torch import fast_backward, inside_transform

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

MODES = ("forward-mode", "reverse-mode")
OUTPUTS = "outputs of the user-provided function"

Tensors = Tensor | tuple[Tensor, ...]
Grads = Sequence[Tensor | None]

# What `strict=True` says of a derivative that is missing, and of one that is constant.
_MISSING = {
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
_CONSTANT = (
    "The {what} of the user-provided function is independent of input {i}."
    " This is not allowed in strict mode when create_graph=True."
)
_NO_GRADIENT = {
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


def vjp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Vector-Jacobian product v^T J at a point.

    Args:
        func: Takes Tensors and returns a Tensor or a tuple of Tensors.
        inputs: Arguments of `func`.
        v: Shapes of the outputs; may be left out for a single output of one element.
        create_graph: Make both results differentiable.
        strict: Raise an error where an output does not depend on an input, instead of zeros.

    Returns:
        A pair: the outputs of `func`, and v^T J with the shapes of the inputs.

    Raises:
        TypeError: Something is not a Tensor or a tuple of Tensors.
        RuntimeError: `v` does not fit, or `strict=True` finds an independence.

    >>> vjp(lambda x: x.exp().sum(dim=1), torch.zeros(2, 2), torch.ones(2))[1]
    tensor([[1., 1.],
            [1., 1.]])
    """
    with grad_recorded():
        is_inputs_tuple, leaves, is_outputs_tuple, outputs = _evaluate(
            "vjp", func, inputs, create_graph, strict
        )
        cotangents = _vector(
            "vjp", v, outputs, is_outputs_tuple, create_graph,
            "user-provided function returns a single Tensor with a single element.",
        )
        grads = _grad(outputs, leaves, cotangents, create_graph)
        products = _filled(grads, leaves, strict, create_graph, "back")
    return (
        _restore(_finish(outputs, create_graph), is_outputs_tuple),
        _restore(_finish(products, create_graph), is_inputs_tuple),
    )


def jvp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Jacobian-vector product J v at a point, by the double-backward trick.

    Args:
        func: Takes Tensors and returns a Tensor or a tuple of Tensors.
        inputs: Arguments of `func`.
        v: Shapes of the inputs; may be left out for a single input of one element.
        create_graph: Make both results differentiable.
        strict: Raise an error where an output does not depend on an input, instead of zeros.

    Returns:
        A pair: the outputs of `func`, and J v with the shapes of the outputs.

    Raises:
        TypeError: Something is not a Tensor or a tuple of Tensors.
        RuntimeError: `v` does not fit, or `strict=True` finds an independence.

    >>> jvp(lambda x: x.exp().sum(dim=1), torch.zeros(2, 2), torch.ones(2, 2))[1]
    tensor([2., 2.])
    """
    with grad_recorded():
        is_inputs_tuple, leaves = _prepare("jvp", inputs, create_graph)
        tangents = _vector(
            "jvp", v, leaves, is_inputs_tuple, create_graph,
            "input to the user-provided function is a single Tensor with a single element.",
        )
        is_outputs_tuple, outputs = _call("jvp", func, leaves, strict)
        cotangents = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = _grad(outputs, leaves, cotangents, create_graph=True)
        _require_grad(pulled, "grad_inputs", strict)
        grads = _grad(pulled, cotangents, tangents, create_graph)
        products = _filled(grads, outputs, strict, create_graph, "back_trick")
    return (
        _restore(_finish(outputs, create_graph), is_outputs_tuple),
        _restore(_finish(products, create_graph), is_outputs_tuple),
    )


def vhp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Vector-Hessian product v^T H of a scalar function at a point.

    Args:
        func: Takes Tensors and returns a Tensor with one element.
        inputs: Arguments of `func`.
        v: Shapes of the inputs; may be left out for a single input of one element.
        create_graph: Make both results differentiable.
        strict: Raise an error where a derivative does not depend on an input, instead of zeros.

    Returns:
        A pair: the output of `func`, and v^T H with the shapes of the inputs.

    Raises:
        TypeError: Something is not a Tensor or a tuple of Tensors.
        RuntimeError: `v` or the output does not fit, or `strict=True` finds an independence.

    >>> vhp(lambda x: x.pow(3).sum(), torch.ones(2), torch.tensor([1.0, 0.0]))[1]
    tensor([6., 0.])
    """
    with grad_recorded():
        is_tuple, leaves, output, tangents, jac = _gradient(
            "vhp", func, inputs, v, create_graph, strict
        )
        grads = _grad(jac, leaves, tangents, create_graph)
        products = _filled(grads, leaves, strict, create_graph, "double_back")
    return (
        _finish([output], create_graph)[0],
        _restore(_finish(products, create_graph), is_tuple),
    )


def hvp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Hessian-vector product H v of a scalar function at a point, by the double-backward trick.

    `vhp` needs one backward pass less, and is the same where the Hessian is symmetric.

    Args:
        func: Takes Tensors and returns a Tensor with one element.
        inputs: Arguments of `func`.
        v: Shapes of the inputs; may be left out for a single input of one element.
        create_graph: Make both results differentiable.
        strict: Raise an error where a derivative does not depend on an input, instead of zeros.

    Returns:
        A pair: the output of `func`, and H v with the shapes of the inputs.

    Raises:
        TypeError: Something is not a Tensor or a tuple of Tensors.
        RuntimeError: `v` or the output does not fit, or `strict=True` finds an independence.

    >>> hvp(lambda x: x.pow(3).sum(), torch.ones(2), torch.tensor([1.0, 0.0]))[1]
    tensor([6., 0.])
    """
    with grad_recorded():
        is_tuple, leaves, output, tangents, jac = _gradient(
            "hvp", func, inputs, v, create_graph, strict
        )
        cotangents = [torch.zeros_like(leaf, requires_grad=True) for leaf in leaves]
        double_back = _grad(jac, leaves, cotangents, create_graph=True)
        grads = _grad(double_back, cotangents, tangents, create_graph)
        products = _filled(grads, leaves, strict, create_graph, "double_back_trick")
    return (
        _finish([output], create_graph)[0],
        _restore(_finish(products, create_graph), is_tuple),
    )


def jacobian(
    func: Callable[..., Any],
    inputs: Tensors,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """Jacobian of a function at a point.

    J[i][j] = d func(inputs)[i] / d inputs[j]

    Args:
        func: Takes Tensors and returns a Tensor or a tuple of Tensors.
        inputs: Arguments of `func`.
        create_graph: Make the result differentiable.
        strict: Raise an error where an output does not depend on an input, instead of zeros.
        vectorize: Only checked for the combinations that PyTorch refuses: passes are batched
            either way.
        strategy: "reverse-mode" or "forward-mode".

    Returns:
        A Tensor of shape (*output, *input), with tuples a tuple over outputs of tuples over
        inputs.

    Raises:
        TypeError: Something is not a Tensor or a tuple of Tensors.
        RuntimeError: `strict=True` finds an independence.
        NotImplementedError: A combination that PyTorch does not support.
        AssertionError: `strategy` is neither mode.

    >>> jacobian(lambda x: x.exp().sum(dim=1), torch.zeros(2, 2))
    tensor([[[1., 1.],
             [0., 0.]],
    <BLANKLINE>
            [[0., 0.],
             [1., 1.]]])
    """
    if strategy not in MODES:
        raise AssertionError(
            'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your '
            'function has more outputs than inputs, "forward-mode" tends to be more performant. '
            'Otherwise, prefer to use "reverse-mode".'
        )
    if strategy == "forward-mode":
        _check_forward(create_graph, strict, vectorize)
        return _jacobian_forward(func, inputs)
    is_inputs_tuple, given = _as_tuple(inputs, "inputs", "jacobian")
    with grad_recorded():
        is_outputs_tuple, tape = _record(func, given, create_graph, strict)
        if vectorize and strict:
            raise RuntimeError(
                "torch.autograd.functional.jacobian: `strict=True` "
                "and `vectorized=True` are not supported together. "
                "Please either set `strict=False` or "
                "`vectorize=False`."
            )
        options = Options(create_graph=create_graph, strict=strict, quiet=True)
        blocks = differentiate_existing("functional.jacobian", tape, options)
    return _restore([_restore(row, is_inputs_tuple) for row in blocks], is_outputs_tuple)


def hessian(
    func: Callable[..., Any],
    inputs: Tensors,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Hessian of a scalar function at a point: the Jacobian of its gradient.

    H[i][j] = d^2 func(inputs) / (d inputs[i] d inputs[j])

    Args:
        func: Takes Tensors and returns a Tensor with one element.
        inputs: Arguments of `func`.
        create_graph: Make the result differentiable.
        strict: Raise an error where a derivative does not depend on an input, instead of zeros.
        vectorize: As in `jacobian`.
        outer_jacobian_strategy: "reverse-mode" or "forward-mode", for the outer Jacobian.

    Returns:
        A Tensor of shape (*input, *input), with tuples a tuple of tuples over inputs.

    Raises:
        TypeError: Something is not a Tensor or a tuple of Tensors.
        RuntimeError: The output is no single element, or `strict=True` finds an independence.
        NotImplementedError: A combination that PyTorch does not support.
        AssertionError: `outer_jacobian_strategy` is neither mode.

    >>> hessian(lambda x: x.pow(3).sum(), torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    is_tuple, given = _as_tuple(inputs, "inputs", "hessian")
    if outer_jacobian_strategy not in MODES:
        raise AssertionError(
            'Expected strategy to be either "forward-mode" or "reverse-mode".'
        )

    def scalar(*leaves: Tensor) -> Tensor:
        return _scalar_output("hessian", func, leaves, strict).squeeze()

    def gradient(*leaves: Tensor) -> tuple[Tensor, ...]:
        jac = jacobian(scalar, leaves, create_graph=True)
        _require_grad(jac, "jacobian", strict)
        return jac

    blocks = jacobian(gradient, given, create_graph, strict, vectorize, outer_jacobian_strategy)
    return _restore([_restore(row, is_tuple) for row in blocks], is_tuple)


def _check_forward(create_graph: bool, strict: bool, vectorize: bool) -> None:
    if create_graph:
        raise NotImplementedError(
            "torch.autograd.functional.jacobian: `create_graph=True` "
            'and `strategy="forward-mode"` are not supported together (yet). '
            "Please either set `create_graph=False` or "
            '`strategy="reverse-mode"`.'
        )
    if strict:
        raise RuntimeError(
            "torch.autograd.functional.jacobian: `strict=True` "
            'and `strategy="forward-mode"` are not supported together (yet). '
            "Please either set `strict=False` or "
            '`strategy="reverse-mode"`.'
        )
    if not vectorize:
        raise NotImplementedError(
            "Computing Jacobian using forward-AD or forward-over-reverse Hessian is"
            "only implemented for `vectorize=True`."
        )


def _jacobian_forward(func: Callable[..., Any], inputs: Tensors) -> Any:
    is_inputs_tuple, given = _as_tuple(inputs, "inputs", "jacobian")
    state = random_state(given)
    plain = [leaf_of(x, create_graph=True) if x.requires_grad else x.detach() for x in given]
    is_outputs_tuple, outputs = _as_tuple(func(*[x.clone() for x in plain]), OUTPUTS, "jacobian")

    def evaluate(copies: list[Tensor]) -> tuple[Tensor, ...]:
        return _as_tuple(func(*copies), OUTPUTS, "jacobian")[1]

    def by_reverse_mode() -> Sequence[Sequence[Tensor]]:
        with grad_recorded():
            _, tape = _record(func, given, create_graph=True, strict=False)
            options = Options(create_graph=True, quiet=True)
            return differentiate_existing("functional.jacobian", tape, options)

    blocks = forward_outright(
        "functional.jacobian", evaluate, plain, outputs, state, by_reverse_mode
    )
    return _restore([_restore(row, is_inputs_tuple) for row in blocks], is_outputs_tuple)


def _record(
    func: Callable[..., Any], inputs: tuple[Tensor, ...], create_graph: bool, strict: bool
) -> tuple[bool, Linearized]:
    """Evaluate the function once, and whether it returned a tuple."""
    if not inside_transform():
        leaves = tuple([leaf_of(x, create_graph) for x in inputs])
        is_tuple, outputs = _call("jacobian", func, leaves, strict)
        return is_tuple, Tape(leaves, Outputs(outputs, None, None))
    kinds: list[bool] = []

    def evaluate(copies: list[Tensor]) -> Outputs:
        is_tuple, outputs = _as_tuple(func(*copies), OUTPUTS, "jacobian")
        kinds.append(is_tuple)
        return Outputs(outputs, None, None)

    tape = record_in_transform(evaluate, inputs)
    return kinds[-1], tape


def _prepare(
    api: str, inputs: Tensors, create_graph: bool
) -> tuple[bool, tuple[Tensor, ...]]:
    """The inputs as new tensors that require gradients, and whether they were a tuple."""
    is_tuple, given = _as_tuple(inputs, "inputs", api)
    return is_tuple, tuple([leaf_of(x, create_graph) for x in given])


def _call(
    api: str, func: Callable[..., Any], leaves: Sequence[Tensor], strict: bool
) -> tuple[bool, tuple[Tensor, ...]]:
    is_tuple, outputs = _as_tuple(func(*leaves), OUTPUTS, api)
    _require_grad(outputs, "outputs", strict)
    return is_tuple, outputs


def _evaluate(
    api: str, func: Callable[..., Any], inputs: Tensors, create_graph: bool, strict: bool
) -> tuple[bool, tuple[Tensor, ...], bool, tuple[Tensor, ...]]:
    is_inputs_tuple, leaves = _prepare(api, inputs, create_graph)
    return is_inputs_tuple, leaves, *_call(api, func, leaves, strict)


def _scalar_output(
    api: str, func: Callable[..., Any], leaves: Sequence[Tensor], strict: bool
) -> Tensor:
    is_tuple, outputs = _call(api, func, leaves, strict)
    if is_tuple:
        raise RuntimeError(f"The function given to {api} should return a single Tensor")
    if outputs[0].nelement() != 1:
        raise RuntimeError(
            f"The Tensor returned by the function given to {api} should contain a single element"
        )
    return outputs[0]


def _gradient(
    api: str,
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None,
    create_graph: bool,
    strict: bool,
) -> tuple[bool, tuple[Tensor, ...], Tensor, Sequence[Tensor] | None, Grads]:
    """What `vhp` and `hvp` share: the function's value and its differentiable gradient."""
    is_tuple, leaves = _prepare(api, inputs, create_graph)
    tangents = _vector(
        api, v, leaves, is_tuple, create_graph,
        "input to the user-provided function is a single Tensor with a single element.",
    )
    output = _scalar_output(api, func, leaves, strict)
    jac = _grad([output], leaves, None, create_graph=True)
    _require_grad(jac, "jacobian", strict)
    return is_tuple, leaves, output, tangents, jac


def _vector(
    api: str,
    v: Tensors | None,
    others: Sequence[Tensor],
    is_tuple: bool,
    create_graph: bool,
    needed: str,
) -> Sequence[Tensor] | None:
    """The vector of a product, checked against the tensors that it goes with."""
    if v is None:
        if len(others) != 1 or others[0].nelement() != 1:
            raise RuntimeError(f"The vector v can only be None if the {needed}")
        return None
    _, given = _as_tuple(v, "v", api)
    if len(given) != len(others):
        if is_tuple:
            raise RuntimeError(
                f"v is a tuple of invalid length: should be {len(others)} but got {len(given)}."
            )
        raise RuntimeError("The given v should contain a single Tensor.")
    for i, (ours, other) in enumerate(zip(given, others, strict=True)):
        if ours.size() != other.size():
            entry = f"Entry {i} in " if is_tuple else ""
            raise RuntimeError(
                f"{entry}v has invalid size: should be {other.size()} but got {ours.size()}."
            )
    return [x.view_as(x) if create_graph and x.requires_grad else x.detach() for x in given]


def _grad(
    outputs: Grads, inputs: Sequence[Tensor], vectors: Sequence[Tensor] | None, create_graph: bool
) -> Grads:
    """`torch.autograd.grad` that leaves out outputs which have no graph."""
    live = [k for k, y in enumerate(outputs) if y is not None and y.requires_grad]
    if not live:
        return [None] * len(inputs)
    return torch.autograd.grad(
        [y for y in outputs if y is not None and y.requires_grad],
        inputs,
        None if vectors is None else [vectors[k] for k in live],
        allow_unused=True,
        create_graph=create_graph,
    )


def _require_grad(tensors: Grads, kind: str, strict: bool) -> None:
    """`strict=True`: refuse a tensor without a graph."""
    if not strict:
        return
    for i, tensor in enumerate(tensors):
        if tensor is None:
            raise RuntimeError(_MISSING["back"].format(i=i))
        if not tensor.requires_grad:
            raise RuntimeError(_NO_GRADIENT[kind].format(i=i))


def _filled(
    grads: Grads, like: Sequence[Tensor], strict: bool, create_graph: bool, stage: str
) -> list[Tensor]:
    """Zeros for derivatives that are missing, or with `strict` an error."""
    filled: list[Tensor] = []
    for i, (grad, other) in enumerate(zip(grads, like, strict=True)):
        if grad is None and strict:
            raise RuntimeError(_MISSING[stage].format(i=i))
        if grad is not None and strict and create_graph and not grad.requires_grad:
            what = "hessian" if stage.startswith("double") else "jacobian"
            raise RuntimeError(_CONSTANT.format(what=what, i=i))
        filled.append(torch.zeros_like(other) if grad is None else grad)
    return filled


def _as_tuple(value: Any, name: str, api: str) -> tuple[bool, tuple[Tensor, ...]]:
    """Whether `value` is a tuple, and the tuple."""
    is_tuple = isinstance(value, tuple)
    tensors = value if is_tuple else (value,)
    for i, element in enumerate(tensors):
        if not isinstance(element, Tensor):
            at = f"value at index {i}" if is_tuple else f"given {name}"
            raise TypeError(
                f"The {name} given to {api} must be either a Tensor or a tuple of Tensors but the"
                f" {at} has type {type(element)}."
            )
    return is_tuple, tensors


def _restore(values: Sequence[Any], is_tuple: bool) -> Any:
    return tuple(values) if is_tuple else values[0]


def _finish(values: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    """Results without a history that nobody asked for."""
    return tuple(values) if create_graph else tuple([value.detach() for value in values])


def _construct_standard_basis_for(
    tensors: tuple[Tensor, ...], tensor_numels: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Seeds for several tensors, flat; PyTorch's own tests reach for it under this name."""
    seeds = joint_basis(tensors, 0, sum(tensor_numels))
    return tuple([s.reshape(-1, n) for s, n in zip(seeds, tensor_numels, strict=True)])
