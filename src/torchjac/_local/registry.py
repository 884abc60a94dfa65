"""Which rule belongs to which operation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from torchjac._local.algebra import Opaque, Term
from torchjac._local.call import Call

Terms = Sequence[Term]
# Of one result, or of several, by their position.
Rule = Callable[[Call], "Terms | Mapping[int, Terms]"]

_RULES: dict[Any, Rule] = {}


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operators, all overloads of each.

    The rule takes a `Call` and returns the terms of its result, one or more for each tangent
    among the arguments; for an operator with several results a dictionary of them by position.
    It returns `NotImplemented` for a case that it does not know.

    Args:
        ops: Operators such as `torch.ops.aten.mul`.

    Returns:
        The decorator.
    """

    def register(function: Rule) -> Rule:
        for op in ops:
            _RULES[op] = function
        return function

    return register


def known_ops() -> Iterable[Any]:
    """The operators that have a rule."""
    return _RULES.keys()


def terms_of(call: Call) -> Mapping[int, Terms] | None:
    """What the results of an operation are made of.

    Args:
        call: The operation.

    Returns:
        The terms of each result, or None if there is no rule for it.
    """
    packet = getattr(call.node.op, "overloadpacket", call.node.op)
    found = _RULES.get(packet)
    if found is None and torch.Tag.pointwise in getattr(call.node.op, "tags", ()):
        found = _RULES["pointwise"]
    terms = NotImplemented if found is None else found(call)
    if terms is NotImplemented:
        return None
    return terms if isinstance(terms, Mapping) else {0: terms}


def opaque_terms(call: Call) -> Mapping[int, Terms]:
    """The terms of an operation of which nothing is known."""
    return {
        k: [Term(ref, [Opaque(call.out_shape(k))]) for ref in call.tangents()]
        for k, number in enumerate(call.node.outputs)
        if number is not None
    }
