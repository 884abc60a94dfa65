"""Brackets of any function, all that its cuts allow, and the Jacobians that they give."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests._evaluate.direct.emitted import backward, sizes_of
from torchjac._evaluate.chain.bracket import Bracket
from torchjac._evaluate.chain.cuts import nested_cuts, width
from torchjac._evaluate.chain.emit import emit_bracket
from torchjac._evaluate.chain.stretch import ADJOINT, TANGENT, Stretch
from torchjac._inputs.signature import Signature, bind
from torchjac._linearize.expand import expanded
from torchjac._pattern.detect import Detection, detect


class Chain(NamedTuple):
    """A function, its pattern, and its linear program in one direction, cut."""

    signature: Signature
    found: Detection
    bracket: Bracket

    def dense(self, stretch: Stretch, leaves: Sequence[Tensor]) -> Tensor:
        """The Jacobian at `leaves` by some order of multiplication, shape (m, n)."""
        program = self.bracket.program
        bracket = Bracket(program, self.bracket.cuts, self.bracket.widths, stretch, (), None, None)
        sizes = sizes_of(self.signature, program.direction)
        pattern, like = self.found.pattern, self.signature.leaves[0]
        emitted = emit_bracket(bracket, self.signature.leaves, sizes, pattern, like)
        with torch.no_grad():
            nonzeros = emitted.whole.one_by_one.graph(*leaves)
        places = torch.from_numpy(pattern.rows).long(), torch.from_numpy(pattern.indices).long()
        return nonzeros.new_zeros(pattern.shape).index_put(places, nonzeros)


def chain(function: Callable[..., Any], inputs: Any, direction: str = "", cuts: int = 3) -> Chain:
    """A function with its linear program cut so many times at most."""
    signature = bind("test", function, inputs)
    found = detect(signature)
    program = backward(signature) if direction == "vjp" else found.program
    program = expanded(program, signature.leaves)
    ends = program.tangents, tuple(dict.fromkeys([n for n in program.outputs if n is not None]))
    all_cuts = (ends[0], *nested_cuts(program, cuts), ends[1])
    widths = tuple([width(program, cut) for cut in all_cuts])
    root = Stretch(0, len(all_cuts) - 1, TANGENT)
    return Chain(signature, found, Bracket(program, all_cuts, widths, root, (), None, None))


def stretches(start: int, stop: int, direction: str) -> Iterator[Stretch]:
    """All ways to have what lies between two cuts."""
    yield Stretch(start, stop, direction)
    for cut in range(start + 1, stop):
        ends = (start, cut) if direction == TANGENT else (cut, stop)
        rest = (cut, stop) if direction == TANGENT else (start, cut)
        for before in stretches(*ends, direction):
            if before.factor is not None:
                yield Stretch(start, stop, direction, before)
            for way in (TANGENT, ADJOINT):
                for factor in stretches(*rest, way):
                    yield Stretch(start, stop, direction, before, factor)


def some(found: Chain, most: int = 7) -> list[Stretch]:
    """Ways to have the whole, spread over all that there are."""
    last = len(found.bracket.cuts) - 1
    every = [s for way in (TANGENT, ADJOINT) for s in stretches(0, last, way)]
    return list(islice(every, 0, None, max(1, len(every) // most)))
