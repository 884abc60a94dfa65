"""Watch the user's function while it runs, for what autograd does not see.

`.item()` and its kin turn a tensor into a number, which carries no derivative. And forward mode
ignores `torch.no_grad`, where reverse mode does not: here both take such a block as constant.

Forward mode also takes a number for a tensor whose tangent is zero. To find the shape of a sum or
product with such zeros PyTorch runs Python code, which takes longer than all the rest of a small
operation; so numbers are handed to the operators that take numbers.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import TorchFunctionMode

from torchjac._inputs.warn import warn
from torchjac._torch import forward_grad_enabled, forward_grad_is_enabled, grad_switch, is_batched
from torchjac.errors import HiddenValueWarning

_READERS = {
    Tensor.item: ".item()",
    Tensor.tolist: ".tolist()",
    Tensor.numpy: ".numpy()",
    Tensor.__float__: "float()",
    Tensor.__int__: "int()",
    Tensor.__index__: "int()",
    Tensor.__complex__: "complex()",
}
_MAKERS = (torch.tensor, torch.as_tensor)
_LOOKED_AT = frozenset([*_READERS, *_MAKERS, grad_switch])
aten = torch.ops.aten
# The same of a tensor and a number.
_WITH_NUMBER = {
    Tensor.add: aten.add.Scalar,
    Tensor.sub: aten.sub.Scalar,
    Tensor.mul: aten.mul.Scalar,
    Tensor.div: aten.div.Scalar,
    torch.add: aten.add.Scalar,
    torch.sub: aten.sub.Scalar,
    torch.mul: aten.mul.Scalar,
    torch.div: aten.div.Scalar,
}


class Watch(TorchFunctionMode):
    """Active around one evaluation of the user's function."""

    def __init__(self, api: str, *, warn: bool = True) -> None:
        super().__init__()
        self._api = api
        self._warn = warn

    def __enter__(self) -> "Watch":
        """Begin to watch."""
        self._forward_grad = forward_grad_is_enabled()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Leave forward mode as it was, even if the function switched it off and raised."""
        super().__exit__(*raised)
        forward_grad_enabled(self._forward_grad)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in _LOOKED_AT:
            op = _WITH_NUMBER.get(func)
            if op is not None and not kwargs and _are_tangent_and_number(args):
                func = op
            return func(*args, **kwargs) if kwargs else func(*args)
        if self._warn and func in _MAKERS and _holds_dependent(args):
            self._report(f"torch.{func.__name__}()")
        if self._warn and func in _READERS and _depends_on_inputs(args[0]):
            self._report(_READERS[func])
            with warnings.catch_warnings():  # PyTorch's own words for the same, less exact
                warnings.simplefilter("ignore", UserWarning)
                return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func is grad_switch:
            forward_grad_enabled(*args)
        return result

    def _report(self, name: str) -> None:
        warn(
            f"{self._api}: `{name}` turns a tensor that depends on the inputs into a number; "
            "what is computed from it counts as constant. Keep it a tensor, or detach() it first "
            "if that is meant.",
            HiddenValueWarning,
        )


def _are_tangent_and_number(args: tuple[Any, ...]) -> bool:
    """Whether there is a tensor that forward mode follows, and a number."""
    are_plain = len(args) == 2 and type(args[0]) is Tensor and type(args[1]) in (int, float)
    # Samples of a batch are not asked for their tangents, which has no batching rule.
    return are_plain and not is_batched(args[0]) and unpack_dual(args[0]).tangent is not None


def _holds_dependent(args: tuple[Any, ...]) -> bool:
    """Whether tensors inside of lists depend on the inputs; they will be read as numbers."""
    parts = args[0] if args and isinstance(args[0], list | tuple) else ()
    return any(isinstance(part, Tensor) and _depends_on_inputs(part) for part in parts)


def _depends_on_inputs(tensor: Tensor) -> bool:
    """Whether autograd, in whatever mode, follows `tensor`."""
    if tensor.requires_grad and tensor.is_leaf:  # a parameter: the inputs come as copies
        return False
    return tensor.requires_grad or unpack_dual(tensor).tangent is not None
