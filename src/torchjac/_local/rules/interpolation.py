"""Interpolation on regular grids: of nearest neighbors, linear, cubic, with antialiasing."""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Deposit, LinearMap, Matrix, Move, Run, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule
from torchjac._local.rules.movement import alone

aten = torch.ops.aten

_NEAREST = {
    aten.upsample_nearest1d_backward: aten.upsample_nearest1d,
    aten.upsample_nearest2d_backward: aten.upsample_nearest2d,
    aten.upsample_nearest3d_backward: aten.upsample_nearest3d,
    aten._upsample_nearest_exact1d_backward: aten._upsample_nearest_exact1d,
    aten._upsample_nearest_exact2d_backward: aten._upsample_nearest_exact2d,
    aten._upsample_nearest_exact3d_backward: aten._upsample_nearest_exact3d,
}
# Half the width of each kernel, in elements of the argument where it is not shrunk.
_REACH = {
    aten.upsample_linear1d: 1,
    aten.upsample_bilinear2d: 1,
    aten.upsample_trilinear3d: 1,
    aten.upsample_bicubic2d: 2,
    aten._upsample_bilinear2d_aa: 1,
    aten._upsample_bicubic2d_aa: 2,
}
_BACKWARD = {
    aten.upsample_linear1d_backward: aten.upsample_linear1d,
    aten.upsample_bilinear2d_backward: aten.upsample_bilinear2d,
    aten.upsample_trilinear3d_backward: aten.upsample_trilinear3d,
    aten.upsample_bicubic2d_backward: aten.upsample_bicubic2d,
    aten._upsample_bilinear2d_aa_backward: aten._upsample_bilinear2d_aa,
    aten._upsample_bicubic2d_aa_backward: aten._upsample_bicubic2d_aa,
}
_SHRINKS = frozenset({aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa})
_CHUNK = 256


@rule(*_NEAREST.values())
def nearest(call: Call) -> Terms:
    """Each element is that of the argument nearest to it.

    upsample_nearest2d(t, size)  ->  t: Move(upsample_nearest2d)
    """
    (source,) = call.tangents()
    return [Term(source, [Move(alone(call, source))])]


@rule(*_NEAREST)
def nearest_backward(call: Call) -> Terms:
    """The transpose of `nearest`.

    upsample_nearest2d_backward(t, size, ...)  ->  t: Deposit(upsample_nearest2d)
    """
    (grad,) = call.tangents()
    run = _NEAREST[call.node.op.overloadpacket]
    size, scales = call["output_size"], _scales(call)
    return [Term(grad, [Deposit(lambda t: run(t, size, *scales), call.out_shape())])]


@rule(*_REACH)
def interpolation(call: Call) -> Terms:
    """A weighted sum of neighbors, axis after axis.

    upsample_bilinear2d(t, size)  ->  t: Matrix(2), Matrix(3)
    """
    (source,) = call.tangents()
    return [Term(source, _matrices(call, source, transposed=False))]


@rule(*_BACKWARD)
def interpolation_backward(call: Call) -> Terms:
    """The transpose of `interpolation`.

    upsample_bilinear2d_backward(t, size, ...)  ->  t: Matrix(2), Matrix(3)
    """
    (grad,) = call.tangents()
    return [Term(grad, _matrices(call, grad, transposed=True))]


def _matrices(call: Call, tangent: Ref, *, transposed: bool) -> list[LinearMap]:
    packet: Any = call.node.op.overloadpacket
    packet = _BACKWARD[packet] if transposed else packet
    lengths, target = list(call.shape(tangent)), call.out_shape()
    maps: list[LinearMap] = []
    for axis, scale in enumerate(_scales(call)):
        dim = axis + 2
        sizes = lengths[dim], target[dim]
        before, after = sizes[::-1] if transposed else sizes
        run = _along(call, packet, axis, after)
        reach = _REACH[packet]
        if packet in _SHRINKS:
            reach *= ceil(max(before / max(after, 1), 1.0, 1 / scale if scale else 1.0))
        rows, columns = _entries(run, before, call.value(tangent).dtype, reach)
        if transposed:
            rows, columns = columns, rows
        lengths[dim] = target[dim]
        maps.append(Matrix(rows, columns, tuple(lengths), dim))
    return maps


def _scales(call: Call) -> list[Any]:
    """The scale of each axis of space, None where it follows from the sizes."""
    return [value for name, value in call.arguments.items() if name.startswith("scales")]


def _along(call: Call, packet: Any, axis: int, length: int) -> Run:
    """The operation along one axis of space, for several rows, shape (rows, elements)."""
    scales = _scales(call)
    # Two elements along the other axes, which stay as they are: where the result has one, PyTorch
    # 2.13 takes it for channels last and antialiases wrongly.
    size = [length if a == axis else 2 for a in range(len(scales))]
    alone = [scale if a == axis else None for a, scale in enumerate(scales)]

    def run(rows: Tensor) -> Tensor:
        lines = rows.reshape(len(rows), 1, *[-1 if a == axis else 1 for a in range(len(scales))])
        planes = lines.expand(-1, -1, *[-1 if a == axis else 2 for a in range(len(scales))])
        result = packet(planes.contiguous(), size, call["align_corners"], *alone)
        return result.movedim(axis + 2, 1).flatten(2)[..., 0]

    return run


def _entries(run: Run, length: int, dtype: torch.dtype, reach: int) -> tuple[Tensor, Tensor]:
    """Where the matrix of an interpolation along one axis is not zero.

    Its rows are bands of 2 `reach` elements, cut at the ends. Combs with teeth twice as far apart
    tell each element of a band from the others, so that a few of them show all weights, as they
    are in this dtype. Where the band lies shows where it puts the numbers of its elements.
    """
    period = min(4 * reach + 2, length)
    tooth = torch.arange(length) % max(period, 1)
    center = run(torch.arange(length, dtype=torch.float64)[None])[0]
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, period, _CHUNK):
        combs = torch.arange(start, min(start + _CHUNK, period))
        comb, row = (run((tooth == combs[:, None]).to(dtype)) != 0).nonzero(as_tuple=True)
        first = comb + start
        ahead = torch.remainder(first - center[row] + period / 2, period) - period / 2
        column = first if period == length else (center[row] + ahead).round().long()
        found.append((row, column))
    rows, columns = zip(*found, strict=True)
    return torch.cat(rows), torch.cat(columns)
