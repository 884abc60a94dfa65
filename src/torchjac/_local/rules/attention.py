"""Fused attention: what autograd makes of it. Batch and heads are kept apart.

With P = softmax(scale Q K^T + mask) and O = P V, the gradient of a query depends on that of its
own row, and those of a key and of a value on the rows of all queries that see them.
"""

import torch
from torch import Tensor

from torchjac._linearize.program import Ref
from torchjac._local.algebra import LinearMap, Mix, Move, Opaque, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(
    aten._scaled_dot_product_cudnn_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    aten._scaled_dot_product_fused_attention_overrideable_backward,
)
def attention_backward(call: Call) -> dict[int, Terms]:
    """The gradients of queries, keys and values, each of shape (batch, heads, length, features).

    0, t: Mix(-1);  1, t: Mix(-2, -1);  2, t: Mix(-2);  with a mask: by its zeros
    """
    grad = call.arguments.get("grad_out", call.arguments.get("grad_out_"))
    if any([ref != grad for ref in call.tangents()]):
        return NotImplemented
    shape, key, value = call.shape(grad), call.shape(call["key"]), call.shape(call["value"])
    query = call.shape(call["query"])
    if len(shape) != 4 or key[:2] != query[:2] or value[:2] != query[:2]:
        return _grouped(call, grad)
    seen = _seen(call, query[2], key[2])
    terms: dict[int, Terms] = {
        0: [Term(grad, [Mix((3,), query)])],
        1: [Term(grad, [Mix((3,), (*query[:3], 1)), _rows(key[2], (*query[:3], 1), seen)])],
        2: [Term(grad, [_rows(value[2], shape, seen)])],
    }
    terms[1] = [Term(grad, [*terms[1][0].maps, Scale(key)])]
    if len(call.node.outputs) > 3 and call.node.outputs[3] is not None:
        terms[3] = [Term(grad, _to_mask(query, key, call.out_shape(3)))]
    return terms


def _rows(keys: int, shape: tuple[int, ...], seen: Tensor | None) -> Mix:
    """From rows of queries to rows of keys."""
    return Mix((2,), (*shape[:2], keys, shape[3]), None if seen is None else seen.mT)


def _to_mask(
    query: tuple[int, ...], key: tuple[int, ...], shape: tuple[int, ...]
) -> list[LinearMap]:
    """The gradient of an additive mask: of element (l, s) it is that of row l."""
    scores = (*query[:3], key[2])
    missing = len(scores) - len(shape)
    summed = tuple([d for d, n in enumerate((*(1,) * missing, *shape)) if n == 1])
    return [
        Mix((3,), (*query[:3], 1)),
        Scale(scores),
        Reduce(summed, keepdim=True),
        Move(lambda t: t.reshape(shape)),
    ]


def _grouped(call: Call, grad: Ref) -> dict[int, Terms]:
    """Several heads of queries to one of keys."""
    return {
        k: [Term(grad, [Opaque(call.out_shape(k), 1)])]
        for k, number in enumerate(call.node.outputs)
        if number is not None
    }


def _seen(call: Call, queries: int, keys: int) -> Tensor | None:
    """Which query sees which key, shape (*batch, queries, keys), None for all."""
    seen = None
    if call["is_causal"] and (queries == keys or "for_cpu" in call.node.name):
        seen = torch.ones(queries, keys, dtype=torch.bool).tril()
    name = "attn_mask" if "attn_mask" in call.arguments else "attn_bias"
    mask = call.constant(call.arguments.get(name))
    if mask is None:
        return seen
    allowed = mask if mask.dtype == torch.bool else mask != -torch.inf
    allowed = allowed.expand(*allowed.shape[:-2], queries, keys)
    if allowed.ndim > 2:
        allowed = allowed.reshape(*(1,) * (4 - allowed.ndim), *allowed.shape)
    return allowed if seen is None else allowed & seen
