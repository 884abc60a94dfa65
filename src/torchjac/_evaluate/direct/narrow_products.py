"""Products of narrow matrices: sums of products of their entries."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from torchjac._evaluate.direct.narrow_moves import picked
from torchjac._evaluate.direct.spread import NARROW, Spread
from torchjac._evaluate.direct.writer import Parts, Writer, each, only, union
from torchjac._linearize.program import Node, Ref

aten = torch.ops.aten


def multiplied(writer: Writer, node: Node) -> Sequence[Spread] | None:
    first, second = node.args
    *_, rows, inner = writer.given[first.number].shape
    columns = writer.given[second.number].shape[-1]
    # With long rows and columns it is an outer product, which libraries do better.
    if inner > NARROW or (rows > NARROW and columns > NARROW):
        return None
    terms = [_term(writer, node, k) for k in range(inner)]
    if any([term is None for term in terms]):
        return None
    known = [term for term in terms if term is not None]
    aligned = writer.aligned(known, writer.shape(node))
    if aligned is None:
        return None
    axes = union([s.axes for s in aligned])
    parts = [writer.filled(s, axes) for s in aligned]
    return [Spread(axes, reduce(_both(writer, node, aten.add.Tensor), parts))]


def _term(writer: Writer, node: Node, k: int) -> Spread | None:
    """A column of the first times a row of the second."""
    shape = writer.shape(node)
    rank = len(shape)
    column = picked(writer, writer.spread(node.args[0]), rank - 1, k)
    row = picked(writer, writer.spread(node.args[1]), rank - 2, k)
    if column is None or row is None:
        return None
    column = Spread((*column.axes, ()), column.parts)
    row = Spread((*row.axes[:-1], (), row.axes[-1]), row.parts)
    aligned = writer.aligned([column, row], shape)
    if aligned is None:
        return None
    axes = union([s.axes for s in aligned])
    parts = [writer.filled(s, axes) for s in aligned]
    return Spread(axes, reduce(_both(writer, node, aten.mul.Tensor), parts))


def _both(writer: Writer, node: Node, op: Any) -> Any:
    dtype = writer.given[only(node)].dtype

    def one(x: Ref, y: Ref) -> Ref:
        shape = writer.builder.common_shape([x, y])
        return writer.combined(op, (x, y), shape, dtype)

    def parts(x: Parts, y: Parts) -> Parts:
        return each(one, np.broadcast_arrays(x, y))

    return parts
