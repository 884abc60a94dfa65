"""A walk through everything that a function can reach besides its arguments."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchjac._inputs.glance import (
    Glance,
    attributes_of,
    is_cast,
    of_cells,
    of_class,
    of_dict,
    of_function,
    of_globals,
    of_instance,
    of_slots,
    place_of,
    surroundings,
)
from torchjac._inputs.names import LIBRARIES, OUTSIDE, names_in
from torchjac._inputs.numbers import Data
from torchjac._torch import has_module_hooks, has_numbers


class _Pair(NamedTuple):
    first: Any


_PLAIN = frozenset(
    {bool, bytes, complex, float, int, str, type(None), type(Ellipsis), range, torch.device,
     torch.dtype, torch.layout, torch.memory_format}
)  # fmt: skip
# They read their owner, who is looked through apart.
_DESCRIPTORS = (
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
    type(_Pair.first),
)
_DICTS = (dict, OrderedDict, MappingProxyType)
_CHANGING = (list, set)
_SEQUENCES = (frozenset, list, set, torch.Size, tuple)
# New ones come for old ones all the time; what they hold counts.
_CONTAINERS = frozenset({*_DICTS, *_SEQUENCES, MethodType, partial, slice})
# Attributes of a module of torch.nn that say how it is called, and are empty unless somebody
# interferes with that.
_HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
# Attributes of classes that Python makes.
_OF_CLASSES = frozenset(
    {"__annotations__", "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__",
     "__dict__", "__doc__", "__firstlineno__", "__match_args__", "__module__", "__orig_bases__",
     "__parameters__", "__qualname__", "__repr__", "__static_attributes__", "__weakref__"}
)  # fmt: skip
_MOST_OBJECTS = 5_000


class Walk:
    """One walk.

    Attributes:
        is_complete: Whether all that was met is understood.
        marks: What was met, equal for two walks only if nothing has changed but numbers.
        data: Tensors and arrays, whose numbers count.
        kept: Objects that the marks name by their identity.
        glance: The same in short.
    """

    def __init__(self, apart: Sequence[Tensor]) -> None:
        self.is_complete = True
        self.marks: list[Any] = [surroundings()]
        self.data: list[Data] = []
        self.kept: list[Any] = []
        self.glance = Glance()
        self._apart = {id(tensor) for tensor in apart}
        self._seen: dict[int, int] = {}
        self._has_grad = self._reads_grad = False

    def finish(self) -> None:
        """Say what only the whole walk knows."""
        if (self._has_grad and self._reads_grad) or has_module_hooks() or is_cast():
            self.is_complete = False

    def visit(self, value: Any) -> None:
        """Mark a value and what it holds."""
        kind = type(value)
        if kind in _PLAIN or _is_number(value):
            self.marks.append((kind, repr(value)))
            return
        number = self._seen.get(id(value))
        if number is not None:
            self.marks.append(("again", number))
            return
        self._seen[id(value)] = len(self.kept)
        self.kept.append(value)
        self.marks.append(kind if kind in _CONTAINERS else id(value))
        if len(self.kept) > _MOST_OBJECTS or not self._is_understood(value, kind):
            self.is_complete = False

    def _is_understood(self, value: Any, kind: type) -> bool:
        if kind in _DICTS:
            self._visit_dict(value)
        elif kind in _SEQUENCES:
            if kind in _CHANGING:
                self.glance.hold_all_in(value, tuple)
            self._visit_all(value)
        elif isinstance(value, tuple):
            self._visit_class(kind)
            self._visit_all(value)
            return hasattr(kind, "_fields") and not hasattr(value, "__dict__")
        elif isinstance(value, slice):
            self._visit_all((value.start, value.stop, value.step))
        elif isinstance(value, FunctionType):
            return self._visit_function(value)
        elif isinstance(value, Tensor | np.ndarray):
            return id(value) in self._apart or self._visit_data(value)
        elif kind is BuiltinFunctionType:
            return self._visit_builtin(value)
        elif isinstance(value, ModuleType):
            return _is_library(value.__name__) and "random" not in value.__name__
        elif isinstance(value, type):
            self._visit_class(value)
        elif isinstance(value, np.ufunc):
            return getattr(np, value.__name__, None) is value
        elif not isinstance(value, _DESCRIPTORS):
            return self._visit_object(value, kind)
        return True

    def _visit_all(self, values: Any) -> None:
        self.marks.append(len(values))
        for value in values:
            self.visit(value)

    def _visit_dict(self, values: Any) -> None:
        self.glance.hold_all_in(values, of_dict)
        for key in values:
            self.visit(key)
        self._visit_all(values.values())

    def _visit_data(self, data: Data) -> bool:
        if not isinstance(data, Tensor):
            self.data.append(data)
            return type(data) is np.ndarray and data.dtype.kind in "biufcmMSU"
        if not has_numbers(data):
            return False
        self._has_grad |= data.is_leaf and data.grad is not None
        version = None if data.is_inference() else data._version
        self.marks += [version, data.dtype, place_of(data), data.requires_grad]
        self.data.append(data)
        self.glance.hold_tensor(data)
        if attached := attributes_of(data):
            self.glance.hold(data, _of_attached)
            self._visit_all(tuple(attached))
            self._visit_all(attached.values())
        return True

    def _visit_function(self, func: FunctionType) -> bool:
        self.glance.hold(func, of_function)
        self._visit_all(of_cells(func))
        # Not `func.__module__`, which functools.wraps copies.
        if _is_library(func.__globals__.get("__name__")):
            return True
        code, known = func.__code__, func.__globals__
        names = names_in(code)
        self._reads_grad |= names.reads_grad
        self.kept.append(code)
        self.glance.hold(known, partial(of_globals, names.globals))
        read = tuple([name for name in names.globals if name in known])
        self.marks += [id(code), read]
        modules = {name for name in read if _is_of_user(known[name])}
        for name in read:
            if name not in modules:
                self.visit(known[name])
        are_seen = [self._visit_part(known, path) for path in names.paths if path[0] in modules]
        self.visit(func.__defaults__)
        self.visit(func.__kwdefaults__)
        if vars(func):
            self._visit_dict(vars(func))
        return all(are_seen) and not names.reads_outside

    def _visit_part(self, known: dict[str, Any], path: Sequence[str]) -> bool:
        """What code reads of a module of the user's, or of one in it; not what else is there."""
        if not path or path[0] not in known:
            return False
        value = known[path[0]]
        self.glance.hold(known, partial(of_globals, path[:1]))
        if _is_of_user(value):
            self.kept.append(value)
            self.marks += [id(value), path[1:]]
            return self._visit_part(vars(value), path[1:])
        self.visit(value)
        return True

    def _visit_builtin(self, func: Any) -> bool:
        owner = func.__self__
        if owner is None or isinstance(owner, type | ModuleType):
            home = func.__module__ or getattr(owner, "__module__", None)
            return _is_library(home) and func.__name__ not in OUTSIDE
        self.marks.append(func.__name__)
        self.visit(owner)
        return True

    def _visit_class(self, cls: type) -> None:
        """What the instances of a class find there; of a library it stays the same."""
        for base in cls.__mro__:
            if base is not cls and id(base) in self._seen:
                continue
            if not _is_library(base.__module__) and base is not SimpleNamespace:
                # Metaclasses may answer for attributes that nobody has.
                if type(base) is not type and not _is_library(type(base).__module__):
                    self.is_complete = False
                self._seen.setdefault(id(base), len(self.kept))
                self.kept.append(base)
                self.glance.hold(base, of_class)
                known = {k: v for k, v in vars(base).items() if k not in _OF_CLASSES}
                self.marks.append(tuple(known))
                self._visit_all(known.values())

    def _visit_object(self, value: Any, kind: type) -> bool:
        if isinstance(value, MethodType):
            self._visit_all((value.__func__, value.__self__))
        elif isinstance(value, staticmethod | classmethod):
            self.visit(value.__func__)
        elif isinstance(value, property):
            self._visit_all((value.fget, value.fset, value.fdel))
        elif isinstance(value, partial):
            self.glance.hold(value, _of_partial)
            self._visit_all((value.func, value.args, value.keywords))
        else:
            return self._visit_instance(value, kind)
        return True

    def _visit_instance(self, value: Any, kind: type) -> bool:
        slots = _slots_of(kind)
        is_open = kind is object or hasattr(value, "__dict__") or "__slots__" in vars(kind)
        if not is_open or _hides_something(kind, len(slots)):
            return False
        self.marks.append(id(kind))
        self.kept.append(kind)
        if id(kind) not in self._seen:
            self._visit_class(kind)
        if slots:
            self.glance.hold(value, partial(of_slots, slots))
            self._visit_all(of_slots(slots, value))
        if not hasattr(value, "__dict__"):
            return True
        self.glance.hold(value, of_instance)
        state = vars(value)
        is_module = isinstance(value, nn.Module)
        if is_module:
            state = {name: part for name, part in state.items() if name not in _HOOKS}
        self.marks.append(tuple(state))
        self._visit_all(state.values())
        hooks = [vars(value).get(name) for name in _HOOKS] if is_module else []
        for hook in hooks:
            if hook is not None:
                self.glance.hold_all_in(hook, of_dict)
        return not any(hooks)


