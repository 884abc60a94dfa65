"""Products of a Jacobian with itself, in passes of which none is kept.

With A the Jacobian (for products over its columns) or its transpose (for those over its rows) and
a weight W between, G = A^T W A is had in three ways:

    along    a pass for some rows of A:      G += A_c^T (W A)_c
    across   a pass for some columns of A:   G_d = A^T (W A_d), by a pass back
    pairs    passes for two sets of columns: G_de = A_d^T W A_e

Rows of A take one mode, columns the other. Where all of A is small it is made at once.

Source: Griewank & Walther (2008), Evaluating Derivatives, chapters 3 and 8.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.compressed import common_dtype
from torchjac._evaluate.differentiate import (
    Point,
    Solution,
    differentiate,
    differentiate_at,
    evaluate,
    look_for_zeros,
)
from torchjac._evaluate.memory import MIB, NEGLIGIBLE_BYTES, Budget, result_bytes
from torchjac._evaluate.options import Options
from torchjac._evaluate.streams import Request, Streams
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._evaluate.weight import read_weight
from torchjac._inputs.signature import Outputs, Signature
from torchjac._torch import inside_transform, pytree
from torchjac.errors import ArgumentTypeError, ShapeError

# A Jacobian no larger than what a pass takes is made at once.
SMALL_BYTES = 16 * MIB


class Products(NamedTuple):
    """What was asked for.

    Attributes:
        outputs: The value of the function.
        matrix: G.
        gradient: J^T r, None without a residual r.
    """

    outputs: Outputs
    matrix: Tensor
    gradient: Tensor | None


@outside_inference_mode
def gram_of(
    signature: Signature, options: Options, *, over_outputs: bool, weight: Any, residual: Any
) -> Products:
    """Products of the Jacobian of a function with itself.

    Args:
        signature: The function and where to differentiate it.
        options: How.
        over_outputs: J S J^T; J^T M J otherwise.
        weight: As `read_weight` takes it.
        residual: None; one value for each output; or a function of the output that returns such.

    Returns:
        The products.
    """
    if inside_transform():
        solution = differentiate(signature, options)
        request = _read(signature, solution.outputs, options, over_outputs, weight, residual)
        return _multiplied(solution, request)
    point = evaluate(signature, options)
    outputs = point.tape.outputs
    request = _read(signature, outputs, options, over_outputs, weight, residual)
    budget = _budget(point, options, request)
    size = result_bytes(outputs.tensors, signature.leaves)
    if options.create_graph or (options.is_plain and size <= SMALL_BYTES):
        solution = differentiate_at(point, options)
        with nullcontext() if options.create_graph else torch.no_grad():
            return _multiplied(solution, request)
    look_for_zeros(
        signature.api, outputs, [[t if t.requires_grad else None] for t in outputs.tensors]
    )
    with torch.no_grad():  # a weight may have a graph
        matrix, gradient = Streams(point, options, request, budget).run()
    return Products(outputs, matrix, gradient)


def _budget(point: Point, options: Options, request: Request) -> Budget:
    """What may be used, or an error if the result cannot fit."""
    budget = Budget(
        point.signature.api,
        options.memory,
        options.chunk_size,
        point.held_bytes,
        result="the matrix",
        remedies="differentiate fewer inputs with `wrt=`; or take products with "
        "`torchjac.functional.jvp` and `vjp` in an iterative solver, which never holds it",
    )
    ends = point.tape.outputs.tensors if request.over_outputs else point.signature.leaves
    like = request.weight.like
    size = sum([end.numel() for end in ends]) ** 2 * like.element_size()
    if options.memory is not None or size > NEGLIGIBLE_BYTES:
        budget.pass_bytes(size, like.device)
    return budget


def _multiplied(solution: Solution, request: Request) -> Products:
    """Products of a Jacobian that is there."""
    weight = request.weight
    rows = [
        torch.cat(
            [b.reshape(y.numel(), b.shape[y.dim() :].numel()).to(weight.like) for b in row], dim=1
        )
        for y, row in zip(solution.outputs.tensors, solution.blocks, strict=True)
    ]
    jacobian = torch.cat(rows)
    if request.over_outputs:
        matrix = jacobian @ weight.times(jacobian.mT)
    else:
        matrix = jacobian.mT @ weight.times(jacobian)
    gradient = None if request.residual is None else jacobian.mT @ request.residual
    return Products(solution.outputs, matrix, gradient)


def _read(
    signature: Signature,
    outputs: Outputs,
    options: Options,
    over_outputs: bool,
    weight: Any,
    residual: Any,
) -> Request:
    api, leaves = signature.api, signature.leaves
    like = torch.empty(0, dtype=common_dtype([*outputs.tensors, *leaves]), device=leaves[0].device)
    rows = leaves if over_outputs else outputs.tensors
    shapes = [tuple(t.shape) for t in rows]
    size = sum([t.numel() for t in rows])
    flat = None
    if residual is not None:
        flat = _read_residual(api, outputs, residual, keep=options.create_graph).to(like)
    return Request(over_outputs, read_weight(api, weight, size, shapes, like), flat)


def _read_residual(api: str, outputs: Outputs, residual: Any, *, keep: bool) -> Tensor:
    """One number for each output element."""
    if callable(residual) and not isinstance(residual, Tensor):
        keep = keep or inside_transform()
        tensors = [t if keep else t.detach() for t in outputs.tensors]
        residual = residual(outputs.unflatten(tensors))
    parts: Sequence[Any] = pytree.tree_leaves(residual)
    if not all(isinstance(part, Tensor) for part in parts):
        raise ArgumentTypeError(
            f"{api}: `residual` must be a Tensor for each output, or a function of the output that "
            f"returns them; got {[type(part) for part in parts]}."
        )
    shapes, expected = ([tuple(t.shape) for t in ts] for ts in (parts, outputs.tensors))
    if shapes != expected:
        raise ShapeError(
            f"{api}: `residual` must have the shapes of the output of `func`, {expected}; got "
            f"{shapes}."
        )
    return torch.cat([part.reshape(-1) for part in parts])
