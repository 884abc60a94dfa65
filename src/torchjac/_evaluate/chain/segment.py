"""Part of a linear program: from some of its tangents to others."""

from collections.abc import Sequence
from dataclasses import replace

from torchjac._linearize.program import LinearProgram, dependents


def segment(
    program: LinearProgram, starts: Sequence[int], stops: Sequence[int | None]
) -> LinearProgram:
    """The part of a linear program between two sets of tensors.

    Args:
        program: The whole.
        starts: Tensors that depend on its tangents, the tangents of the part.
        stops: Tensors that depend on the tangents by way of `starts` alone, its outputs; they may
            be among `starts`.

    Returns:
        The part, with all that its coefficients are made of.

    >>> from torchjac._inputs.signature import bind
    >>> from torchjac._linearize.linearize import linearize
    >>> import torch
    >>> program, _ = linearize(bind("f", lambda x: x.sin().flip(0).exp(), torch.ones(2)))
    >>> middle = program.linear_nodes[1].outputs
    >>> [node.name for node in segment(program, middle, program.outputs).linear_nodes]
    ['aten.mul']
    """
    needed: set[int | None] = set(stops) - {None}
    given = set(starts)
    kept = []
    for node in reversed(program.nodes):
        if any([n in needed and n not in given for n in node.outputs]):
            outputs = tuple([None if n in given else n for n in node.outputs])
            kept.append(replace(node, outputs=outputs) if outputs != node.outputs else node)
            needed.update(node.inputs)
    nodes = tuple(kept[::-1])
    return replace(
        program,
        nodes=nodes,
        tangents=tuple(starts),
        outputs=tuple(stops),
        linear=dependents(nodes, starts),
    )
