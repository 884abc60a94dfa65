"""Constants as they would be with other weights.

A tensor that requires gradients is there to be changed, and to be differentiated by: an exact zero
in it says nothing of its neighbours, and the derivative of the Jacobian at that place is seldom
zero. So the zeros of what is made of such tensors are those that are left when their numbers are
others: masks, triangles and blocks that the function itself puts there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import Node, Ref, map_refs
from torchjac._linearize.simplify import leading_to

# Numbers move by this part of their size at most, and keep their sign: few operations end there.
_FARTHEST = 0.25


def generic_constants(
    nodes: Sequence[Node],
    constants: Mapping[int, Tensor],
    graded: Iterable[int],
    used: Iterable[int],
) -> Mapping[int, Tensor]:
    """Constants with zeros that come of tensors that require gradients, made of other numbers.

    Args:
        nodes: The operations, those on constants too, none of which writes to a tensor.
        constants: Tensors that depend on no input.
        graded: Numbers of those that require gradients and were there before.
        used: Numbers of those that are asked for.

    Returns:
        Of these the ones that hold zeros and depend on one that requires gradients, as they are
        with other numbers there.
    """
    known: dict[int, Tensor] = {}
    starts = set(graded)
    moving = set(starts)
    held: list[Node] = []
    for node in nodes:
        made = [n for n in node.outputs if n is not None and _has_gradient(constants.get(n))]
        if made and not moving.isdisjoint(node.inputs):
            moving.update(made)
            held.append(node)
    wanted = [n for n in used if n in moving and _has_zeros(constants[n])]
    if not wanted:
        return {}
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for number in sorted(starts):
            known[number] = _moved(constants[number], generator)
        for node in leading_to(held, wanted):
            _run(node, constants, known)
    return {n: known[n] for n in wanted}


def _has_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and (tensor.dtype.is_floating_point or tensor.dtype.is_complex)


def _has_zeros(tensor: Tensor) -> bool:
    if tensor.layout is torch.sparse_coo:
        tensor = tensor._values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    return not bool((tensor != 0).all())


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Other numbers in the same places, none of them zero."""
    tensor = tensor.detach()
    if tensor.layout is torch.strided:
        return _shifted(tensor, generator)
    moved = tensor.clone()
    values = moved._values() if moved.layout is torch.sparse_coo else moved.values()
    values.copy_(_shifted(values, generator))
    return moved


def _shifted(numbers: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(numbers.shape, generator=generator, dtype=torch.float64)
    drawn = drawn.to(numbers.device, numbers.real.dtype)
    return torch.where(numbers == 0, 0.5 + drawn, numbers * (1 + _FARTHEST * (2 * drawn - 1)))


def _run(node: Node, constants: Mapping[int, Tensor], known: dict[int, Tensor]) -> None:
    """Carry out an operation; what cannot be done with other numbers may be anything."""

    def fetch(ref: Ref) -> Tensor:
        return known.get(ref.number, constants[ref.number])

    kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
    try:
        result: Any = node.op(*map_refs(fetch, node.args), **kwargs)
    except RuntimeError:
        result = [None if n is None else torch.ones_like(constants[n]) for n in node.outputs]
    results = result if isinstance(result, tuple | list) else (result,)
    for number, tensor in zip(node.outputs, results, strict=True):
        if number is not None and _has_gradient(constants[number]):
            known[number] = tensor
