"""Operations on elements: sums, differences, products with a coefficient, choices."""

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten
prims = torch.ops.prims

# Linear in one argument at a time, and nothing but linear: what they do to a one is a coefficient.
LINEAR = frozenset(
    {
        aten.add,
        aten.div,
        aten.elu_backward,
        aten.hardshrink_backward,
        aten.hardsigmoid_backward,
        aten.hardswish_backward,
        aten.hardtanh_backward,
        aten.leaky_relu_backward,
        aten.mul,
        aten.native_dropout_backward,
        aten.neg,
        aten.rrelu_with_noise_backward,
        aten.rsub,
        aten.sigmoid_backward,
        aten.silu_backward,
        aten.softplus_backward,
        aten.softshrink_backward,
        aten.sub,
        aten.tanh_backward,
        aten.threshold_backward,
        aten.where,
        prims.add,
        prims.mul,
    }
)
_PRODUCTS = frozenset({aten.mul, aten.div, prims.mul})
_SUMS = frozenset({aten.add, aten.sub})


@rule(
    "pointwise",  # whatever PyTorch tags so
    aten.binary_cross_entropy_backward,
    aten.elu_backward,
    aten.hardshrink_backward,
    aten.hardsigmoid_backward,
    aten.hardswish_backward,
    aten.hardtanh_backward,
    aten.huber_loss_backward,
    aten.imag,
    aten.infinitely_differentiable_gelu_backward,
    aten.leaky_relu_backward,
    aten.log_sigmoid_backward,
    aten.mish_backward,
    aten.mse_loss_backward,
    aten.nan_to_num,
    aten.native_dropout_backward,
    aten.real,
    aten.rrelu_with_noise_backward,
    aten.smooth_l1_loss_backward,
    aten.soft_margin_loss_backward,
    aten.softplus_backward,
    aten.softshrink_backward,
    aten.threshold_backward,
    prims.add,
    prims.mul,
)
def pointwise(call: Call) -> Terms:
    """Each element of the result is a multiple of the same element of the argument.

    mul(t, c)              ->  t: Scale(c)
    elu_backward(t, ...)   ->  t: Scale
    """
    shape, tangents = call.out_shape(), list(call.tangents())
    if _is_linear(call, tangents):
        return [Term(ref, [_scale(call, ref, shape)]) for ref in tangents]
    return [Term(ref, [Scale(shape)]) for ref in tangents]


@rule(
    aten._to_copy,
    aten.clone,
    aten.contiguous,
    aten.to,
    prims.convert_element_type,
)
def copies(call: Call) -> Terms:
    """The same elements in another dtype or memory format.

    _to_copy(t, dtype)  ->  t
    """
    source = call.node.args[0]
    return [Term(source)] if call.is_tangent(source) else []


@rule(aten._prelu_kernel_backward)
def prelu_backward(call: Call) -> dict[int, Terms]:
    """Both results have the shape of the input, the weight being expanded to it.

    _prelu_kernel_backward(t, x, w)  ->  0, t: Scale;  1, t: Scale(min(x, 0))
    """
    grad = call["grad_output"]
    if list(call.tangents()) != [grad]:
        return NotImplemented
    shape, known = call.shape(grad), call.constant(call["self"])
    below = None if known is None else known.clamp(max=0)
    return {0: [Term(grad, [Scale(shape)])], 1: [Term(grad, [Scale(shape, below)])]}


@rule(aten.fill, aten.zero)
def fill(call: Call) -> Terms:
    """Nothing remains of the first argument.

    fill(t, s)  ->  s: Scale
    """
    return [Term(ref, [Scale(call.out_shape())]) for ref in call.tangents() if ref != call["self"]]


def _scale(call: Call, ref: Ref, shape: tuple[int, ...]) -> Scale:
    others = [Ref(n) for n in call.node.inputs if n != ref.number]
    if not all([call.is_tangent(other) or call.constant(other) is not None for other in others]):
        return Scale(shape, _of_factor(call, ref))
    if _is_summand(call, others):
        return Scale(shape)
    coefficient = _coefficient(call, ref, others)
    return Scale(shape, None if bool(coefficient.all()) else coefficient)


def _is_summand(call: Call, others: list[Ref]) -> bool:
    """Whether the operation is a sum or difference of two tangents, as they are."""
    packet = getattr(call.node.op, "overloadpacket", None)
    return packet in _SUMS and len(others) == 1 and call.is_tangent(others[0]) and _is_bare(call)


def _is_bare(call: Call) -> bool:
    """Whether there are two arguments and nothing else, such as a factor of one of them."""
    return len(call.node.args) == 2 and not call.node.kwargs


def _of_factor(call: Call, ref: Ref) -> Tensor | None:
    """Where the other factor of a product can differ from zero."""
    if getattr(call.node.op, "overloadpacket", None) is not aten.mul:
        return None
    (factor,) = [part for part in call.node.args if part != ref]
    return call.factor(factor)


def _is_linear(call: Call, tangents: list[Ref]) -> bool:
    """Whether the operation is known to be linear; custom derivatives may hold others."""
    packet = getattr(call.node.op, "overloadpacket", call.node.op)
    if packet in _PRODUCTS and len(tangents) > 1:
        return False
    return packet in LINEAR and all([call.value(ref).dtype != torch.bool for ref in tangents])


def _coefficient(call: Call, ref: Ref, others: list[Ref]) -> Tensor:
    """The operation on ones in place of one tangent, and zeros in place of the others."""
    dtype = call.value(ref).dtype
    if getattr(call.node.op, "overloadpacket", None) is aten.mul and len(others) == 1:
        factor = call.constant(others[0])
        if factor is not None and factor.dtype == dtype and factor.layout is torch.strided:
            return factor
    # One number each, for tensors that are the same everywhere.
    numbers = {o.number: torch.zeros((), dtype=call.value(o).dtype) for o in others}
    numbers = {n: z for n, z in numbers.items() if call.is_tangent(Ref(n))}
    numbers[ref.number] = torch.ones((), dtype=dtype)
    return call.run(numbers)
