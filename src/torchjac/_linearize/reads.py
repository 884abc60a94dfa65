"""What a function reads out of tensors while it runs: the guards of a trace.

A trace follows one branch. Which one depends on nothing but the numbers, truth values and sizes
that the function turned from tensors into Python values.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchjac._linearize.control_flow import python_of
from torchjac._torch import forward_grad_enabled, forward_grad_is_enabled, grad_switch

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


# Told of a tensor that is read, and whether it may be written; says whether to keep quiet about it.
Listener = Callable[[Any, bool], bool]


class Reads(TorchFunctionMode):
    """Active around one evaluation of a function; what it read is in `values` afterwards.

    Forward mode does not heed `torch.no_grad`, reverse mode does: here both take such a block as
    constant.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        super().__init__()
        self._listener = listener
        self._values: list[Any] = []
        self._forward_grad: list[bool] = []

    @property
    def values(self) -> tuple[Any, ...]:
        """What was read, in order; equal for two evaluations that took the same branch."""
        return tuple(self._values)

    def __enter__(self) -> "Reads":
        """Begin to listen."""
        self._forward_grad.append(forward_grad_is_enabled())
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Leave forward mode as it was, even if the function switched it off and raised."""
        super().__exit__(*raised)
        forward_grad_enabled(self._forward_grad.pop())

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
        result = func(*args, **(kwargs or {}))
        if func in _READERS or func in _LENDERS:
            if self._listener is not None and self._listener(args[0], func in _LENDERS):
                return result
            if func in _READERS:
                self._values.append(_comparable(result))
        elif func in _SIZERS and _chooses_by_value(func, args):
            parts = result if isinstance(result, tuple) else (result,)
            self._values.append(tuple([tuple(p.shape) for p in parts if isinstance(p, Tensor)]))
        elif func is grad_switch:
            forward_grad_enabled(*args)
        return result


def _comparable(value: Any) -> Any:
    """The value read; NaN, which differs from itself, and lists by their text."""
    if isinstance(value, bool | int):
        return value
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def _chooses_by_value(func: Any, args: tuple[Any, ...]) -> bool:
    if func is Tensor.__getitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any([isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in index])
    return func not in (torch.where, Tensor.where) or len(args) == 1
