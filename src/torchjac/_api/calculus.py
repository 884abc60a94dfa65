"""Vector calculus: diagonal, trace, divergence, Laplacian, curl; exact, at a point or a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchjac._api.solve import read_call
from torchjac._evaluate.diagonal import diagonal_entries
from torchjac._evaluate.differentiate import differentiate
from torchjac._evaluate.options import Options
from torchjac._evaluate.samples import differentiate_samples
from torchjac._evaluate.second import laplacian_of
from torchjac._evaluate.seeds import BatchDims, rows_of_samples
from torchjac._inputs.signature import Signature
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError


def diagonal(
    func: Callable[..., Any],
    inputs: Tensor,
    *,
    batch_dim: int | None = None,
    create_graph: bool = False,
    chunk_size: int | None = None,
    memory: int | float | None = None,
) -> Tensor:
    """Diagonal of the Jacobian of a function whose output has the shape of its input.

    d[i] = d func(x)[i] / d x[i]

    Exact, from n rows of which only the diagonal is kept: the memory of a few rows, not of n.

    Args:
        func: Takes a Tensor of shape S and returns one of shape S.
        inputs: Where to evaluate, a floating-point Tensor.
        batch_dim: Axis of independent samples; None: all of `inputs` is one point.
        create_graph: Make the result differentiable.
        chunk_size: Rows per pass. None: as many as `memory` allows.
        memory: As in `jacobian`.

    Returns:
        Shape, dtype and device of `inputs`.

    Raises:
        ShapeError: The output has another shape, or there is no axis `batch_dim`.
        MixedSamplesError: The samples are not independent.
        TorchjacError: As in `jacobian`.

    >>> import torch, torchjac
    >>> torchjac.diagonal(lambda x: x * x.sum(), torch.tensor([1.0, 2.0]))
    tensor([4., 5.])
    """
    return _diagonal("diagonal", func, inputs, batch_dim, create_graph, chunk_size, memory)


def trace(
    func: Callable[..., Any],
    inputs: Tensor,
    *,
    batch_dim: int | None = None,
    create_graph: bool = False,
    chunk_size: int | None = None,
    memory: int | float | None = None,
) -> Tensor:
    """Trace of the Jacobian of a function whose output has the shape of its input.

    t = sum_i d func(x)[i] / d x[i]

    Args:
        func: As in `diagonal`.
        inputs: As in `diagonal`.
        batch_dim: As in `diagonal`.
        create_graph: As in `diagonal`.
        chunk_size: As in `diagonal`.
        memory: As in `diagonal`.

    Returns:
        A Tensor without axes, or of shape (B,) for B samples.

    Raises:
        TorchjacError: As in `diagonal`.

    >>> import torch, torchjac
    >>> torchjac.trace(lambda x: x * x.sum(), torch.tensor([1.0, 2.0]))
    tensor(9.)
    """
    entries = _diagonal("trace", func, inputs, batch_dim, create_graph, chunk_size, memory)
    return _summed(entries, batch_dim)


def divergence(
    func: Callable[..., Any],
    inputs: Tensor,
    *,
    batch_dim: int | None = None,
    create_graph: bool = False,
    chunk_size: int | None = None,
    memory: int | float | None = None,
) -> Tensor:
    """Divergence of a vector field: the trace of its Jacobian.

    div func = sum_i d func(x)[i] / d x[i]

    Args:
        func: The field: takes a Tensor of shape S and returns one of shape S.
        inputs: A point, or with `batch_dim` a batch of points.
        batch_dim: As in `diagonal`.
        create_graph: As in `diagonal`.
        chunk_size: As in `diagonal`.
        memory: As in `diagonal`.

    Returns:
        A Tensor without axes, or of shape (B,) for B points.

    Raises:
        TorchjacError: As in `diagonal`.

    >>> import torch, torchjac
    >>> torchjac.divergence(lambda x: x**2, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), batch_dim=0)
    tensor([ 6., 14.])
    """
    entries = _diagonal("divergence", func, inputs, batch_dim, create_graph, chunk_size, memory)
    return _summed(entries, batch_dim)


def laplacian(
    func: Callable[..., Any],
    inputs: Tensor,
    *,
    batch_dim: int | None = None,
    create_graph: bool = False,
    chunk_size: int | None = None,
    memory: int | float | None = None,
) -> Tensor:
    """Laplacian of every output: the trace of its Hessian.

    l[o] = sum_i d^2 func(x)[o] / d x[i]^2

    Args:
        func: A scalar or vector field: takes a Tensor, returns a Tensor of any shape.
        inputs: A point, or with `batch_dim` a batch of points.
        batch_dim: Axis of independent points, in `inputs` and in the output; None: all of
            `inputs` is one point.
        create_graph: As in `diagonal`.
        chunk_size: Axes per pass. None: as many as `memory` allows.
        memory: As in `diagonal`.

    Returns:
        Shape of the output of `func`.

    Raises:
        ShapeError: There are several outputs, or there is no axis `batch_dim`.
        MixedSamplesError: The points are not independent.
        TorchjacError: As in `jacobian`.

    >>> import torch, torchjac
    >>> torchjac.laplacian(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    tensor(18.)
    """
    api = "laplacian"
    options = Options(create_graph, chunk_size=chunk_size, memory=memory, allow_constant=True)
    signature = _read(api, func, inputs, batch_dim, options)
    batch = None if batch_dim is None else BatchDims(batch_dim, batch_dim)
    return laplacian_of(signature, options, batch, func)


def curl(
    func: Callable[..., Any],
    inputs: Tensor,
    *,
    batch_dim: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Curl of a vector field in three dimensions, or its one component in two.

    (d f2/d x1 - d f1/d x2, d f0/d x2 - d f2/d x0, d f1/d x0 - d f0/d x1) in three dimensions,
    d f1/d x0 - d f0/d x1 in two.

    Args:
        func: The field: takes a Tensor of shape S and returns one of shape S.
        inputs: A point of shape (3,) or (2,), or with `batch_dim` B points: (B, 3) or (3, B).
        batch_dim: Axis of independent points; None: `inputs` is one point.
        create_graph: Make the result differentiable.

    Returns:
        Shape of `inputs` in three dimensions; in two a Tensor without axes, or of shape (B,).

    Raises:
        ShapeError: A point has neither two nor three coordinates, or the output another shape.
        MixedSamplesError: The points are not independent.
        TorchjacError: As in `jacobian`.

    >>> import torch, torchjac
    >>> torchjac.curl(lambda x: torch.stack([-x[1], x[0], x[2]]), torch.ones(3))
    tensor([0., 0., 2.])
    """
    api = "curl"
    signature = _read(api, func, inputs, batch_dim, Options(create_graph))
    point = list(signature.leaves[0].shape)
    if batch_dim is not None:
        del point[batch_dim]
    if point not in ([2], [3]):
        raise ShapeError(
            f"{api}: a point must have shape (3,) or (2,), got {tuple(point)} from `inputs` of "
            f"shape {tuple(inputs.shape)} and batch_dim={batch_dim}."
        )
    options = Options(create_graph)
    if batch_dim is None:
        outputs, blocks = differentiate(signature, options)
    else:
        batch = BatchDims(batch_dim, batch_dim)
        outputs, blocks = differentiate_samples(signature, options, batch, func)
    if [tuple(t.shape) for t in outputs.tensors] != [tuple(inputs.shape)]:
        raise ShapeError(
            f"{api}: `func` must return one tensor with the shape of its input, "
            f"{tuple(inputs.shape)}; got {[tuple(t.shape) for t in outputs.tensors]}."
        )
    jac = blocks[0][0]
    skew = jac.mT - jac  # skew[..., i, j] = d f[j] / d x[i] - d f[i] / d x[j]
    if point == [2]:
        return skew[..., 0, 1]
    components = [skew[..., 1, 2], skew[..., 2, 0], skew[..., 0, 1]]
    return torch.stack(components, 0 if batch_dim == 1 else -1)


def _summed(entries: Tensor, batch_dim: int | None) -> Tensor:
    if batch_dim is None:
        return entries.sum()
    return rows_of_samples(entries, batch_dim).sum(1)


def _diagonal(
    api: str,
    func: Callable[..., Any],
    inputs: Tensor,
    batch_dim: int | None,
    create_graph: bool,
    chunk_size: int | None,
    memory: int | float | None,
) -> Tensor:
    options = Options(create_graph, chunk_size=chunk_size, memory=memory)
    signature = _read(api, func, inputs, batch_dim, options)
    return diagonal_entries(signature, options, batch_dim, func)


def _read(
    api: str, func: Callable[..., Any], inputs: Tensor, batch_dim: int | None, options: Options
) -> Signature:
    if not isinstance(inputs, Tensor):
        raise ArgumentTypeError(f"{api}: `inputs` must be one Tensor, got {type(inputs)}.")
    if batch_dim is not None:
        if not isinstance(batch_dim, int) or isinstance(batch_dim, bool) or batch_dim < 0:
            raise ArgumentError(
                f"{api}: `batch_dim` must be None or an axis number 0, 1, ..., got {batch_dim!r}."
            )
        if inputs.dim() <= batch_dim:
            raise ShapeError(
                f"{api}: `inputs` has no axis batch_dim={batch_dim}: its shape is "
                f"{tuple(inputs.shape)}."
            )
    return read_call(api, func, inputs, options)
