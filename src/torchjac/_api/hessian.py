"""Gradients and Hessians of scalar functions."""

from collections.abc import Callable
from typing import Any

import torch

from torchjac._api.solve import handed_out, read_call
from torchjac._api.sparse import differentiate_sparsely
from torchjac._evaluate.attention import with_math_attention
from torchjac._evaluate.differentiate import differentiate
from torchjac._evaluate.gradients import gradient_signature, scalar_signature
from torchjac._evaluate.options import Options
from torchjac._inputs.checks import STRATEGIES, Layout, check_choice, check_layout
from torchjac._inputs.signature import Wrt


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool | None = None,
    outer_jacobian_strategy: str = "auto",
    *,
    wrt: Wrt = None,
    layout: Layout = torch.strided,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    has_aux: bool = False,
    progress: bool = False,
) -> Any:
    """Hessian of a scalar function: the Jacobian of its gradient.

    H[i, j] = d^2 func(inputs) / (d inputs[i] d inputs[j])

    Args:
        func: A function or module that returns one floating-point element.
        inputs: As in `jacobian`.
        create_graph: Make the result differentiable.
        strict: Raise an error where the function or its gradient does not depend on an input.
        vectorize: As in `jacobian`.
        outer_jacobian_strategy: How the gradient is differentiated: "auto", "reverse-mode" or
            "forward-mode".
        wrt: As in `jacobian`.
        layout: Layout of the result, as in `jacobian`. For a sparse one the pattern of the
            Hessian is detected and colored with regard to its symmetry.
        chunk_size: Rows per pass. None: as many as `memory` allows.
        memory: As in `jacobian`.
        has_aux: `func` returns (output, aux) and aux is handed through.
        progress: Show a progress bar.

    Returns:
        For one input a Tensor of shape (*input, *input). Otherwise the tree of the inputs, each
        leaf replaced by the tree of the inputs. With `has_aux` a pair (Hessian, aux).

    Raises:
        ShapeError: `func` returns more than one element.
        TorchjacError: As in `jacobian`.

    >>> import torch, torchjac
    >>> torchjac.hessian(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    api = "hessian"
    check_layout(api, layout)
    check_choice(api, "outer_jacobian_strategy", outer_jacobian_strategy, STRATEGIES)
    options = Options(
        create_graph,
        strict,
        vectorize,
        outer_jacobian_strategy,
        chunk_size,
        memory,
        progress,
        allow_constant=True,
    )
    signature = read_call(api, func, inputs, options, wrt=wrt, has_aux=has_aux)
    # Fused attention has no second derivative.
    gradient = gradient_signature(with_math_attention(signature), strict=strict)
    if layout is torch.strided:
        outputs, blocks = differentiate(gradient, options)
        result = signature.nest([signature.nest(row) for row in blocks])
    else:
        outputs, result = differentiate_sparsely(
            func, signature, options, layout, wrt=wrt, gradient=gradient
        )
    return (result, handed_out(outputs.aux, create_graph)) if has_aux else result


def gradient(
    func: Callable[..., Any],
    inputs: Any,
    *,
    create_graph: bool = False,
    strict: bool = False,
    wrt: Wrt = None,
    has_aux: bool = False,
) -> Any:
    """Gradient of a scalar function.

    g[j] = d func(inputs) / d inputs[j]

    Args:
        func: A function or module that returns one floating-point element.
        inputs: As in `jacobian`.
        create_graph: Make the result differentiable.
        strict: Raise an error where the output does not depend on an input, instead of zeros.
        wrt: As in `jacobian`.
        has_aux: `func` returns (output, aux) and aux is handed through.

    Returns:
        The tree of the inputs, each leaf with the shape and dtype of the input. With `has_aux` a
        pair (gradient, aux).

    Raises:
        ShapeError: `func` returns more than one element.
        TorchjacError: As in `jacobian`.

    >>> import torch, torchjac
    >>> torchjac.gradient(lambda x: (x**2).sum(), torch.tensor([1.0, 2.0]))
    tensor([2., 4.])
    """
    options = Options(create_graph, strict)
    signature = read_call("gradient", func, inputs, options, wrt=wrt, has_aux=has_aux)
    outputs, blocks = differentiate(scalar_signature(signature), options)
    row = [b.reshape(x.shape) for b, x in zip(blocks[0], signature.leaves, strict=True)]
    result = signature.nest(row)
    return (result, handed_out(outputs.aux, create_graph)) if has_aux else result
