"""Direct programs of any function, both ways, beside its dense Jacobian."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.chain.bracket import plain_bracket
from torchjac._evaluate.chain.emit import emit_bracket
from torchjac._evaluate.direct.emit import DirectProgram
from torchjac._evaluate.direct.runner import REPLAY, Direct
from torchjac._inputs.signature import Signature, bind
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.trace import trace_vjp
from torchjac._pattern.detect import Detection, detect


class Emitted(NamedTuple):
    """A direct program and what it was made for."""

    program: DirectProgram
    found: Detection

    def dense(self, leaves: Sequence[Tensor]) -> Tensor:
        """The Jacobian at `leaves`, shape (m, n)."""
        return self.spread(self.nonzeros(leaves))

    def nonzeros(self, leaves: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return self.program.whole.one_by_one.graph(*leaves)

    def refilled(self, nonzeros: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Those of one point after those of another were written over them."""
        nonzeros = nonzeros.clone()
        with torch.no_grad():
            Direct(self.program, REPLAY, tuple(leaves)).refill(nonzeros, leaves)
        return nonzeros

    def spread(self, nonzeros: Tensor) -> Tensor:
        pattern = self.found.pattern
        result = nonzeros.new_zeros(pattern.shape)
        places = torch.from_numpy(pattern.rows).long(), torch.from_numpy(pattern.indices).long()
        return result.index_put(places, nonzeros)


def emitted(
    function: Callable[..., Any], inputs: Any, directions: Sequence[str] = ("jvp", "vjp")
) -> Mapping[str, Emitted]:
    """Programs from x to the nonzeros, by direction; without "jvp" where detection reads none."""
    signature = bind("test", function, inputs)
    found = detect(signature)
    programs = {found.direction: found.program}
    if found.direction == "jvp" and "vjp" in directions:
        programs["vjp"] = backward(signature)
    result = {}
    for direction, program in programs.items():
        if direction in directions:
            direct = emit_bracket(
                plain_bracket(program),
                signature.leaves,
                sizes_of(signature, direction),
                found.pattern,
                signature.leaves[0],
            )
            result[direction] = Emitted(direct, found)
    return result


def backward(signature: Signature) -> LinearProgram:
    """The program of J^T u."""

    def flat(leaves: Sequence[Tensor]) -> Sequence[Tensor]:
        return signature.replay(leaves).tensors

    def ones(values: Sequence[Tensor]) -> list[Tensor]:
        return [torch.ones_like(value) for value in values]

    return trace_vjp(flat, signature.leaves, ones).program


def sizes_of(signature: Signature, direction: str) -> list[int]:
    if direction == "vjp":
        return [leaf.numel() for leaf in signature.leaves]
    with torch.no_grad():
        return [y.numel() for y in signature.replay(signature.leaves).tensors]


def dense_jacobian(function: Callable[..., Any], inputs: Any) -> Tensor:
    """By PyTorch's own reverse mode, a row at a time, shape (m, n)."""
    signature = bind("test", function, inputs)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in signature.leaves]
    rows = []
    for y in signature.replay(leaves).tensors:
        for element in y.reshape(-1):
            parts = [None] * len(leaves)
            if element.requires_grad:
                parts = torch.autograd.grad(element, leaves, retain_graph=True, allow_unused=True)
            filled = [
                torch.zeros_like(x) if p is None else p for p, x in zip(parts, leaves, strict=True)
            ]
            rows.append(torch.cat([p.reshape(-1) for p in filled]))
    width = sum(leaf.numel() for leaf in leaves)
    return torch.stack(rows) if rows else leaves[0].new_zeros(0, width)
