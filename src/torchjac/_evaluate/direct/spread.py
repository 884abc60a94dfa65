"""A tensor as many: one for each place along its narrow axes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._evaluate.direct.scalars import narrowed
from torchjac._linearize.program import LinearProgram, Node, Ref, Value, map_refs, refs_in
from torchjac._linearize.simplify import trimmed

aten = torch.ops.aten
Parts = NDArray[Any]
# A longer axis stays an axis; a tensor is never more parts than this.
NARROW, MOST_PARTS = 16, 64


class Factor(NamedTuple):
    """Part of an axis: an axis of n1 n2 elements has two, the first of which changes slowly.

    Attributes:
        length: How many elements, at least two.
        is_wide: Whether it is an axis of the parts; else there is a part for each element.
    """

    length: int
    is_wide: bool


Axes = tuple[tuple[Factor, ...], ...]


@dataclass(frozen=True, eq=False)
class Spread:
    """A tensor as parts.

    Attributes:
        axes: For each axis of the tensor its factors, none for an axis of length one.
        parts: Numbers of the parts, one for each place along the narrow factors, in their order. A
            part has an axis for each wide factor, in their order, which may have length one if
            nothing changes along it.
    """

    axes: Axes
    parts: Parts

    @property
    def factors(self) -> tuple[Factor, ...]:
        """Of all axes."""
        return tuple([factor for axis in self.axes for factor in axis])

    @property
    def wide(self) -> tuple[int, ...]:
        """Full lengths of the axes of the parts."""
        return tuple([factor.length for factor in self.factors if factor.is_wide])

    def positions(self, dim: int) -> tuple[list[int], list[int]]:
        """Where the factors of an axis stand among the wide ones, and among the narrow ones."""
        before = [factor for axis in self.axes[:dim] for factor in axis]
        wide = sum([factor.is_wide for factor in before])
        narrow = len(before) - wide
        found: tuple[list[int], list[int]] = ([], [])
        for factor in self.axes[dim]:
            if factor.is_wide:
                found[0].append(wide + len(found[0]))
            else:
                found[1].append(narrow + len(found[1]))
        return found


class Builder:
    """Operations that are written down one after the other.

    Args:
        values: What is known of the tensors so far.
        constants: Those whose numbers are known.

    Attributes:
        nodes: The operations.
        values: Of these tensors and the new ones.
        constants: Likewise.
    """

    def __init__(self, values: Sequence[Value], constants: dict[int, Tensor]) -> None:
        self.nodes: list[Node] = []
        self.values = list(values)
        self.constants = dict(constants)
        self._wholes: dict[Any, Ref] = {}
        self._known: dict[int, float | None] = {}

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Of a tensor."""
        return self.values[ref.number].shape

    def common_shape(self, refs: Sequence[Ref]) -> tuple[int, ...]:
        """The shape that tensors are broadcast to, without PyTorch's search for symbols in it."""
        return np.broadcast_shapes(*[self.shape(ref) for ref in refs])

    def call(self, op: Any, args: tuple[Any, ...], shape: Sequence[int], dtype: Any = None) -> Ref:
        """Write an operation down, or carry it out if all it takes is constant.

        Args:
            op: An operator that returns a tensor.
            args: Its arguments, a `Ref` for each tensor.
            shape: Of its result.
            dtype: Likewise; None for that of the first tensor.

        Returns:
            The result.
        """
        inputs = list(refs_in(args))
        if all([number in self.constants for number in inputs]):
            return self._kept(op(*map_refs(lambda ref: self.constants[ref.number], args)))
        dtype = dtype or self.values[inputs[0]].dtype
        ref = Ref(len(self.values))
        self.values.append(Value(tuple(shape), dtype))
        self.nodes.append(Node(op, args, {}, (ref.number,)))
        return ref

    def rewritten(self, program: LinearProgram, outputs: Sequence[int | None]) -> LinearProgram:
        """A program with what was written down in place of its operations.

        Args:
            program: The one whose tensors these operations began with.
            outputs: What its results are called here.

        Returns:
            The program, without what no result needs.
        """
        nodes, outputs = trimmed(self.nodes, self.values, self.constants, outputs)
        return replace(
            program,
            nodes=tuple(nodes),
            values=tuple(self.values),
            constants=self.constants,
            outputs=outputs,
        )

    def narrowed(self, tensor: Tensor) -> Ref:
        """A new constant; axes along which it does not change have length one."""
        return self._kept(narrowed(tensor))

    def _kept(self, tensor: Tensor) -> Ref:
        ref = Ref(len(self.values))
        self.values.append(Value(tuple(tensor.shape), tensor.dtype))
        self.constants[ref.number] = tensor
        return ref

    def known(self, ref: Ref) -> float | None:
        """The number that all elements of a constant are, if there is one."""
        if ref.number not in self._known:
            self._known[ref.number] = _number(self.constants.get(ref.number))
        return self._known[ref.number]

    def _narrow(self, ref: Ref) -> Ref:
        known = self.constants.get(ref.number)
        return ref if known is None else self.narrowed(known)

    def reshape(self, ref: Ref, shape: Sequence[int]) -> Ref:
        """The same elements under another shape."""
        if self.shape(ref) == tuple(shape):
            return ref
        return self.call(aten.reshape.default, (ref, list(shape)), shape)

    def select(self, ref: Ref, dim: int, index: int) -> Ref:
        """The elements at one place of an axis."""
        shape = self.shape(ref)
        index = 0 if shape[dim] == 1 else index
        return self.call(aten.select.int, (ref, dim, index), shape[:dim] + shape[dim + 1 :])

    def permute(self, ref: Ref, order: Sequence[int]) -> Ref:
        """The axes in another order."""
        if list(order) == list(range(len(order))):
            return ref
        shape = [self.shape(ref)[d] for d in order]
        return self.call(aten.permute.default, (ref, list(order)), shape)

    def opened(self, ref: Ref, wide: int | None = None) -> Spread:
        """A whole tensor as parts.

        Args:
            ref: The tensor.
            wide: An axis that stays one, even if it is narrow.

        Returns:
            Its parts: axes that are narrow are taken apart, the last ones first.
        """
        if ref.number in self.constants:
            full, ref = self.shape(ref), self.narrowed(self.constants[ref.number])
        else:
            full = self.shape(ref)
        parts, axes = 1, []
        for dim, length in reversed(list(enumerate(full))):
            is_wide = length > NARROW or length * parts > MOST_PARTS or dim == wide
            parts *= 1 if is_wide else length
            axes.append((Factor(length, is_wide),) if length > 1 else ())
        axes = tuple(reversed(axes))
        keep = [1 if not axis or not axis[0].is_wide else 0 for axis in axes]
        count = [axis[0].length for axis in axes if axis and not axis[0].is_wide]
        made = np.empty(count, np.int64)
        for place in np.ndindex(*count):
            part, left = ref, list(place)
            for dim in reversed(range(len(axes))):
                if keep[dim]:
                    part = self.select(part, dim, left.pop() if axes[dim] else 0)
            made[place] = self._narrow(part).number
        return Spread(axes, made)

    def whole(self, spread: Spread) -> Ref:
        """The parts put together.

        Args:
            spread: The parts.

        Returns:
            The tensor.
        """
        key = (spread.axes, spread.parts.tobytes())
        if key not in self._wholes:
            self._wholes[key] = self._joined(spread)
        return self._wholes[key]

    def _joined(self, spread: Spread) -> Ref:
        factors, shape = spread.factors, [prod([f.length for f in a]) for a in spread.axes]
        parts = [self.expanded(Ref(n), spread.wide) for n in spread.parts.ravel().tolist()]
        if len(parts) == 1:
            return self.reshape(parts[0], shape)
        narrow = [k for k, f in enumerate(factors) if not f.is_wide]
        wide = [k for k, f in enumerate(factors) if f.is_wide]
        if wide + narrow == list(range(len(factors))):  # written in the final order at once
            stacked = self.call(aten.stack.default, (parts, len(wide)), (*spread.wide, len(parts)))
            return self.reshape(stacked, shape)
        stacked = self.call(aten.stack.default, (parts,), (len(parts), *spread.wide))
        order = narrow + wide
        stacked = self.reshape(stacked, [factors[k].length for k in order])
        return self.reshape(self.permute(stacked, np.argsort(order).tolist()), shape)

    def expanded(self, part: Ref, shape: Sequence[int]) -> Ref:
        """A part with all axes in full length."""
        if self.shape(part) == tuple(shape):
            return part
        if part.number in self.constants:
            return self._kept(self.constants[part.number].expand(*shape))
        return self.call(aten.expand.default, (part, list(shape)), shape)

    def refined(self, spread: Spread, axes: Axes) -> Spread:
        """The same tensor with finer factors.

        Args:
            spread: Of a tensor.
            axes: Factors: each of the old ones is a product of new ones, narrow if it was.

        Returns:
            The parts.
        """
        if spread.axes == axes:
            return spread
        groups = _groups(spread.factors, [factor for axis in axes for factor in axis])
        # For each new factor whether it comes from a wide one, and is narrow now.
        narrow = [(old.is_wide, new) for old, news in groups for new in news if not new.is_wide]
        lengths = [new.length for was_wide, new in narrow if not was_wide]
        old_parts = spread.parts.reshape(lengths)
        opened = {
            place: self._split(Ref(int(old_parts[place])), groups) for place in np.ndindex(*lengths)
        }
        parts = np.empty([new.length for _, new in narrow], np.int64)
        for place in np.ndindex(*parts.shape):
            pairs = list(zip(place, narrow, strict=True))
            part = opened[tuple([k for k, (was_wide, _) in pairs if not was_wide])]
            picks = [k for k, (was_wide, _) in pairs if was_wide]
            dims = _taken_apart(groups)
            for dim in reversed(dims):
                part = self.select(part, dim, picks.pop())
            parts[place] = self._narrow(part).number
        return Spread(axes, parts)

    def _split(self, part: Ref, groups: Sequence[tuple[Factor, list[Factor]]]) -> Ref:
        """A part with its axes split as the wide factors are."""
        lengths: list[int] = []
        given = iter(self.shape(part))
        for old, news in groups:
            if old.is_wide:
                is_full = next(given) > 1
                lengths += [new.length if is_full else 1 for new in news]
        return self.reshape(part, lengths)


