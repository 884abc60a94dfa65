"""Columns of the Jacobian from values of the function: differences and the complex step.

Sources: Nocedal & Wright (2006), Numerical Optimization, chapter 8, for the steps; Squire & Trapp
(1998), SIAM Review 40(1), for the complex step.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.randomness import RandomState
from torchjac._evaluate.witness import random_like
from torchjac.errors import ArgumentError, ArgumentTypeError, ChangedShapeError

Values = list[Tensor]
Evaluate = Callable[[list[Tensor]], Values]

# Power of the precision that balances truncation and rounding, and order of the truncation error.
STEP_POWER = {"forward": 1 / 2, "central": 1 / 3, "complex": 2.0}
# Relative difference up to which the complex step and a central difference are the same.
ANALYTIC_TOLERANCE = 1e-2
ORDER = {"forward": 1, "central": 2}


class Differences(NamedTuple):
    """Blocks of a Jacobian, and for each entry an estimate of its absolute error."""

    blocks: list[list[Tensor]]
    errors: list[list[Tensor]]


def step_sizes(api: str, x: Tensor, method: str, step: float | None) -> Tensor:
    """Step for each element of `x`: given, or from its precision and size.

    h = eps^p max(1, |x|), with p = 1/2 forward, 1/3 central, 2 complex

    Args:
        api: Name of the public function, for messages.
        x: Where to differentiate.
        method: "forward", "central" or "complex".
        step: The step itself, None to choose it.

    Returns:
        Steps, flat, such that x + h - x is h exactly.

    Raises:
        ArgumentError: The step given is too small for these inputs.
    """
    flat = x.reshape(-1)
    if step is not None:
        h = torch.full_like(flat, step)
    else:
        h = torch.finfo(x.dtype).eps ** STEP_POWER[method] * flat.abs().clamp(min=1)
    if method == "complex":
        return h
    exact = (flat + h) - flat
    if bool((exact == 0).any()):
        raise ArgumentError(
            f"{api}: `step` {step} vanishes beside inputs as large as {float(flat.abs().max())} in "
            f"{x.dtype}: expected a step that changes them. Leave it out to have one chosen."
        )
    return exact


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
        with state.replayed(), replayed_numpy(numpy_state):
            return [output.clone() for output in evaluate([point.clone() for point in points])]

    numpy_state = np.random.get_state()  # noqa: NPY002 - what functions of the user draw from
    leaves = [leaf.contiguous() for leaf in leaves]
    base = value(leaves)
    if method == "complex":
        _check_analytic(api, value, leaves, base)
    quotient = _quotients(api, value, leaves, base, method)
    blocks = [[_room(y, x) for x in leaves] for y in base]
    errors = [[_room(y, x) for x in leaves] for y in base] if estimate_errors else []
    for j, x in enumerate(leaves):
        steps = step_sizes(api, x, method, step)
        at = x.reshape(-1).tolist()
        for c, h in enumerate(steps.tolist()):
            column = quotient(j, c, h)
            finer: Values = []
            if estimate_errors and method != "complex":
                finer = quotient(j, c, h / 2)
            for i, entries in enumerate(column):
                blocks[i][j].view(base[i].numel(), -1)[:, c] = entries.reshape(-1)
                if estimate_errors:
                    error = _error(entries, finer[i] if finer else None, base[i], at[c], h, method)
                    errors[i][j].view(base[i].numel(), -1)[:, c] = error.reshape(-1)
    return Differences(blocks, errors)


def _room(y: Tensor, x: Tensor) -> Tensor:
    return torch.zeros(y.shape + x.shape, dtype=y.dtype, device=y.device)


def _error(
    entries: Tensor, finer: Tensor | None, y: Tensor, x: float, h: float, method: str
) -> Tensor:
    eps = torch.finfo(y.dtype).eps
    if finer is None:
        return eps * entries.abs()
    # D(h) - D(h/2) is the fraction 1 - 2^-p of the truncation error of D(h). Values are rounded,
    # and so is the point, which moves them by eps |J x|.
    truncation = (entries - finer).abs() / (1 - 0.5 ** ORDER[method])
    return truncation + 2 * eps * (y.abs() + (entries * x).abs()) / abs(h)


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


def _quotients(
    api: str,
    value: Callable[..., Values],
    leaves: Sequence[Tensor],
    base: Values,
    method: str,
) -> Callable[[int, int, float], Values]:
    """What gives the column of element c of input j, by steps of h."""

    def column(j: int, c: int, h: float) -> Values:
        def moved(step: complex) -> Values:
            return _same_shapes(api, value(_moved(leaves, j, c, step)), base)

        if method == "complex":
            return [
                v.imag / h if v.is_complex() else torch.zeros_like(b)
                for v, b in zip(moved(complex(0, h)), base, strict=True)
            ]
        ahead = moved(h)
        behind, width = (moved(-h), 2 * h) if method == "central" else (base, h)
        return [(a - b) / width for a, b in zip(ahead, behind, strict=True)]

    return column


def _check_analytic(
    api: str, value: Callable[..., Values], leaves: Sequence[Tensor], base: Values
) -> None:
    """Compare one random direction with a central difference.

    abs, conj, real and comparisons are not analytic: the imaginary part is then not the
    derivative, or not there at all.

    Raises:
        ArgumentTypeError: The function is not analytic, or complex at real points.
    """
    for i, output in enumerate(base):
        if output.is_complex():
            raise ArgumentTypeError(
                f'{api}: method="complex" needs a function that is real at real points, but '
                f"output {i} is {output.dtype}. Return torch.view_as_real of it, or use "
                'method="central".'
            )
    directions = random_like(leaves)
    tiny, h = 1e-20, max(torch.finfo(x.dtype).eps for x in leaves) ** (1 / 3)
    moved = value([x + 1j * tiny * v for x, v in zip(leaves, directions, strict=True)])
    moved = _same_shapes(api, moved, base)
    ahead, behind = (
        value([x + t * v for x, v in zip(leaves, directions, strict=True)]) for t in (h, -h)
    )
    for i, (v, a, b) in enumerate(zip(moved, ahead, behind, strict=True)):
        analytic = v.imag / tiny if v.is_complex() else torch.zeros_like(a)
        central = (a - b) / (2 * h)
        size = central.norm() + analytic.norm()
        if bool((analytic - central).norm() > ANALYTIC_TOLERANCE * size):
            raise ArgumentTypeError(
                f'{api}: method="complex" needs an analytic function that takes complex numbers '
                f"and keeps them: output {i} came back as {v.dtype}, and its imaginary part is not "
                "the derivative. abs, conj, real, max, comparisons and casts are not analytic; use "
                'method="central".'
            )


@contextmanager
def replayed_numpy(state: Any) -> Generator[None]:
    """Start the block from a state of NumPy's global generator, and go on after it as before."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
