"""Windows of pooling: which elements each element of a result is made of, or is chosen from."""

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Convolve, LinearMap, Matrix, Move, Scan
from torchjac._local.call import Call

aten = torch.ops.aten

# Axes of space of each operation; the windows of the adaptive ones follow from the sizes alone.
_MAX_POOLS = {
    aten.adaptive_max_pool2d: 2,
    aten.adaptive_max_pool3d: 3,
    aten.max_pool2d_with_indices: 2,
    aten.max_pool3d_with_indices: 3,
}
_RANKS = {
    **_MAX_POOLS,
    aten._adaptive_avg_pool2d: 2,
    aten._adaptive_avg_pool2d_backward: 2,
    aten._adaptive_avg_pool3d: 3,
    aten._adaptive_avg_pool3d_backward: 3,
    aten.adaptive_max_pool2d_backward: 2,
    aten.adaptive_max_pool3d_backward: 3,
    aten.avg_pool1d: 1,
    aten.avg_pool2d: 2,
    aten.avg_pool2d_backward: 2,
    aten.avg_pool3d: 3,
    aten.avg_pool3d_backward: 3,
    aten.max_pool2d_with_indices_backward: 2,
    aten.max_pool3d_with_indices_backward: 3,
}
# They hand on a tensor in the same order under another shape.
_VIEWS = frozenset(
    {
        aten._unsafe_view,
        aten.alias,
        aten.clone,
        aten.detach,
        aten.flatten,
        aten.reshape,
        aten.squeeze,
        aten.unsqueeze,
        aten.view,
    }
)
_RUNNING = frozenset({aten.cummax, aten.cummin})