def _taken_apart(groups: Sequence[tuple[Factor, list[Factor]]]) -> list[int]:
    """Axes of a split part that are narrow now."""
    wide = [new for old, news in groups if old.is_wide for new in news]
    return [dim for dim, new in enumerate(wide) if not new.is_wide]


def _groups(old: Sequence[Factor], new: Sequence[Factor]) -> list[tuple[Factor, list[Factor]]]:
    """Which new factors each old one is the product of."""
    rest = list(new)
    groups: list[tuple[Factor, list[Factor]]] = []
    for factor in old:
        found: list[Factor] = []
        while prod([f.length for f in found]) < factor.length:
            found.append(rest.pop(0))
        groups.append((factor, found))
    return groups


def common(axes: Sequence[tuple[Factor, ...]]) -> tuple[Factor, ...] | None:
    """The coarsest factors of an axis that refine several.

    Args:
        axes: Factors of the same axis in several tensors; none where it has length one.

    Returns:
        Factors, narrow where one of the given is. None if there are no such.
    """
    kinds = {axis for axis in axes if axis}
    if len(kinds) <= 1:
        return next(iter(kinds), ())
    # How many elements lie behind the end of each factor, and whether it is narrow.
    ends: dict[int, bool] = {}
    narrow: list[tuple[int, int]] = []
    for axis in kinds:
        behind = 1
        for factor in reversed(axis):
            if not factor.is_wide:
                narrow.append((behind, behind * factor.length))
            behind *= factor.length
            ends[behind] = True
    found: list[Factor] = []
    last = 1
    for end in sorted(ends):
        if end % last:
            return None
        inside = any([low <= last and end <= high for low, high in narrow])
        found.append(Factor(end // last, not inside))
        last = end
    return tuple(reversed(found))


def regrouped(factors: Sequence[Factor], shape: Sequence[int]) -> Axes | None:
    """Factors of one tensor dealt out to the axes of another shape.

    Args:
        factors: Of all axes.
        shape: Another shape with as many elements.

    Returns:
        For each axis its factors, some of which are split. None if that does not work out.
    """
    rest = list(factors)
    axes: list[tuple[Factor, ...]] = []
    for length in shape:
        found: list[Factor] = []
        while length > 1:
            factor = rest.pop(0)
            if length % factor.length == 0:
                found.append(factor)
                length //= factor.length
            elif factor.length % length == 0:
                found.append(Factor(length, factor.is_wide))
                rest.insert(0, Factor(factor.length // length, factor.is_wide))
                length = 1
            else:
                return None
        axes.append(tuple(found))
    return tuple(axes)


def _number(tensor: Tensor | None) -> float | None:
    if tensor is None or tensor.numel() != 1 or tensor.dtype.is_complex:
        return None
    return float(tensor.detach())
