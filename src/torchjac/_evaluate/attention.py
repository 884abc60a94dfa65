"""Fused attention kernels and their math form.

The fused kernels of `scaled_dot_product_attention` have no forward rule and a backward pass that
can neither be batched nor differentiated again. The math kernel computes the same from ordinary
ops that can.
"""

from collections.abc import Callable, Set
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from torchjac._inputs.signature import Signature

_FUSED = ("FlashAttention", "EfficientAttention", "CudnnAttention", "FusedAttention")


def uses_fused_attention(node_names: Set[str]) -> bool:
    """Whether a graph with these nodes holds a fused attention kernel.

    Args:
        node_names: Kinds of nodes, as `Tape.survey` gives them.

    Returns:
        True if one of them is fused attention.

    >>> uses_fused_attention({"MulBackward0", "ScaledDotProductFlashAttentionForCpuBackward0"})
    True
    """
    return any(kind in name for name in node_names for kind in _FUSED)


def with_math_attention(signature: Signature) -> Signature:
    """The same function, its attention computed by the math kernel."""
    return signature._replace(
        call=_under_math(signature.call), recall=_under_math(signature.recall)
    )


def _under_math(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return function(*args)

    return wrapped
