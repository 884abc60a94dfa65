"""Drop-in for `torch.autograd.functional`: the same six functions.

Signatures, defaults, return structure, error types and messages are those of PyTorch 2.13, so
that changing one import line changes nothing but speed and memory. Where PyTorch loops over rows
here they are batched, in chunks that fit the memory, and fall back to a loop where an op cannot
be batched. Two things differ because PyTorch's answer would be wrong: under `inference_mode` the
derivative is computed (PyTorch returns zeros), and an empty output has an empty Jacobian (PyTorch
fails).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.existing import differentiate_existing
from torchjac._evaluate.options import Options
from torchjac._evaluate.outright import forward_outright
from torchjac._evaluate.seeds import joint_basis
from torchjac._evaluate.strict import fill_missing, require_grad
from torchjac._evaluate.tape import Linearized, Tape, grad_recorded, leaf_of, record_in_transform
from torchjac._inputs.signature import Outputs
from torchjac._inputs.tuples import Tensors, as_tuple, restore, vector
from torchjac._torch import inside_transform
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

MODES = ("forward-mode", "reverse-mode")
OUTPUTS = "outputs of the user-provided function"

Grads = Sequence[Tensor | None]


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
        cotangents = vector(
            "vjp",
            v,
            outputs,
            is_outputs_tuple,
            create_graph,
            "user-provided function returns a single Tensor with a single element.",
        )
        grads = _grad(outputs, leaves, cotangents, create_graph)
        products = fill_missing(grads, leaves, "back", strict=strict, create_graph=create_graph)
    return (
        restore(_finish(outputs, create_graph), is_outputs_tuple),
        restore(_finish(products, create_graph), is_inputs_tuple),
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
        tangents = vector(
            "jvp",
            v,
            leaves,
            is_inputs_tuple,
            create_graph,
            "input to the user-provided function is a single Tensor with a single element.",
        )
        is_outputs_tuple, outputs = _call("jvp", func, leaves, strict)
        cotangents = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = _grad(outputs, leaves, cotangents, create_graph=True)
        _require_if(strict, pulled, "grad_inputs")
        grads = _grad(pulled, cotangents, tangents, create_graph)
        products = fill_missing(
            grads, outputs, "back_trick", strict=strict, create_graph=create_graph
        )
    return (
        restore(_finish(outputs, create_graph), is_outputs_tuple),
        restore(_finish(products, create_graph), is_outputs_tuple),
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
        products = fill_missing(
            grads, leaves, "double_back", strict=strict, create_graph=create_graph
        )
    return (
        _finish([output], create_graph)[0],
        restore(_finish(products, create_graph), is_tuple),
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
        products = fill_missing(
            grads, leaves, "double_back_trick", strict=strict, create_graph=create_graph
        )
    return (
        _finish([output], create_graph)[0],
        restore(_finish(products, create_graph), is_tuple),
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

    `J[i][j] = d func(inputs)[i] / d inputs[j]`

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
    is_inputs_tuple, given = as_tuple(inputs, "inputs", "jacobian")
    with grad_recorded():
        is_outputs_tuple, tape = _record(func, given, create_graph, strict)
        if vectorize and strict:
            raise RuntimeError(
                "torch.autograd.functional.jacobian: `strict=True` "
                "and `vectorized=True` are not supported together. "
                "Please either set `strict=False` or "
                "`vectorize=False`."
            )
        if not vectorize:
            _check_real(tape.outputs.tensors)
        options = Options(create_graph=create_graph, strict=strict, quiet=True)
        blocks = differentiate_existing("functional.jacobian", tape, options)
        rows = [restore([block.contiguous() for block in row], is_inputs_tuple) for row in blocks]
    return restore(rows, is_outputs_tuple)


def hessian(
    func: Callable[..., Any],
    inputs: Tensors,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Hessian of a scalar function at a point: the Jacobian of its gradient.

    `H[i][j] = d^2 func(inputs) / (d inputs[i] d inputs[j])`

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
    is_tuple, given = as_tuple(inputs, "inputs", "hessian")
    if outer_jacobian_strategy not in MODES:
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode".')

    def scalar(*leaves: Tensor) -> Tensor:
        return _scalar_output("hessian", func, leaves, strict).squeeze()

    def gradient(*leaves: Tensor) -> tuple[Tensor, ...]:
        jac = jacobian(scalar, leaves, create_graph=True)
        _require_if(strict, jac, "jacobian")
        return jac

    blocks = jacobian(gradient, given, create_graph, strict, vectorize, outer_jacobian_strategy)
    return restore([restore(row, is_tuple) for row in blocks], is_tuple)


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


def _check_real(outputs: Sequence[Tensor]) -> None:
    """Refuse what PyTorch's loop over rows refuses, where the derivative is ambiguous."""
    for output in outputs:
        if output.is_complex() and output.requires_grad and output.numel():
            raise ArgumentTypeError(
                "grad can be implicitly created only for real scalar outputs but got "
                f"{output.dtype}"
            )


