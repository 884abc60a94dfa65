"""Columns of the Jacobian from values of the function: differences and the complex step.

Sources: Nocedal & Wright (2006), Numerical Optimization, chapter 8, for the steps; Squire & Trapp
(1998), SIAM Review 40(1), for the complex step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.randomness import RandomState
from torchjac.errors import ArgumentTypeError, ChangedShapeError

Values = list[Tensor]
Evaluate = Callable[[list[Tensor]], Values]

# Power of the precision that balances truncation and rounding, and order of the truncation error.
STEP_POWER = {"forward": 1 / 2, "central": 1 / 3, "complex": 2.0}
ORDER = {"forward": 1, "central": 2}


class Differences(NamedTuple):
    """Blocks of a Jacobian, and for each entry an estimate of its absolute error."""

    blocks: list[list[Tensor]]
    errors: list[list[Tensor]]


def step_sizes(x: Tensor, method: str, step: float | None) -> Tensor:
    """Step for each element of `x`: given, or from its precision and size.

    h = eps^p max(1, |x|), with p = 1/2 forward, 1/3 central, 2 complex

    Args:
        x: Where to differentiate.
        method: "forward", "central" or "complex".
        step: The step itself, None to choose it.

    Returns:
        Steps, flat, such that x + h - x is h exactly.
    """
    flat = x.reshape(-1)
    if step is not None:
        h = torch.full_like(flat, step)
    else:
        h = torch.finfo(x.dtype).eps ** STEP_POWER[method] * flat.abs().clamp(min=1)
    return h if method == "complex" else (flat + h) - flat


def difference_blocks(
    api: str,
    evaluate: Evaluate,
    leaves: Sequence[Tensor],
    method: str,
    step: float | None,
    state: RandomState,
    *,
    estimate_errors: bool,
) -> Differences:
    """Jacobian by differences, one column at a time.

    Args:
        api: Name of the public function, for messages.
        evaluate: The function of a list of tensors, with values as tensors.
        leaves: Where to differentiate.
        method: "forward", "central" or "complex".
        step: The step, None to choose it.
        state: Random numbers that every evaluation starts from.
        estimate_errors: Also difference with half the step.

    Returns:
        Blocks and errors (none if not asked for).
    """

    def value(points: Sequence[Tensor]) -> Values:
        with state.replayed():
            return evaluate([point.clone() for point in points])

    base = value(leaves)
    quotient = {"forward": _forward, "central": _central, "complex": _complex}[method]
    blocks = [[_room(y, x) for x in leaves] for y in base]
    errors = [[_room(y, x) for x in leaves] for y in base] if estimate_errors else []
    for j, x in enumerate(leaves):
        steps = step_sizes(x, method, step)
        for c, h in enumerate(steps.tolist()):
            column = quotient(api, value, leaves, j, c, h, base)
            finer: Values = []
            if estimate_errors and method != "complex":
                finer = quotient(api, value, leaves, j, c, h / 2, base)
            for i, entries in enumerate(column):
                blocks[i][j].view(base[i].numel(), -1)[:, c] = entries.reshape(-1)
                if estimate_errors:
                    error = _error(entries, finer[i] if finer else None, base[i], h, method)
                    errors[i][j].view(base[i].numel(), -1)[:, c] = error.reshape(-1)
    return Differences(blocks, errors)


def _room(y: Tensor, x: Tensor) -> Tensor:
    return torch.zeros(y.shape + x.shape, dtype=y.dtype, device=y.device)


def _error(entries: Tensor, finer: Tensor | None, y: Tensor, h: float, method: str) -> Tensor:
    eps = torch.finfo(y.dtype).eps
    if finer is None:
        return eps * entries.abs()
    # D(h) - D(h/2) is the fraction 1 - 2^-p of the truncation error of D(h).
    truncation = (entries - finer).abs() / (1 - 0.5 ** ORDER[method])
    return truncation + eps * y.abs() / abs(h)


def _moved(leaves: Sequence[Tensor], j: int, c: int, h: complex) -> list[Tensor]:
    moved = list(leaves)
    moved[j] = leaves[j].clone() if isinstance(h, float) else leaves[j] + 0j
    moved[j].view(-1)[c] += h
    return moved


def _same_shapes(api: str, values: Values, base: Values) -> Values:
    shapes = [tuple(v.shape) for v in values]
    if shapes != [tuple(b.shape) for b in base]:
        raise ChangedShapeError(
            f"{api}: `func` returned shapes {shapes} at a neighbouring point, after "
            f"{[tuple(b.shape) for b in base]}: the shapes must not depend on the values."
        )
    return values


def _forward(
    api: str,
    value: Callable[..., Values],
    leaves: Sequence[Tensor],
    j: int,
    c: int,
    h: float,
    base: Values,
) -> Values:
    ahead = _same_shapes(api, value(_moved(leaves, j, c, h)), base)
    return [(a - b) / h for a, b in zip(ahead, base, strict=True)]


def _central(
    api: str,
    value: Callable[..., Values],
    leaves: Sequence[Tensor],
    j: int,
    c: int,
    h: float,
    base: Values,
) -> Values:
    ahead = _same_shapes(api, value(_moved(leaves, j, c, h)), base)
    behind = _same_shapes(api, value(_moved(leaves, j, c, -h)), base)
    return [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]


def _complex(
    api: str,
    value: Callable[..., Values],
    leaves: Sequence[Tensor],
    j: int,
    c: int,
    h: float,
    base: Values,
) -> Values:
    moved = _same_shapes(api, value(_moved(leaves, j, c, complex(0, h))), base)
    for i, v in enumerate(moved):
        if not v.is_complex():
            raise ArgumentTypeError(
                f'{api}: method="complex" needs a function that takes complex numbers and keeps '
                f"them: output {i} came back as {v.dtype}. abs, max, comparisons and casts lose "
                'the imaginary part; use method="central".'
            )
    return [v.imag / h for v in moved]
