"""What a function holds besides the inputs it is differentiated at: has it changed?

A pattern is found at one state of all that: a weight that was exactly zero then may not be now.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from torchjac._inputs.closure import held_modules, reachable
from torchjac._torch import has_numbers, pytree

# Equal for two calls only if nothing that was looked at has changed in between.
Marks = tuple[Any, ...]


def marks_of_function(func: Callable[..., Any], selected: Sequence[Tensor]) -> Marks:
    """Closures, globals and defaults of a function, parameters and buffers of modules there.

    Tensors count by identity and by the number of writes to them, plain values by value. Nothing
    is looked for inside of the functions that `func` calls.

    Args:
        func: The user's function.
        selected: The tensors that are differentiated, which do not count.

    Returns:
        The marks.
    """
    return _marks(_held(func), selected)


def marks_of_inputs(inputs: Any, selected: Sequence[Tensor]) -> Marks:
    """Inputs that are not differentiated, marked likewise.

    Args:
        inputs: What the function is called with.
        selected: The tensors that are differentiated.

    Returns:
        The marks.
    """
    if any(inputs is tensor for tensor in selected):
        return ()
    return _marks(pytree.tree_leaves(inputs), selected)


def _held(func: Callable[..., Any]) -> Iterator[Any]:
    for _, value in reachable(func):
        yield from pytree.tree_leaves(value) if isinstance(value, list | tuple | dict) else (value,)
    for module in held_modules(func):
        yield from module.parameters()
        yield from module.buffers()


def _marks(values: Iterator[Any] | Sequence[Any], selected: Sequence[Tensor]) -> Marks:
    chosen = {id(tensor) for tensor in selected}
    return tuple([_mark(value) for value in values if id(value) not in chosen])


def _mark(value: Any) -> Any:
    if isinstance(value, Tensor):
        version = None if value.is_inference() else value._version
        return id(value), version, value.data_ptr() if has_numbers(value) else None
    return value if isinstance(value, bool | int | float | complex | str) else id(value)