def _jacobian_forward(func: Callable[..., Any], inputs: Tensors) -> Any:
    is_inputs_tuple, given = as_tuple(inputs, "inputs", "jacobian")
    for x in given:
        if not (x.is_floating_point() or x.is_complex()):
            raise ArgumentError(
                f"Expected primal to be floating point or complex, but got: {x.dtype}"
            )
    kinds: list[bool] = []

    def evaluate(copies: list[Tensor]) -> tuple[Tensor, ...]:
        is_tuple, outputs = as_tuple(func(*copies), OUTPUTS, "jacobian")
        kinds.append(is_tuple)
        return outputs

    def by_reverse_mode() -> Sequence[Sequence[Tensor]]:
        with grad_recorded():
            _, tape = _record(func, given, create_graph=True, strict=False)
            options = Options(create_graph=True, quiet=True)
            return differentiate_existing("functional.jacobian", tape, options)

    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        plain = [x.clone() if x.is_inference() else x for x in given]
        blocks = forward_outright("functional.jacobian", evaluate, plain, by_reverse_mode)
    return restore([restore(row, is_inputs_tuple) for row in blocks], kinds[-1])


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
        is_tuple, outputs = as_tuple(func(*copies), OUTPUTS, "jacobian")
        kinds.append(is_tuple)
        return Outputs(outputs, None, None)

    tape = record_in_transform(evaluate, inputs)
    return kinds[-1], tape


def _prepare(api: str, inputs: Tensors, create_graph: bool) -> tuple[bool, tuple[Tensor, ...]]:
    """The inputs as new tensors that require gradients, and whether they were a tuple."""
    is_tuple, given = as_tuple(inputs, "inputs", api)
    return is_tuple, tuple([leaf_of(x, create_graph) for x in given])


def _call(
    api: str, func: Callable[..., Any], leaves: Sequence[Tensor], strict: bool
) -> tuple[bool, tuple[Tensor, ...]]:
    is_tuple, outputs = as_tuple(func(*leaves), OUTPUTS, api)
    _require_if(strict, outputs, "outputs")
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
        raise ShapeError(f"The function given to {api} should return a single Tensor")
    if outputs[0].nelement() != 1:
        raise ShapeError(
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
    tangents = vector(
        api,
        v,
        leaves,
        is_tuple,
        create_graph,
        "input to the user-provided function is a single Tensor with a single element.",
    )
    output = _scalar_output(api, func, leaves, strict)
    jac = _grad([output], leaves, None, create_graph=True)
    _require_if(strict, jac, "jacobian")
    return is_tuple, leaves, output, tangents, jac


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


def _finish(values: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
    """Results without a history that nobody asked for."""
    return values if create_graph else [value.detach() for value in values]


def _construct_standard_basis_for(  # pyright: ignore[reportUnusedFunction]
    tensors: tuple[Tensor, ...], tensor_numels: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Seeds for several tensors, flat; PyTorch's own tests reach for it under this name."""
    seeds = joint_basis(tensors, 0, sum(tensor_numels))
    return tuple([s.reshape(-1, n) for s, n in zip(seeds, tensor_numels, strict=True)])


def _require_if(strict: bool, tensors: Grads, kind: str) -> None:
    if strict:
        require_grad(tensors, kind)
