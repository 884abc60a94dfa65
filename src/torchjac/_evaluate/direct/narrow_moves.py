"""Movements of tensors that are parts: most of them move nothing."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from torchjac._evaluate.direct.spread import NARROW, Factor, Spread, regrouped
from torchjac._evaluate.direct.writer import Writer, each, union
from torchjac._linearize.program import Node, Ref

aten = torch.ops.aten


def unchanged(writer: Writer, node: Node) -> Sequence[Spread]:
    return [writer.spread(node.args[0])]


def reshaped(writer: Writer, node: Node) -> Sequence[Spread] | None:
    spread, shape = writer.spread(node.args[0]), writer.shape(node)
    axes = regrouped(spread.factors, shape)
    if axes is None:
        return None
    finer = iter([factor for axis in axes for factor in axis])
    old: list[tuple[Factor, ...]] = []
    for axis in spread.axes:
        length, found = prod([f.length for f in axis]), []
        while prod([f.length for f in found]) < length:
            found.append(next(finer))
        old.append(tuple(found))
    return [Spread(axes, writer.builder.refined(spread, tuple(old)).parts)]


def permuted(writer: Writer, node: Node) -> Sequence[Spread]:
    spread = writer.spread(node.args[0])
    order = [d % len(spread.axes) for d in node.args[1]]
    wide = [k for d in order for k in spread.positions(d)[0]]
    narrow = [k for d in order for k in spread.positions(d)[1]]
    parts = each(lambda part: writer.builder.permute(part, wide), [spread.parts])
    return [Spread(tuple([spread.axes[d] for d in order]), parts.transpose(narrow))]


def turned(writer: Writer, node: Node) -> Sequence[Spread]:
    rank = len(writer.shape(node))
    order = list(reversed(range(rank)))
    return permuted(writer, Node(aten.permute.default, (node.args[0], order), {}, node.outputs))


def put_back(writer: Writer, node: Node) -> Sequence[Spread] | None:
    ref, shape, dim, index = node.args
    dim, length = dim % len(shape), shape[dim]
    if length > NARROW:
        return None
    spread = writer.spread(ref)
    if length == 1:
        return [Spread((*spread.axes[:dim], (), *spread.axes[dim:]), spread.parts)]
    zero = writer.zero(writer.given[ref.number].dtype, len(spread.wide))
    parts = [np.full_like(spread.parts, zero.number)] * length
    parts[index % length] = spread.parts
    before = sum([not f.is_wide for axis in spread.axes[:dim] for f in axis])
    axis = (Factor(length, False),)
    axes = (*spread.axes[:dim], axis, *spread.axes[dim:])
    return [Spread(axes, np.stack(parts, before))]


def unsqueezed(writer: Writer, node: Node) -> Sequence[Spread]:
    spread = writer.spread(node.args[0])
    dim = node.args[1] % (len(spread.axes) + 1)
    return [Spread((*spread.axes[:dim], (), *spread.axes[dim:]), spread.parts)]


def expanded(writer: Writer, node: Node) -> Sequence[Spread] | None:
    spread, shape = writer.spread(node.args[0]), writer.shape(node)
    own = ((),) * (len(shape) - len(spread.axes)) + spread.axes
    new = [
        axis if axis or length == 1 else (Factor(length, length > NARROW),)
        for axis, length in zip(own, shape, strict=True)
    ]
    filled = writer.filled(Spread(own, spread.parts), tuple(new))
    lengths = [f.length for axis in new for f in axis if not f.is_wide]
    return [Spread(tuple(new), np.broadcast_to(filled, lengths))]


def picked(writer: Writer, spread: Spread, dim: int, index: int) -> Spread | None:
    """One place of an axis."""
    dim %= len(spread.axes)
    spread = _with_one_factor(spread, dim)
    if len(spread.axes[dim]) > 1:
        return None
    wide, narrow = spread.positions(dim)
    parts = spread.parts
    if narrow:
        place = index % spread.axes[dim][0].length
        parts = np.asarray(parts.take(place, axis=narrow[0]))
    elif wide:
        place = index % spread.axes[dim][0].length
        parts = each(lambda part: writer.builder.select(part, wide[0], place), [parts])
    return Spread((*spread.axes[:dim], *spread.axes[dim + 1 :]), parts)


def selected(writer: Writer, node: Node) -> Sequence[Spread] | None:
    found = picked(writer, writer.spread(node.args[0]), node.args[1], node.args[2])
    return None if found is None else [found]


def unbound(writer: Writer, node: Node) -> Sequence[Spread] | None:
    dim = _optional(node, 1)
    spread = writer.spread(node.args[0])
    found = [picked(writer, spread, dim, k) for k in range(len(node.outputs))]
    kept = [s for s in found if s is not None]
    return kept if len(kept) == len(found) else None


def cut(writer: Writer, spread: Spread, dim: int, chosen: range) -> Spread | None:
    """Some places of an axis."""
    spread = _with_one_factor(spread, dim)
    axis = spread.axes[dim]
    length = prod([f.length for f in axis])
    if chosen == range(length):
        return spread
    if len(axis) != 1 or not len(chosen):
        return None
    if len(chosen) == 1:
        one = picked(writer, spread, dim, chosen[0])
        return one and Spread((*one.axes[:dim], (), *one.axes[dim:]), one.parts)
    wide, narrow = spread.positions(dim)
    axes = list(spread.axes)
    axes[dim] = (Factor(len(chosen), axis[0].is_wide),)
    if narrow:
        return Spread(tuple(axes), spread.parts.take(list(chosen), axis=narrow[0]))
    (position,) = wide

    def one_part(part: Ref) -> Ref:
        shape = list(writer.builder.shape(part))
        if shape[position] == 1:
            return part
        shape[position] = len(chosen)
        args = (part, position, chosen.start, chosen[-1] + 1, chosen.step)
        return writer.builder.call(aten.slice.Tensor, args, shape)

    return Spread(tuple(axes), each(one_part, [spread.parts]))


def sliced(writer: Writer, node: Node) -> Sequence[Spread] | None:
    spread = writer.spread(node.args[0])
    dim = _optional(node, 1) % len(spread.axes)
    start, end, step = (*node.args[2:], *[None] * 3)[:3]
    length = prod([f.length for f in spread.axes[dim]])
    found = cut(writer, spread, dim, range(*slice(start, end, step).indices(length)))
    return None if found is None else [found]


def split_up(writer: Writer, node: Node) -> Sequence[Spread] | None:
    spread = writer.spread(node.args[0])
    dim = _optional(node, 2) % len(spread.axes)
    shapes = [None if n is None else writer.given[n].shape for n in node.outputs]
    begin, found = 0, []
    for shape in shapes:
        if shape is None:
            return None
        found.append(cut(writer, spread, dim, range(begin, begin + shape[dim])))
        begin += shape[dim]
    kept = [s for s in found if s is not None]
    return kept if len(kept) == len(found) else None


def stacked(writer: Writer, node: Node) -> Sequence[Spread] | None:
    shape = writer.shape(node)
    dim = _optional(node, 1) % len(shape)
    rest = shape[:dim] + shape[dim + 1 :]
    spreads = writer.aligned([writer.spread(ref) for ref in node.args[0]], rest)
    if spreads is None:
        return None
    inner = union([s.axes for s in spreads])
    parts = [writer.filled(s, inner) for s in spreads]
    before = sum([not f.is_wide for axis in inner[:dim] for f in axis])
    axis = (Factor(len(parts), False),) if len(parts) > 1 else ()
    stacked = np.stack(parts, before) if axis else parts[0]
    return [Spread((*inner[:dim], axis, *inner[dim:]), stacked)]


def concatenated(writer: Writer, node: Node) -> Sequence[Spread] | None:
    shape = writer.shape(node)
    dim = _optional(node, 1) % len(shape)
    spreads = [writer.spread(ref) for ref in node.args[0]]
    own = [s.axes[dim] for s in spreads if len(s.axes) == len(shape)]
    lengths = [sum([f.length for f in axis]) or 1 for axis in own]
    narrow = all([len(a) < 2 and not any([f.is_wide for f in a]) for a in own])
    if not narrow or len(own) != len(spreads) or sum(lengths) > NARROW:
        return None
    pieces: list[Spread] = []
    for spread, axis in zip(spreads, own, strict=True):
        count = axis[0].length if axis else 1
        pieces += [p for k in range(count) if (p := picked(writer, spread, dim, k)) is not None]
    rest = shape[:dim] + shape[dim + 1 :]
    aligned = writer.aligned(pieces, rest)
    if aligned is None:
        return None
    inner = union([s.axes for s in aligned])
    parts = [writer.filled(s, inner) for s in aligned]
    before = sum([not f.is_wide for a in inner[:dim] for f in a])
    axis = (Factor(len(parts), False),)
    return [Spread((*inner[:dim], axis, *inner[dim:]), np.stack(parts, before))]


def _optional(node: Node, place: int) -> int:
    """An argument that is zero if it is not given."""
    return dict(enumerate(node.args)).get(place, 0)


def _with_one_factor(spread: Spread, dim: int) -> Spread:
    """Narrow factors of an axis as one."""
    axis = spread.axes[dim]
    if len(axis) < 2 or any([f.is_wide for f in axis]):
        return spread
    first = spread.positions(dim)[1][0]
    count = prod([f.length for f in axis])
    shape = spread.parts.shape
    parts = spread.parts.reshape(*shape[:first], count, *shape[first + len(axis) :])
    return Spread((*spread.axes[:dim], (Factor(count, False),), *spread.axes[dim + 1 :]), parts)
