"""What a call says: which tensors are differentiated, and how the function is called with them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchjac._inputs.arithmetic import is_arithmetic
from torchjac._inputs.checks import check_callable, check_leaf, check_output
from torchjac._inputs.modules import bind_module, replaying
from torchjac._inputs.selection import select
from torchjac._inputs.trees import leaves_with_paths
from torchjac._torch import has_numbers, pytree
from torchjac.errors import ArgumentTypeError

Wrt = int | str | Sequence[int | str] | nn.Module | None


class Outputs(NamedTuple):
    """One evaluation of the function: flat tensors, their tree, aux.

    The tree of one tensor is None, that of a plain tuple of tensors is `tuple`.
    """

    tensors: tuple[Tensor, ...]
    spec: Any
    aux: Any

    def unflatten(self, values: Sequence[Any]) -> Any:
        """Put one value per output tensor into the tree that the function returned."""
        if self.spec is None:
            return values[0]
        if self.spec is tuple:
            return tuple(values)
        return pytree.tree_unflatten(values, self.spec)


class Signature(NamedTuple):
    """A function of flat tensors, and the way back to the user's trees.

    `evaluate` runs the function as the user wrote it. `replay` is for every further evaluation:
    it leaves the buffers of a module (the running means of batch norm) as they are. Where
    `is_arithmetic` holds, `call` does nothing that must be watched. `beside` are the other tensors
    of numbers among the inputs: whoever calls may give others in their place, after the leaves.
    `positions` tells where the leaves stand among all leaves of the inputs, if they are there.
    """

    api: str
    leaves: tuple[Tensor, ...]
    call: Callable[[Sequence[Tensor]], Any]
    recall: Callable[[Sequence[Tensor]], Any]
    nest: Callable[[Sequence[Any]], Any]
    has_aux: bool
    holomorphic: bool
    is_arithmetic: bool = False
    beside: tuple[Tensor, ...] = ()
    positions: tuple[int, ...] = ()

    def evaluate(self, leaves: Sequence[Tensor]) -> Outputs:
        """Evaluate the function the first time."""
        return self.read(self.call(leaves))

    def replay(self, leaves: Sequence[Tensor]) -> Outputs:
        """Evaluate the function once more."""
        return self.read(self.recall(leaves))

    def read(self, result: Any) -> Outputs:
        """Check and flatten what the function returned."""
        aux = None
        if self.has_aux:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise ArgumentTypeError(
                    f"{self.api}: has_aux=True needs `func` to return a pair (output, aux), got "
                    f"{type(result)}."
                )
            result, aux = result
        if isinstance(result, Tensor):
            check_output(self.api, "the output", result, self.holomorphic)
            return Outputs((result,), None, aux)
        if type(result) is tuple and _all_tensors(result):
            flat, spec = result, tuple
        else:
            flat, spec = pytree.tree_flatten(result)
        for position, value in enumerate(flat):
            check_output(self.api, f"output {position}", value, self.holomorphic)
        return Outputs(tuple(flat), spec, aux)

    def rebuild(self, outputs: Outputs, blocks: Sequence[Sequence[Any]]) -> Any:
        """Nest blocks[output][input] as PyTorch does: outputs outside, inputs inside."""
        return outputs.unflatten([self.nest(row) for row in blocks])


def bind(
    api: str,
    func: Callable[..., Any],
    inputs: Any,
    *,
    wrt: Wrt = None,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Signature:
    """Read a call: which leaves of `inputs` are differentiated, and how `func` takes them.

    Args:
        api: Name of the public function, for messages.
        func: The user's function or module.
        inputs: A Tensor; a tuple, which is several arguments; any other pytree, which is one.
        wrt: What to differentiate: None (all), argument numbers, names, paths, or a module.
        has_aux: Whether `func` returns (output, aux).
        holomorphic: Whether complex inputs are allowed.

    Returns:
        The signature.

    Raises:
        ArgumentTypeError: `func` or a selected input is of the wrong type.
        ArgumentError: `wrt` names nothing.
    """
    check_callable(api, func)
    if isinstance(wrt, nn.Module):
        leaves, beside, call, nest = bind_module(api, func, inputs, wrt)
        return Signature(api, leaves, call, call, nest, has_aux, holomorphic, beside=beside)
    if wrt is None and _is_flat(inputs):  # nothing to look up, and the common case
        (leaves, fill, nest), beside = _bind_flat(inputs), ()
        positions = tuple(range(len(leaves)))
        arithmetic = all(map(has_numbers, leaves)) and is_arithmetic(func)
    else:
        arithmetic = False
        selection = select(api, func, inputs, wrt)
        leaves, fill, nest = selection.leaves, selection.fill, selection.nest
        beside, positions = selection.beside, selection.positions
    _check_leaves(api, inputs, leaves, holomorphic)
    return Signature(
        api,
        leaves,
        lambda values: func(*fill(values)),
        lambda values: replaying(func)(*fill(values)),
        nest,
        has_aux,
        holomorphic,
        arithmetic,
        beside,
        positions,
    )


def _is_flat(inputs: Any) -> bool:
    if isinstance(inputs, Tensor):
        return True
    return type(inputs) is tuple and bool(inputs) and _all_tensors(inputs)


def _all_tensors(values: Sequence[Any]) -> bool:
    return all([isinstance(value, Tensor) for value in values])


def _bind_flat(
    inputs: Tensor | tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], Callable[..., Sequence[Tensor]], Callable[..., Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), _same, _only
    return inputs, _same, tuple


def _same(values: Sequence[Tensor]) -> Sequence[Tensor]:
    return values


def _only(values: Sequence[Any]) -> Any:
    return values[0]


def _check_leaves(api: str, inputs: Any, leaves: Sequence[Any], holomorphic: bool) -> None:
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point and not holomorphic:
            continue
        paths = [path for path, value in leaves_with_paths(inputs) if value is leaf]
        place = f"input {'.'.join(paths[0])}" if paths and paths[0] else "`inputs`"
        check_leaf(api, place, leaf, holomorphic)
