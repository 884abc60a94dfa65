"""What the operations of a linear program take, for one tangent."""

from math import prod

from torchjac._linearize.program import LinearProgram, Node
from torchjac._local.algebra import Contract, Convolve, LinearMap, Matrix, Mix, Opaque
from torchjac._local.call import Call
from torchjac._local.registry import opaque_terms
from torchjac._local.rules import terms_of

_MIXING = (Contract, Convolve, Matrix, Mix, Opaque)


class Work:
    """The operations of a linear program, each with its work.

    Attributes:
        multiplications: Of each node that is linear in the tangents, by its place.
        mixing: Places of those that do more than move, scale and add.
    """

    def __init__(self, program: LinearProgram) -> None:
        self.multiplications: list[int] = []
        self.mixing: list[int] = []
        for place, node in enumerate(program.linear_nodes):
            maps = _maps(node, program)
            self.multiplications.append(sum([_multiplications(m, *where) for m, *where in maps]))
            if any([isinstance(m, _MIXING) for m, *_ in maps]):
                self.mixing.append(place)

    @property
    def total(self) -> int:
        """Of all operations."""
        return sum(self.multiplications)


def _maps(
    node: Node, program: LinearProgram
) -> list[tuple[LinearMap | None, tuple[int, ...], tuple[int, ...]]]:
    """The linear maps of an operation, with the shapes of its argument and its result."""
    call = Call(node, program)
    terms = terms_of(call) or opaque_terms(call)
    found: list[tuple[LinearMap | None, tuple[int, ...], tuple[int, ...]]] = []
    for position, number in enumerate(node.outputs):
        if number is None:
            continue
        shape = program.values[number].shape
        for term in terms.get(position, ()):
            source = program.values[term.source.number].shape
            found += [(linear_map, source, shape) for linear_map in term.maps or [None]]
    return found


def _multiplications(
    linear_map: LinearMap | None, source: tuple[int, ...], shape: tuple[int, ...]
) -> int:
    if isinstance(linear_map, Contract):
        mine, others, out = linear_map.equation.replace("->", ",").split(",")
        sizes = dict(zip(out, shape, strict=True)) | dict(zip(mine, source, strict=True))
        return prod((sizes | dict(zip(others, linear_map.sizes, strict=True))).values())
    if isinstance(linear_map, Convolve):
        sums = linear_map.kernel[0 if linear_map.transposed else 1] // (
            linear_map.groups if linear_map.transposed else 1
        )
        return prod(linear_map.shape) * sums * prod(linear_map.kernel[2:])
    if isinstance(linear_map, Mix):
        lengths = [source[d] for d in linear_map.dims] if len(source) == len(shape) else []
        return prod(linear_map.shape) * prod(lengths)
    if isinstance(linear_map, Matrix):
        return len(linear_map.rows)
    if isinstance(linear_map, Opaque):
        return prod(source) * prod(shape) // prod(shape[: linear_map.batch_dims])
    return prod(shape)
