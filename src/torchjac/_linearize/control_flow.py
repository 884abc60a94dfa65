"""Control flow that is an operator of PyTorch, run as the Python that it stands for.

`torch.cond`, `while_loop`, `scan` and `map` have no forward mode, and compile their branches
where no mode is active. A trace follows one branch anyway: run as Python, they take part in it like
an `if` or a `for`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchjac._torch import pytree

__all__ = ["python_of"]


def python_of(func: Any) -> Callable[..., Any] | None:
    """What an operator of control flow does, in Python.

    Args:
        func: What was called.

    Returns:
        A function of the operator's arguments, or None for anything else.
    """
    if getattr(func, "namespace", None) != "higher_order":
        return None
    return _MEANINGS.get(func.name())


def _cond(
    pred: Any,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: Sequence[Any],
) -> Any:
    try:
        taken = bool(pred)
    except RuntimeError:  # inside vmap, where each sample takes its own
        both = true_fn(*operands), false_fn(*operands)
        return pytree.tree_map(partial(torch.where, pred), *both)
    return (true_fn if taken else false_fn)(*operands)


def _while_loop(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    carried: Sequence[Any],
    additional: Sequence[Any] = (),
) -> Any:
    leaves: Sequence[Any] = list(carried)
    spec = None
    while cond_fn(*leaves, *additional):
        leaves, spec = pytree.tree_flatten(body_fn(*leaves, *additional))
    if spec is None:  # no step was taken: one more tells how results are arranged
        spec = pytree.tree_structure(body_fn(*leaves, *additional))
    return pytree.tree_unflatten(leaves, spec)


def _scan(
    combine_fn: Callable[..., Any],
    init: Sequence[Any],
    xs: Sequence[Tensor],
    additional: Sequence[Any] = (),
) -> Any:
    carry, rows = list(init), []
    spec = pytree.tree_structure(carry)
    for k in range(len(xs[0])):
        result = combine_fn(*carry, *[x.select(0, k) for x in xs], *additional)
        leaves, spec = pytree.tree_flatten(result)
        carry, row = leaves[: len(init)], leaves[len(init) :]
        rows.append(row)
    return pytree.tree_unflatten([*carry, *_stacked(rows)], spec)


def _map(
    function: Callable[..., Any],
    xs: Sequence[Tensor],
    additional: Sequence[Any],
) -> Any:
    rows, spec = [], pytree.tree_structure(())
    for k in range(len(xs[0])):
        row, spec = pytree.tree_flatten(function(*[x.select(0, k) for x in xs], *additional))
        rows.append(row)
    return pytree.tree_unflatten(_stacked(rows), spec)


def _stacked(rows: Sequence[Sequence[Any]]) -> list[Any]:
    return [
        torch.stack(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*rows, strict=True)
    ]


_MEANINGS: dict[str, Callable[..., Any]] = {
    "cond": _cond,
    "map_impl": _map,
    "scan": _scan,
    "while_loop": _while_loop,
}
