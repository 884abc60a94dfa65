"""Sums over axes, and what runs along one."""

from typing import Any

import torch

from torchjac._local.algebra import LinearMap, Mix, Reduce, Scan, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten.sum, aten.mean, aten.nansum)
def reduction(call: Call) -> Terms:
    """A sum over axes, or a multiple of it.

    sum(t, [1])  ->  t: Reduce(1)
    """
    (ref,) = call.tangents()
    rank = len(call.shape(ref))
    dims = axes(call.arguments.get("dim"), rank)
    keepdim = bool(call.arguments.get("keepdim", False))
    return [Term(ref, [Reduce(dims, keepdim)])]


@rule(aten.cumsum)
def cumsum(call: Call) -> Terms:
    """Sums of everything so far.

    cumsum(t, 0)  ->  t: Scan(0)
    """
    (ref,) = call.tangents()
    rank = len(call.shape(ref))
    return [Term(ref, [] if rank == 0 else [Scan(call["dim"] % rank)])]


@rule(aten._softmax_backward_data, aten._log_softmax_backward_data)
def softmax_backward(call: Call) -> Terms:
    """The Jacobian of a softmax is a full matrix along its axis.

    _softmax_backward_data(t, y, dim)  ->  t: Mix(dim)
    """
    shape = call.out_shape()
    mix: list[LinearMap] = [Mix((call["dim"] % len(shape),), shape)] if shape else []
    return [Term(ref, mix) for ref in call.tangents()]


def axes(dim: Any, rank: int) -> tuple[int, ...]:
    """Axes as PyTorch takes them, none or an empty list for all, as numbers that count up.

    >>> axes(-1, 3), axes(None, 2), axes([0, -1], 3)
    ((2,), (0, 1), (0, 2))
    """
    if rank == 0:
        return ()
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(sorted({d % rank for d in ([dim] if isinstance(dim, int) else dim)}))
