"""Operations that move data: views, pieces, joins, padding."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Deposit, Move, Run, Term
from torchjac._local.call import Call
from torchjac._local.moves import MOVES
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(
    *MOVES,
    aten.as_strided_scatter,
    aten.channel_shuffle,
    aten.im2col,
    aten.narrow_copy,
    aten.native_channel_shuffle,
    aten.pixel_shuffle,
    aten.pixel_unshuffle,
    aten.reflection_pad1d,
    aten.reflection_pad2d,
    aten.reflection_pad3d,
    aten.replication_pad1d,
    aten.replication_pad2d,
    aten.replication_pad3d,
    aten.rot90,
    aten.unfold,
    aten._reshape_alias,
)
def move(call: Call) -> Terms:
    """Each element of the result is one element of an argument.

    roll(t, 1)    ->  t: Move(roll)
    cat([t, s])   ->  t: Move(cat with zeros for s);  s: Move(cat with zeros for t)
    """
    return [Term(ref, [Move(alone(call, ref))]) for ref in call.tangents()]


@rule(aten.as_strided)
def as_strided(call: Call) -> Terms:
    """Elements by their place in the memory, which the argument must fill.

    as_strided(t.T, size, stride)  ->  t.T: Move(laid out as t.T is, then as_strided)
    """
    (ref,) = call.tangents()
    shape, _, strides = call.value(ref)
    reach = _reach(shape, strides)
    if (
        reach != prod(shape)
        or (call["storage_offset"] or 0) + _reach(call["size"], call["stride"]) > reach
    ):
        return NotImplemented

    def run(tensor: Tensor) -> Tensor:
        memory = tensor.new_empty_strided(shape, strides)
        return call.run({ref.number: memory.copy_(tensor)})

    return [Term(ref, [Move(run)])]


def _reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many places of the memory lie between the first and the last element, both counted."""
    if 0 in shape:
        return 0
    return 1 + sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)])


def alone(call: Call, ref: Ref, indices: Mapping[int, Tensor] | None = None) -> Run:
    """The operation as a function of one argument.

    Args:
        call: The operation.
        ref: The argument.
        indices: Numbers of indices and masks, by their number. Other arguments are zero.

    Returns:
        The function.
    """
    chosen = indices or {}
    others = [Ref(n) for n in call.node.inputs if n != ref.number and n not in chosen]

    def run(tensor: Tensor) -> Tensor:
        numbers = {other.number: call.blank(other, tensor) for other in others}
        numbers |= {n: index.to(tensor.device) for n, index in chosen.items()}
        return call.run({**numbers, ref.number: tensor})

    return run


@rule(
    aten.chunk,
    aten.split,
    aten.split_with_sizes,
    aten.tensor_split,
    aten.unbind,
    aten.unsafe_chunk,
    aten.unsafe_split,
    aten.unsafe_split_with_sizes,
)
def pieces(call: Call) -> dict[int, Terms]:
    """Each of several results is a piece of the argument.

    unbind(t)  ->  t: Move(piece k), for result k
    """
    (ref,) = call.tangents()

    def piece(k: int) -> Run:
        return lambda tensor: call.run({ref.number: tensor})[k]

    return {k: [Term(ref, [Move(piece(k))])] for k in range(len(call.node.outputs))}


@rule(aten.copy)
def copy(call: Call) -> Terms:
    """The second argument under the shape of the first.

    copy(t, s)  ->  s: Move(expand)
    """
    source, shape = call["src"], call.out_shape()
    if not call.is_tangent(source):
        return []
    return [Term(source, [Move(lambda tensor: tensor.expand(shape))])]


@rule(aten.select_backward)
def select_backward(call: Call) -> Terms:
    """The transpose of `select`.

    select_backward(t, sizes, dim, index)  ->  t: Deposit(select)
    """
    dim, index = call["dim"], call["index"]
    return [_deposit(call, "grad_output", lambda t: t.select(dim, index))]


@rule(aten.slice_backward)
def slice_backward(call: Call) -> Terms:
    """The transpose of a slice.

    slice_backward(t, sizes, dim, start, end, step)  ->  t: Deposit(slice)
    """
    names = ("dim", "start", "end", "step")
    arguments = [call[name] for name in names]
    return [_deposit(call, "grad_output", lambda t: aten.slice(t, *arguments))]


@rule(aten.diagonal_backward)
def diagonal_backward(call: Call) -> Terms:
    """The transpose of `diagonal`.

    diagonal_backward(t, sizes, offset, dim1, dim2)  ->  t: Deposit(diagonal)
    """
    where = [call[name] for name in ("offset", "dim1", "dim2")]
    return [_deposit(call, "grad_output", lambda t: aten.diagonal(t, *where))]


@rule(aten.unfold_backward)
def unfold_backward(call: Call) -> Terms:
    """The transpose of `unfold`, which repeats elements where its windows overlap.

    unfold_backward(t, sizes, dim, size, step)  ->  t: Deposit(unfold)
    """
    where = [call[name] for name in ("dim", "size", "step")]
    return [_deposit(call, "grad_in", lambda t: aten.unfold(t, *where))]


@rule(aten.col2im)
def col2im(call: Call) -> Terms:
    """Sums of the columns that hold a pixel: the transpose of `im2col`.

    col2im(t, output_size, kernel_size, ...)  ->  t: Deposit(im2col)
    """
    windows = [call[name] for name in ("kernel_size", "dilation", "padding", "stride")]
    return [_deposit(call, "self", lambda t: aten.im2col(t, *windows))]


_PADS = {
    aten.reflection_pad1d_backward: aten.reflection_pad1d,
    aten.reflection_pad2d_backward: aten.reflection_pad2d,
    aten.reflection_pad3d_backward: aten.reflection_pad3d,
    aten.replication_pad1d_backward: aten.replication_pad1d,
    aten.replication_pad2d_backward: aten.replication_pad2d,
    aten.replication_pad3d_backward: aten.replication_pad3d,
}


@rule(*_PADS)
def pad_backward(call: Call) -> Terms:
    """The transpose of padding with copies of elements.

    reflection_pad1d_backward(t, x, padding)  ->  t: Deposit(reflection_pad1d)
    """
    pad, padding = _PADS[call.node.op.overloadpacket], call["padding"]
    return [_deposit(call, "grad_output", lambda t: pad(t, padding))]


def _deposit(call: Call, name: str, run: Run) -> Term:
    return Term(call[name], [Deposit(run, call.out_shape())])
