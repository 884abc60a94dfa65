"""Tensors or tuples of Tensors, as `torch.autograd.functional` takes and returns them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchjac.errors import ArgumentTypeError, ShapeError

Tensors = Tensor | tuple[Tensor, ...]


def as_tuple(value: Any, name: str, api: str) -> tuple[bool, tuple[Tensor, ...]]:
    """Whether `value` is a tuple, and the tuple.

    Args:
        value: A Tensor or a tuple of Tensors.
        name: What it is, for the message.
        api: Name of the public function, for the message.

    Returns:
        A pair.

    Raises:
        ArgumentTypeError: There is something else in it.
    """
    is_tuple = isinstance(value, tuple)
    tensors = value if is_tuple else (value,)
    for i, element in enumerate(tensors):
        if not isinstance(element, Tensor):
            at = f"value at index {i}" if is_tuple else f"given {name}"
            raise ArgumentTypeError(
                f"The {name} given to {api} must be either a Tensor or a tuple of Tensors but the"
                f" {at} has type {type(element)}."
            )
    return is_tuple, tensors


def restore(values: Sequence[Any], is_tuple: bool) -> Any:
    """The inverse of `as_tuple`."""
    if not is_tuple:
        return values[0]
    return values if isinstance(values, tuple) else tuple(values)


def vector(
    api: str,
    v: Tensors | None,
    others: Sequence[Tensor],
    is_tuple: bool,
    create_graph: bool,
    needed: str,
) -> Sequence[Tensor] | None:
    """The vector of a product, checked against the tensors that it goes with.

    Args:
        api: Name of the public function, for messages.
        v: What the user gave.
        others: Tensors that it has the shapes of.
        is_tuple: Whether those were given as a tuple.
        create_graph: Keep its connection to its graph.
        needed: What must hold for `v` to be left out.

    Returns:
        One tensor for each of `others`, or None where it was left out.

    Raises:
        ShapeError: It does not fit.
    """
    if v is None:
        if len(others) != 1 or others[0].nelement() != 1:
            raise ShapeError(f"The vector v can only be None if the {needed}")
        return None
    _, given = as_tuple(v, "v", api)
    if len(given) != len(others):
        if is_tuple:
            raise ShapeError(
                f"v is a tuple of invalid length: should be {len(others)} but got {len(given)}."
            )
        raise ShapeError("The given v should contain a single Tensor.")
    for i, (ours, other) in enumerate(zip(given, others, strict=True)):
        if ours.size() != other.size():
            entry = f"Entry {i} in " if is_tuple else ""
            raise ShapeError(
                f"{entry}v has invalid size: should be {other.size()} but got {ours.size()}."
            )
    return [x.view_as(x) if create_graph and x.requires_grad else x.detach() for x in given]
