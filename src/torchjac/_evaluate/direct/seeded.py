"""Products with the seeds of a coloring as one program: compressed evaluation without functorch.

Where the derivatives of each entry are too many to be carried by themselves (a recurrent network,
say, in which every step mixes all that came before), the linear program runs on all seeds at once.
What is recorded of that is a program like any other: it is replayed or compiled, and calls
neither the function nor autograd.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from torch import Tensor

from torchjac._evaluate.direct.assemble import Assembly
from torchjac._evaluate.direct.emit import DirectProgram, IsConstant, emit_recorded
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.rerun import check_repeatable, run_node
from torchjac._torch import batched


def emit_seeded(
    program: LinearProgram,
    primals: Sequence[Tensor],
    seeds: Sequence[Tensor],
    read: Callable[[Sequence[Tensor | None]], Tensor],
    like: Tensor,
    most_bytes: float = inf,
) -> DirectProgram:
    """Emit the program of a Jacobian that is read from a few products.

    Args:
        program: The linear program of these products.
        primals: x, where it was traced.
        seeds: For each of its tangents k vectors, shape (k, *S).
        read: Takes the k products of each result, shape (k, *T), None for one that is zero, and
            returns the nonzeros in CSR order.
        like: A tensor like the nonzeros.
        most_bytes: What large tensors may take at one time.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
        NotImplementedError: It draws random numbers, or leads out of PyTorch.
    """
    check_repeatable(program)

    def assembled(inputs: Sequence[Tensor], _: IsConstant) -> Assembly:
        known: dict[int, Any] = dict(program.constants) | dict(
            zip(program.primals, inputs, strict=True)
        )
        for node in program.nodes:
            if program.linear.isdisjoint(node.inputs):
                run_node(node, known, program)
                if any([n is not None and known[n] is None for n in node.outputs]):
                    raise NotImplementedError(f"{node.name} gives less without autograd")

        def multiply(tangents: list[Tensor]) -> list[Tensor | None]:
            carried = known | dict(zip(program.tangents, tangents, strict=True))
            for node in program.linear_nodes:
                run_node(node, carried, program)
            return [None if n is None else carried[n] for n in program.outputs]

        nonzeros = read(batched(multiply, seeds)).to(like.dtype)
        return Assembly(nonzeros, nonzeros, None)

    size = like.numel() * like.element_size()
    return emit_recorded(assembled, primals, size, like.device, most_bytes)
