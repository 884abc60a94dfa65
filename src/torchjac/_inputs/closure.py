"""What a function holds besides its arguments: tensors it is differentiated at, modules."""

from collections.abc import Callable, Iterator, Sequence
from dis import get_instructions
from functools import lru_cache, partial
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn


def held_inputs(func: Callable[..., Any], leaves: Sequence[Tensor]) -> list[str]:
    """Names under which `func` reaches one of `leaves` other than through its arguments.

    Autograd differentiates with respect to the arguments alone: through a closure the same
    tensor is a constant. Looks at closure cells, globals that the code names, defaults and
    bound arguments of a partial, and one level into lists, tuples and dicts there; not inside
    the functions that `func` calls.

    Args:
        func: The user's function.
        leaves: The tensors that are differentiated.

    Returns:
        The names, in the order found.

    >>> import torch
    >>> x = torch.ones(2)
    >>> held_inputs((lambda x: lambda y: x * y)(x), [x])
    ['x']
    """
    wanted = {id(leaf) for leaf in leaves}
    return [
        name
        for name, value in reachable(func)
        if id(value) in wanted or any([id(part) in wanted for part in _parts(value)])
    ]


def held_modules(func: Callable[..., Any]) -> list[nn.Module]:
    """Modules that a call of `func` may run: itself, and those that it holds."""
    values = [func, owner_of(func)]
    for _, value in reachable(func):
        values += [value, owner_of(value), *_parts(value)]
    return [value for value in values if isinstance(value, nn.Module)]


def owner_of(func: Any) -> Any:
    """What a method is bound to; whatever else `func` may be is not asked for anything."""
    return func.__self__ if isinstance(func, MethodType | BuiltinMethodType) else None


def reachable(func: Any) -> list[tuple[str, Any]]:
    """Values that `func` holds besides its arguments, by name."""
    found: list[tuple[str, Any]] = []
    if isinstance(func, partial):
        found += [(f"argument {i} of partial", value) for i, value in enumerate(func.args)]
        found += func.keywords.items()
        if not isinstance(func.func, FunctionType | MethodType):
            found.append(("the function of partial", func.func))
        func = func.func
    if isinstance(func, MethodType):
        func = func.__func__
    if not isinstance(func, FunctionType):
        return found
    code, known = func.__code__, func.__globals__
    if func.__closure__:
        found += _filled_cells(code.co_freevars, func.__closure__)
    if code.co_names:
        found += [(name, known[name]) for name in _global_names(code) if name in known]
    if func.__defaults__:
        found += [("a default", value) for value in func.__defaults__]
    if func.__kwdefaults__:
        found += func.__kwdefaults__.items()
    return found


def _filled_cells(names: Sequence[str], cells: Sequence[CellType]) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(names, cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue


@lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """Globals that code reads; `co_names` alone holds attributes too."""
    read = ("LOAD_GLOBAL", "LOAD_NAME")
    return tuple(dict.fromkeys(i.argval for i in get_instructions(code) if i.opname in read))


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    return list(value.values()) if type(value) is dict else ()
