"""One operation of a linear program, as its rule sees it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchjac._linearize.program import LinearProgram, Node, Ref, Value, map_refs
from torchjac._local.support import support


@dataclass(frozen=True, eq=False)
class Call:
    """An operation and what is known of its arguments.

    Attributes:
        node: The operation.
        program: Where it stands.
        is_local: Whether indices that depend on x count as they are at this x.
    """

    node: Node
    program: LinearProgram
    is_local: bool = False

    @cached_property
    def arguments(self) -> Mapping[str, Any]:
        """All arguments by name, defaults included."""
        schema = self.node.op._schema.arguments
        given = dict(zip([a.name for a in schema], self.node.args, strict=False))
        defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
        return {**defaults, **given, **self.node.kwargs}

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def value(self, ref: Ref) -> Value:
        """Shape and dtype of an argument."""
        return self.program.values[ref.number]

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Shape of an argument."""
        return self.program.values[ref.number].shape

    def out_shape(self, output: int = 0) -> tuple[int, ...]:
        """Shape of a result."""
        number = self.node.outputs[output]
        return () if number is None else self.program.values[number].shape

    def is_tangent(self, part: Any) -> bool:
        """Whether `part` of the arguments is a tensor that depends on the tangent."""
        return isinstance(part, Ref) and part.number in self.program.linear

    def tangents(self) -> Iterator[Ref]:
        """The arguments that depend on the tangent, each once."""
        seen = dict.fromkeys(n for n in self.node.inputs if n in self.program.linear)
        return map(Ref, seen)

    def constant(self, ref: Ref | None) -> Tensor | None:
        """Numbers of an argument that depends on no input, None for others."""
        return None if ref is None else self.program.constants.get(ref.number)

    def factor(self, ref: Ref) -> Tensor | None:
        """What is known of a coefficient.

        Args:
            ref: An argument that does not depend on the tangent.

        Returns:
            Its numbers if they depend on no input; else where it can differ from zero, bool;
            None if that is everywhere.
        """
        found = self.constant(ref)
        return support(self.program, ref.number) if found is None else found

    def index(self, ref: Ref | None) -> Tensor | None:
        """Numbers of an index: constant, or, in local scope, as it is at this x."""
        found = self.constant(ref)
        if found is None and self.is_local and ref is not None:
            return self.program.integers.get(ref.number)
        return found

    def run(self, numbers: Mapping[int, Tensor]) -> Any:
        """Carry out the operation.

        Args:
            numbers: Tensors to take in place of arguments, by their number.

        Returns:
            Its result, computed with constants for the other arguments.
        """

        def fetch(ref: Ref) -> Tensor:
            found = numbers.get(ref.number)
            return self.program.constants[ref.number] if found is None else found

        kwargs = {key: map_refs(fetch, value) for key, value in self.node.kwargs.items()}
        return self.node.op(*map_refs(fetch, self.node.args), **kwargs)

    def blank(self, ref: Ref, like: Tensor) -> Tensor:
        """Zeros with the shape of an argument, and the dtype of `like`."""
        return torch.zeros(self.shape(ref), dtype=like.dtype, device=like.device)

    def has_known(self, others: Sequence[Ref]) -> bool:
        """Whether none of `others` depends on x."""
        return all(ref.number in self.program.constants for ref in others)
