"""Jacobians from values of the function alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.differences import difference_blocks
from torchjac._evaluate.randomness import random_state
from torchjac._inputs.checks import check_callable, check_choice, check_leaf
from torchjac._inputs.selection import as_arguments
from torchjac._torch import pytree
from torchjac.errors import ArgumentError, ArgumentTypeError

METHODS = ("forward", "central", "complex")


def finite_difference(
    func: Callable[..., Any],
    inputs: Any,
    method: str = "central",
    step: float | None = None,
    *,
    error_estimate: bool = False,
) -> Any:
    """Jacobian by finite differences or the complex step, for functions that autograd cannot see.

    forward: (f(x + h e_j) - f(x)) / h; central: (f(x + h e_j) - f(x - h e_j)) / 2h;
    complex: Im f(x + i h e_j) / h, exact to rounding where f is analytic

    Every evaluation starts from the same random numbers.

    Args:
        func: Takes and returns Tensors or NumPy arrays, whichever `inputs` holds, or trees of
            them. It need not be differentiable by PyTorch.
        inputs: As in `jacobian`; NumPy arrays are accepted too.
        method: "forward" (n + 1 evaluations, error of order h), "central" (2n, order h^2) or
            "complex" (n, no subtraction; `func` must accept complex numbers).
        step: Absolute step. None: eps^p max(1, |x_j|) for the dtype of x, with p = 1/2 forward,
            1/3 central, 2 complex.
        error_estimate: Also return an estimate of the absolute error of every entry, from a
            second difference with half the step (twice the evaluations).

    Returns:
        As `jacobian`: shape (*output, *input), nested; NumPy arrays for NumPy inputs. With
        `error_estimate` a pair (Jacobian, errors) of the same structure.

    Raises:
        ArgumentError: `method` or `step` is out of range.
        ArgumentTypeError: An input or output is no floating-point tensor or array.
        ChangedShapeError: The function returns other shapes at neighbouring points.

    Source: Nocedal & Wright (2006), Numerical Optimization, chapter 8; Squire & Trapp (1998),
    SIAM Review 40(1).

    >>> import torch, torchjac
    >>> J = torchjac.finite_difference(lambda x: x**3, torch.tensor([2.0], dtype=torch.float64))
    >>> round(J.item(), 6)
    12.0
    """
    api = "finite_difference"
    _check_arguments(api, func, method, step)
    given, spec = pytree.tree_flatten(as_arguments(inputs))
    is_numpy = any(isinstance(leaf, np.ndarray | np.generic) for leaf in given)
    leaves = _leaves(api, given)
    specs: list[Any] = []

    def evaluate(points: list[Tensor]) -> list[Tensor]:
        values = [p.numpy() if is_numpy else p for p in points]
        with torch.no_grad():
            result = func(*pytree.tree_unflatten(values, spec))
        outputs, output_spec = pytree.tree_flatten(result)
        specs[:] = [output_spec]
        return [_output(api, k, output) for k, output in enumerate(outputs)]

    blocks, errors = difference_blocks(
        api,
        evaluate,
        leaves,
        method,
        step,
        random_state(leaves),
        estimate_errors=error_estimate,
    )

    def nested(values: Sequence[Sequence[Tensor]]) -> Any:
        rows = []
        for row in values:
            args = pytree.tree_unflatten([b.numpy() if is_numpy else b for b in row], spec)
            rows.append(args if type(inputs) is tuple else args[0])
        return pytree.tree_unflatten(rows, specs[0])

    return (nested(blocks), nested(errors)) if error_estimate else nested(blocks)


def _check_arguments(api: str, func: Any, method: Any, step: Any) -> None:
    check_callable(api, func)
    check_choice(api, "method", method, METHODS)
    is_number = isinstance(step, int | float) and not isinstance(step, bool)
    if step is not None and not (is_number and 0 < step < float("inf")):
        raise ArgumentError(f"{api}: `step` must be a positive number or None, got {step!r}.")


def _leaves(api: str, given: Sequence[Any]) -> list[Tensor]:
    if not given:
        raise ArgumentError(f"{api}: `inputs` holds no tensor to differentiate: got {given!r}.")
    tensors = [_to_tensor(leaf) for leaf in given]
    for k, leaf in enumerate(tensors):
        check_leaf(api, f"input {k}", leaf, holomorphic=False)
    return [leaf.detach() for leaf in tensors]


def _to_tensor(value: Any) -> Any:
    """A tensor of what NumPy or Python made; their floating-point numbers are double precision."""
    if isinstance(value, float | complex):
        return torch.tensor(
            value, dtype=torch.complex128 if isinstance(value, complex) else torch.float64
        )
    return torch.as_tensor(value) if isinstance(value, np.ndarray | np.generic) else value


def _output(api: str, k: int, output: Any) -> Tensor:
    tensor = _to_tensor(output)
    if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(output)
        raise ArgumentTypeError(
            f"{api}: output {k} of `func` must be a floating-point Tensor, array or number, got "
            f"{kind}."
        )
    return tensor