def _of_attached(tensor: Tensor) -> tuple[Any, ...]:
    """Names and values of what was attached to a tensor."""
    return of_dict(attributes_of(tensor))


def _of_partial(value: Any) -> tuple[Any, ...]:
    """What a partial call holds; its keywords are looked through apart."""
    return value.func, value.args


def _slots_of(kind: type) -> list[MemberDescriptorType]:
    """Of a class written in Python, and of those that it comes from."""
    bases = [vars(base) for base in kind.__mro__ if "__slots__" in vars(base)]
    return [v for known in bases for v in known.values() if isinstance(v, MemberDescriptorType)]


def _hides_something(kind: type, slots: int) -> bool:
    """Whether instances have room for more than slots, a dict, and weak references to them."""
    # Positive offsets: those that Python keeps in front of an instance take no room in it.
    known = slots + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    return kind.__basicsize__ > object.__basicsize__ + known * tuple.__itemsize__


def _is_of_user(value: Any) -> bool:
    """Whether this is a module that may change, and answers for nothing but what it holds."""
    return type(value) is ModuleType and not _is_library(value.__name__)


def _is_number(value: Any) -> bool:
    kind = type(value)
    return isinstance(value, np.generic) and kind.__module__ == "numpy" and kind is not np.void


def _is_library(name: Any) -> bool:
    """Whether a module of this name belongs to a library."""
    return str(name).split(".")[0] in LIBRARIES
