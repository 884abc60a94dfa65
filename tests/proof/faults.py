"""Faults to plant in what a rule says: for each local map a few wrong ones in its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchjac._local.algebra import (
    Contract,
    Convolve,
    Deposit,
    LinearMap,
    Matrix,
    Mix,
    Move,
    Opaque,
    Reduce,
    Scale,
    Scan,
    Term,
)
from torchjac._local.call import Call
from torchjac._local.registry import Rule, Terms

# From a map to the one that stands in its place, None where the fault does not apply.
MapFault = Callable[[Any], LinearMap | None]
Fault = Callable[[Sequence[Term]], Sequence[Term]]


def with_a_hole(numbers: Tensor) -> Tensor:
    """The first element that is not zero made zero."""
    dense = numbers if numbers.layout is torch.strided else numbers.to_dense()
    holed = dense.clone().reshape(-1)
    places = holed.nonzero()
    if len(places):
        holed[places[0]] = 0
    return holed.reshape(dense.shape)


def everywhere(shape: Sequence[int]) -> Tensor:
    return torch.ones(tuple(shape), dtype=torch.bool)


def shifted(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def moved(t: Tensor) -> Tensor:
        right = run(t)
        return right.reshape(-1).roll(1).reshape(right.shape)

    return moved


def emptied(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The last element is zero."""

    def moved(t: Tensor) -> Tensor:
        right = run(t).clone().reshape(-1)
        if len(right):
            right[-1] = 0
        return right.reshape(run(t).shape)

    return moved


def hole_in_scale(scale: Scale) -> Scale:
    known = everywhere(scale.shape) if scale.coefficient is None else scale.coefficient
    return replace(scale, coefficient=with_a_hole(known))


def scaled(coefficient: Tensor | None) -> Tensor | None:
    is_number = coefficient is not None and coefficient.is_floating_point()
    return 1.001 * coefficient if is_number else None


def swapped_letters(contract: Contract) -> Contract | None:
    mine, rest = contract.equation.split(",")
    if len(mine) < 2:
        return None
    return replace(contract, equation=f"{mine[:-2]}{mine[-1]}{mine[-2]},{rest}")


def hole_in_contract(contract: Contract) -> Contract:
    known = everywhere(contract.sizes) if contract.value is None else contract.value
    return replace(contract, value=with_a_hole(known))


def hole_in_kernel(convolve: Convolve) -> Convolve:
    known = everywhere(convolve.kernel).double() if convolve.value is None else convolve.value
    return replace(convolve, value=with_a_hole(known))


def other_dims(dims: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    moved = tuple(sorted([(d + 1) % rank for d in dims]))
    return None if moved == dims else moved


def hole_in_mix(mix: Mix) -> Mix | None:
    return None if mix.nonzero is None else replace(mix, nonzero=with_a_hole(mix.nonzero))


def one_dim_less(mix: Mix) -> Mix | None:
    return replace(mix, dims=mix.dims[1:]) if mix.nonzero is None and mix.dims else None


def mixed_elsewhere(mix: Mix) -> Mix | None:
    dims = other_dims(mix.dims, len(mix.shape))
    return None if mix.nonzero is not None or dims is None else replace(mix, dims=dims)


def reduced_elsewhere(reduce: Reduce) -> Reduce | None:
    dims = other_dims(reduce.dims, max(reduce.dims, default=0) + 2)
    return None if dims is None else replace(reduce, dims=dims)


def kept_apart(opaque: Opaque) -> Opaque | None:
    more = opaque.batch_dims + 1
    return replace(opaque, batch_dims=more) if more <= len(opaque.shape) else None


MAP_FAULTS: Mapping[type, Mapping[str, MapFault]] = {
    Scale: {
        "a hole in a coefficient": hole_in_scale,
        "a scaled coefficient": lambda s: (
            None if (c := scaled(s.coefficient)) is None else replace(s, coefficient=c)
        ),
    },
    Move: {
        "a shifted move": lambda m: replace(m, run=shifted(m.run)),
        "an element not moved": lambda m: replace(m, run=emptied(m.run)),
    },
    Deposit: {
        "a shifted deposit": lambda m: replace(m, run=shifted(m.run)),
        "an element not put": lambda m: replace(m, run=emptied(m.run)),
    },
    Reduce: {"another axis reduced": reduced_elsewhere},
    Mix: {
        "a hole in a mix": hole_in_mix,
        "an axis not mixed": one_dim_less,
        "another axis mixed": mixed_elsewhere,
    },
    Scan: {"a scan turned around": lambda s: replace(s, reverse=not s.reverse)},
    Contract: {
        "letters swapped": swapped_letters,
        "a hole in a factor": hole_in_contract,
        "a scaled factor": lambda c: (
            None if (v := scaled(c.value)) is None else replace(c, value=v)
        ),
    },
    Convolve: {
        "a tap dropped": hole_in_kernel,
        "more padding": lambda c: replace(c, padding=tuple([p + 1 for p in c.padding])),
        "a wider stride": lambda c: replace(c, stride=tuple([s + 1 for s in c.stride])),
        "a wider dilation": lambda c: replace(c, dilation=tuple([d + 1 for d in c.dilation])),
        "a scaled kernel": lambda c: (
            None if (v := scaled(c.value)) is None else replace(c, value=v)
        ),
    },
    Matrix: {
        "columns shifted": lambda m: replace(m, columns=m.columns.roll(1)),
        "an entry dropped": lambda m: replace(m, rows=m.rows[1:], columns=m.columns[1:]),
    },
    Opaque: {"an axis kept apart": kept_apart},
}


def without_first_term(terms: Sequence[Term]) -> Sequence[Term]:
    return terms[1:]


def without_last_term(terms: Sequence[Term]) -> Sequence[Term]:
    return terms[:-1] if len(terms) > 1 else terms


def in_maps(kind: type, wrong: MapFault) -> Fault:
    """A fault in every map of one kind."""

    def plant(terms: Sequence[Term]) -> Sequence[Term]:
        return [
            term._replace(
                maps=[_planted(m, wrong) if isinstance(m, kind) else m for m in term.maps]
            )
            for term in terms
        ]

    return plant


def _planted(linear_map: LinearMap, wrong: MapFault) -> LinearMap:
    return wrong(linear_map) or linear_map


FAULTS: Mapping[str, Fault] = {
    "the first term missing": without_first_term,
    "the last term missing": without_last_term,
    **{
        name: in_maps(kind, wrong)
        for kind, faults in MAP_FAULTS.items()
        for name, wrong in faults.items()
    },
}


def faulty(rule: Rule, fault: Fault) -> Rule:
    """A rule with a fault in whatever it says."""

    def wrong(call: Call) -> Any:
        said = rule(call)
        if said is NotImplemented:
            return said
        if isinstance(said, Mapping):
            return {position: fault(terms) for position, terms in said.items()}
        return fault(said)

    return wrong


def applicable(said: Sequence[Terms]) -> Iterator[str]:
    """Names of the faults that make a difference to what a rule said.

    Yields:
        Keys of `FAULTS`.
    """
    lists = [list(terms) for terms in said]
    if any(lists):
        yield "the first term missing"
    if any(len(terms) > 1 for terms in lists):
        yield "the last term missing"
    for kind, faults in MAP_FAULTS.items():
        maps = [m for terms in lists for term in terms for m in term.maps if isinstance(m, kind)]
        for name, wrong in faults.items():
            if any(wrong(m) is not None for m in maps):
                yield name
