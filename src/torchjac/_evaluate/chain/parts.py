"""The parts of a linear program between its cuts, each both ways, and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import Tensor

from torchjac._evaluate.chain.cuts import Cut
from torchjac._evaluate.chain.relation import Reading, Relation
from torchjac._evaluate.chain.segment import segment
from torchjac._evaluate.chain.work import Work
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.transpose import transposed


@dataclass(frozen=True)
class Load:
    """One operation of a part, as it is for one derivative of each element.

    Attributes:
        multiplications: Numbers multiplied and added.
        slices: Derivatives of each element of its arguments and of its results, if the part begins
            with the identity.
        bytes: Of its arguments that depend on the tangent, and of its results.
    """

    multiplications: int
    slices: tuple[int, int]
    bytes: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Part:
    """What lies between two cuts that follow each other.

    Attributes:
        relation: Of the elements of the second cut to those of the first.
        forward: Its operations.
        backward: Those of the transposed part, None if it has none.
    """

    relation: Relation
    forward: Sequence[Load]
    backward: Sequence[Load] | None


def read_parts(
    program: LinearProgram, cuts: Sequence[Cut], primals: Sequence[Tensor], scope: str
) -> tuple[list[Part], tuple[str, ...]]:
    """The parts between cuts.

    Args:
        program: The whole.
        cuts: From its tangents to its results.
        primals: x, where it was traced.
        scope: As the pattern was detected.

    Returns:
        The parts, and why some of them have no adjoint.
    """
    parts: list[Part] = []
    refused: list[str] = []
    for k, (start, stop) in enumerate(pairwise(cuts)):
        part = segment(program, start, stop)
        reading = Reading(part, scope)
        backward = None
        try:
            mirror = transposed(part, primals)
            backward = _loads(mirror, Reading(mirror, scope))
        except NotImplementedError as error:
            refused.append(f"J{k + 1} by tangents only: {error}")
        parts.append(Part(reading.relation, _loads(part, reading), backward))
    return parts, tuple(refused)


def _loads(part: LinearProgram, reading: Reading) -> list[Load]:
    def size(numbers: Sequence[int]) -> int:
        values = [part.values[n] for n in numbers]
        return sum([prod(value.shape) * value.dtype.itemsize for value in values])

    def slices(numbers: Sequence[int]) -> int:
        return max([reading.slices.get(n, 0) for n in numbers], default=0)

    loads = []
    works = Work(part).multiplications
    for node, multiplications in zip(part.linear_nodes, works, strict=True):
        ends = (
            [n for n in node.inputs if n in part.linear],
            [n for n in node.outputs if n is not None],
        )
        sizes = size(ends[0]), size(ends[1])
        loads.append(Load(multiplications, (slices(ends[0]), slices(ends[1])), sizes))
    return loads
