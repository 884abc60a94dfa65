"""All that a function can read besides its arguments, so that a change of it can be seen.

A program emitted once from a function must not be used when the function has become another one: a
time step in an attribute, a global, a weight. Python objects that are understood are looked
through; where there is one that is not, nobody knows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchjac._torch import has_numbers

_PLAIN = (
    bool, bytes, complex, float, int, str, type(None), type(Ellipsis), torch.device, torch.dtype,
    torch.layout, torch.memory_format, np.generic, range,
)  # fmt: skip
_BUILT_IN = (
    BuiltinFunctionType,
    GetSetDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
    np.ufunc,
)
# New ones come for old ones all the time; what they hold counts.
_CONTAINERS = (dict, frozenset, list, MethodType, partial, set, tuple)
# What these packages hold is taken not to change.
_LIBRARIES = frozenset({"builtins", "functools", "itertools", "math", "numpy", "operator", "torch"})
# Attributes of a module of torch.nn that say how it is called, and are empty unless somebody
# interferes with that.
_HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
_MOST_OBJECTS = 5_000


@dataclass(frozen=True, eq=False)
class State:
    """What a function can read.

    Attributes:
        marks: Equal for two states only if plain values, objects and the numbers of writes to
            tensors are the same.
        kept: All tensors, held so that no new one takes the place of an old one.
        silent: Parameters and buffers with copies of them: `parameter.data` can be written to
            without leaving a mark.
    """

    marks: tuple[Any, ...]
    kept: tuple[Tensor, ...]
    silent: tuple[tuple[Tensor, Tensor], ...]

    def still_holds(self, func: Callable[..., Any]) -> bool:
        """Whether the function can read what it could, and nothing else."""
        now = _walked(func)
        if now is None or tuple(now.marks) != self.marks:
            return False
        return all([torch.equal(tensor, copy) for tensor, copy in self.silent])


class _UnknownError(Exception):
    """An object that is not understood."""


def state_of(func: Callable[..., Any]) -> State | None:
    """All that a function can read besides its arguments.

    Args:
        func: Any callable.

    Returns:
        The state, or None where some of it cannot be seen.

    >>> class Simulation:
    ...     dt = 0.1
    ...     def step(self, x):
    ...         return x + self.dt * x**2
    >>> simulation = Simulation()
    >>> before = state_of(simulation.step)
    >>> simulation.dt = 0.2
    >>> before.still_holds(simulation.step)
    False
    """
    walk = _walked(func)
    if walk is None:
        return None
    copies = tuple([(t, t.detach().clone()) for t in walk.silent])
    return State(tuple(walk.marks), tuple(walk.tensors), copies)


def _walked(func: Callable[..., Any]) -> "_Walk | None":
    walk = _Walk()
    try:
        walk.visit(func)
    except _UnknownError:
        return None
    return walk


class _Walk:
    """One walk through everything that can be reached."""

    def __init__(self) -> None:
        self.marks: list[Any] = []
        self.tensors: list[Tensor] = []
        self.silent: list[Tensor] = []
        self._seen: dict[int, Any] = {}  # holds the objects, so that no number is used twice

    def visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.marks.append((type(value), repr(value)))
            return
        if not isinstance(value, _CONTAINERS):
            self.marks.append(id(value))
        if id(value) in self._seen or isinstance(value, _BUILT_IN):
            return
        self._seen[id(value)] = value
        if len(self._seen) > _MOST_OBJECTS:
            raise _UnknownError
        if isinstance(value, Tensor):
            self._visit_tensor(value)
        elif isinstance(value, ModuleType | type) or _is_library(value):
            self._visit_named(value)
        elif isinstance(value, Mapping | MappingProxyType):
            self._visit_all([part for pair in value.items() for part in pair])
        elif isinstance(value, tuple | list | set | frozenset):
            self._visit_all(list(value))
        elif isinstance(value, nn.Module):
            self._visit_module(value)
        else:
            self._visit_object(value)

    def _visit_all(self, values: list[Any]) -> None:
        self.marks.append(len(values))
        for value in values:
            self.visit(value)

    def _visit_tensor(self, tensor: Tensor) -> None:
        if not has_numbers(tensor):
            raise _UnknownError
        pointer = tensor.data_ptr() if tensor.layout is torch.strided else 0
        self.marks += [None if tensor.is_inference() else tensor._version, pointer]
        self.tensors.append(tensor)
        if isinstance(tensor, nn.Parameter):
            self.silent.append(tensor)

    def _visit_named(self, value: Any) -> None:
        """Modules, classes and functions: of a library they stay the same."""
        if _is_library(value):
            return
        if isinstance(value, type) and issubclass(value, torch.autograd.Function):
            self._visit_class(value)
        else:
            raise _UnknownError

    def _visit_class(self, cls: type) -> None:
        for base in cls.__mro__:
            if not _is_library(base):
                known = [v for name, v in vars(base).items() if name not in _OF_CLASSES]
                self._visit_all(known)

    def _visit_module(self, module: nn.Module) -> None:
        state = vars(module)
        if any(state.get(name) for name in _HOOKS):
            raise _UnknownError
        self.silent += [t for t in module._buffers.values() if t is not None]
        self._visit_class(type(module))
        self._visit_all([v for name, v in state.items() if name not in _HOOKS])

    def _visit_object(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._visit_all(list(_read_by(value)))
        elif isinstance(value, MethodType):
            self._visit_all([value.__func__, value.__self__])
        elif isinstance(value, staticmethod | classmethod):
            self.visit(value.__func__)
        elif isinstance(value, property):
            self._visit_all([value.fget, value.fset, value.fdel])
        elif isinstance(value, partial):
            self._visit_all([value.func, value.args, value.keywords])
        elif hasattr(value, "__dict__") and not hasattr(type(value), "__slots__"):
            self._visit_class(type(value))
            self._visit_all(list(vars(value).values()))
        else:
            raise _UnknownError


# Attributes of classes that Python makes.
_OF_CLASSES = frozenset(
    {
        "__annotations__", "__annotations_cache__", "__dict__", "__doc__", "__firstlineno__",
        "__module__", "__orig_bases__", "__parameters__", "__qualname__", "__static_attributes__",
        "__weakref__", "__dataclass_params__", "__dataclass_fields__", "__match_args__",
    }
)  # fmt: skip


def _is_library(value: Any) -> bool:
    """Whether a module, class or function belongs to a library."""
    if not isinstance(value, ModuleType | type | FunctionType):
        return False
    name = value.__name__ if isinstance(value, ModuleType) else value.__module__
    return str(name).split(".")[0] in _LIBRARIES


def _read_by(func: FunctionType) -> Iterator[Any]:
    """Values that the code of a function names."""
    for cell in func.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            yield None
    names = sorted(_names(func.__code__))
    yield [name for name in names if name in func.__globals__]
    for name in names:
        if name in func.__globals__:
            yield func.__globals__[name]
    yield func.__defaults__
    yield func.__kwdefaults__
    yield id(func.__code__)


def _names(code: CodeType) -> set[str]:
    """Names that code reads, those of the functions defined in it too."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
