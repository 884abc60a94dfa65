"""What a plan was made for, and whether other inputs are like it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchjac._inputs.trees import leaves_with_paths
from torchjac._torch import pytree
from torchjac.errors import PlanMismatchError


@dataclass(frozen=True)
class Fit:
    """The inputs of a call without their numbers.

    Attributes:
        tree: Their tree, "tensor" for one tensor.
        leaves: Shape, dtype and device of each tensor, the type of anything else.
        names: Path of each.
        selected: Likewise of the tensors that are differentiated.
        places: Where these are among the leaves, none if they are not there.
    """

    tree: Any
    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    selected: tuple[Any, ...]
    places: tuple[int, ...] = ()

    def matches(self, inputs: Any, selected: Sequence[Tensor]) -> bool:
        """Whether other inputs have this tree, and tensors like these in it."""
        tree, leaves = _flat(inputs)
        return (
            tree == self.tree
            and tuple(map(_kind, leaves)) == self.leaves
            and (selected is leaves or tuple(map(_kind, selected)) == self.selected)
        )

    def plain(self, inputs: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]] | None:
        """Ordinary tensors of numbers, one or a flat tuple of them.

        Args:
            inputs: Of a call.

        Returns:
            Those that are differentiated, and the others, if the inputs are such and like those
            that the plan was made for; None if that takes a closer look.
        """
        if type(inputs) is Tensor:
            leaves = (inputs,) if self.tree == "tensor" else ()
        else:
            leaves = inputs if type(inputs) is tuple and self.is_flat else ()
        if len(leaves) != len(self.leaves) or not self.places:
            return None
        for leaf, kind in zip(leaves, self.leaves, strict=True):
            if type(leaf) is not Tensor or (leaf.shape, leaf.dtype, leaf.device) != kind:
                return None
            if leaf.layout is not torch.strided:
                return None
        if self.is_all_in_order:
            return leaves, ()
        return [leaves[k] for k in self.places], [leaves[k] for k in self.beside]

    @cached_property
    def is_flat(self) -> bool:
        """Whether the inputs are a tuple of tensors of numbers."""
        flat = pytree.tree_structure((0,) * len(self.leaves))
        return self.tree == flat and all(map(_is_of_numbers, self.leaves))

    @cached_property
    def is_all_in_order(self) -> bool:
        """Whether all leaves are differentiated, and in their order."""
        return self.places == tuple(range(len(self.leaves)))

    @cached_property
    def beside(self) -> tuple[int, ...]:
        """Places of the leaves that are not differentiated."""
        return tuple([k for k in range(len(self.leaves)) if k not in self.places])

    def refuse(self, api: str, inputs: Any, selected: Sequence[Tensor]) -> None:
        """Raise an error that lists every part, unless it matches."""
        if self.matches(inputs, selected):
            return
        other = fit_of(inputs, selected)
        lines = [_line("tree of the inputs", self.tree, other.tree)]
        if self.tree == other.tree:
            pairs = zip(self.names, self.leaves, other.leaves, strict=True)
            lines += [_line(f"input {name}" if name else "input", a, b) for name, a, b in pairs]
            if len(self.selected) != len(other.selected):
                counts = len(self.selected), len(other.selected)
                lines.append(_line("number of differentiated tensors", *counts))
            elif self.selected != self.leaves:
                pairs = zip(self.selected, other.selected, strict=True)
                lines += [_line(f"differentiated {i}", a, b) for i, (a, b) in enumerate(pairs)]
        raise PlanMismatchError(
            f"{api}: `inputs` are not what the plan was made for. Make another plan, or pass "
            "inputs of the same kind:\n" + "\n".join(lines)
        )


def fit_of(inputs: Any, selected: Sequence[Tensor], places: tuple[int, ...] = ()) -> Fit:
    """What a call with these inputs looks like.

    Args:
        inputs: As the user gave them.
        selected: The tensors that are differentiated.
        places: Where these stand among all leaves of the inputs.

    Returns:
        The description.
    """
    tree, leaves = _flat(inputs)
    names = [".".join(path) for path, _ in leaves_with_paths(inputs)]
    kinds, chosen = tuple(map(_kind, leaves)), tuple(map(_kind, selected))
    return Fit(tree, kinds, tuple(names), chosen, places)


def _flat(inputs: Any) -> tuple[Any, Sequence[Any]]:
    if isinstance(inputs, Tensor):
        return "tensor", (inputs,)
    leaves, tree = pytree.tree_flatten(inputs)
    return tree, leaves


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype, leaf.device
    return type(leaf)


def _is_of_numbers(kind: Any) -> bool:
    return isinstance(kind, tuple) and (kind[1].is_floating_point or kind[1].is_complex)


def _line(name: str, planned: Any, given: Any) -> str:
    if planned == given:
        return f"  {name}: {_shown(planned)}, matches"
    return f"  {name}: planned {_shown(planned)}, given {_shown(given)}, DIFFERS"


def _shown(kind: Any) -> str:
    if isinstance(kind, tuple):
        shape, dtype, device = kind
        return f"{str(dtype).removeprefix('torch.')} {list(shape)} on {device}"
    return getattr(kind, "__name__", " ".join(str(kind).split()))
