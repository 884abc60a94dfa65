"""Carry the partial derivatives of every tangent of a linear program, with their indices.

Index-carrying forward mode: where forward mode pushes one vector through the program, here each
tangent holds all its partial derivatives that can be nonzero, and the indices of the inputs they
belong to, which are known before any number is. Elementwise operations and movements act on the
derivatives as on the tangent itself; two blocks with the same index are added; a sum along an axis
on which the index does not change sums the derivatives, and one on which it does makes this axis a
further axis of derivatives.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.placed import Part
from torchjac._evaluate.direct.transport import PRODUCTS, Transport
from torchjac._linearize.plain import plain
from torchjac._linearize.program import LinearProgram, Node, Ref, map_refs
from torchjac._linearize.record import is_random
from torchjac._local.call import Call
from torchjac._local.registry import opaque_terms
from torchjac._local.rules import terms_of
from torchjac._torch import unrecorded


def carry(
    program: LinearProgram,
    primals: Sequence[Tensor],
    is_constant: Callable[[Tensor], bool],
    scope: str,
    room: int,
    starts: Mapping[int, list[Part]] | None = None,
) -> list[list[Part] | None]:
    """The partial derivatives of the results of a program.

    Args:
        program: The linear program.
        primals: x.
        is_constant: Whether a tensor is the same at every x.
        scope: As the pattern was detected.
        room: Most derivatives of one tensor, those that are zero included.
        starts: Derivatives of the tangents by what they were made of. None: each is its own.

    Returns:
        Derivatives of each result, None for one that is zero. Indices are those of `starts`, or
        count the elements of all tangents, one after the other, from 1.

    Raises:
        TooManyDerivativesError: There are more.
        NotImplementedError: There are random numbers, sparse tensors that are no factors of
            products, or operations that are not linear in the tangents.
    """
    values = dict(program.constants) | dict(zip(program.primals, primals, strict=True))
    carried = _identity(program, primals) if starts is None else dict(starts)
    last = {number: k for k, node in enumerate(program.nodes) for number in node.inputs}
    for k, node in enumerate(program.nodes):
        if program.linear.isdisjoint(node.inputs):
            _evaluate(node, values)
            continue
        _check_layouts(node, program, values)
        call = Call(node, program, scope == "local")
        with unrecorded():  # the structure of an operation depends on constants alone
            known = terms_of(call)
            terms = known or opaque_terms(call)
        for position, number in enumerate(node.outputs):
            if number is not None:
                result = program.values[number]
                transport = Transport(call, position, result, values, is_constant, room)
                if known is None:
                    transport.check_linear()
                carried[number] = transport.run(terms.get(position, ()), carried)
        for number in node.inputs:
            if last[number] == k and number not in program.outputs:
                carried.pop(number, None)
    return [None if n is None else carried[n] for n in program.outputs]


def _identity(program: LinearProgram, primals: Sequence[Tensor]) -> dict[int, list[Part]]:
    """Each input is its own derivative, which is one."""
    carried: dict[int, list[Part]] = {}
    start = 1
    for number in program.tangents:
        shape, dtype = program.values[number][:2]
        count = prod(shape)
        index = np.arange(start, start + count, dtype=np.int32).reshape(1, *shape)
        one = torch.ones((), dtype=dtype, device=primals[0].device)
        carried[number] = [Block(index, one.expand(1, *shape))] if count else []
        start += count
    return carried


def _check_layouts(node: Node, program: LinearProgram, values: Mapping[int, Tensor]) -> None:
    """Derivatives are strided tensors; coefficients may be sparse in products only."""
    tangents = [n for n in (*node.inputs, *node.outputs) if n in program.linear]
    kinds = [program.values[n] for n in tangents]
    is_strided = all([kind.strides or not kind.shape for kind in kinds])
    factors = [values[n] for n in node.inputs if n in values]
    is_product = getattr(node.op, "overloadpacket", None) in PRODUCTS
    if is_strided and (is_product or all([f.layout is torch.strided for f in factors])):
        return
    raise NotImplementedError(f"{node.name} works with sparse tensors")


def _evaluate(node: Node, values: dict[int, Tensor]) -> None:
    if is_random(node.op, node.args, node.kwargs):
        raise NotImplementedError(f"{node.name} draws random numbers")

    def fetch(ref: Ref) -> Tensor:
        return values[ref.number]

    kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
    result = plain(node.op)(*map_refs(fetch, node.args), **kwargs)
    results = result if isinstance(result, tuple | list) else (result,)
    for number, tensor in zip(node.outputs, results, strict=True):
        if number is not None:
            if tensor is None:  # kept for a backward pass only
                raise NotImplementedError(f"{node.name} gives less without autograd")
            values[number] = tensor
