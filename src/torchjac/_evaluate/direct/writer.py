"""Write a program out, operation by operation, its tensors as parts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from torchjac._evaluate.direct.spread import Axes, Builder, Factor, Parts, Spread, common
from torchjac._linearize.program import LinearProgram, Node, Ref, map_refs

aten = torch.ops.aten


class Writer:
    """What is written of a program.

    Args:
        program: Operations that are linear in nothing.
        device: Where its tensors are.

    Attributes:
        builder: The new operations.
        given: What is known of the tensors of the program.
    """

    def __init__(self, program: LinearProgram, device: torch.device) -> None:
        self._device = device
        self.builder = Builder(program.values, dict(program.constants))
        self.given = program.values
        known = (*program.primals, *program.constants)
        self._whole = {number: Ref(number) for number in known}
        self._spread: dict[int, Spread] = {}

    def whole(self, number: int) -> Ref:
        """A tensor of the given program as one."""
        if number not in self._whole:
            self._whole[number] = self.builder.whole(self._spread[number])
        return self._whole[number]

    def spread(self, ref: Ref) -> Spread:
        """A tensor of the given program as parts."""
        if ref.number not in self._spread:
            self._spread[ref.number] = self.builder.opened(self._whole[ref.number])
        return self._spread[ref.number]

    def keep(self, node: Node) -> None:
        """Write an operation down as it is."""
        kwargs = {key: map_refs(self._fetch, value) for key, value in node.kwargs.items()}
        args = map_refs(self._fetch, node.args)
        self.builder.nodes.append(Node(node.op, args, kwargs, node.outputs))
        self._whole.update({n: Ref(n) for n in node.outputs if n is not None})

    def take(self, node: Node, results: Sequence[Spread]) -> None:
        """Take parts for the results of an operation."""
        pairs = zip(node.outputs, results, strict=True)
        self._spread.update({number: s for number, s in pairs if number is not None})

    def zero(self, dtype: torch.dtype, rank: int) -> Ref:
        """A constant of so many axes."""
        return self.builder.narrowed(torch.zeros((1,) * rank, dtype=dtype, device=self._device))

    def _fetch(self, ref: Ref) -> Ref:
        return self.whole(ref.number)

    def shape(self, node: Node) -> tuple[int, ...]:
        return self.given[only(node)].shape

    def aligned(self, spreads: Sequence[Spread], shape: Sequence[int]) -> list[Spread] | None:
        """The tensors with as many axes and the same factors of each."""
        rank = len(shape)
        wide = [Spread(((),) * (rank - len(s.axes)) + s.axes, s.parts) for s in spreads]
        axes: list[tuple[Factor, ...]] = []
        for dim in range(rank):
            axis = common([s.axes[dim] for s in wide])
            if axis is None:
                return None
            axes.append(axis)
        pairs = [zip(s.axes, axes, strict=True) for s in wide]
        finer = [tuple([axis if own else () for own, axis in pair]) for pair in pairs]
        return [self.builder.refined(s, made) for s, made in zip(wide, finer, strict=True)]

    def filled(self, spread: Spread, axes: Axes) -> Parts:
        """The parts with an axis of length one for each factor that is missing."""
        narrow: list[int] = []
        wide: list[bool] = []
        for own, axis in zip(spread.axes, axes, strict=True):
            narrow += [f.length if own else 1 for f in axis if not f.is_wide]
            wide += [bool(own) for f in axis if f.is_wide]

        def one(part: Ref) -> Ref:
            given = iter(self.builder.shape(part))
            return self.builder.reshape(part, [next(given) if own else 1 for own in wide])

        return each(one, [spread.parts]).reshape(narrow)

    def combined(self, op: Any, args: Sequence[Any], shape: Sequence[int], dtype: Any) -> Ref:
        """An operation on parts; zeros and ones among them drop out."""
        builder = self.builder
        packet: Any = getattr(op, "overloadpacket", None)
        known = [builder.known(a) if isinstance(a, Ref) else None for a in args]
        if packet in (aten.mul, aten.div) and 0 in known[: 2 if packet is aten.mul else 1]:
            zero = args[known.index(0)]  # whatever it is multiplied with
            if builder.values[zero.number].dtype == dtype:
                return builder.reshape(zero, (1,) * len(shape))
        neutral = {aten.mul: 1, aten.div: 1, aten.add: 0, aten.sub: 0}.get(packet)
        commutes = packet in (aten.mul, aten.add)
        if neutral is not None and len(args) == 2 and neutral in known:
            other = args[0] if known[1] == neutral else args[1]
            fits = isinstance(other, Ref) and builder.values[other.number].dtype == dtype
            if fits and (commutes or known[1] == neutral):
                return other
        if packet is aten.where and len(args) == 3 and known[0] is not None:
            other = args[1 if known[0] else 2]
            if isinstance(other, Ref) and builder.values[other.number].dtype == dtype:
                return other
        return builder.call(op, tuple(args), shape, dtype)


def only(node: Node) -> int:
    """Number of the only result of an operation."""
    return next(number for number in node.outputs if number is not None)


def union(axes: Sequence[Axes]) -> Axes:
    """Of each axis the factors of the tensors that have it."""
    return tuple([next((a for a in same if a), ()) for same in zip(*axes, strict=True)])


def each(function: Callable[..., Ref], parts: Sequence[Parts]) -> Parts:
    """A function of the parts at each place."""
    made = np.empty(parts[0].shape, np.int64)
    for place in np.ndindex(*made.shape):
        made[place] = function(*[Ref(int(p[place])) for p in parts]).number
    return made
