"""The local linear maps: what an operation does to one tangent among its arguments.

A rule says which of these an operation is, and computes nothing. Each analysis reads them in its
own way: as index sets (the pattern), as values, as cost.

An operation that is linear in several tangents is a sum of terms, one for each tangent; a term is
a chain of maps, applied first to last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.program import Ref

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Scale:
    """Elementwise product with coefficients, after broadcasting to `shape`.

    Attributes:
        shape: Shape of the result.
        coefficient: What is known of the coefficients, with a shape that broadcasts to `shape`:
            their numbers if they depend on no input, else where they can differ from zero, bool;
            None if that is everywhere.
    """

    shape: tuple[int, ...]
    coefficient: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Move:
    """Each element of the result is one of the argument, or zero.

    Attributes:
        run: Does so with any tensor of the shape of the argument, numbers of sets too.
    """

    run: Run


@dataclass(frozen=True, eq=False)
class Deposit:
    """The transpose of a move: each element of the argument is added to one of the result.

    Attributes:
        run: The move, from a tensor of shape `shape` to one of the shape of the argument.
        shape: Shape of the result.
    """

    run: Run
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reduce:
    """Sum over axes.

    Attributes:
        dims: The axes, none negative.
        keepdim: Whether they stay, with length one.
    """

    dims: tuple[int, ...]
    keepdim: bool = False


@dataclass(frozen=True, eq=False)
class Mix:
    """Along some axes each element of the result depends on each of the argument.

    Along the others it depends on the same index only. The axes may change their length.

    Attributes:
        dims: The axes, none negative.
        shape: Shape of the result, with as many axes as the argument.
        nonzero: If there is one axis: which elements of the result depend on which of the
            argument, shape (*batch, of the result, of the argument). The axes of `batch` are the
            first ones of the argument. None for all.
    """

    dims: tuple[int, ...]
    shape: tuple[int, ...]
    nonzero: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Scan:
    """Along one axis each element of the result depends on those of the argument up to it.

    Attributes:
        dim: The axis, not negative.
        reverse: From it on instead.
    """

    dim: int
    reverse: bool = False


@dataclass(frozen=True, eq=False)
class Contract:
    """A sum of products with a coefficient, as `einsum(equation, tangent, coefficient)`.

    Attributes:
        equation: Letters of tangent, coefficient and result: "kj,ik->ij". Every letter has one
            length, except that of 1 where broadcasting is meant.
        coefficient: The other factor.
        sizes: Shape of the other factor.
        value: Its numbers if they depend on no input, which may be sparse, else where it can
            differ from zero, bool; None if that is everywhere.
    """

    equation: str
    coefficient: Ref
    sizes: tuple[int, ...]
    value: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Convolve:
    """A convolution of the tangent, shape (batch, channels, *space), with a kernel.

    Attributes:
        kernel: Shape of the kernel: (out, in / groups, *size), transposed (in, out / groups, ...).
        value: Its numbers if they depend on no input, else None.
        stride: For each axis of space.
        padding: For each axis of space.
        dilation: For each axis of space.
        transposed: Whether it is the transpose of a convolution.
        groups: Channels are mixed within each group only.
        shape: Shape of the result.
    """

    kernel: tuple[int, ...]
    value: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    groups: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A constant sparse matrix, applied along one axis or to the tangent laid out flat.

    Attributes:
        rows: Element of the result of each entry, shape (nnz,).
        columns: Element of the argument of each entry, shape (nnz,).
        shape: Shape of the result.
        dim: The axis, not negative, or None for the tangent laid out flat.
    """

    rows: Tensor
    columns: Tensor
    shape: tuple[int, ...]
    dim: int | None = None

    def laid_out(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The entries of the matrix that does the same to the tangent laid out flat.

        Args:
            shape: Shape of the argument.

        Returns:
            Rows and columns.
        """
        if self.dim is None:
            return self.rows, self.columns
        outer = torch.arange(prod(shape[: self.dim]))[:, None, None]
        inner = torch.arange(prod(shape[self.dim + 1 :]))
        rows = (outer * self.shape[self.dim] + self.rows[:, None]) * len(inner) + inner
        columns = (outer * shape[self.dim] + self.columns[:, None]) * len(inner) + inner
        return rows.flatten(), columns.flatten()


@dataclass(frozen=True, eq=False)
class Opaque:
    """Each element of the result may depend on each of the argument.

    Attributes:
        shape: Shape of the result.
        batch_dims: So many axes at the front are kept apart.
    """

    shape: tuple[int, ...]
    batch_dims: int = 0


LinearMap = Scale | Move | Deposit | Reduce | Mix | Scan | Contract | Convolve | Matrix | Opaque


class Term(NamedTuple):
    """What one tangent contributes to a result.

    Attributes:
        source: Which tangent.
        maps: What happens to it, first to last; nothing means that it is handed on.
    """

    source: Ref
    maps: Sequence[LinearMap] = ()