class Sliding(NamedTuple):
    """Windows of one size at regular distances; a number for each axis of space."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


class Windows(NamedTuple):
    """Windows of a pooling.

    Attributes:
        space: Shape of what the windows lie in.
        result: Shape of the result, which has one element for each window.
        sliding: How they lie, None for the equal shares of adaptive pooling.
    """

    space: tuple[int, ...]
    result: tuple[int, ...]
    sliding: Sliding | None

    def pool(self, shape: tuple[int, ...]) -> list[LinearMap]:
        """From each element of a plane to the windows that hold it.

        Args:
            shape: Shape of the result; its elements are those of `result`, plane after plane.

        Returns:
            The maps, from an argument that holds as many planes in any shape.
        """
        return self._maps(shape, transposed=False)

    def unpool(self, shape: tuple[int, ...]) -> list[LinearMap]:
        """The transpose of `pool`.

        Args:
            shape: Shape of the result; its elements are those of `space`, plane after plane.

        Returns:
            The maps.
        """
        return self._maps(shape, transposed=True)

    def _maps(self, shape: tuple[int, ...], *, transposed: bool) -> list[LinearMap]:
        source, target = self.space, self.result
        if transposed:
            source, target = target, source
        planes = prod(shape) // max(prod(target), 1)
        enter = Move(lambda t: t.reshape(planes, 1, *source))
        leave = Move(lambda t: t.reshape(shape))
        if self.sliding is not None:
            size, stride, padding, dilation = self.sliding
            kernel, full = (1, 1, *size), (planes, 1, *target)
            slide = Convolve(kernel, None, stride, padding, dilation, transposed, 1, full)
            return [enter, slide, leave]
        lengths = [planes, 1, *source]
        maps: list[LinearMap] = [enter]
        for axis, (whole, parts) in enumerate(zip(self.space, self.result, strict=True)):
            part, element = _equal_shares(whole, parts)
            rows, columns = (element, part) if transposed else (part, element)
            lengths[axis + 2] = target[axis]
            maps.append(Matrix(rows, columns, tuple(lengths), axis + 2))
        return [*maps, leave]


def windows_of(call: Call) -> Windows | None:
    """The windows of a pooling operation or its derivative, None for other operations."""
    rank = _RANKS.get(call.node.op.overloadpacket)
    if rank is None:
        return None
    space = call.shape(call["self"])[-rank:]
    grad = call.arguments.get("grad_output")
    result = (call.out_shape() if grad is None else call.shape(grad))[-rank:]
    if "kernel_size" not in call.arguments:
        return Windows(space, result, None)
    size = _each(call["kernel_size"], rank)
    stride = _each(call["stride"], rank) or size
    dilation = _each(call.arguments.get("dilation", [1]), rank)
    return Windows(space, result, Sliding(size, stride, _each(call["padding"], rank), dilation))


def read_by_choice(
    call: Call, index: Ref, dim: int, source: tuple[int, ...], shape: tuple[int, ...]
) -> list[LinearMap] | None:
    """What `gather` can read with an index that another operation chose.

    Args:
        call: The operation that reads.
        index: The index.
        dim: The axis, not negative.
        source: Shape of what it reads from.
        shape: Shape of what it reads, which is that of the index.

    Returns:
        The maps, None if nothing is known of the index.
    """
    if _is_running(call, index, dim) and source == shape:
        return [Scan(dim)]
    windows = _chosen_windows(call, index)
    if windows is None or not _are_planes(windows, dim, source, shape):
        return None
    return windows.pool(shape)


def written_by_choice(
    call: Call, index: Ref, dim: int, source: tuple[int, ...], shape: tuple[int, ...]
) -> list[LinearMap] | None:
    """Where `scatter` can write with an index that another operation chose.

    Args:
        call: The operation that writes.
        index: The index.
        dim: The axis, not negative.
        source: Shape of what it writes, which is that of the index.
        shape: Shape of what it writes to.

    Returns:
        The maps, None if nothing is known of the index.
    """
    if _is_running(call, index, dim) and source == shape:
        return [Scan(dim, reverse=True)]
    windows = _chosen_windows(call, index)
    if windows is None or not _are_planes(windows, dim, shape, source):
        return None
    return windows.unpool(shape)


def unpooled_by_choice(call: Call, index: Ref, planes: tuple[int, int]) -> list[LinearMap] | None:
    """Where `max_unpool` can write, which puts planes into larger ones.

    Args:
        call: The operation that writes.
        index: The index.
        planes: Elements of a plane of what it writes, and of what it writes to.

    Returns:
        The maps, None if nothing is known of the index.
    """
    windows = _chosen_windows(call, index)
    if windows is None or planes != (prod(windows.result), prod(windows.space)):
        return None
    return windows.unpool(call.out_shape())


def _chosen_windows(call: Call, index: Ref) -> Windows | None:
    """Windows that an index names one element of, each in its plane."""
    maker = call.program.makers.get(index.number)
    while maker is not None and getattr(maker.op, "overloadpacket", None) in _VIEWS:
        index = maker.args[0]
        maker = call.program.makers.get(index.number)
    if maker is None or getattr(maker.op, "overloadpacket", None) not in _MAX_POOLS:
        return None
    return windows_of(Call(maker, call.program)) if maker.outputs[1] == index.number else None


def _is_running(call: Call, index: Ref, dim: int) -> bool:
    """Whether an index is the place of the largest or smallest element so far."""
    maker = call.program.makers.get(index.number)
    if maker is None or getattr(maker.op, "overloadpacket", None) not in _RUNNING:
        return False
    rank = len(call.shape(index))
    return rank > 0 and Call(maker, call.program)["dim"] % rank == dim


def _are_planes(
    windows: Windows, dim: int, source: tuple[int, ...], shape: tuple[int, ...]
) -> bool:
    """Whether the last axis runs through planes, which are as many in both tensors."""
    return (
        dim == len(shape) - 1 == len(source) - 1
        and source[:-1] == shape[:-1]
        and (source[-1], shape[-1]) == (prod(windows.space), prod(windows.result))
    )


def _equal_shares(whole: int, parts: int) -> tuple[Tensor, Tensor]:
    """The window and the element of each entry, for windows [i n / k, (i + 1) n / k) widened.

    Args:
        whole: n, the elements.
        parts: k, the windows.

    Returns:
        Two arrays, window after window.

    >>> part, element = _equal_shares(3, 2)
    >>> part.tolist(), element.tolist()
    ([0, 0, 1, 1], [0, 1, 1, 2])
    """
    number = torch.arange(parts)
    starts = number * whole // max(parts, 1)
    lengths = ((number + 1) * whole + parts - 1) // max(parts, 1) - starts
    part = number.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return part, torch.arange(len(part)) - before[part] + starts[part]


def _each(values: Any, rank: int) -> tuple[int, ...]:
    return tuple(values) * rank if len(values) == 1 else tuple(values)
