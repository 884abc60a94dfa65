"""Losses of classes: the entry of the target class, or sums over the classes."""

import torch
from torch import Tensor

from torchjac._local.algebra import Deposit, LinearMap, Move, Reduce, Run, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten.nll_loss_forward, aten.nll_loss2d_forward)
def nll_loss(call: Call) -> dict[int, Terms]:
    """The entry of the target class of each sample, or a sum of them.

    nll_loss_forward(t, target, w, "mean")  ->  0, t: Move(gather), Scale(w), Reduce
    """
    source = call["self"]
    if list(call.tangents()) != [source]:
        return NotImplemented
    targets = call.shape(call["target"])
    known = call.index(call["target"])
    if known is None:
        maps: list[LinearMap] = [Reduce((_class_axis(call.shape(source)),)), Scale(targets)]
    else:
        maps = [Move(_of_target(call, known)), Scale(targets, _weights(call, known))]
    if call["reduction"] != 0:
        maps.append(Reduce(tuple(range(len(targets)))))
    return {0: [Term(source, maps)]}


@rule(aten.nll_loss_backward, aten.nll_loss2d_backward)
def nll_loss_backward(call: Call) -> Terms:
    """The transpose: each sample's to the entry of its target class.

    nll_loss_backward(t, x, target, w, "mean")  ->  t: Scale(w), Deposit(gather)
    """
    grad, shape = call["grad_output"], call.out_shape()
    if list(call.tangents()) != [grad]:
        return NotImplemented
    targets = call.shape(call["target"])
    known = call.index(call["target"])
    if known is not None:
        write = Deposit(_of_target(call, known), shape)
        return [Term(grad, [Scale(targets, _weights(call, known)), write])]
    axis = _class_axis(shape)
    spread = Move(lambda t: t.unsqueeze(axis))
    return [Term(grad, [Scale(targets), spread, Scale(shape)])]


def _class_axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) > 1 else 0


def _of_target(call: Call, target: Tensor) -> Run:
    """The entries of the target classes, zero where the target is to be ignored."""
    ignored = target == call["ignore_index"]
    places = target.masked_fill(ignored, 0)

    def run(tensor: Tensor) -> Tensor:
        axis = 0 if tensor.dim() <= 1 else 1
        index = places.to(tensor.device)
        picked = tensor.gather(axis, index.unsqueeze(axis) if index.dim() else index[None])
        picked = picked.squeeze(axis) if index.dim() else picked[0]
        return picked.masked_fill(ignored.to(tensor.device), 0)

    return run


def _weights(call: Call, target: Tensor) -> Tensor | None:
    """Weights of the target classes if they are known."""
    weight = call.constant(call["weight"])
    if weight is None:
        return None
    return weight[target.masked_fill(target == call["ignore_index"], 0).to(weight.device)]


@rule(aten._ctc_loss_backward)
def ctc_loss_backward(call: Call) -> Terms:
    """What a sample receives goes to all its times and classes.

    _ctc_loss_backward(t, x, ...)  ->  t: Move(reshape), Scale
    """
    grad, shape = call["grad"], call.out_shape()
    if list(call.tangents()) != [grad]:
        return NotImplemented
    return [Term(grad, [Move(lambda t: t.reshape(-1, 1)), Scale(shape)])]


@rule(aten.multi_margin_loss_backward, aten.multilabel_margin_loss_backward)
def margin_loss_backward(call: Call) -> Terms:
    """Every class of a sample has a part in its loss.

    multi_margin_loss_backward(t, x, ...)  ->  t: Move(unsqueeze), Scale
    """
    grad, shape = call["grad_output"], call.out_shape()
    if list(call.tangents()) != [grad]:
        return NotImplemented
    if shape[-1:] in ((), (1,)):  # a single class has no other to keep away from
        return []
    # One number for each sample, or for all.
    alone = call["reduction"] != 0 or len(shape) < 2
    return [Term(grad, [Move(lambda t: t.reshape(() if alone else (-1, 1))), Scale(shape)])]
