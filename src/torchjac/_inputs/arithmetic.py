"""Functions that can do nothing but compute with tensors, as their bytecode shows.

Watching a function costs more than a small function itself. One that only names tensors, numbers
and PyTorch's built-in ops, and does nothing with their results but hand them on, cannot read a
value, switch gradients off or call code that might, so that there is nothing to watch for.
Whatever is not known to be harmless, other bytecode of a later Python say, is watched.
"""

from collections.abc import Callable
from dis import get_instructions
from functools import lru_cache
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MethodDescriptorType,
    NoneType,
)
from typing import Any

import torch
from torch import Tensor, nn

from torchjac._inputs.closure import reachable

# Calls, operators and names. No subscripts (`[1, 2][x]`), no slices and no formatting (`f"{x}"`),
# which read the number in a tensor, and no branches, which are few where speed matters.
_HARMLESS_CODE = frozenset(
    [
        "BINARY_OP",
        "BUILD_LIST",
        "BUILD_TUPLE",
        "CACHE",
        "CALL",
        "CALL_KW",
        "COPY",
        "COPY_FREE_VARS",
        "KW_NAMES",
        "LOAD_ATTR",
        "LOAD_CONST",
        "LOAD_DEREF",
        "LOAD_FAST",
        "LOAD_FAST_BORROW",
        "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
        "LOAD_FAST_LOAD_FAST",
        "LOAD_METHOD",
        "LOAD_SMALL_INT",
        "NOP",
        "NOT_TAKEN",
        "POP_TOP",
        "PRECALL",
        "PUSH_NULL",
        "RESUME",
        "RETURN_CONST",
        "RETURN_VALUE",
        "STORE_FAST",
        "STORE_FAST_LOAD_FAST",
        "STORE_FAST_STORE_FAST",
        "SWAP",
        "UNARY_NEGATIVE",
        "UNARY_POSITIVE",
        "UNPACK_SEQUENCE",
    ]
)
# Of the operators, formatting of text and (in later Pythons) subscripts.
_READING_OPERATORS = ("%", "%=", "[]")
# Ops that turn tensors into numbers, or numbers from wherever into tensors.
_READERS = ("as_tensor", "asarray", "item", "numpy", "tensor", "tolist")
_NUMBERS = (bool, complex, float, int, NoneType, torch.device, torch.dtype)
_BUILT_IN = (BuiltinFunctionType, GetSetDescriptorType, MethodDescriptorType, torch.dtype)


def is_arithmetic(func: Callable[..., Any]) -> bool:
    """Whether `func` can do nothing with tensors but compute.

    Args:
        func: Any callable.

    Returns:
        True if it surely cannot; False if it can, or nobody knows.

    >>> is_arithmetic(lambda x: torch.mm(x, x).exp()), is_arithmetic(lambda x: x * x.item())
    (True, False)
    """
    if type(func) is not FunctionType:
        return False
    read = _harmless_globals(func.__code__)
    if read is None or not func.__globals__.keys() >= read:  # what is left are builtins: float
        return False
    return all([_is_harmless(value) for _, value in reachable(func)])


@lru_cache(maxsize=1024)
def _harmless_globals(code: CodeType) -> frozenset[str] | None:
    """The globals that harmless code reads, None for any other code."""
    read: list[str] = []
    for step in get_instructions(code):
        name = step.opname
        if name == "LOAD_GLOBAL":
            read.append(step.argval)
        elif (
            name not in _HARMLESS_CODE
            or (name in ("LOAD_ATTR", "LOAD_METHOD") and not _is_op(step.argval))
            or (name == "BINARY_OP" and step.argrepr in _READING_OPERATORS)
        ):
            return None
    return frozenset(read)


def _is_harmless(value: Any) -> bool:
    kind = type(value)
    if kind is BuiltinFunctionType:
        return _is_op(value.__name__) and getattr(torch, value.__name__, None) is value
    return kind in (Tensor, nn.Parameter) or kind in _NUMBERS or value is torch


@lru_cache(maxsize=1024)
def _is_op(name: str) -> bool:
    """Whether everything that PyTorch calls `name` is an op of its own, written in C++."""
    if name in _READERS or name.startswith("_"):
        return False
    found = [getattr(owner, name) for owner in (torch, Tensor) if hasattr(owner, name)]
    return bool(found) and all(isinstance(value, _BUILT_IN) for value in found)
