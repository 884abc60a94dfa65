"""From a function to its linear program, forward where that is right and backward where not."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from torchjac._inputs.signature import Signature
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.trace import Flat, Trace, trace_jvp, trace_vjp


def linearize(
    signature: Signature, *, live: bool = False
) -> tuple[LinearProgram, tuple[Tensor, ...]]:
    """Trace the derivative program of a function.

    Both directions are traced: their products must agree on random vectors, or the forward rules
    are not those of the function, and the backward ones count.

    Args:
        signature: The function and where it is differentiated.
        live: Whether tensors beside those that are differentiated are inputs of the program too,
            which come after x, instead of constants in it.

    Returns:
        The program, and the value of the function.
    """
    beside = signature.beside if live else ()
    values: list[Sequence[Tensor]] = []

    def flat(leaves: Sequence[Tensor]) -> Sequence[Tensor]:
        outputs = signature.replay(leaves).tensors
        values.append(outputs)
        return outputs

    random = _vectors()
    backward = trace_vjp(flat, signature.leaves, random, beside)
    outputs = tuple([value.detach() for value in values[0]])
    forward = _forward(flat, signature.leaves, random(signature.leaves), beside)
    if forward is not None and agree(forward, backward):
        # Forward, PyTorch may read for the derivative too, which no evaluation will repeat.
        told = backward.program
        program = replace(forward.program, reads=told.reads, reads_places=told.reads_places)
        return program, outputs
    return backward.program, outputs


def backward_program(signature: Signature, *, live: bool = False) -> LinearProgram:
    """Trace the program of vector-Jacobian products, whatever may be said of forward mode.

    Args:
        signature: The function and where it is differentiated.
        live: As for `linearize`.

    Returns:
        The program.
    """

    def flat(leaves: Sequence[Tensor]) -> Sequence[Tensor]:
        return signature.replay(leaves).tensors

    return trace_vjp(flat, signature.leaves, _vectors(), signature.beside if live else ()).program


def _vectors() -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """What makes random tensors like others, the same ones in each process."""
    generator = torch.Generator().manual_seed(0)

    def random(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in tensors
        ]

    return random


def _forward(
    flat: Flat, leaves: Sequence[Tensor], seeds: Sequence[Tensor], beside: Sequence[Tensor]
) -> Trace | None:
    try:
        return trace_jvp(flat, leaves, seeds, beside)
    except Exception:  # of whatever kind, since the function itself has just run backward
        return None


def agree(forward: Trace, backward: Trace) -> bool:
    """Whether u . (J v) is the same both ways.

    Args:
        forward: v and J v.
        backward: u and J^T u.

    Returns:
        Whether they belong to the same J, up to rounding.
    """
    one = _inner(backward.seeds, forward.products)
    other = _inner(forward.seeds, backward.products)
    scale = max(one[1], other[1])
    return abs(one[0] - other[0]) <= 1e3 * _eps(backward.seeds) * scale or scale == 0


def _inner(a: Sequence[Tensor], b: Sequence[Tensor | None]) -> tuple[float, float]:
    """The inner product, and that of the absolute values."""
    products = [
        x.detach().double() * y.detach().double()
        for x, y in zip(a, b, strict=True)
        if y is not None
    ]
    return (
        sum([float(p.sum()) for p in products]),
        sum([float(p.abs().sum()) for p in products]),
    )


def _eps(tensors: Sequence[Tensor]) -> float:
    return max([torch.finfo(t.dtype).eps for t in tensors], default=0.0)
