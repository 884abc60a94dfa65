"""Products of tensors over named axes, summed along some of them: contraction networks.

Movements, products and sums along axes only say which axis of which factor is which. As long as
nobody asks for the numbers, they change the names and compute nothing.

Source: the notation is that of Einstein (1916), as in `torch.einsum`; axes that are reshaped are
split into factors, and merged again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torchjac._linearize.program import Ref


@dataclass(frozen=True, eq=False)
class Label:
    """The name of an axis, or of a factor of one.

    Attributes:
        length: Of the axis, more than one.
    """

    length: int


# The factors of each axis of a tensor, slowest first; none for an axis of length one.
Axes = tuple[tuple[Label, ...], ...]


@dataclass(frozen=True, eq=False)
class Factor:
    """A tensor with names for its axes.

    Attributes:
        ref: The tensor.
        axes: The names.
    """

    ref: Ref
    axes: Axes

    @property
    def labels(self) -> tuple[Label, ...]:
        """All names, in the order in which the numbers lie in a contiguous tensor."""
        return tuple([label for axis in self.axes for label in axis])


@dataclass(frozen=True, eq=False)
class Term:
    """A product of tensors, summed along the axes that it does not have.

    term[...] = scale * sum over labels of factors that `axes` has not of the product of the factors

    Attributes:
        factors: The tensors. Along a label that none of them has, the term repeats itself.
        axes: Names of the axes of the term, each label once.
        scale: A number.
    """

    factors: tuple[Factor, ...]
    axes: Axes
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the term is."""
        return tuple([_length(axis) for axis in self.axes])

    @property
    def labels(self) -> tuple[Label, ...]:
        """Names of its axes in their order."""
        return tuple([label for axis in self.axes for label in axis])

    @property
    def owned(self) -> frozenset[Label]:
        """Names of the axes of its factors."""
        return frozenset([label for factor in self.factors for label in factor.labels])

    def scaled(self, number: float) -> "Term":
        """The term times a number."""
        return replace(self, scale=self.scale * number)

    def renamed(self, names: Mapping[Label, tuple[Label, ...]]) -> "Term":
        """The term with other names, or several in place of one."""
        factors = [Factor(factor.ref, _renamed(factor.axes, names)) for factor in self.factors]
        return replace(self, factors=tuple(factors), axes=_renamed(self.axes, names))

    def fresh(self) -> "Term":
        """The same term with names that no other has."""
        return self.renamed({k: (Label(k.length),) for k in self.owned.union(self.labels)})

    def split(self, label: Label, inner: int) -> "Term":
        """The term with an axis as two, the faster one so long."""
        return self.renamed({label: (Label(label.length // inner), Label(inner))})

    def reshaped(self, shape: Sequence[int]) -> "Term | None":
        """The term under another shape; None if lengths are no multiples of each other."""
        term, place, axes = self, 0, []
        for length in shape:
            start, have = place, 1
            while have < length:
                label = term.labels[place]
                need = length // have
                if length % have or (
                    label.length % need if label.length > need else need % label.length
                ):
                    return None
                if label.length > need:
                    term = term.split(label, label.length // need)
                    label = term.labels[place]
                have *= label.length
                place += 1
            axes.append((start, place))
        return replace(term, axes=tuple([term.labels[start:stop] for start, stop in axes]))

    def permuted(self, order: Sequence[int]) -> "Term":
        """The term with its axes in another order."""
        return replace(self, axes=tuple([self.axes[d] for d in order]))

    def expanded(self, shape: Sequence[int]) -> "Term":
        """The term repeated along axes of length one, and along new ones in front."""
        given = ((),) * (len(shape) - len(self.axes)) + self.axes
        pairs = zip(given, shape, strict=True)
        return replace(
            self,
            axes=tuple([(Label(n),) if not axis and n > 1 else axis for axis, n in pairs]),
        )

    def summed(self, dims: Sequence[int], *, keeps: bool) -> "Term":
        """The sum of the term along some axes, which stay with length one or not."""
        gone = [label for d in dims for label in self.axes[d]]
        repeated = prod([label.length for label in gone if label not in self.owned])
        kept = enumerate(self.axes)
        axes = [() if d in dims else axis for d, axis in kept if keeps or d not in dims]
        return replace(self, axes=tuple(axes), scale=self.scale * repeated)


def whole(ref: Ref, shape: Sequence[int]) -> Term:
    """A tensor as a term of one factor."""
    axes = tuple([(Label(length),) if length > 1 else () for length in shape])
    return Term((Factor(ref, axes),), axes)


def multiplied(one: Term, other: Term) -> Term | None:
    """The product of two terms element by element, axes of length one repeated.

    Args:
        one: A term.
        other: One whose shape fits; its names are not looked at.

    Returns:
        The product; None if axes were split in ways that do not agree.
    """
    other = other.fresh()
    rank = max(len(one.axes), len(other.axes))
    one, other = [replace(t, axes=((),) * (rank - len(t.axes)) + t.axes) for t in (one, other)]
    for dim in range(rank):
        place = 0
        while one.axes[dim] and other.axes[dim] and place < len(one.axes[dim]):
            mine, its = one.axes[dim][place], other.axes[dim][place]
            if mine.length == its.length:
                other = other.renamed({its: (mine,)})
                place += 1
            elif mine.length % its.length == 0:
                one = one.split(mine, mine.length // its.length)
            elif its.length % mine.length == 0:
                other = other.split(its, its.length // mine.length)
            else:
                return None
    axes = tuple([a or b for a, b in zip(one.axes, other.axes, strict=True)])
    return Term((*one.factors, *other.factors), axes, one.scale * other.scale)


def matrix_product(one: Term, other: Term) -> Term | None:
    """The product of two matrices, or of two batches of them.

    Args:
        one: Axes (..., m, k).
        other: Axes (..., k, n), as many as `one` has.

    Returns:
        Axes (..., m, n); None if axes were split in ways that do not agree.
    """
    *batch, rows, inner = one.axes
    *others, same, columns = other.axes
    left = replace(one, axes=(*batch, rows, (), inner))
    right = replace(other, axes=(*others, (), columns, same))
    found = multiplied(left, right)
    return None if found is None else found.summed([len(batch) + 2], keeps=False)


def _length(axis: Sequence[Label]) -> int:
    return prod([label.length for label in axis])


def _renamed(axes: Axes, names: Mapping[Label, tuple[Label, ...]]) -> Axes:
    return tuple([tuple([new for k in axis for new in names.get(k, (k,))]) for axis in axes])
