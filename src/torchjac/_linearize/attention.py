"""The backward pass of fused attention in the operations that it stands for.

With P = softmax(scale Q K^T + mask) and O = P V, and G the gradient of O:

    dV = P^T G,  dS = P * (G V^T - rowsum(G * O)),  dQ = scale dS K,  dK = scale dS^T Q

Taken apart it can be transposed, and what is the same for many G is computed once.

Source: Dao et al. (2022), "FlashAttention", NeurIPS 35, appendix B.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
FUSED = frozenset(
    {
        aten._scaled_dot_product_cudnn_attention_backward,
        aten._scaled_dot_product_efficient_attention_backward,
        aten._scaled_dot_product_flash_attention_backward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
        aten._scaled_dot_product_fused_attention_overrideable_backward,
    }
)
# Gradients of queries, keys and values; behind them may come that of a mask.
_WANTED = 3


def in_parts(
    op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Tensor | None, ...] | None:
    """The gradients of fused attention, from ordinary operations.

    Args:
        op: An operator.
        args: Its arguments.
        kwargs: Those by name.

    Returns:
        What it returns; None for any other operator, and for attention with dropout, with several
        heads of queries to one of keys, or with a gradient of the mask.
    """
    if getattr(op, "overloadpacket", None) not in FUSED:
        return None
    schema = op._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    given |= dict(zip([a.name for a in schema], args, strict=False)) | dict(kwargs)
    q, k, v = given["query"], given["key"], given["value"]
    is_shared = not q.shape[:2] == k.shape[:2] == v.shape[:2]
    if given["dropout_p"] != 0 or q.dim() != 4 or is_shared:
        return None
    if given["is_causal"] and q.shape[2] != k.shape[2]:
        return None
    wanted = given.get("grad_input_mask", ())
    if len(wanted) > _WANTED and wanted[_WANTED]:
        return None
    gradients = _gradients(given, q, k, v)
    return (*gradients, *[None] * (len(op._schema.returns) - _WANTED))


def _gradients(given: Mapping[str, Any], q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    grad = given["grad_out"] if "grad_out" in given else given["grad_out_"]
    mask = given.get("attn_mask", given.get("attn_bias"))
    scale = q.shape[-1] ** -0.5 if given["scale"] is None else given["scale"]
    weights = _weights(q, k, mask, scale, is_causal=given["is_causal"])
    along = grad @ v.mT - (grad * given["out"]).sum(-1, keepdim=True)
    scores = weights * along * scale
    return scores @ k, scores.mT @ q, weights.mT @ grad


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, *, is_causal: bool) -> Tensor:
    scores = q @ k.mT * scale
    if is_causal:
        sees = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~sees, -torch.inf)
    if mask is not None:
        is_bool = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if is_bool else scores + mask
    # Zero, not NaN, for a query that sees no key.
    weights = aten._safe_softmax.default(scores, -1)
    return weights.tril() if is_causal else weights
