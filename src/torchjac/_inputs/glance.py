"""A quick look at what a walk went through: the same objects in the same places, or walk again."""

from collections.abc import Callable, Mapping, Sequence
from operator import is_
from types import CellType, FunctionType, MemberDescriptorType
from typing import Any

import torch
from torch import Tensor

from torchjac._torch import default_device, has_module_hooks

Parts = Callable[[Any], tuple[Any, ...]]
# Where `state_of_tensor` says whether a tensor requires gradients.
_GRADED = 4


class Glance:
    """Every object that can change, with what it held.

    Parts are compared by identity, which is far cheaper than another walk and never takes for
    equal what is not. Where it finds a difference, there may be none: the walk decides.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[Parts, Any, tuple[Any, ...]]] = []
        self._empty: list[Any] = []
        self._tensors: list[tuple[Tensor, tuple[Any, ...]]] = []
        self._around = surroundings()

    def hold(self, owner: Any, parts: Parts) -> None:
        """Remember what an object holds.

        Args:
            owner: The object.
            parts: Lists what it holds, the same objects as long as nothing changes.
        """
        self._seen.append((parts, owner, parts(owner)))

    def hold_all_in(self, container: Any, parts: Parts) -> None:
        """Remember what a dict, a list or a set holds, whose length says whether it is empty."""
        if container:
            self.hold(container, parts)
        else:
            self._empty.append(container)

    def hold_tensor(self, tensor: Tensor) -> None:
        """Remember what says that a tensor was written to."""
        self._tensors.append((tensor, state_of_tensor(tensor)))

    def expects_gradients_of(self, tensor: Tensor) -> bool:
        """Whether a tensor was among these and required gradients then."""
        return any([seen is tensor and then[_GRADED] for seen, then in self._tensors])

    def is_same(self) -> bool:
        """Whether every object holds what it held."""
        if self._around != surroundings() or has_module_hooks() or is_cast():
            return False
        if any(self._empty):
            return False
        for parts, owner, then in self._seen:
            now = parts(owner)
            if len(now) != len(then) or not all(map(is_, now, then)):
                return False
        return all([state_of_tensor(tensor) == then for tensor, then in self._tensors])


def surroundings() -> tuple[Any, ...]:
    """Settings that any operation may read."""
    return torch.get_default_dtype(), default_device()


def is_cast() -> bool:
    """Whether operations are computed in other precisions than they say."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def state_of_tensor(tensor: Tensor) -> tuple[Any, ...]:
    """What PyTorch knows of writes to a tensor."""
    return (
        None if tensor.is_inference() else tensor._version,
        tensor.shape,
        tensor.dtype,
        place_of(tensor),
        tensor.requires_grad,
        tensor.is_leaf and tensor.grad is not None,
        len(attributes_of(tensor)),
    )


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Where in memory a tensor has its numbers, if that can be said."""
    if tensor.layout is not torch.strided:
        return ()
    return tensor.data_ptr(), tensor.stride()


def attributes_of(tensor: Tensor) -> Mapping[str, Any]:
    """What was attached to a tensor, without the notes of PyTorch's compiler."""
    known = vars(tensor)
    if not known:
        return known
    return {name: part for name, part in known.items() if not name.startswith("_dynamo")}


def of_dict(values: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Keys and values."""
    return (*values, *values.values())


def of_instance(value: Any) -> tuple[Any, ...]:
    """The class and all attributes."""
    return (type(value), *of_dict(vars(value)))


def of_slots(slots: Sequence[MemberDescriptorType], value: Any) -> tuple[Any, ...]:
    """The class, and what the slots of an instance hold, `...` for one that is not filled yet."""
    return (type(value), *[_filled(slot, value) for slot in slots])


def of_class(cls: type) -> tuple[Any, ...]:
    """The bases and all attributes."""
    return (cls.__mro__, *of_dict(vars(cls)))


def of_cells(func: FunctionType) -> tuple[Any, ...]:
    """What the cells of a closure hold, `...` for one that is not filled yet."""
    return tuple([_content(cell) for cell in func.__closure__ or ()])


def of_globals(names: Sequence[str], known: Mapping[str, Any]) -> tuple[Any, ...]:
    """Values of some names, None for those that are not there."""
    return tuple([known.get(name) for name in names])


def of_function(func: FunctionType) -> tuple[Any, ...]:
    """Code, defaults, attributes, and what the cells of its closure hold."""
    fixed = func.__code__, func.__defaults__, func.__kwdefaults__
    return (*fixed, *of_cells(func), *of_dict(vars(func)))


def _filled(slot: MemberDescriptorType, value: Any) -> Any:
    try:
        return slot.__get__(value)
    except AttributeError:
        return ...


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return Ellipsis
