"""Patterns of small functions, by either derivative program, beside their dense Jacobians."""

import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._linearize.program import LinearProgram
from torchjac._linearize.trace import trace_jvp, trace_vjp
from torchjac._local.call import Call
from torchjac._local.registry import terms_of
from torchjac._pattern.walk import walk

Bools = NDArray[np.bool_]
Function = Callable[[Tensor], Tensor]


def point(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers from a normal distribution, none of them zero."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def programs(function: Function, x: Tensor) -> dict[str, LinearProgram]:
    """The derivative programs that PyTorch has for a function, "jvp", "vjp" or both."""

    def flat(leaves: Any) -> list[Tensor]:
        return [function(leaves[0])]

    found = {"vjp": trace_vjp(flat, [x], lambda ys: [torch.randn_like(y) for y in ys]).program}
    try:
        found["jvp"] = trace_jvp(flat, [x], [torch.randn_like(x)]).program
    except (NotImplementedError, RuntimeError) as error:
        if not any(lack in str(error) for lack in ("forward AD", "do not have strides")):
            raise
    return found


def patterns(function: Function, x: Tensor, scope: str = "global") -> dict[str, Bools]:
    """The pattern of a function, shape (outputs, inputs), as each of its programs is read.

    None of them holds an operation without a rule.
    """
    count = function(x).numel()
    found = {}
    for direction, program in programs(function, x).items():
        reading = walk(program, scope)
        assert reading.opaque_ops == (), direction
        (sets,) = reading.results
        rows, columns = (x.numel(), count) if direction == "vjp" else (count, x.numel())
        dense = np.zeros((rows, columns), bool)
        if sets is not None:
            assert prod(sets.shape) == rows
            dense = sets.rows().toarray()
        found[direction] = dense.T if direction == "vjp" else dense
    return found


def nonzeros(function: Function, *points: Tensor) -> Bools:
    """Where the dense Jacobian is not zero, at one of the points at least."""
    union = None
    for x in points:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jacobian = torch.autograd.functional.jacobian(function, x)
        found = (jacobian.reshape(-1, x.numel()) != 0).numpy()
        union = found if union is None else union | found
    assert union is not None
    return union


def check_exact(function: Function, *points: Tensor, scope: str = "global") -> None:
    """Each program must give the union of what is not zero at some points, no more and no less."""
    expected = nonzeros(function, *points)
    for direction, found in patterns(function, points[0], scope).items():
        assert (found | ~expected).all(), f"{direction} lacks {np.argwhere(expected & ~found)}"
        assert (~found | expected).all(), f"{direction} adds {np.argwhere(found & ~expected)}"


def maps_of(program: LinearProgram, op: Any) -> list[str]:
    """Names of the maps of the first term of an operation of a program."""
    (node,) = [n for n in program.linear_nodes if n.op.overloadpacket is op]
    terms = terms_of(Call(node, program))
    assert terms is not None
    return [type(m).__name__ for m in terms[0][0].maps]
