"""Operations that move data: views, pieces, joins, padding."""

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Deposit, Move, Run, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(
    aten.alias,
    aten.as_strided,
    aten.as_strided_scatter,
    aten.cat,
    aten.constant_pad_nd,
    aten.detach,
    aten.diag,
    aten.diag_embed,
    aten.diagonal,
    aten.diagonal_scatter,
    aten.expand,
    aten.flip,
    aten.permute,
    aten.repeat,
    aten.reshape,
    aten.roll,
    aten.rot90,
    aten.select,
    aten.select_scatter,
    aten.slice,
    aten.slice_scatter,
    aten.squeeze,
    aten.stack,
    aten.t,
    aten.transpose,
    aten.tril,
    aten.triu,
    aten.unfold,
    aten.unsqueeze,
    aten.view,
    aten._reshape_alias,
    aten._unsafe_view,
)
def move(call: Call) -> Terms:
    """Each element of the result is one element of an argument.

    roll(t, 1)    ->  t: Move(roll)
    cat([t, s])   ->  t: Move(cat with zeros for s);  s: Move(cat with zeros for t)
    """
    return [Term(ref, [Move(_alone(call, ref))]) for ref in call.tangents()]


def _alone(call: Call, ref: Ref) -> Run:
    """The operation on one argument, the others zero."""
    others = [Ref(n) for n in call.node.inputs if n != ref.number]

    def run(tensor: Tensor) -> Tensor:
        numbers = {other.number: call.blank(other, tensor) for other in others}
        return call.run({**numbers, ref.number: tensor})

    return run


@rule(aten.unbind, aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
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
    ref, dim, index = call["grad_output"], call["dim"], call["index"]
    return [Term(ref, [Deposit(lambda t: t.select(dim, index), call.out_shape())])]


@rule(aten.slice_backward)
def slice_backward(call: Call) -> Terms:
    """The transpose of a slice.

    slice_backward(t, sizes, dim, start, end, step)  ->  t: Deposit(slice)
    """
    names = ("dim", "start", "end", "step")
    arguments = [call[name] for name in names]
    ref = call["grad_output"]
    return [Term(ref, [Deposit(lambda t: aten.slice(t, *arguments), call.out_shape())])]
