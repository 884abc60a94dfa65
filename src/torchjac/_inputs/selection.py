"""`wrt=`: which leaves of the inputs are differentiated, and the tree of the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchjac._inputs.trees import Path, leaves_with_paths, parameter_names, parse_path, subtree
from torchjac._torch import has_numbers, pytree
from torchjac.errors import ArgumentError, ArgumentTypeError


@dataclass(frozen=True, slots=True)
class Selection:
    """The leaves that are differentiated, among all leaves of the arguments.

    `groups` holds, for each thing that the user named, how many leaves it has and their tree;
    `single` says that one thing was named, so that the answer is not wrapped in a tuple.
    """

    everything: tuple[Any, ...]
    spec: Any
    positions: tuple[int, ...]
    groups: tuple[tuple[int, Any], ...]
    single: bool

    @property
    def leaves(self) -> tuple[Any, ...]:
        """The selected leaves."""
        return tuple(self.everything[i] for i in self.positions)

    @property
    def beside(self) -> tuple[Tensor, ...]:
        """Tensors of numbers that were not selected."""
        return tuple(self.everything[i] for i in self._places_beside())

    def fill(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of the function with other selected leaves, and others beside them.

        Args:
            values: One for each selected leaf; then, or not, one for each tensor of `beside`.

        Returns:
            The arguments, what is not given copied.
        """
        full = [t.clone() if isinstance(t, Tensor) else t for t in self.everything]
        places = self.positions
        if len(values) > len(places):
            places = (*places, *self._places_beside())
        for position, value in zip(places, values, strict=True):
            full[position] = value
        return pytree.tree_unflatten(full, self.spec)

    def _places_beside(self) -> list[int]:
        chosen = set(self.positions)
        return [i for i, t in enumerate(self.everything) if i not in chosen and is_of_numbers(t)]

    def nest(self, values: Sequence[Any]) -> Any:
        """One value per selected leaf, in the tree of what was named."""
        trees, start = [], 0
        for count, spec in self.groups:
            trees.append(pytree.tree_unflatten(list(values[start : start + count]), spec))
            start += count
        return trees[0] if self.single else tuple(trees)


def as_arguments(inputs: Any) -> tuple[Any, ...]:
    """The positional arguments that `inputs` stands for.

    A plain tuple is several arguments, as in PyTorch; anything else, a namedtuple too, is one.

    Args:
        inputs: What the user gave.

    Returns:
        A tuple of arguments.
    """
    return inputs if type(inputs) is tuple else (inputs,)


def nothing_selected(inputs: Any) -> Selection:
    """All arguments that `inputs` stands for, none of which is differentiated."""
    everything, spec = pytree.tree_flatten(as_arguments(inputs))
    return Selection(tuple(everything), spec, (), (), single=False)


def select(api: str, func: Callable[..., Any], inputs: Any, wrt: Any) -> Selection:
    """Find the leaves that `wrt` names.

    Args:
        api: Name of the public function, for messages.
        func: The user's function, for the names of its parameters.
        inputs: As in `bind`.
        wrt: None, an argument number, a name or path, or a sequence of these.

    Returns:
        The selection.

    Raises:
        ArgumentError: `wrt` is empty, repeats itself, or names nothing.
        ArgumentTypeError: `wrt` is of another type.
    """
    args = as_arguments(inputs)
    paths = leaves_with_paths(args)
    everything, spec = pytree.tree_flatten(args)
    if wrt is None:
        wanted, single = list(range(len(args))), type(inputs) is not tuple
    else:
        single = _is_selector(wrt)
        wanted = _as_list(api, wrt)
    positions: list[int] = []
    groups = []
    for selector in wanted:
        prefix = _resolve(api, func, args, selector)
        found = [i for i, (path, _) in enumerate(paths) if path[: len(prefix)] == prefix]
        if set(found) & set(positions):
            raise ArgumentError(f"{api}: `wrt` names {selector!r} more than once: {wrt!r}.")
        positions += found
        groups.append((len(found), pytree.tree_flatten(subtree(args, prefix))[1]))
    if not positions:
        raise ArgumentError(f"{api}: `inputs` holds no tensor to differentiate: got {inputs!r}.")
    return Selection(tuple(everything), spec, tuple(positions), tuple(groups), single)


def is_of_numbers(value: Any) -> bool:
    """Whether an input is an ordinary tensor that could have been differentiated."""
    return (
        isinstance(value, Tensor)
        and has_numbers(value)
        and value.layout is torch.strided
        and (value.dtype.is_floating_point or value.dtype.is_complex)
    )


def copied_tensors(args: Any) -> Any:
    """The same tree with copies of its tensors, for a function that may write to them."""
    return pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, args)


def _is_selector(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _as_list(api: str, wrt: Any) -> list[int | str]:
    if _is_selector(wrt):
        return [wrt]
    if not isinstance(wrt, list | tuple) or not all(map(_is_selector, wrt)):
        raise ArgumentTypeError(
            f"{api}: `wrt` must be an argument number, a name, a path, a sequence of these, or an "
            f"nn.Module; got {wrt!r}."
        )
    if not wrt:
        raise ArgumentError(f"{api}: `wrt` must name at least one input, got {wrt!r}.")
    return list(wrt)


def _resolve(
    api: str, func: Callable[..., Any], args: tuple[Any, ...], selector: int | str
) -> Path:
    if isinstance(selector, int):
        if not -len(args) <= selector < len(args):
            raise ArgumentError(
                f"{api}: `wrt` names argument {selector}, but there are {len(args)}."
            )
        return (str(selector % len(args)),)
    known = _known_paths(func, args)
    wanted = parse_path(selector)
    if "[" in selector:
        found = {path for written, path in known if written == wanted}
    else:  # keys may hold dots themselves
        found = {path for written, path in known if ".".join(written) == selector}
    if len(found) == 1:
        return found.pop()
    if found:
        raise ArgumentError(
            f"{api}: `wrt` names {selector!r}, which can be read in {len(found)} ways; write each "
            "key in brackets: ['a']['b']."
        )
    names = ", ".join(sorted({".".join(written) for written, _ in known}))
    raise ArgumentError(
        f"{api}: `wrt` names {selector!r}, which is neither an argument nor a path; "
        f"there are: {names}."
    )


def _known_paths(func: Callable[..., Any], args: tuple[Any, ...]) -> list[tuple[Path, Path]]:
    """Every way to write a part of the arguments, and the keys that lead there."""
    known: list[tuple[Path, Path]] = []
    for number, name in enumerate(parameter_names(func, len(args))):
        heads = {(str(number),), (name,)} | ({()} if len(args) == 1 else set())
        for path, _ in leaves_with_paths(args[number]):
            for depth in range(len(path) + 1):
                part = path[:depth]
                known += [(head + part, (str(number), *part)) for head in heads if head + part]
    return known
