"""Pooling: means of windows, and elements chosen from windows."""

from math import prod

import torch

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Deposit, LinearMap, Mix, Move, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule
from torchjac._local.rules.movement import alone
from torchjac._local.windows import unpooled_by_choice, windows_of

aten = torch.ops.aten


@rule(
    aten._adaptive_avg_pool2d,
    aten._adaptive_avg_pool3d,
    aten.avg_pool1d,
    aten.avg_pool2d,
    aten.avg_pool3d,
)
def mean_of_windows(call: Call) -> Terms:
    """Each element of the result is the mean of a window of the same channel.

    avg_pool2d(t, [2, 2])             ->  t: Convolve, each channel a sample
    _adaptive_avg_pool2d(t, [3, 3])   ->  t: Matrix(2), Matrix(3)
    """
    windows = windows_of(call)
    if windows is None:
        return NotImplemented
    return [Term(call["self"], windows.pool(call.out_shape()))]


@rule(
    aten._adaptive_avg_pool2d_backward,
    aten._adaptive_avg_pool3d_backward,
    aten.avg_pool2d_backward,
    aten.avg_pool3d_backward,
)
def mean_of_windows_backward(call: Call) -> Terms:
    """The transpose of a mean of windows.

    avg_pool2d_backward(t, x, [2, 2])  ->  t: Convolve(transposed), each channel a sample
    """
    windows = windows_of(call)
    if windows is None:
        return NotImplemented
    return _of_grad(call, windows.unpool(call.out_shape()))


@rule(
    aten.adaptive_max_pool2d_backward,
    aten.adaptive_max_pool3d_backward,
    aten.fractional_max_pool2d_backward,
    aten.fractional_max_pool3d_backward,
    aten.max_pool2d_with_indices_backward,
    aten.max_pool3d_with_indices_backward,
)
def max_of_windows_backward(call: Call) -> Terms:
    """Each element is added to one of its window.

    max_pool2d_with_indices_backward(t, x, ..., index)  ->  t: Convolve(transposed)
    Where the index is known                            ->  t: Deposit(gather)
    """
    grad, index, shape = call["grad_output"], call["indices"], call.out_shape()
    rank = 3 if "3d" in call.node.name else 2
    known = call.index(index)
    if known is not None:
        planes = (*shape[:-rank], prod(shape[-rank:]))
        places = known.flatten(-rank)
        flat = Move(lambda t: t.flatten(-rank))
        write = Deposit(lambda t: t.gather(-1, places.to(t.device)), planes)
        return _of_grad(call, [flat, write, Move(lambda t: t.reshape(shape))])
    windows = windows_of(call)
    if windows is None:  # fractional: where the windows lie is random
        return _of_grad(call, [_whole_planes(call, grad, rank)])
    return _of_grad(call, windows.unpool(shape))


@rule(aten.max_unpool2d, aten.max_unpool3d)
def max_unpool(call: Call) -> Terms:
    """Each element is put where an index says.

    max_unpool2d(t, index, size)   ->  t: Convolve(transposed), the index being one of max_pool2d
    Where the index is known       ->  t: Move(max_unpool2d)
    """
    source, index, shape = call["self"], call["indices"], call.out_shape()
    rank = 3 if "3d" in call.node.name else 2
    known = call.index(index)
    if known is not None:
        return [Term(source, [Move(alone(call, source, {index.number: known}))])]
    planes = prod(call.shape(source)[-rank:]), prod(shape[-rank:])
    maps = unpooled_by_choice(call, index, planes)
    return [Term(source, maps or [_whole_planes(call, source, rank)])]


def _of_grad(call: Call, maps: list[LinearMap]) -> Terms:
    """The gradient alone counts; of the input of the pooling only its shape does."""
    grad = call["grad_output"]
    return [Term(grad, maps)] if call.is_tangent(grad) else []


def _whole_planes(call: Call, source: Ref, rank: int) -> LinearMap:
    axes = len(call.shape(source))
    return Mix(tuple(range(axes - rank, axes)), call.out_shape())
