"""Normalization layers and running products: what autograd makes of them."""

from collections.abc import Sequence
from math import prod

import torch

from torchjac._linearize.program import Ref
from torchjac._local.algebra import LinearMap, Mix, Move, Reduce, Scan, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten.native_layer_norm_backward, aten._fused_rms_norm_backward)
def layer_norm_backward(call: Call) -> dict[int, Terms]:
    """A full matrix along the axes normalized, one for each sample.

    native_layer_norm_backward(t, x, [4])  ->  0, t: Mix(-1);  1, t: Reduce(0);  2, t: Reduce(0)
    """
    grad = call["grad_out"]
    if _others(call, grad):
        return NotImplemented
    shape = call.shape(grad)
    first = len(shape) - len(call["normalized_shape"])
    batch, normalized = tuple(range(first)), tuple(range(first, len(shape)))
    across, along = [Mix(normalized, shape)], [Reduce(batch)]
    return _masked(call, grad, [across, along, along])


@rule(aten.native_group_norm_backward)
def group_norm_backward(call: Call) -> dict[int, Terms]:
    """A full matrix for each sample and group of channels.

    native_group_norm_backward(t, x, ..., n, c, hw, groups)  ->  0, t: Mix within a group
    """
    grad = call["grad_out"]
    if _others(call, grad):
        return NotImplemented
    shape = call.shape(grad)
    grouped = (shape[0], call["group"], prod(shape[1:]) // call["group"])
    across: list[LinearMap] = [
        Move(lambda t: t.reshape(grouped)),
        Mix((2,), grouped),
        Move(lambda t: t.reshape(shape)),
    ]
    along = [Reduce((0, *range(2, len(shape))))]
    return _masked(call, grad, [across, along, along])


@rule(aten.native_batch_norm_backward, aten.batch_norm_backward)
def batch_norm_backward(call: Call) -> dict[int, Terms]:
    """A full matrix for each channel; a multiple where the statistics are given.

    native_batch_norm_backward(t, x, ..., train=True)  ->  0, t: Mix(all axes but 1)
    """
    grad = call["grad_out"]
    if _others(call, grad):
        return NotImplemented
    arguments = call.arguments
    trains = arguments["train"] if "train" in arguments else arguments["update"]
    return _masked(call, grad, _by_channel(call.shape(grad), trains=trains))


@rule(aten.cudnn_batch_norm_backward, aten.miopen_batch_norm_backward)
def fused_batch_norm_backward(call: Call) -> dict[int, Terms]:
    """The same in training.

    cudnn_batch_norm_backward(x, t, ...)  ->  0, t: Mix(all axes but 1)
    """
    grad = call["grad_output"]
    if _others(call, grad):
        return NotImplemented
    parts = _by_channel(call.shape(grad), trains=True)
    return {k: [Term(grad, maps)] for k, maps in enumerate(parts)}


def _by_channel(shape: tuple[int, ...], *, trains: bool) -> Sequence[Sequence[LinearMap]]:
    dims = (0, *range(2, len(shape)))
    along: list[LinearMap] = [Reduce(dims)]
    return [[Mix(dims, shape)] if trains else [], along, along]


@rule(aten._weight_norm_interface_backward)
def weight_norm_backward(call: Call) -> dict[int, Terms]:
    """Each vector of a weight has its own length.

    _weight_norm_interface_backward(t, v, g, norms, dim)  ->  0, t: Mix(others);  1, t: Reduce
    """
    grad = call["grad_w"]
    if _others(call, grad):
        return NotImplemented
    shape = call.shape(grad)
    dims = tuple([d for d in range(len(shape)) if d != call["dim"] % len(shape)])
    return {0: [Term(grad, [Mix(dims, shape)])], 1: [Term(grad, [Reduce(dims, keepdim=True)])]}


@rule(aten.cumprod, aten.logcumsumexp)
def running(call: Call) -> Terms:
    """What runs along an axis, the tangent one of its factors or terms.

    cumprod(t, 0)  ->  t: Scan(0)
    """
    shape = call.out_shape()
    return [Term(call["self"], [Scan(call["dim"] % len(shape))] if shape else [])]


def _others(call: Call, grad: Ref) -> bool:
    """Whether anything but the gradient depends on the tangent."""
    return any([ref != grad for ref in call.tangents()])


def _masked(call: Call, grad: Ref, parts: Sequence[Sequence[LinearMap]]) -> dict[int, Terms]:
    """One term for each result that was asked for."""
    asked = zip(call["output_mask"], parts, strict=False)
    return {k: [Term(grad, maps)] for k, (wanted, maps) in enumerate(asked) if wanted}
