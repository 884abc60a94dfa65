"""Checks of arguments and of what the function returned, each with one clear error."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from torchjac.errors import ArgumentError, ArgumentTypeError, LayoutError

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
# What is no layout of PyTorch: the blocks along the diagonal, stacked.
BLOCKS = "blocks"
Layout = torch.layout | Literal["blocks"]
LAYOUTS = (
    torch.strided,
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    BLOCKS,
)


def check_callable(api: str, func: Any) -> None:
    """Refuse a `func` that cannot be called."""
    if not callable(func):
        raise ArgumentTypeError(
            f"{api}: `func` must be callable: expected a function or module, got {type(func)}. "
            "For tensors that are computed already, use `torchjac.jacobian_of`."
        )


def check_choice(api: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a `value` that is not one of `choices`."""
    if value not in choices:
        raise ArgumentError(
            f"{api}: `{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}."
        )


def check_chunk_size(api: str, chunk_size: Any) -> None:
    """Refuse a `chunk_size` that is not a positive integer."""
    if chunk_size is None:
        return
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise ArgumentError(
            f"{api}: `chunk_size` must be a positive integer or None, got {chunk_size!r}."
        )


def check_memory(api: str, memory: Any) -> None:
    """Refuse a `memory` that is neither a number of bytes nor a fraction."""
    if memory is None:
        return
    is_bytes = isinstance(memory, int) and not isinstance(memory, bool) and memory > 0
    is_fraction = isinstance(memory, float) and 0.0 < memory <= 1.0
    if not (is_bytes or is_fraction):
        raise ArgumentError(
            f"{api}: `memory` must be a number of bytes (positive int) or a fraction of the free "
            f"memory (float in (0, 1]), got {memory!r}."
        )


def check_layout(api: str, layout: Any) -> None:
    """Refuse layouts that no result can have."""
    if layout in LAYOUTS:
        return
    known = ", ".join(map(str, LAYOUTS[:-1])) + f" or {BLOCKS!r}"
    if not isinstance(layout, torch.layout):
        raise ArgumentTypeError(
            f"{api}: `layout` must be a torch.layout, one of {known}; got {layout!r}."
        )
    raise LayoutError(f"{api}: `layout` must be one of {known}; got {layout}.")


def check_leaf(api: str, place: str, leaf: Any, holomorphic: bool) -> None:
    """Refuse an input that cannot be differentiated at."""
    if not isinstance(leaf, Tensor):
        raise ArgumentTypeError(
            f"{api}: {place} must be a Tensor: expected a floating-point Tensor, got "
            f"{type(leaf)}. Name the inputs to differentiate with `wrt=`, or bind this one with "
            "functools.partial."
        )
    if leaf.dtype.is_complex:
        _check_complex(api, place, leaf, holomorphic)
    elif not leaf.dtype.is_floating_point:
        raise ArgumentTypeError(
            f"{api}: {place} has dtype {leaf.dtype}, but only floating-point tensors have a "
            "derivative. Convert it with `.double()`, or leave it out with `wrt=`."
        )
    elif holomorphic:
        raise ArgumentTypeError(
            f"{api}: {place} has dtype {leaf.dtype}, but holomorphic=True expects complex inputs."
        )


def _check_complex(api: str, place: str, leaf: Tensor, holomorphic: bool) -> None:
    if not holomorphic:
        has_option = api in ("jacobian", "value_and_jacobian")
        hint = "If it is, pass holomorphic=True. If not, differentiate" if has_option else "Take"
        raise ArgumentTypeError(
            f"{api}: {place} is complex ({leaf.dtype}), and the Jacobian of a complex function is "
            f"one matrix only where the function is holomorphic. {hint} the real pair: "
            "`jacobian(lambda r: torch.view_as_real(func(torch.view_as_complex(r))), "
            "torch.view_as_real(x))`."
        )


def check_output(api: str, place: str, output: Any, holomorphic: bool) -> None:
    """Refuse an output that has no derivative."""
    if isinstance(output, Tensor) and output.dtype.is_floating_point and not holomorphic:
        return
    if not isinstance(output, Tensor):
        raise ArgumentTypeError(
            f"{api}: {place} of `func` must be a Tensor, got {type(output)}. "
            "Return values that are not differentiated as aux, with has_aux=True."
        )
    if output.dtype.is_complex and not holomorphic:
        raise ArgumentTypeError(
            f"{api}: {place} of `func` is complex ({output.dtype}). For a real input return "
            "torch.view_as_real(output); for a holomorphic function of complex inputs pass "
            "holomorphic=True."
        )
    if not (output.dtype.is_complex or output.dtype.is_floating_point):
        raise ArgumentTypeError(
            f"{api}: {place} of `func` has dtype {output.dtype}, which has no derivative. "
            "Return it as aux, with has_aux=True."
        )
    if holomorphic and not output.dtype.is_complex:
        raise ArgumentTypeError(
            f"{api}: {place} of `func` has dtype {output.dtype}: a real output of a complex input "
            "is not holomorphic unless it is constant. Differentiate the real pair instead."
        )
