"""Run a program once more, to record it in another form."""

from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.attention import in_parts
from torchjac._linearize.plain import plain
from torchjac._linearize.program import LinearProgram, Node, Ref, Value, map_refs
from torchjac._linearize.record import Outside, is_random
from torchjac._torch import outside_modes

aten = torch.ops.aten
# They read memory, whatever the shape of their argument.
_BY_MEMORY = frozenset({aten.as_strided, aten.as_strided_scatter})


def check_repeatable(program: LinearProgram) -> None:
    """See that a program does the same when it is run again.

    Args:
        program: The program.

    Raises:
        NotImplementedError: It draws random numbers, or leads out of PyTorch.
    """
    for node in program.nodes:
        if isinstance(node.op, Outside) or is_random(node.op, node.args, node.kwargs):
            raise NotImplementedError(f"{node.name} cannot be run again")


def random_vector(value: Value, device: torch.device | None, generator: torch.Generator) -> Tensor:
    """A vector that lies in memory as a tangent did, if it had a place for each element.

    Args:
        value: What is known of the tangent.
        device: Where it shall be.
        generator: Of random numbers.

    Returns:
        The vector.
    """
    with outside_modes():  # a recorder would take it for a program that writes to tensors
        numbers = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        laid_out = torch.empty(value.shape, device="meta").as_strided(value.shape, value.strides)
        vector = torch.empty_like(laid_out, device=device, dtype=value.dtype)
        return vector.copy_(numbers.to(device, value.dtype))


def run_node(node: Node, known: dict[int, Tensor], program: LinearProgram) -> None:
    """Carry out an operation, a fused one as the operations that it stands for.

    Args:
        node: The operation.
        known: Tensors by number, its results among them afterwards.
        program: Where it stands.

    Raises:
        NotImplementedError: It reads memory by place, which now lies otherwise.
    """

    def fetch(ref: Ref) -> Tensor:
        return known[ref.number]

    packet = getattr(node.op, "overloadpacket", None)
    if packet in _BY_MEMORY and _lies_otherwise(node.args[0], known, program):
        raise NotImplementedError(f"{node.name} reads memory that lies otherwise")
    args = map_refs(fetch, node.args)
    kwargs: dict[str, Any] = {k: map_refs(fetch, v) for k, v in node.kwargs.items()}
    result: Any = in_parts(node.op, args, kwargs)
    if result is None:
        op = _copied if packet is aten.copy else plain(node.op)  # which autograd does not know
        result = op(*args, **kwargs)
    results = result if isinstance(result, tuple | list) else (result,)
    for number, tensor in zip(node.outputs, results, strict=True):
        if number is not None:
            known[number] = tensor


def _lies_otherwise(ref: Ref, known: dict[int, Tensor], program: LinearProgram) -> bool:
    return known[ref.number].stride() != program.values[ref.number].strides


def _copied(to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(to.dtype, non_blocking=non_blocking).expand(to.shape)
