"""Index arrays that are regular: what they gather is a view, and they need not be kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# More axes than these are no regular structure any more, but a permutation of its own.
_MOST_AXES = 8


@dataclass(frozen=True)
class Slices:
    """Positions offset + i_1 strides_1 + ... + i_k strides_k, in row-major order of the i.

    Attributes:
        sizes: How many values each i takes.
        strides: What it counts.
        offset: The first position.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def is_identity(self) -> bool:
        """Whether the positions are 0, 1, 2 and so on."""
        return self.offset == 0 and (self.strides == (1,) or not self.strides)

    def view(self, values: Tensor) -> Tensor:
        """The elements of a vector at these positions, without a copy.

        Args:
            values: One-dimensional and contiguous.

        Returns:
            Of shape `sizes`, in the memory of `values`.
        """
        # Positions count from the first element of `values`, those of as_strided from the memory.
        start = values.storage_offset() + self.offset
        return values.as_strided(self.sizes, self.strides, start)


def as_slices(index: NDArray[Any]) -> Slices | None:
    """Sizes and strides of an index array, if it has any.

    Args:
        index: Positions, one-dimensional.

    Returns:
        The slices, None if the positions are not regular, or fall.

    >>> as_slices(np.array([1, 2, 5, 6, 9, 10]))
    Slices(sizes=(3, 2), strides=(4, 1), offset=1)
    >>> as_slices(np.array([0, 1, 3])) is None
    True
    """
    if not len(index):
        return None
    sizes: list[int] = []
    strides: list[int] = []
    rest = index
    while len(rest) > 1:
        step = int(rest[1]) - int(rest[0])
        breaks = np.flatnonzero(np.diff(rest) != step)
        run = int(breaks[0]) + 1 if len(breaks) else len(rest)
        # A run may only end where all of them do.
        regular = step > 0 and len(rest) % run == 0 and bool(np.all(breaks % run == run - 1))
        if not regular or len(sizes) == _MOST_AXES:
            return None
        sizes.insert(0, run)
        strides.insert(0, step)
        rest = rest[::run]
    return Slices(tuple(sizes), tuple(strides), int(index[0]))
