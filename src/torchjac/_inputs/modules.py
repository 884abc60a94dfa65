"""`wrt=module`: differentiate with respect to the parameters of an `nn.Module`."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchjac._inputs.checks import check_leaf
from torchjac._inputs.closure import held_modules
from torchjac._inputs.selection import nothing_selected
from torchjac.errors import ArgumentError

# A place where a module keeps a tensor: its dict of parameters or buffers, and the name in it.
Slot = tuple[dict[str, Any], str]


class Buffers:
    """The buffers of all modules that a call of a function may run, as they are now.

    Args:
        func: The function.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func
        self._then = [(t, _writes(t), t.detach().clone()) for t in _buffers(func)]

    def have_moved(self) -> bool:
        """Whether one was replaced or written to since."""
        now = _buffers(self._func)
        if len(now) != len(self._then):
            return True
        pairs = zip(now, self._then, strict=True)
        return not all([_is_same(tensor, *then) for tensor, then in pairs])


def has_buffers(func: Callable[..., Any]) -> bool:
    """Whether a call of a function may run a module with buffers."""
    return any(True for module in held_modules(func) for _ in module.buffers())


def _buffers(func: Callable[..., Any]) -> list[Tensor]:
    return [buffer for module in held_modules(func) for buffer in module.buffers()]


def _writes(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _is_same(tensor: Tensor, then: Tensor, writes: int | None, copy: Tensor) -> bool:
    # Numbers are compared too: `.data` is written to without being counted.
    return tensor is then and _writes(tensor) == writes and torch.equal(tensor, copy)


def bind_module(
    api: str, func: Callable[..., Any], inputs: Any, module: nn.Module
) -> tuple[
    tuple[Tensor, ...],
    tuple[Tensor, ...],
    Callable[[Sequence[Tensor]], Any],
    Callable[[Sequence[Any]], dict[str, Any]],
]:
    """Make `func(inputs)` a function of the parameters of `module`.

    `func` may be the module, or anything that calls it. Tied weights are one parameter, under
    the first of their names, wherever the modules that `func` holds keep them. Buffers are
    copied for each evaluation, so that the modules' own (running means, counters) stay as they
    are.

    Args:
        api: Name of the public function, for messages.
        func: The user's function.
        inputs: Its arguments, held constant.
        module: The module whose parameters are differentiated.

    Returns:
        The parameters, the tensors of numbers among the inputs, the function of the former and,
        where they are given too, the latter, and the way back to a dict by parameter name.

    Raises:
        ArgumentError: The module has no parameters.
    """
    named = dict(module.named_parameters())
    if not named:
        raise ArgumentError(f"{api}: `wrt` is a module without parameters: {module!r}.")
    for name, parameter in named.items():
        check_leaf(api, f"parameter {name}", parameter, holomorphic=False)
    names, parameters = list(named), tuple(named.values())
    given = nothing_selected(inputs)
    parts = _all_parts([module, *held_modules(func)])

    def call(values: Sequence[Tensor]) -> Any:
        count = len(parameters)
        replaced = {id(p): leaf for p, leaf in zip(parameters, values[:count], strict=True)}
        with _swapped(parts, replaced):
            return func(*given.fill(values[count:]))

    nest = partial(_by_name, names)
    return parameters, given.beside, call, nest


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def replaying(func: Callable[..., Any]) -> Callable[..., Any]:
    """A way to call `func` once more that leaves the buffers of modules as they are."""
    parts = _all_parts(held_modules(func))
    if not any(part._buffers for part in parts):
        return func

    def again(*args: Any) -> Any:
        with _swapped(parts, {}):
            return func(*args)

    return again


def _all_parts(modules: Sequence[nn.Module]) -> list[nn.Module]:
    return list({id(part): part for module in modules for part in module.modules()}.values())


@contextmanager
def _swapped(parts: Sequence[nn.Module], replaced: Mapping[int, Tensor]) -> Generator[None]:
    """Put other tensors in place of parameters, and copies in place of buffers."""
    before = [(slot, slot[0][slot[1]]) for slot in _slots(parts, replaced)]
    copies: dict[int, Tensor] = dict(replaced)
    try:
        for (table, name), tensor in before:
            if tensor is not None:
                table[name] = copies.setdefault(id(tensor), tensor.clone())
        yield
    finally:
        for (table, name), tensor in before:
            table[name] = tensor


def _slots(parts: Sequence[nn.Module], replaced: Mapping[int, Tensor]) -> Iterator[Slot]:
    for part in parts:
        yield from ((part._parameters, n) for n, p in part._parameters.items() if id(p) in replaced)
        yield from ((part._buffers, name) for name in part._buffers)
