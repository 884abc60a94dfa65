"""Gathers and scatters by constant places, in the form that runs fastest.

What is put in place by an index may lie in any order before. So nothing is put in order for it: its
index is changed instead, and axes are neither permuted nor interleaved.
"""

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._evaluate.direct.spread import Builder
from torchjac._linearize.program import LinearProgram, Node, Ref, Value

aten = torch.ops.aten
Places = NDArray[np.int64]
# Of more tensors than this none is made out of order.
_MOST_LEAVES = 256
_RESHAPES = frozenset({aten.alias, aten.clone, aten.reshape, aten.view, aten._unsafe_view})
_INTEGERS = (torch.int32, torch.int64)


def put_directly(program: LinearProgram) -> LinearProgram:
    """The program with its gathers and scatters in another form.

    Advanced indexing of the first axis becomes `index_select`. Where a vector is gathered from or
    scattered, and is made for that alone by views, copies, `stack` and `cat` of other tensors,
    these are laid one behind the other.

    Args:
        program: Operations that are linear in nothing.

    Returns:
        A program with the same results.
    """
    builder = Builder(program.values, dict(program.constants))
    uses = Counter([n for node in program.nodes for n in node.inputs])
    uses.update([n for n in program.outputs if n is not None])
    made: dict[int, Node] = {}  # what only one operation uses
    for node in program.nodes:
        selected = _selected(node, builder)
        reordered = _reordered(selected, builder, made)
        builder.nodes.append(reordered)
        made.update({n: reordered for n in node.outputs if n is not None and uses[n] == 1})
    return builder.rewritten(program, program.outputs)


def _selected(node: Node, builder: Builder) -> Node:
    """Advanced indexing of the first axis as `index_select`."""
    if node.op is not aten.index.Tensor or node.kwargs:
        return node
    tensor, (index, *others) = node.args
    known = None if index is None or others else builder.constants.get(index.number)
    if known is None or known.dtype not in _INTEGERS or not known.numel() or int(known.min()) < 0:
        return node
    if known.ndim == 1 and known.is_contiguous():
        return Node(aten.index_select.default, (tensor, 0, index), {}, node.outputs)
    rest = builder.shape(tensor)[1:]
    flat = _constant(builder, known.reshape(-1).contiguous())
    picked = builder.call(aten.index_select.default, (tensor, 0, flat), (known.numel(), *rest))
    return Node(aten.reshape.default, (picked, [*known.shape, *rest]), {}, node.outputs)


def _reordered(node: Node, builder: Builder, made: dict[int, Node]) -> Node:
    """A gather from a vector, or a scatter of one, by the places of what it is made of."""
    position = {aten.index_select.default: 0, aten.scatter_add.default: 3}.get(node.op)
    if position is None or node.kwargs or node.args[1] != 0:
        return node
    source, index = node.args[position], node.args[2]
    where = builder.constants.get(index.number)
    if where is None or len(builder.shape(source)) != 1:
        return node
    count = prod(builder.shape(source))
    leaves = list(_leaves(source, np.arange(count), builder, made))
    if len(leaves) > _MOST_LEAVES or [ref for ref, _ in leaves] == [source]:
        return node
    order = np.concatenate([places.ravel() for _, places in leaves])
    if np.array_equal(order, np.arange(count)) and _is_cat(made[source.number], builder):
        return node
    parts = [builder.reshape(ref, (places.size,)) for ref, places in leaves]
    vector = parts[0]
    if len(parts) > 1:
        vector = builder.call(aten.cat.default, (parts,), (count,))
    if node.op is aten.scatter_add.default:
        moved = where[torch.from_numpy(order).to(where.device)]
        return Node(node.op, (node.args[0], 0, _constant(builder, moved), vector), {}, node.outputs)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(count)
    moved = torch.from_numpy(inverse).to(where.device)[where]
    return Node(node.op, (vector, 0, _constant(builder, moved)), {}, node.outputs)


def _leaves(
    ref: Ref, places: Places, builder: Builder, made: dict[int, Node]
) -> Iterator[tuple[Ref, Places]]:
    """What a tensor is made of by moving elements, and where these stand in the whole."""
    node = made.get(ref.number)
    parts = [] if node is None else _split(node, places, builder)
    dtypes = {builder.values[part.number].dtype for part, _ in parts}
    if dtypes != {builder.values[ref.number].dtype}:
        yield ref, places
        return
    for part, own in parts:
        yield from _leaves(part, own, builder, made)


def _split(node: Node, places: Places, builder: Builder) -> list[tuple[Ref, Places]]:
    """The arguments of an operation that moves elements, each with its places; else none."""
    packet: Any = getattr(node.op, "overloadpacket", None)
    if packet in _RESHAPES:
        return [(node.args[0], places.reshape(builder.shape(node.args[0])))]
    if packet is aten.permute:
        order = [d % places.ndim for d in node.args[1]]
        return [(node.args[0], places.transpose(np.argsort(order)))]
    if packet not in (aten.stack, aten.cat):
        return []
    parts: list[Ref] = node.args[0]
    dim: int = dict(enumerate(node.args)).get(1, 0)
    if packet is aten.stack:
        own = list(np.moveaxis(places, dim, 0))
    else:
        ends = np.cumsum([builder.shape(part)[dim] for part in parts])
        own = np.split(places, ends[:-1], dim)
    return list(zip(parts, own, strict=True))


def _is_cat(node: Node, builder: Builder) -> bool:
    """Whether a vector is nothing but vectors one behind the other."""
    return node.op is aten.cat.default and all([len(builder.shape(p)) == 1 for p in node.args[0]])


def _constant(builder: Builder, tensor: Tensor) -> Ref:
    ref = Ref(len(builder.values))
    builder.values.append(Value(tuple(tensor.shape), tensor.dtype))
    builder.constants[ref.number] = tensor
    return ref
