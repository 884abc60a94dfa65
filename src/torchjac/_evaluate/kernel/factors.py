"""Jacobians of samples by a parameter, kept as factors, and inner products of them.

The weight of a layer has J[o, b] = sum over t of g[o, b, t] (outer) x[b, t]. Two such Jacobians
have the inner product

    sum over t, t' of (g[o, b, t] . g'[o', b', t']) (x[b, t] . x'[b', t'])

of two small Gram matrices, multiplied element by element. Where there are many positions t it is
cheaper to sum over them first; the operations are counted, and the cheaper order is taken.

Source: Novak, Sohl-Dickstein & Schoenholz (2022), Fast Finite Width Neural Tangent Kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

# Elements of a product of Gram matrices at a time: what a cache holds.
PAIRS = 2**22
# Elements of sums over positions at a time.
SUMS = 2**24
# What an element that is written costs, in multiplications.
WRITTEN = 8


@dataclass(frozen=True, slots=True)
class Explicit:
    """Jacobians as they are: rows, shape (outputs, samples, elements of the parameter)."""

    rows: Tensor

    def weighed(self, weights: Tensor) -> Tensor:
        """Sum over outputs and samples, weights of shape (outputs, samples)."""
        return weights.reshape(1, -1).to(self.rows) @ self.rows.flatten(0, 1)

    def multiplied_out(self) -> Tensor:
        """The rows."""
        return self.rows


@dataclass(frozen=True, slots=True)
class Outer:
    """Jacobians as sums of outer products.

    Attributes:
        cotangents: g, shape (outputs, samples, groups, positions, out).
        inputs: x, shape (samples, groups, positions, in), or classes, (samples, positions).
        one_hot: Number of classes, 0 where `inputs` are numbers.
    """

    cotangents: Tensor
    inputs: Tensor
    one_hot: int = 0

    @property
    def width(self) -> int:
        """Length of x."""
        return self.one_hot or self.inputs.shape[-1]

    def weighed(self, weights: Tensor) -> Tensor:
        """Sum over outputs and samples, shape (groups, out, in)."""
        summed = torch.einsum("ob,obqtm->qbtm", weights.to(self.cotangents), self.cotangents)
        if self.one_hot:
            inputs = self.inputs.reshape(1, -1)
        else:
            inputs = self.inputs.transpose(0, 1).flatten(1, 2)[None]
        # All samples become positions of one.
        whole = Outer(summed.flatten(1, 2)[None, None], inputs, self.one_hot)
        return whole.explicit()[0, 0]

    def explicit(self) -> Tensor:
        """The sums, shape (outputs, samples, groups, out, in)."""
        if not self.one_hot:
            return torch.einsum("obqtm,bqtn->obqmn", self.cotangents, self.inputs)
        outputs, samples, _, positions, out = self.cotangents.shape
        known = self.inputs >= 0
        places = torch.where(known, self.inputs, 0)
        places = places + self.one_hot * torch.arange(samples, device=places.device)[:, None]
        rows = self.cotangents.new_zeros(outputs, samples * self.one_hot, out)
        parts = self.cotangents[:, :, 0] * known[None, :, :, None]
        rows.index_add_(1, places.reshape(-1), parts.reshape(outputs, samples * positions, out))
        return rows.view(outputs, samples, 1, self.one_hot, out).mT

    def multiplied_out(self) -> Tensor:
        """Rows, shape (outputs, samples, elements)."""
        return self.explicit().flatten(2)

    def of_samples(self, start: int, stop: int) -> "Outer":
        """Those of some samples."""
        return Outer(self.cotangents[:, start:stop], self.inputs[start:stop], self.one_hot)

    def of_elements(self, part: slice) -> "Outer":
        """Those of some elements of the cotangent."""
        return Outer(self.cotangents[..., part], self.inputs, self.one_hot)

    def fits(self, other: "Outer") -> bool:
        """Whether both are by the same parameter, used in the same way."""
        return (self.one_hot, self.width, *self.cotangents.shape[2::2]) == (
            other.one_hot,
            other.width,
            *other.cotangents.shape[2::2],
        )


def inner(kind: str, first: Tensor, second: Tensor) -> Tensor:
    """Inner products of rows.

    Args:
        kind: "full", "diagonal" or "trace": which pairs of outputs, and whether they are summed.
        first: Shape (O, B, n).
        second: Shape (O, C, n).

    Returns:
        Shape (O, B, O, C), (O, B, C) or (B, C).

    >>> a = torch.ones(2, 3, 4)
    >>> inner("full", a, a).shape, inner("diagonal", a, a).shape, inner("trace", a, a).tolist()[0]
    (torch.Size([2, 3, 2, 3]), torch.Size([2, 3, 3]), [8.0, 8.0, 8.0])
    """
    if kind == "diagonal":
        return first @ second.mT
    if kind == "trace":
        first, second = first.transpose(0, 1).flatten(1), second.transpose(0, 1).flatten(1)
        return first @ second.mT
    product = first.flatten(0, 1) @ second.flatten(0, 1).mT
    return product.view(first.shape[:2] + second.shape[:2])


def contract(kind: str, first: Outer, second: Outer, most: int = SUMS) -> Tensor:
    """Inner products of Jacobians by the same weight, in the cheaper order.

    Args:
        kind: As in `inner`.
        first: Of the first samples.
        second: Of the second samples.
        most: Elements that may be made at a time.

    Returns:
        As `inner`.
    """
    by_pairs, summed_first = _costs(kind, first, second)
    if summed_first < by_pairs:
        return _summed_first(kind, first, second, min(SUMS, most))
    count = first.inputs.shape[0]
    pairs = _pairs_of_a_sample(kind, first, second)
    step = max(1, min(PAIRS, most) // max(pairs, 1))
    parts = [
        _hadamard(kind, first.of_samples(start, start + step), second)
        for start in range(0, count, step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 0 if kind == "trace" else 1)


def _summed_first(kind: str, first: Outer, second: Outer, most: int) -> Tensor:
    """Jacobians made some elements of the cotangent at a time."""
    outputs, _, groups, _, out = first.cotangents.shape
    rows = outputs * (first.cotangents.shape[1] + second.cotangents.shape[1])
    step = max(1, most // max(1, rows * groups * first.width))

    def products(start: int) -> Tensor:
        part = slice(start, start + step)
        ours, theirs = (side.of_elements(part).multiplied_out() for side in (first, second))
        return inner(kind, ours, theirs)

    return reduce(Tensor.add_, map(products, range(0, out, step)))


def _pairs_of_a_sample(kind: str, first: Outer, second: Outer) -> int:
    outputs, _, _, positions, _ = first.cotangents.shape
    others = second.cotangents.shape[1] * second.cotangents.shape[3]
    return positions * others * {"full": outputs**2, "diagonal": outputs, "trace": 1}[kind]


def _costs(kind: str, first: Outer, second: Outer) -> tuple[int, int]:
    """Operations with all pairs of positions, and with sums over positions first."""
    outputs, samples, groups, positions, out = first.cotangents.shape
    others, their_positions = second.cotangents.shape[1], second.cotangents.shape[3]
    width = first.width
    combined = outputs**2 if kind == "full" else outputs
    pairs = samples * others * positions * their_positions * groups
    products = 0 if first.one_hot else width
    by_pairs = pairs * (combined * out + products)
    by_pairs += WRITTEN * samples * groups * _pairs_of_a_sample(kind, first, second)
    size = groups * out * width
    made = outputs * size * (samples * positions + others * their_positions)
    if first.one_hot:
        made = 0
    made += WRITTEN * outputs * size * (samples + others)
    return by_pairs, made + samples * others * combined * size


def _hadamard(kind: str, first: Outer, second: Outer) -> Tensor:
    def products(group: int) -> Tensor:
        ours, theirs = (side.cotangents[:, :, group].flatten(1, 2) for side in (first, second))
        made = inner(kind, ours, theirs)
        grams = _gram_of_inputs(first, second, group)
        made *= grams[:, None] if kind == "full" else grams
        return _over_positions(kind, made, first, second)

    return reduce(Tensor.add_, map(products, range(first.cotangents.shape[2])))


def _gram_of_inputs(first: Outer, second: Outer, group: int) -> Tensor:
    if first.one_hot:
        ours, theirs = first.inputs.reshape(-1, 1), second.inputs.reshape(1, -1)
        return ((ours == theirs) & (ours >= 0)).to(first.cotangents)
    ours, theirs = (side.inputs[:, group].flatten(0, 1) for side in (first, second))
    return ours @ theirs.mT


def _over_positions(kind: str, products: Tensor, first: Outer, second: Outer) -> Tensor:
    """Sum over positions, which lie beside the samples."""
    ours, theirs = (side.cotangents.shape[3] for side in (first, second))
    if ours == theirs == 1:
        return products
    shape = list(products.shape)
    places = {"full": (1, 3), "diagonal": (1, 2), "trace": (0, 1)}[kind]
    split: list[int] = []
    for axis, size in enumerate(shape):
        if axis in places:
            count = ours if axis == places[0] else theirs
            split += [size // count, count]
        else:
            split.append(size)
    return products.view(split).sum(tuple(p + 1 + k for k, p in enumerate(places)))


def joined(parts: Sequence[Outer]) -> Outer:
    """The sum of several uses of a weight: their positions, one after the other."""
    if len(parts) == 1:
        return parts[0]
    axis = 1 if parts[0].one_hot else 2
    return Outer(
        torch.cat([part.cotangents for part in parts], 3),
        torch.cat([part.inputs for part in parts], axis),
        parts[0].one_hot,
    )
