"""All that a function can read besides its arguments, so that a change of it can be seen.

A structure or a program that was found once must not be used when the function has become another
one: a time step in an attribute, a global, a weight. Python objects that are understood are looked
through; where there is one that is not, the state says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from torchjac._inputs.glance import Glance
from torchjac._inputs.reach import Data, Walk, parts_of


@dataclass(frozen=True, eq=False)
class State:
    """What a function can read, at one time.

    Attributes:
        is_complete: Whether all of it is understood; if not, what is not may change unseen.
        marks: Equal for two states only if plain values, objects and the numbers of writes to
            tensors are the same.
        kept: All objects that were seen, held so that no new one takes the number of an old one.
        copies: Tensors and arrays with copies of them: `tensor.data` and arrays that share memory
            can be written to without leaving a mark.
        bits: Strided tensors among them and their copies as integers, which are compared faster.
        value: What the state was taken of.
        glance: The marks in short.
    """

    is_complete: bool
    marks: tuple[Any, ...]
    kept: tuple[Any, ...]
    copies: tuple[tuple[Data, tuple[Data, ...]], ...]
    bits: tuple[tuple[Tensor, Tensor], ...]
    value: Any
    glance: Glance

    def still_holds(self, value: Any, apart: Sequence[Tensor] = ()) -> bool:
        """Whether there is now what there was then, as far as can be seen.

        Args:
            value: The function or values that the state was taken of.
            apart: Tensors that do not count, as then.

        Returns:
            Whether all marks and numbers are the same.
        """
        if value is self.value and self.is_complete and self.glance.is_same():
            return self._has_bits()
        now = _walked(value, apart)
        if now.is_complete != self.is_complete or tuple(now.marks) != self.marks:
            return False
        return all([_is_copied(data, copies) for data, copies in self.copies])

    def _has_bits(self) -> bool:
        """Whether all tensors have their numbers, if none of them lies elsewhere by now."""
        others = [c for c in self.copies if not _is_strided(c[0])]
        return all([_is_copied(data, copies) for data, copies in others]) and all(
            [torch.equal(now, then) for now, then in self.bits]
        )


def state_of(value: Any, apart: Sequence[Tensor] = ()) -> State:
    """All that a function can read besides its arguments.

    Args:
        value: Any callable, or a list of values.
        apart: Tensors that do not count, because they are differentiated.

    Returns:
        The state.

    >>> class Simulation:
    ...     dt = 0.1
    ...     def step(self, x):
    ...         return x + self.dt * x**2
    >>> simulation = Simulation()
    >>> before = state_of(simulation.step)
    >>> simulation.dt = 0.2
    >>> before.is_complete, before.still_holds(simulation.step)
    (True, False)
    """
    walk = _walked(value, apart)
    copies = tuple([(data, tuple(map(_copy, parts_of(data)))) for data in walk.data])
    bits = tuple([_as_bits(data, copy) for data, (copy, *_) in copies if _is_strided(data)])
    marks, kept = tuple(walk.marks), tuple(walk.kept)
    return State(walk.is_complete, marks, kept, copies, bits, value, walk.glance)


def _walked(value: Any, apart: Sequence[Tensor]) -> Walk:
    walk = Walk(apart)
    walk.visit(value)
    walk.finish()
    return walk


def _copy(data: Data) -> Data:
    return data.detach().clone() if isinstance(data, Tensor) else data.copy()


def _is_strided(data: Data) -> TypeGuard[Tensor]:
    return isinstance(data, Tensor) and data.layout is torch.strided


def _as_bits(tensor: Tensor, copy: Data) -> tuple[Tensor, Tensor]:
    """A tensor and its copy as integers in the same memory, in words as long as places allow."""
    # Bits tell zeros of different sign apart, and find that NaN is still NaN.
    pair = tensor.detach(), torch.as_tensor(copy)
    if not all([t.is_contiguous() and not t.is_conj() and not t.is_neg() for t in pair]):
        return pair
    size = tensor.element_size()
    if (tensor.numel() * size) % 8 or (tensor.storage_offset() * size) % 8:
        return pair
    return pair[0].view(-1).view(torch.int64), pair[1].view(-1).view(torch.int64)


def _is_copied(data: Data, copies: Sequence[Data]) -> bool:
    return all([_is_equal(a, b) for a, b in zip(parts_of(data), copies, strict=True)])


def _is_equal(one: Data, other: Data) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.device == other.device and torch.equal(one, other)
    return np.array_equal(one, other)
