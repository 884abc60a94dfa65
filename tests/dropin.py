"""Ask two libraries the same question and compare what they answer, errors included."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Outcome(NamedTuple):
    """What a call came to: a value, or the error that it raised."""

    value: Any = None
    error: Exception | None = None


def outcome(call: Callable[[], Any], *, warn: str = "error") -> Outcome:
    """Make a call; its warnings are errors unless `warn` says "ignore"."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(warn)  # type: ignore[arg-type]
            return Outcome(value=call())
    except Exception as error:
        return Outcome(error=error)


def assert_same_outcome(
    ours: Outcome,
    theirs: Outcome,
    *,
    lists_are_tuples: bool = False,
    same_requires_grad: bool = True,
) -> None:
    """Both raised the same error with the same words, or returned the same."""
    if theirs.error is not None:
        assert ours.error is not None, f"expected {theirs.error!r}, got {ours.value!r}"
        assert isinstance(ours.error, type(theirs.error)), (ours.error, theirs.error)
        assert str(ours.error) == str(theirs.error)
        return
    if ours.error is not None:
        raise ours.error
    expected = tuples_for_lists(theirs.value) if lists_are_tuples else theirs.value
    assert_same(ours.value, expected, same_requires_grad=same_requires_grad)


def assert_same(ours: Any, theirs: Any, *, same_requires_grad: bool = True) -> None:
    """Same nesting, and leaf by leaf the same values, dtype, device, shape and requires_grad."""
    our_leaves, our_spec = pytree.tree_flatten(ours)
    their_leaves, their_spec = pytree.tree_flatten(theirs)
    assert our_spec == their_spec
    for ours_i, theirs_i in zip(our_leaves, their_leaves, strict=True):
        assert type(ours_i) is type(theirs_i)
        if not isinstance(theirs_i, Tensor):
            assert ours_i == theirs_i
            continue
        assert not same_requires_grad or ours_i.requires_grad == theirs_i.requires_grad
        torch.testing.assert_close(ours_i, theirs_i, equal_nan=True)


def tuples_for_lists(value: Any) -> Any:
    """The same tree with tuples where it has lists."""
    if isinstance(value, list | tuple):
        return tuple(tuples_for_lists(element) for element in value)
    return value


def twice_differentiated(value: Any, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """First and second derivatives of a number made from all of `value`, by `inputs`.

    The number is not linear in `value`, so that the second derivative sees all of it too.
    Derivatives that do not exist are zero.
    """
    leaves = [t for t in pytree.tree_leaves(value) if t.requires_grad]
    if not leaves or not inputs:
        return tuple(torch.zeros_like(x) for x in (*inputs, *inputs))
    total = sum((t.sin() * t).sum().double() for t in leaves)
    first = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
    known = [t for t in first if t is not None and t.requires_grad]
    second: Sequence[Tensor | None] = (None,) * len(inputs)
    if known:
        again = sum((t * t).sum().double() for t in known)
        second = torch.autograd.grad(again, inputs, allow_unused=True)
    return tuple(
        torch.zeros_like(x) if t is None else t.detach()
        for t, x in zip((*first, *second), (*inputs, *inputs), strict=True)
    )


class Snapshot:
    """What a tensor was, to see that nobody touched it."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._before = [self._state(t) for t in tensors]
        self._values = [t.detach().clone() for t in tensors]

    @staticmethod
    def _state(tensor: Tensor) -> tuple[Any, ...]:
        return (
            tensor.requires_grad,
            tensor.is_leaf,
            tensor.grad if tensor.is_leaf else None,
            tensor._version,
            tensor.data_ptr(),
            tensor._backward_hooks,
        )

    def assert_untouched(self) -> None:
        """Values, version, `.grad`, `requires_grad` and hooks are as they were."""
        assert [self._state(t) for t in self._tensors] == self._before
        for tensor, value in zip(self._tensors, self._values, strict=True):
            torch.testing.assert_close(tensor.detach(), value, rtol=0, atol=0, equal_nan=True)
