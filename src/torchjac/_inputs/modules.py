"""`wrt=module`: differentiate with respect to the parameters of an `nn.Module`."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from torchjac._inputs.selection import as_arguments
from torchjac.errors import ArgumentError


class _Host(nn.Module):
    """Runs any function while the parameters of `module` stand replaced."""

    def __init__(self, module: nn.Module, func: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        # In a tuple, so that a `func` that is a module does not register its parameters twice.
        self.held = (func,)

    def forward(self, *args: Any) -> Any:
        return self.held[0](*args)


def _copied_buffers(host: _Host) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in host.named_buffers()}


def bind_module(
    api: str, func: Callable[..., Any], inputs: Any, module: nn.Module
) -> tuple[
    tuple[Tensor, ...], Callable[[Sequence[Tensor]], Any], Callable[[Sequence[Any]], dict[str, Any]]
]:
    """Make `func(inputs)` a function of the parameters of `module`.

    `func` may be the module, or anything that calls it. Tied weights are one parameter, under
    the first of their names. Buffers are copied for each evaluation, so that the module's own
    (running means, counters) stay as they are.

    Args:
        api: Name of the public function, for messages.
        func: The user's function.
        inputs: Its arguments, held constant.
        module: The module whose parameters are differentiated.

    Returns:
        The parameters, the function of them, and the way back to a dict by parameter name.

    Raises:
        ArgumentError: The module has no parameters.
    """
    host = _Host(module, func)
    names = [name for name, _ in module.named_parameters()]
    parameters = tuple(parameter for _, parameter in module.named_parameters())
    if not parameters:
        raise ArgumentError(f"{api}: `wrt` is a module without parameters: {module!r}.")
    args = as_arguments(inputs)

    def call(leaves: Sequence[Tensor]) -> Any:
        state = {f"module.{name}": leaf for name, leaf in zip(names, leaves, strict=True)}
        return functional_call(host, (state, _copied_buffers(host)), args)

    return parameters, call, lambda values: dict(zip(names, values, strict=True))


def replay_module(func: Callable[..., Any]) -> Callable[..., Any]:
    """A way to call `func` once more that leaves a module's buffers as they are."""
    if not isinstance(func, nn.Module) or next(func.buffers(), None) is None:
        return func
    host = _Host(func, func)
    return lambda *args: functional_call(host, _copied_buffers(host), args)
