"""Operations whose by-products autograd takes for constants, in a form that it can look into.

A normalization returns the mean and the deviation that it has divided by, a determinant the
factors that it was computed from. Forward rules use them: they are functions of the argument as
much as the result is, but PyTorch differentiates the result alone. Whoever differentiates a
linear program, in which they are coefficients, has to compute them by operations that move.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import LinearProgram, Node, map_refs
from torchjac._linearize.rerun import run_node

aten = torch.ops.aten
Results = Sequence[Any]
# From the arguments and the results of an operation to results that move with the arguments.
Restored = Callable[[Sequence[Any], Results], Results]


def restored(program: LinearProgram, x: Tensor) -> Mapping[Node, Restored]:
    """How to compute by-products of operations on x so that they can be differentiated.

    Args:
        program: A linear program of one input.
        x: Where it was traced.

    Returns:
        For each operation with by-products what gives all of its results.
    """
    found: dict[Node, Restored] = {}
    named = [node for node in program.nodes if node.op in _RULES]
    if not named:
        return found
    known: dict[int, Any] = dict(program.constants) | {program.primals[0]: x.detach()}
    with torch.no_grad():
        for node in program.nodes:
            if not program.linear.isdisjoint(node.inputs):
                continue
            run_node(node, known, program)
            if node in named:
                args = map_refs(lambda ref: known[ref.number], node.args)
                results = [None if n is None else known[n] for n in node.outputs]
                rule = next(
                    (r for r in _RULES[node.op] if _is_same(r(args, results), results)), None
                )
                if rule is not None:
                    found[node] = rule
    return found


def _is_same(results: Results, expected: Results) -> bool:
    """Whether a rule gives what the operation gave, up to rounding."""
    for one, other in zip(results, expected, strict=True):
        if one is None or other is None or not other.numel():
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True):
            return False
    return True


def _layer_norm(args: Sequence[Any], _: Results) -> Results:
    x, shape, weight, bias, eps = args
    dims = list(range(x.dim() - len(shape), x.dim()))
    centered, mean, scale = _centered(x, dims, eps)
    y = centered * scale
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, scale


def _batch_norm(args: Sequence[Any], results: Results) -> Results:
    x, weight, bias, _, _, is_training, _, eps = args
    if not is_training:
        return results
    dims = [dim for dim in range(x.dim()) if dim != 1]
    centered, mean, scale = _centered(x, dims, eps)
    per_channel = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    y = centered * scale
    y = y if weight is None else y * weight.reshape(per_channel)
    y = y if bias is None else y + bias.reshape(per_channel)
    return y, mean.reshape(-1), scale.reshape(-1)


def _centered(x: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """X without its mean, the mean, and one over the deviation."""
    mean = x.mean(dims, keepdim=True)
    centered = x - mean
    return centered, mean, (centered.square().mean(dims, keepdim=True) + eps).rsqrt()


def _factored(first: int, *, transposed: bool) -> Restored:
    """Factors L U, which begin at result number `first`, of the matrix or its transpose."""

    def factors(args: Sequence[Any], results: Results) -> Results:
        matrix = args[0].mT if transposed else args[0]
        product, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return *results[:first], product, pivots, *results[first + 2 :]

    return factors


def _both(first: int) -> Sequence[Restored]:
    """Which of the two is factored depends on how the matrix lies in memory."""
    return _factored(first, transposed=True), _factored(first, transposed=False)


_RULES: Mapping[Any, Sequence[Restored]] = {
    aten.native_layer_norm.default: (_layer_norm,),
    aten.native_batch_norm.default: (_batch_norm,),
    aten._linalg_det.default: _both(1),
    aten._linalg_slogdet.default: _both(2),
    aten._linalg_solve_ex.default: _both(1),
}
