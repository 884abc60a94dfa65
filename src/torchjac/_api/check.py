"""The three-number check: forward mode, reverse mode and a finite difference of one product."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.randomness import RandomState, random_state
from torchjac._evaluate.tape import Tape, grad_recorded, record
from torchjac._evaluate.witness import random_like
from torchjac._inputs.signature import Signature, Wrt, bind
from torchjac._torch import push_forward

# Two modes of automatic differentiation agree up to rounding errors of this many units.
ROUNDING_UNITS = 1e4
# A difference is believed within this multiple of its own error estimate.
DOUBT = 10.0
ROUNDING_CAP = 1e-2
FLOOR_UNITS = 100.0
# Steps begin here and shrink by 4 down to this many units of the precision.
FIRST_STEP = 2.0**-5
STEP_FLOOR = 64.0
# A jump of the slope, relative to the numbers themselves, that is called a kink.
KINK = 1e-2


class Difference(NamedTuple):
    """A difference quotient, its estimated error, and how sharply the slope changes."""

    value: float
    error: float
    kink: float
    rounding: float
    scale: float


@dataclass(frozen=True, slots=True)
class Report:
    """The three numbers u·(J v), what they say, and why.

    Attributes:
        forward: u·(J v) by forward mode, None where PyTorch has no forward rule.
        reverse: (J^T u)·v by reverse mode.
        difference: u·(f(x + h v) - f(x - h v)) / 2h.
        difference_error: Estimated absolute error of `difference`.
        agrees: Whether the numbers agree.
        cause: The likely cause where they do not, else an empty text.
        notes: What else was noticed.
    """

    forward: float | None
    reverse: float
    difference: float
    difference_error: float
    agrees: bool
    cause: str
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the numbers agree."""
        return self.agrees

    def __str__(self) -> str:
        """Several lines for people."""
        forward = "not available" if self.forward is None else f"{self.forward: .9e}"
        lines = [
            "check: the numbers agree" if self.agrees else "check: THE NUMBERS DISAGREE",
            f"  forward mode       u·(J v)   {forward}",
            f"  reverse mode       (Jᵀu)·v   {self.reverse: .9e}",
            f"  finite difference            {self.difference: .9e} ± {self.difference_error:.1e}",
        ]
        if self.cause:
            lines.append(f"  likely cause: {self.cause}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def check(func: Callable[..., Any], inputs: Any, *, wrt: Wrt = None) -> Report:
    """Compare forward mode, reverse mode and a finite difference on one random product.

    u·(J v) = (J^T u)·v = lim u·(f(x + h v) - f(x - h v)) / 2h

    Three numbers that are equal unless something is wrong: a value pulled out with `.item()`, a
    `no_grad` block or a `detach` that hides a dependence, a custom backward or jvp with an error,
    a point where the function is not differentiable. Costs one forward and one backward pass and
    some ten evaluations.

    Args:
        func: The function, as in `jacobian`.
        inputs: Where to check, as in `jacobian`. Float64 makes the check sharper.
        wrt: What to differentiate by, as in `jacobian`.

    Returns:
        A report that prints, and is true where the numbers agree.

    Raises:
        TorchjacError: The function or the inputs cannot be differentiated, as in `jacobian`.

    >>> import torch, torchjac
    >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> torchjac.check(torch.sin, x).agrees
    True
    >>> torchjac.check(lambda x: x * x.detach(), x).agrees
    False
    """
    signature = bind("check", func, inputs, wrt=wrt)
    state = random_state(signature.leaves)
    tape = record(signature, create_graph=False)
    notes = ["func draws random numbers; all three start from the same"] * state.was_used()
    # Each input moves on its own scale.
    leaves = [x.detach() for x in signature.leaves]
    pairs = zip(random_like(leaves), leaves, strict=True)
    tangents = [v * x.abs().clamp(min=1) for v, x in pairs]
    cotangents = random_like(tape.outputs.tensors, seed=1)
    reverse = _by_reverse(tape, cotangents, tangents)
    forward, refusal = _by_forward(signature, state, cotangents, tangents)
    if refusal:
        notes.append(f"no forward mode: {refusal}")
    measured = _by_difference(signature, state, cotangents, tangents)
    eps = max(torch.finfo(t.dtype).eps for t in (*signature.leaves, *tape.outputs.tensors))
    cause = _cause(forward, reverse, measured, eps)
    return Report(forward, reverse, measured.value, measured.error, not cause, cause, tuple(notes))


def _dot(us: Sequence[Tensor], vs: Sequence[Tensor | None]) -> float:
    return sum(
        float((u.detach().double() * v.detach().double()).sum())
        for u, v in zip(us, vs, strict=True)
        if v is not None
    )


def _by_reverse(tape: Tape, us: Sequence[Tensor], vs: Sequence[Tensor]) -> float:
    pulled = tape.pull(range(len(us)), us, stacked=False, create_graph=False)
    return _dot(vs, pulled)


def _by_forward(
    signature: Signature, state: RandomState, us: Sequence[Tensor], vs: Sequence[Tensor]
) -> tuple[float | None, str]:
    """The product, or None and what PyTorch said."""

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        with state.replayed():
            return signature.replay([leaf.clone() for leaf in leaves]).tensors

    try:
        with grad_recorded():
            return _dot(us, push_forward(flat, [x.detach() for x in signature.leaves], vs)), ""
    except Exception as error:
        return None, str(error).strip().splitlines()[0]


def _by_difference(
    signature: Signature, state: RandomState, us: Sequence[Tensor], vs: Sequence[Tensor]
) -> Difference:
    """The product from central differences, refined while that helps, and its error."""

    def value(t: float) -> tuple[float, float]:
        moved = [x.detach() + t * v for x, v in zip(signature.leaves, vs, strict=True)]
        with state.replayed(), grad_recorded():
            outputs = [y.detach() for y in signature.replay(moved).tensors]
        pairs = list(zip(us, outputs, strict=True))
        return _dot(us, outputs), sum(float((u * y).double().abs().sum()) for u, y in pairs)

    eps = max(torch.finfo(x.dtype).eps for x in signature.leaves)
    base, scale = value(0.0)
    found: list[Difference] = []
    previous: float | None = None
    h = FIRST_STEP
    while h > STEP_FLOOR * eps:
        (ahead, size), (behind, _) = value(h), value(-h)
        quotient = (ahead - behind) / (2 * h)
        rounding = 2 * eps * size / h
        kink = abs(ahead - 2 * base + behind) / h
        if previous is not None and math.isfinite(quotient):
            error = abs(quotient - previous) + rounding
            found.append(Difference(quotient, error, kink, rounding, scale))
        previous, h = quotient, h / 4
    finite = [d for d in found if math.isfinite(d.error)]
    if not finite:
        return Difference(math.nan, math.inf, 0.0, 0.0, scale)
    best = min(finite, key=lambda d: d.error)
    # Where the function is smooth, the jump of the slope shrinks with h; at a kink it stays.
    sharp = [d.kink for d in finite if d.rounding < 0.1 * d.kink]
    stays = len(sharp) > 1 and sharp[-1] > 0.5 * sharp[0]
    return best._replace(kink=sharp[-1] if stays else 0.0)


def _cause(forward: float | None, reverse: float, measured: Difference, eps: float) -> str:
    """The likely cause of a disagreement, empty where there is none."""
    difference, error = measured.value, measured.error
    known = [abs(x) for x in (reverse, forward or 0.0, difference) if math.isfinite(x)]
    size = max(known, default=0.0)
    rounding = min(ROUNDING_UNITS * eps, ROUNDING_CAP) * size + FLOOR_UNITS * eps * measured.scale
    modes_agree = forward is None or abs(forward - reverse) <= rounding
    allowed = rounding + DOUBT * error
    if measured.kink > KINK * size + allowed:
        return "a point where func has a kink and is not differentiable"
    if not error <= max(0.1 * size, eps**0.5 * measured.scale):
        return (
            "no finite difference can be trusted here: the function jumps, or is not defined on "
            "both sides of the point. Nothing is certified; check at a point inside its domain"
        )
    reverse_true = abs(reverse - difference) <= allowed
    forward_true = forward is None or abs(forward - difference) <= allowed
    if modes_agree and reverse_true:
        return ""
    if modes_agree:
        return (
            "a dependence that autograd does not see (.item(), float(), NumPy, detach(), an "
            "integer cast, rounding), or a point where func is not differentiable"
        )
    if forward_true and not reverse_true:
        return "a no_grad block, or an autograd.Function whose backward is wrong"
    if reverse_true:
        return "an autograd.Function or op whose forward rule (jvp) is wrong"
    return "several of: hidden dependences, wrong derivative rules, a function that is not smooth"
