"""Convolutions, and what autograd makes of them."""

import torch

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Convolve, Mix, Move, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten.convolution)
def convolution(call: Call) -> Terms:
    """A convolution of the tangent with a kernel, or with a tangent for a kernel.

    convolution(t, w)  ->  t: Convolve(w)
    convolution(x, t)  ->  t: Mix over everything but the output channel
    """
    terms: list[Term] = []
    if call.is_tangent(call["input"]):
        terms.append(Term(call["input"], [_convolve(call, transposed=call["transposed"])]))
    if call.is_tangent(call["weight"]):
        terms.append(_of_kernel(call))
    if call.is_tangent(call["bias"]):
        shape = call.out_shape()
        ones = (1,) * (len(shape) - 2)
        view = Move(lambda t: t.reshape(1, -1, *ones))
        terms.append(Term(call["bias"], [view, Scale(shape)]))
    return terms


def _convolve(call: Call, *, transposed: bool) -> Convolve:
    weight, shape = call["weight"], call.out_shape()
    rank = len(shape) - 2
    return Convolve(
        call.shape(weight),
        call.constant(weight),
        _each(call["stride"], rank),
        _each(call["padding"], rank),
        _each(call["dilation"], rank),
        transposed,
        call["groups"],
        shape,
    )


def _each(values: list[int], rank: int) -> tuple[int, ...]:
    return tuple(values) * rank if len(values) == 1 else tuple(values)


def _of_kernel(call: Call) -> Term:
    """A result of each channel depends on the kernels that make this channel."""
    weight, shape = call["weight"], call.out_shape()
    kernel = call.shape(weight)
    rank = len(kernel)
    if call["transposed"]:  # (in, out / groups, *size)
        groups = call["groups"]
        split = Move(lambda t: t.reshape(groups, kernel[0] // groups, *kernel[1:]))
        mix = Mix((1, *range(3, rank + 1)), (groups, 1, kernel[1], *(1,) * (rank - 2)))
        join = Move(lambda t: t.reshape(1, shape[1], *(1,) * (rank - 2)))
        return Term(weight, [split, mix, join, Scale(shape)])
    mix = Mix(tuple(range(1, rank)), (kernel[0], *(1,) * (rank - 1)))
    join = Move(lambda t: t.reshape(1, kernel[0], *(1,) * (rank - 2)))
    return Term(weight, [mix, join, Scale(shape)])


@rule(aten.convolution_backward)
def convolution_backward(call: Call) -> dict[int, Terms]:
    """The transpose of a convolution, and what reaches the kernel and the bias.

    convolution_backward(t, x, w)  ->  0, t: Convolve(w, transposed);  1, t: channel by channel
    """
    grad = call["grad_output"]
    if not call.is_tangent(grad) or len(list(call.tangents())) > 1:
        return NotImplemented
    terms: dict[int, Terms] = {}
    if call["output_mask"][0]:
        terms[0] = [Term(grad, [_convolve(call, transposed=not call["transposed"])])]
    if call["output_mask"][1]:
        terms[1] = [_to_kernel(call, grad)]
    if call["output_mask"][2]:
        shape = call.shape(grad)
        dims = (0, *range(2, len(shape)))
        mix = Mix(dims, (1, shape[1], *(1,) * (len(shape) - 2)))
        terms[2] = [Term(grad, [mix, Move(lambda t: t.reshape(-1))])]
    return terms


def _to_kernel(call: Call, grad: Ref) -> Term:
    shape, kernel = call.shape(grad), call.out_shape(1)
    ones = (1,) * (len(shape) - 2)
    mix = Mix((0, *range(2, len(shape))), (1, shape[1], *ones))
    if call["transposed"]:
        groups = call["groups"]
        split = Move(lambda t: t.reshape(groups, 1, kernel[1], *ones))
        spread = Scale((groups, kernel[0] // groups, *kernel[1:]))
        return Term(grad, [mix, split, spread, Move(lambda t: t.reshape(kernel))])
    return Term(grad, [mix, Move(lambda t: t.reshape(-1, 1, *ones)), Scale(kernel)])
