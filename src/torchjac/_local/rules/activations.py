"""Gated linear units, which halve an axis."""

import torch

from torchjac._local.algebra import Move, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten.glu_jvp)
def glu_jvp(call: Call) -> Terms:
    """Each element depends on one of each half.

    glu_jvp(y, x, t, dim)  ->  t: Move(first half), Scale;  t: Move(second half), Scale
    """
    source, dim, shape = call["dx"], call["dim"], call.out_shape()
    if list(call.tangents()) != [source]:
        return NotImplemented
    return [
        Term(source, [Move(lambda t: t.chunk(2, dim)[0]), Scale(shape)]),
        Term(source, [Move(lambda t: t.chunk(2, dim)[1]), Scale(shape)]),
    ]


@rule(aten.glu_backward)
def glu_backward(call: Call) -> Terms:
    """The transpose: each element goes to one of each half.

    glu_backward(t, x, dim)  ->  t: Move(t beside t), Scale
    """
    grad, dim, shape = call["grad_output"], call["dim"], call.out_shape()
    if list(call.tangents()) != [grad]:
        return NotImplemented
    return [Term(grad, [Move(lambda t: torch.cat([t, t], dim)), Scale(shape)])]


@rule(aten.glu_backward_jvp)
def glu_backward_jvp(call: Call) -> Terms:
    """How `glu_backward` changes: with its first argument, and with either half of the input.

    glu_backward_jvp(..., t, s, dim)  ->  t: Move(t beside t), Scale;  s: each half to both
    """
    grad, change, dim, shape = call["dgrad_glu"], call["dx"], call["dim"], call.out_shape()
    terms: list[Term] = []
    if not {*call.tangents()} <= {grad, change}:
        return NotImplemented
    if call.is_tangent(grad):
        terms.append(Term(grad, [Move(lambda t: torch.cat([t, t], dim)), Scale(shape)]))
    if call.is_tangent(change):
        swapped = Move(lambda t: torch.cat(t.chunk(2, dim)[::-1], dim))
        terms += [Term(change, [Scale(shape)]), Term(change, [swapped, Scale(shape)])]
    return terms
