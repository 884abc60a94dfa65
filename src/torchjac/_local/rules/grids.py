"""Sampling at points that a grid names."""

from math import prod

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import LinearMap, Matrix, Mix, Move, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten

_BILINEAR, _NEAREST, _BICUBIC = range(3)
_ZEROS, _BORDER, _REFLECTION = range(3)
# The first and the last neighbor, from the element before the point, and how far neighbors are.
_NEIGHBORS = {_BILINEAR: (0, 1), _NEAREST: (0, 1), _BICUBIC: (-1, 2)}
_WIDTH = {_BILINEAR: 1.0, _NEAREST: 0.5, _BICUBIC: 2.0}
# Points so close to an element count as on either side, since rounding decides: so many times the
# precision of the grid, and the length of the axis.
_ROUNDINGS = 64


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d)
def grid_sampler(call: Call) -> Terms:
    """Weighted sums of the neighbors of each point.

    grid_sampler_2d(t, grid)                  ->  t: Matrix of the neighbors
    With a grid that depends on x             ->  t: Mix(2, 3)
    """
    source = call["input"]
    if list(call.tangents()) != [source]:
        return NotImplemented
    shape = call.out_shape()
    entries = _entries(call)
    if entries is None:
        return [Term(source, [Mix(tuple(range(2, len(shape))), shape)])]
    point, element = entries
    return [_sampled(source, call.shape(source), shape, point, element)]


@rule(aten.grid_sampler_2d_backward, aten.grid_sampler_3d_backward)
def grid_sampler_backward(call: Call) -> dict[int, Terms]:
    """The transpose of sampling, and what reaches the points.

    grid_sampler_2d_backward(t, x, grid)  ->  0, t: Matrix of the neighbors;  1, t: Reduce(1), Scale
    """
    grad = call["grad_output"]
    if list(call.tangents()) != [grad]:
        return NotImplemented
    shape, terms = call.shape(call["input"]), dict[int, Terms]()
    entries = _entries(call)
    if entries is None:
        terms[0] = [Term(grad, [Mix(tuple(range(2, len(shape))), shape)])]
    else:
        point, element = entries
        terms[0] = [_sampled(grad, call.shape(grad), shape, element, point)]
    points = call.shape(call["grid"])
    to_points: list[LinearMap] = [Reduce((1,)), Move(lambda t: t.unsqueeze(-1)), Scale(points)]
    terms[1] = [Term(grad, to_points)]
    return terms


def _sampled(
    source: Ref, before: tuple[int, ...], after: tuple[int, ...], rows: Tensor, columns: Tensor
) -> Term:
    """The same matrix for each channel, from (samples * space) to (samples * space)."""
    channels = before[1]
    flat = [(n[0] * prod(n[2:]), channels) for n in (before, after)]
    enter = Move(lambda t: t.movedim(1, -1).reshape(flat[0]))
    leave = Move(lambda t: t.reshape(after[0], *after[2:], channels).movedim(-1, 1))
    return Term(source, [enter, Matrix(rows, columns, flat[1], 0), leave])


def _entries(call: Call) -> tuple[Tensor, Tensor] | None:
    """The point and the element of each pair of neighbors, None if the grid depends on x."""
    grid = call.constant(call["grid"])
    if grid is None:
        return None
    shape = call.shape(call["input"])
    space = shape[2:]
    near = [
        _near(call, grid[..., axis], length)  # the grid names the last axis first
        for axis, length in enumerate(reversed(space))
    ][::-1]
    points = prod(grid.shape[1:-1])
    sample = torch.arange(shape[0]).reshape(-1, 1, *(1,) * len(space))
    number, inside = sample, torch.ones((), dtype=torch.bool)
    for axis, (length, index) in enumerate(zip(space, near, strict=True)):
        among = [-1 if a == axis else 1 for a in range(len(space))]
        index = index.reshape(shape[0], points, *among)
        inside = inside & (index >= 0) & (index < length)
        number = number * length + index
    number, inside = torch.broadcast_tensors(number, inside)
    point = torch.arange(shape[0] * points).reshape(shape[0], points, *(1,) * len(space))
    elements = max(shape[0] * prod(space), 1)
    pairs = (point.expand_as(number)[inside] * elements + number[inside]).unique()
    return pairs // elements, pairs % elements


def _near(call: Call, point: Tensor, length: int) -> Tensor:
    """Neighbors of points along one axis, shape (samples, points, neighbors), -1 for none."""
    mode, padding = call["interpolation_mode"], call["padding_mode"]
    centered = not call["align_corners"]
    place = point.double().flatten(1)[..., None].nan_to_num()
    place = ((place + 1) * length - 1) / 2 if centered else (place + 1) / 2 * (length - 1)
    slack = _ROUNDINGS * torch.finfo(point.dtype).eps * place.abs().clamp(min=length)
    if padding == _ZEROS:
        place = place.clamp(-4.0, length + 4.0)
    elif mode != _BICUBIC:  # there the neighbors are padded, one by one, and not the point
        turned = _reflected(place, length, centered=centered) if padding == _REFLECTION else place
        place = turned.clamp(0, max(length - 1, 0))
        slack = torch.where((turned - place).abs() > slack, 0.0, slack)  # at an end, exactly
    first, last = _NEIGHBORS[mode]
    found = (place - slack).floor().long() + first + torch.arange(last - first + 2)
    is_near = (found - place).abs() < _WIDTH[mode] + slack
    if mode == _BICUBIC and padding == _REFLECTION:
        found = _reflected(found.double(), length, centered=centered).round().long()
    if mode == _BICUBIC and padding != _ZEROS:
        found = found.clamp(0, max(length - 1, 0))
    return torch.where(is_near, found, -1)


def _reflected(place: Tensor, length: int, *, centered: bool) -> Tensor:
    """Where places beyond the ends lie after reflection at the first and the last element.

    If `centered`, at the edges of these elements, half an element farther out.
    """
    low, high = (-0.5, length - 0.5) if centered else (0.0, length - 1.0)
    span = high - low
    away = torch.remainder(place - low, 2 * span) if span else torch.zeros_like(place)
    return low + torch.minimum(away, 2 * span - away)
