"""Operations on tensors that are parts, part by part."""

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import torch

from torchjac._evaluate.direct.narrow_moves import picked
from torchjac._evaluate.direct.spread import MOST_PARTS, NARROW, Factor, Spread
from torchjac._evaluate.direct.writer import Writer, each, only, union
from torchjac._linearize.program import Node, Ref, refs_in

aten = torch.ops.aten


def pointwise(writer: Writer, node: Node) -> Sequence[Spread] | None:
    if len(node.outputs) != 1 or node.outputs[0] is None or node.kwargs:
        return None
    refs = [a for a in node.args if isinstance(a, Ref)]
    if len(refs) != len(list(refs_in(node.args))):
        return None
    value = writer.given[node.outputs[0]]
    kinds = [writer.given[ref.number].dtype for ref in refs]
    if len({kind for kind in kinds if kind != torch.bool}) > 1:
        return None
    spreads = writer.aligned([writer.spread(ref) for ref in refs], value.shape)
    if spreads is None:
        return None
    axes = union([s.axes for s in spreads])
    filled = [writer.filled(s, axes) for s in spreads]

    def one(*parts: Ref) -> Ref:
        given = iter(parts)
        args = tuple([next(given) if isinstance(a, Ref) else a for a in node.args])
        shape = writer.builder.common_shape(parts)
        return writer.combined(node.op, args, shape, value.dtype)

    return [Spread(axes, each(one, np.broadcast_arrays(*filled)))]


def summed(writer: Writer, node: Node) -> Sequence[Spread] | None:
    if node.kwargs or not node.args[1:] or not node.args[1]:
        return None
    spread = writer.spread(node.args[0])
    if not spread.axes:  # the sum of one number
        return [spread]
    dims = [d % len(spread.axes) for d in node.args[1]]
    keep = len(node.args) > 2 and bool(node.args[2])
    if any([f.is_wide for d in dims for f in spread.axes[d]]):
        return None
    narrow = [k for d in dims for k in spread.positions(d)[1]]
    dtype = writer.given[only(node)].dtype
    rest = [k for k in range(spread.parts.ndim) if k not in narrow]
    ordered = spread.parts.transpose([*rest, *narrow])
    ordered = ordered.reshape(*ordered.shape[: len(rest)], -1)

    def add(a: Ref, b: Ref) -> Ref:
        shape = writer.builder.common_shape([a, b])
        return writer.combined(aten.add.Tensor, (a, b), shape, dtype)

    sums = np.empty(ordered.shape[:-1], np.int64)
    for place in np.ndindex(*sums.shape):
        sums[place] = reduce(add, [Ref(n) for n in ordered[place].tolist()]).number
    axes = [() if d in dims else axis for d, axis in enumerate(spread.axes)]
    if not keep:
        axes = [axis for d, axis in enumerate(axes) if d not in dims]
    return [Spread(tuple(axes), sums)]


def averaged(writer: Writer, node: Node) -> Sequence[Spread] | None:
    if not node.args[1:] or not node.args[1]:
        return None
    shape = writer.given[node.args[0].number].shape
    count = prod([shape[d] for d in node.args[1]])
    dtype = writer.given[only(node)].dtype
    sums = summed(writer, node)

    def one(part: Ref) -> Ref:
        args = (part, count)
        return writer.combined(aten.div.Tensor, args, writer.builder.shape(part), dtype)

    return None if sums is None else [Spread(s.axes, each(one, [s.parts])) for s in sums]


def indexed(writer: Writer, node: Node) -> Sequence[Spread] | None:
    given = [(d, i) for d, i in enumerate(node.args[1]) if i is not None]
    if len(given) != 1:
        return None
    ((dim, index),) = given
    value = writer.given[index.number]
    builder = writer.builder
    # Of a whole tensor a gather for each place of the index; of parts that would be too many.
    is_known = index.number in builder.constants and dim == 0
    shortest = (max if is_known else min)(value.shape, default=0)
    if shortest <= NARROW or value.dtype in (torch.bool, torch.uint8):
        return None
    spread = builder.opened(writer.whole(node.args[0].number), dim)
    chosen = writer.spread(index)
    if not spread.axes[dim] or spread.parts.size * chosen.parts.size > MOST_PARTS:
        return None
    (position,) = spread.positions(dim)[0]

    def one(part: Ref, where: Ref) -> Ref:
        before, after = builder.shape(part)[:position], builder.shape(part)[position + 1 :]
        part = builder.expanded(part, (*before, spread.wide[position], *after))
        where = builder.expanded(where, chosen.wide)
        args = (part, [*[None] * position, where])
        return builder.call(aten.index.Tensor, args, (*before, *chosen.wide, *after))

    # The narrow axes of the index stand where the axis stood.
    place = sum([not f.is_wide for axis in spread.axes[:dim] for f in axis])
    counts = spread.parts.shape
    ones = (1,) * chosen.parts.ndim
    tensors = spread.parts.reshape((*counts[:place], *ones, *counts[place:]))
    indices = chosen.parts.reshape((*chosen.parts.shape, *(1,) * (len(counts) - place)))
    axes = (*spread.axes[:dim], *chosen.axes, *spread.axes[dim + 1 :])
    return [Spread(axes, each(one, np.broadcast_arrays(tensors, indices)))]


def crossed(writer: Writer, node: Node) -> Sequence[Spread] | None:
    shape, value = writer.shape(node), writer.given[only(node)]
    dim = node.kwargs.get("dim", -1) % len(shape)
    first, second = [writer.spread(ref) for ref in node.args[:2]]
    parts = [[picked(writer, s, dim, k) for k in range(3)] for s in (first, second)]
    rest = shape[:dim] + shape[dim + 1 :]
    known = [s for row in parts for s in row if s is not None]
    aligned = writer.aligned(known, rest) if len(known) == 6 else None
    if aligned is None:
        return None
    axes = union([s.axes for s in aligned])
    a0, a1, a2, b0, b1, b2 = np.broadcast_arrays(*[writer.filled(s, axes) for s in aligned])

    def both(op: Any) -> Callable[[Ref, Ref], Ref]:
        def one(x: Ref, y: Ref) -> Ref:
            wide = writer.builder.common_shape([x, y])
            return writer.combined(op, (x, y), wide, value.dtype)

        return one

    mul, sub = both(aten.mul.Tensor), both(aten.sub.Tensor)

    def minor(a: Any, b: Any, c: Any, d: Any) -> Any:
        return each(sub, [each(mul, [a, b]), each(mul, [c, d])])

    rows = [minor(a1, b2, a2, b1), minor(a2, b0, a0, b2), minor(a0, b1, a1, b0)]
    before = sum([not f.is_wide for axis in axes[:dim] for f in axis])
    made = (*axes[:dim], (Factor(3, False),), *axes[dim:])
    return [Spread(made, np.stack(rows, before))]
