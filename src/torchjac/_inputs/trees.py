"""Names of the places in a tree of inputs or outputs."""

import re
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from torch import nn

from torchjac._torch import pytree

Path = tuple[str, ...]
# 'key' or "key" or a number in brackets, or anything between dots and brackets.
_KEY = re.compile(r"""\['([^']*)'\]|\["([^"]*)"\]|\[(\d+)\]|([^.\[\]]+)""")


def leaves_with_paths(tree: Any) -> list[tuple[Path, Any]]:
    """Leaves of a tree in flattening order, each with the keys that lead to it.

    Args:
        tree: Any pytree.

    Returns:
        Pairs of a path and a leaf.

    >>> leaves_with_paths({"a": [1, 2], "b": 3})
    [(('a', '0'), 1), (('a', '1'), 2), (('b',), 3)]
    """
    if type(tree) is tuple:  # the arguments: each by itself
        return [
            ((str(i), *path), leaf)
            for i, part in enumerate(tree)
            for path, leaf in leaves_with_paths(part)
        ]
    try:
        pairs, _ = pytree.tree_flatten_with_path(tree)
    except ValueError:  # a node registered without names for its parts: numbers will do
        return [((str(i),), leaf) for i, leaf in enumerate(pytree.tree_leaves(tree))]
    return [(tuple(_key_name(key) for key in path), leaf) for path, leaf in pairs]


def _key_name(key: Any) -> str:
    for field in ("key", "idx", "name"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def subtree(tree: Any, path: Path) -> Any:
    """The part of `tree` at `path`, or raise `KeyError`.

    Args:
        tree: Any pytree.
        path: Keys that lead to the part.

    Returns:
        The part.

    >>> subtree({"a": [1, 2], "b": 3}, ("a",))
    [1, 2]
    """
    for name in path:
        entries, _ = pytree.tree_flatten_with_path(tree, is_leaf=_is_child_of(tree))
        children = {_key_name(keys[0]): child for keys, child in entries if keys}
        tree = children[name]
    return tree


def _is_child_of(parent: Any) -> Callable[[Any], bool]:
    return lambda node: node is not parent


def parse_path(selector: str) -> Path:
    """Keys of a path: one in each pair of brackets, the rest cut at dots.

    Args:
        selector: What the user wrote.

    Returns:
        The keys.

    >>> parse_path("['a.b'][0].c.d")
    ('a.b', '0', 'c', 'd')
    """
    return tuple("".join(match) for match in _KEY.findall(selector))


def parameter_names(func: Callable[..., Any], count: int) -> list[str]:
    """Names of the first `count` positional parameters of `func`, numbers where unknown."""
    try:
        called = func.forward if isinstance(func, nn.Module) else func
        parameters = list(signature(called).parameters.values())
    except (TypeError, ValueError):  # builtins and other callables without a signature
        parameters = []
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds][:count]
    return names + [str(i) for i in range(len(names), count)]
