"""What a function reads out of tensors while it runs: the guards of a trace.

A trace follows one branch. Which one depends on nothing but the numbers, truth values and sizes
that the function turned from tensors into Python values.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchjac._linearize.control_flow import python_of
from torchjac._torch import (
    TorchDispatchMode,
    forward_grad_enabled,
    forward_grad_is_enabled,
    grad_switch,
)

aten = torch.ops.aten
_READERS = frozenset(
    {
        Tensor.item,
        Tensor.tolist,
        Tensor.numpy,
        Tensor.__array__,
        Tensor.__bool__,
        Tensor.__float__,
        Tensor.__int__,
        Tensor.__index__,
        Tensor.__complex__,
        Tensor.__contains__,
        Tensor.equal,
        Tensor.is_nonzero,
        torch.equal,
        torch.is_nonzero,
        torch.allclose,
        Tensor.allclose,
    }
)
# These hand out the memory.
_LENDERS = frozenset({Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr})
# These tell where the numbers lie, which need not be the same for equal tensors.
_LOCATORS = frozenset(
    {
        Tensor.is_contiguous,
        Tensor.storage_offset,
        Tensor.stride,
        Tensor.untyped_storage,
    }
)
# What asks for this in here, to copy an input say, decides nothing.
_OURS = str(Path(__file__).parents[1])
# The size of what these return depends on values.
_SIZERS = frozenset(
    {
        torch.nonzero,
        Tensor.nonzero,
        torch.argwhere,
        Tensor.argwhere,
        torch.masked_select,
        Tensor.masked_select,
        torch.unique,
        Tensor.unique,
        torch.unique_consecutive,
        Tensor.unique_consecutive,
        torch.bincount,
        Tensor.bincount,
        torch.repeat_interleave,
        Tensor.repeat_interleave,
        torch.where,
        Tensor.where,
        Tensor.__getitem__,
    }
)
# Here these are chosen by what comes after the first argument, if anything does.
_PICKERS = frozenset(
    {
        torch.masked_select,
        Tensor.masked_select,
        torch.repeat_interleave,
        Tensor.repeat_interleave,
    }
)


class _Numbers(TorchDispatchMode):
    """Hears of numbers that PyTorch itself takes out of tensors: `x[x.argmax()]`, bounds, sizes."""

    def __init__(self, note: Callable[[Tensor, Any], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is aten._local_scalar_dense.default:
            self._note(args[0], result)
        return result


# Told of a tensor that is read, and whether it may be written; says whether to keep quiet about it.
Listener = Callable[[Any, bool], bool]


class Reads(TorchFunctionMode):
    """Active around one evaluation of a function; what it read is in `values` afterwards.

    Forward mode does not heed `torch.no_grad`, reverse mode does: here both take such a block as
    constant. Where there is a listener, derivatives run too, and what PyTorch reads for these is
    left out.

    Attributes:
        places: Whether the function asked where tensors lie in memory that are no constants.
    """

    def __init__(
        self,
        listener: Listener | None = None,
        is_constant: Callable[[Tensor], bool] | None = None,
    ) -> None:
        super().__init__()
        self._listener = listener
        self._is_constant = is_constant
        self.places = False
        self._values: list[Any] = []
        self._forward_grad: list[bool] = []
        self._numbers = _Numbers(self._note)
        self._is_reading = self._varies = self._lent = False

    @property
    def values(self) -> tuple[Any, ...]:
        """What was read, in order; equal for two evaluations that took the same branch.

        Nothing, if it was PyTorch alone that read, for an index or a size, and constants alone.
        """
        return tuple(self._values) if self._varies else ()

    def __enter__(self) -> "Reads":
        """Begin to listen."""
        self._forward_grad.append(forward_grad_is_enabled())
        if self._listener is None and len(self._forward_grad) == 1:
            self._numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Leave forward mode as it was, even if the function switched it off and raised."""
        super().__exit__(*raised)
        forward_grad_enabled(self._forward_grad.pop())
        if self._listener is None and not self._forward_grad:
            self._numbers.__exit__(*raised)

    def _note(self, tensor: Tensor, number: Any) -> None:
        if not self._is_reading:
            self._values.append(_comparable(number))
            self._varies = self._varies or not self._knows(tensor)

    def _knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is a constant; none is where memory of others was handed out."""
        is_constant = None if self._lent else self._is_constant
        return is_constant is not None and is_constant(tensor)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        meaning = python_of(func)
        if meaning is not None:
            with self:
                return meaning(*args, **(kwargs or {}))
        result = self._result(func, args, kwargs or {})
        if func in _READERS or func in _LENDERS:
            if self._listener is not None and self._listener(args[0], func in _LENDERS):
                return result
            if func in _READERS:
                self._varies = True
                self._values.append(_comparable(result))
            else:
                self._lent = True
        elif func in _SIZERS and (chosen := _chosen_by(func, args, kwargs or {})):
            parts = result if isinstance(result, tuple) else (result,)
            self._varies = self._varies or not all(map(self._knows, chosen))
            self._values.append(tuple([tuple(p.shape) for p in parts if isinstance(p, Tensor)]))
        elif func in _LOCATORS and not sys._getframe(1).f_code.co_filename.startswith(_OURS):
            self.places = self.places or not self._knows(args[0])
        elif func is grad_switch:
            forward_grad_enabled(*args)
        return result

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function returns; what it reads in order to read counts once."""
        outer = self._is_reading
        self._is_reading = outer or func in _READERS or func in _LENDERS
        try:
            return func(*args, **kwargs)
        finally:
            self._is_reading = outer


def _comparable(value: Any) -> Any:
    """The value read; NaN, which differs from itself, and lists by their text."""
    if isinstance(value, bool | int):
        return value
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def _chosen_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors whose numbers the size of the result depends on."""
    if func is Tensor.__getitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return [i for i in index if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
    if func in (torch.where, Tensor.where) and len(args) + len(kwargs) > 1:
        return []
    given = [*args, *kwargs.values()]
    if func in _PICKERS:  # of elements by others
        given = [*args[1:], *kwargs.values()] or given
    return [tensor for tensor in given if isinstance(tensor, Tensor)]
