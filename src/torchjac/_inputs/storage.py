"""Inputs that are part of a larger memory, for functions that read around them.

A function is handed copies of its inputs. `as_strided` counts from the beginning of the memory
that a tensor lies in, so that on the copy of a view it reads something else. For such functions
the copy is put into a copy of the whole memory, at its place.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from torchjac._torch import is_wrapped

# What PyTorch says of a place outside of the memory.
_OUTSIDE = "out of bounds for storage"


def is_part(tensor: Tensor) -> bool:
    """Whether `tensor` is part of a larger memory.

    Args:
        tensor: Any tensor.

    Returns:
        True if there is more in its memory.

    >>> is_part(torch.ones(4)), is_part(torch.ones(4)[1:])
    (False, True)
    """
    if tensor.layout is not torch.strided or is_wrapped(tensor) or tensor.is_meta:
        return False
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


def reads_memory(node_names: Set[str]) -> bool:
    """Whether a graph with nodes of these kinds looks at memory by its place."""
    return "AsStridedBackward0" in node_names


def misses_memory(error: RuntimeError) -> bool:
    """Whether `error` came of a copy that lacks the memory around the original."""
    return _OUTSIDE in str(error)


def in_place(call: Callable[..., Any], leaves: Sequence[Tensor]) -> Callable[..., Any]:
    """The same function, handed its arguments in memory like that of `leaves`.

    Args:
        call: A function of one tensor for each of `leaves`.
        leaves: Where it is differentiated.

    Returns:
        The function.
    """

    def placed(values: Sequence[Tensor]) -> Any:
        return call([_placed(v, leaf) for v, leaf in zip(values, leaves, strict=True)])

    return placed


def copies_in_place(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies, each with a copy of the memory around."""
    return [_placed(t.clone(), t) for t in tensors]


def _placed(value: Tensor, leaf: Tensor) -> Tensor:
    if not is_part(leaf):
        return value
    count = leaf.untyped_storage().nbytes() // leaf.element_size()
    memory = leaf.detach().as_strided((count,), (1,), 0)
    geometry = leaf.shape, leaf.stride(), leaf.storage_offset()
    places = torch.arange(count, device=leaf.device).as_strided(*geometry).reshape(-1)
    if places.unique().numel() < places.numel():
        return value  # elements that lie on each other have no place of their own
    return memory.scatter(0, places, value.reshape(-1)).as_strided(*geometry)
