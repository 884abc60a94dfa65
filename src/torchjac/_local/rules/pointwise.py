"""Operations on elements: sums, differences, products with a coefficient, choices."""

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import LinearMap, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten
prims = torch.ops.prims


@rule(
    "pointwise",  # whatever PyTorch tags so
    aten.threshold_backward,
    aten._to_copy,
    aten.to,
    aten.clone,
    aten.real,
    aten.imag,
    aten.nan_to_num,
    aten.native_dropout_backward,
    prims.mul,
    prims.add,
    prims.convert_element_type,
)
def pointwise(call: Call) -> Terms:
    """Each element of the result is a multiple of the same element of the argument.

    mul(t, c)  ->  t: Scale(c)
    """
    shape = call.out_shape()
    return [Term(ref, _scale(call, ref, shape)) for ref in call.tangents()]


def _scale(call: Call, ref: Ref, shape: tuple[int, ...]) -> list[LinearMap]:
    others = [Ref(n) for n in call.node.inputs if n != ref.number]
    if not all(call.is_tangent(other) or call.constant(other) is not None for other in others):
        return [Scale(shape)]
    coefficient = _coefficient(call, ref, others)
    return [Scale(shape, None if bool(coefficient.all()) else coefficient)]


def _coefficient(call: Call, ref: Ref, others: list[Ref]) -> Tensor:
    """The operation on ones in place of one tangent, and zeros in place of the others."""
    dtype = call.value(ref).dtype
    # One number each, for tensors that are the same everywhere.
    numbers = {o.number: torch.zeros((), dtype=call.value(o).dtype) for o in others}
    numbers = {n: z for n, z in numbers.items() if call.is_tangent(Ref(n))}
    numbers[ref.number] = torch.ones((), dtype=dtype)
    return call.run(numbers)
