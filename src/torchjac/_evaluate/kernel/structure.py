"""From uses of parameters, and cotangents there, to factors of the Jacobians of samples.

Rows of a layer belong to samples, in runs (batch first) or in turns (batch last). Which it is,
and that no row belongs to several samples, is not taken from any convention: with one seed more,
which weighs the samples differently, the cotangents of each row must be combined by the weights
of its sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchjac._evaluate.certify import COMMON_UNITS, OWN_UNITS, TOLERANCE_CAP
from torchjac._evaluate.kernel.factors import Explicit, Outer, joined
from torchjac._evaluate.kernel.places import Place, Product, Scaling, place_of
from torchjac._evaluate.kernel.uses import Use

# How many times the rounding errors of a backward pass are let pass.
NOISE = 100.0


@dataclass(frozen=True, slots=True)
class Factor:
    """Jacobians of samples by a parameter, or by a weight and the bias beside it.

    Attributes:
        parameters: Their numbers.
        shapes: Their shapes.
        jacobian: The factors.
        flipped: Whether the weight is (in, out).
    """

    parameters: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    jacobian: Outer | Explicit
    flipped: bool = False

    def gradients(self, weights: Tensor) -> list[Tensor]:
        """Sums over outputs and samples, for each parameter."""
        return [rows.reshape(shape) for rows, shape in self._cut(self.jacobian.weighed(weights))]

    def sizes(self, weights: Tensor) -> list[Tensor]:
        """The same sums over the sizes of all terms, which bound their rounding errors."""
        jacobian = self.jacobian
        if isinstance(jacobian, Explicit):
            sizes: Outer | Explicit = Explicit(jacobian.rows.abs())
        else:
            inputs = jacobian.inputs if jacobian.one_hot else jacobian.inputs.abs()
            sizes = replace(jacobian, cotangents=jacobian.cotangents.abs(), inputs=inputs)
        return replace(self, jacobian=sizes).gradients(weights.abs())

    def separate(self) -> "list[Factor]":
        """One for each parameter, multiplied out."""
        jacobian = self.jacobian
        rows = jacobian.rows if isinstance(jacobian, Explicit) else jacobian.explicit()
        return [
            Factor((number,), (shape,), Explicit(part.flatten(2)))
            for number, (part, shape) in zip(self.parameters, self._cut(rows), strict=True)
        ]

    def _cut(self, rows: Tensor) -> list[tuple[Tensor, torch.Size]]:
        """(..., groups, out, in) cut into weight and bias, in the order of the parameter."""
        if isinstance(self.jacobian, Explicit):
            return [(rows, self.shapes[0])]
        parts = [rows] if len(self.parameters) == 1 else [rows[..., :-1], rows[..., -1:]]
        parts[0] = parts[0].mT if self.flipped else parts[0]
        return list(zip(parts, self.shapes, strict=True))


@dataclass(slots=True)
class Cotangents:
    """Cotangents at the nodes of a graph, and what they were seeded with.

    Attributes:
        at: For each node its cotangents, shape (outputs + 1, *output): one seed for each output
            of a sample, and one that weighs outputs and samples.
        weights: Of the last seed, shape (outputs, samples).
        scale: Size of what was differentiated, of which rounding may leave a part everywhere.
    """

    at: dict[Any, Tensor]
    weights: Tensor
    scale: Tensor

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.weights.shape[1]

    def is_leading(self, rows: Tensor) -> bool | None:
        """Whether rows belong to samples in runs or in turns, None if neither holds.

        Args:
            rows: Cotangents, shape (outputs + 1, rows, elements of a row).

        Returns:
            True for runs, False for turns, None where rows mix samples.
        """
        count = rows.shape[1]
        if not self.samples or count % self.samples:
            return None
        repeats = count // self.samples
        for leading in (True, False):
            weights = (
                self.weights.repeat_interleave(repeats, 1)
                if leading
                else self.weights.repeat(1, repeats)
            )
            weights = weights.to(rows)
            ours = torch.einsum("on,onk->nk", weights, rows[:-1])
            if self.agrees(ours, rows[-1], partial(_bound, weights, rows)):
                return leading
        return None

    def agrees(
        self,
        ours: Tensor,
        true: Tensor,
        bound: Callable[[], Tensor],
        noise: Callable[[], Tensor] | None = None,
    ) -> bool:
        """Whether a sum is what it should be, but for rounding.

        Args:
            ours: The sum.
            true: What it should be.
            bound: Gives the sum of the sizes of its terms: where they cancel, their rounding
                errors are what is left.
            noise: Gives by how much `true` differs from itself when it is computed once more.

        Returns:
            True if it is.
        """
        off = (ours - true).norm()
        eps = max(torch.finfo(ours.dtype).eps, torch.finfo(true.dtype).eps)
        tolerance = min(OWN_UNITS * eps, TOLERANCE_CAP)
        if bool(off <= tolerance * true.norm()):
            return True
        known = ours.isfinite() & true.isfinite()  # 0 * NaN spreads in another way
        off = torch.where(known, ours - true, 0).norm()
        bounds = torch.where(known, bound(), 0).nan_to_num(posinf=0.0).norm()
        scale = min(COMMON_UNITS * eps, TOLERANCE_CAP) * self.scale.nan_to_num(posinf=0.0)
        allowed = tolerance * bounds + scale
        if bool(off <= allowed):
            return True
        return noise is not None and bool(off <= allowed + NOISE * noise().norm())


def _bound(weights: Tensor, rows: Tensor) -> Tensor:
    return torch.einsum("on,onk->nk", weights.abs(), rows[:-1].abs())


def factors_of(
    places: Sequence[Sequence[Place | str]], parameters: Sequence[Tensor], cotangents: Cotangents
) -> tuple[list[Factor], dict[int, str]]:
    """Factors of the Jacobians by those parameters whose uses are all known.

    Args:
        places: Of each parameter its uses, or what is not known of them.
        parameters: The parameters.
        cotangents: At the nodes of the places.

    Returns:
        The factors, and for each other parameter that is used the reason.
    """
    reader = _Reader(cotangents)
    reasons: dict[int, str] = {}
    known: dict[int, list[_Read]] = {}
    for number, uses in enumerate(places):
        reads: list[_Read] = []
        unknown = [place for place in uses if isinstance(place, str)]
        for place in unknown or uses:
            read = place if isinstance(place, str) else reader.read(place)
            if isinstance(read, str):
                reasons[number] = read
                break
            reads.append(read)
        if reads and number not in reasons:
            known[number] = reads
    return [*_paired(known, parameters), *_alone(known, parameters)], reasons


@dataclass(frozen=True, slots=True)
class _Read:
    """A use, read: factors of one sort."""

    node: Any
    jacobian: Outer | Explicit
    flipped: bool = False
    is_bias: bool = False


class _Reader:
    """Reads uses; what the uses of one node share is computed once."""

    def __init__(self, cotangents: Cotangents) -> None:
        self._cotangents = cotangents
        self._arranged: dict[Any, tuple[Tensor, bool] | None] = {}

    def read(self, place: Place) -> "_Read | str":
        """Factors of a use, or why there are none."""
        read = self._product(place) if isinstance(place, Product) else self._scaling(place)
        return read or f"rows of {place.node.name()} belong to no single sample"

    def _product(self, place: Product) -> _Read | None:
        if place.node not in self._arranged:
            self._arranged[place.node] = self._arrange(place)
        known = self._arranged[place.node]
        if known is None:
            return None
        cotangents, leading = known
        if place.inputs is None:
            _, samples, groups, positions, _ = cotangents.shape
            ones = cotangents.new_ones(1, 1, 1, 1).expand(samples, groups, positions, 1)
            return _Read(place.node, Outer(cotangents, ones), is_bias=True)
        inputs = _apart(place.inputs, 0, self._cotangents.samples, leading)
        if not place.one_hot:
            inputs = inputs.transpose(1, 2).flatten(2, 3)
        return _Read(place.node, Outer(cotangents, inputs, place.one_hot), place.flipped)

    def _arrange(self, place: Product) -> tuple[Tensor, bool] | None:
        rows = place.by_rows(self._cotangents.at[place.node])
        leading = self._cotangents.is_leading(rows)
        if leading is None:
            return None
        apart = _apart(place.arrange(rows[:-1]), 1, self._cotangents.samples, leading)
        return apart.transpose(2, 3).flatten(3, 4), leading

    def _scaling(self, place: Scaling) -> _Read | None:
        cotangents = self._cotangents.at[place.node]
        shape = list(place.shape)
        while shape and shape[0] == 1:
            del shape[0]
        outer = cotangents.dim() - 1 - len(shape)
        if outer < 1:
            return None
        rows = cotangents.flatten(1, outer)
        leading = self._cotangents.is_leading(rows.unsqueeze(2).flatten(2))
        if leading is None:
            return None
        if place.factors is not None:
            rows = (cotangents * place.factors.detach()).flatten(1, outer)
        apart = _apart(rows[:-1], 1, self._cotangents.samples, leading)
        summed = [2, *(k + 3 for k, size in enumerate(shape) if size == 1)]
        return _Read(place.node, Explicit(apart.sum(summed).unsqueeze(2).flatten(2)))


def _apart(rows: Tensor, axis: int, samples: int, leading: bool) -> Tensor:
    """Rows along an axis cut into samples and rows of a sample."""
    count = rows.shape[axis] // samples
    if leading:
        return rows.unflatten(axis, (samples, count))
    return rows.unflatten(axis, (count, samples)).transpose(axis, axis + 1)


def _paired(known: dict[int, list[_Read]], parameters: Sequence[Tensor]) -> list[Factor]:
    """Weights with their biases, which share cotangents: x is continued by a one."""
    biases = {
        tuple(read.node for read in reads): number
        for number, reads in known.items()
        if all(read.is_bias for read in reads)
    }
    factors = []
    for number, reads in list(known.items()):
        bias = biases.get(tuple(read.node for read in reads))
        weights = _same_outer(reads)
        if bias is None or bias == number or not {bias, number} <= known.keys():
            continue
        if weights is None or weights.one_hot:
            continue
        inputs = nn.functional.pad(weights.inputs, (0, 1), value=1.0)
        numbers, flipped = (number, bias), reads[0].flipped
        shapes = tuple(parameters[k].shape for k in numbers)
        factors.append(Factor(numbers, shapes, Outer(weights.cotangents, inputs), flipped))
        del known[number], known[bias]
    return factors


def _alone(known: dict[int, list[_Read]], parameters: Sequence[Tensor]) -> list[Factor]:
    factors = []
    for number, reads in known.items():
        shape = parameters[number].shape
        whole = _same_outer(reads)
        if whole is not None:
            factors.append(Factor((number,), (shape,), whole, reads[0].flipped))
            continue
        rows = [
            part.jacobian
            for read in reads
            for part in Factor((number,), (shape,), read.jacobian, read.flipped).separate()
            if isinstance(part.jacobian, Explicit)
        ]
        total = torch.stack([part.rows for part in rows]).sum(0) if len(rows) > 1 else rows[0].rows
        factors.append(Factor((number,), (shape,), Explicit(total)))
    return factors


def _same_outer(reads: Sequence[_Read]) -> Outer | None:
    """All uses as one sum of outer products, None where they are of different sorts."""
    parts = [read.jacobian for read in reads if isinstance(read.jacobian, Outer)]
    if len(parts) != len(reads) or len({read.flipped for read in reads}) > 1:
        return None
    return joined(parts) if all(part.fits(parts[0]) for part in parts) else None


def places_of(uses: Sequence[Use], parameter: Tensor) -> list[Place | str]:
    """Uses of a parameter, read: of each what its Jacobian is made of, or that nobody knows."""
    return [place_of(use, parameter) or f"used in {use.name}, which no rule knows" for use in uses]


def nodes_to_seed(places: Sequence[Sequence[Place | str]]) -> list[Any]:
    """Nodes of those parameters whose uses are all known, each once."""
    nodes: dict[Any, None] = {}
    for uses in places:
        if not any(isinstance(place, str) for place in uses):
            nodes.update((place.node, None) for place in uses if not isinstance(place, str))
    return list(nodes)
