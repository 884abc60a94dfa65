"""Does the function hold the very tensor that it is differentiated at?"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor


def held_inputs(func: Callable[..., Any], leaves: Sequence[Tensor]) -> list[str]:
    """Names under which `func` reaches one of `leaves` other than through its arguments.

    Autograd differentiates with respect to the arguments alone: through a closure the same
    tensor is a constant. Looks at closure cells, globals that the code names, defaults and
    bound arguments of a partial; not inside the functions that `func` calls.

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
    return [name for name, value in reachable(func) if id(value) in wanted]


def reachable(func: Any) -> Iterator[tuple[str, Any]]:
    """Values that `func` holds besides its arguments, by name."""
    if isinstance(func, partial):
        yield from ((f"argument {i} of partial", value) for i, value in enumerate(func.args))
        yield from func.keywords.items()
        func = func.func
    if isinstance(func, MethodType):
        func = func.__func__
    if not isinstance(func, FunctionType):
        return
    code = func.__code__
    for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    known = func.__globals__
    yield from ((name, known[name]) for name in code.co_names if name in known)
    yield from (("a default", value) for value in func.__defaults__ or ())
