"""Walk through a linear program and read each operation as index sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from torchjac._linearize.program import LinearProgram, Node
from torchjac._local.algebra import Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, opaque_terms
from torchjac._local.rules import terms_of
from torchjac._pattern.read import read
from torchjac._pattern.sets import HeadingForDense, IndexSets, identity, nothing, union


@dataclass(frozen=True, eq=False)
class Reading:
    """What a walk found.

    Attributes:
        results: Index sets of each result of the program, None for one that is zero.
        varying: The part of them that an x-dependent coefficient has a hand in.
        opaque_ops: Names of the operations that no rule knows, each once.
        dense_ops: Names of those at which the sets were all but full, and given up.
    """

    results: Sequence[IndexSets | None]
    varying: Sequence[IndexSets | None]
    opaque_ops: tuple[str, ...]
    dense_ops: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Dependence:
    """What a tensor depends on, and on what of it with a factor that x has changed."""

    whole: IndexSets
    varying: IndexSets

    def collapsed(self) -> "_Dependence":
        whole = self.whole.collapsed()
        return _Dependence(whole, whole)


def walk(program: LinearProgram, scope: str = "global") -> Reading:
    """Read a program.

    Args:
        program: What to read.
        scope: "global" or "local".

    Returns:
        The index sets of its results.
    """
    known = _inputs(program)
    last = {number: k for k, node in enumerate(program.nodes) for number in node.inputs}
    opaque: dict[str, None] = {}
    dense: dict[str, None] = {}
    for k, node in enumerate(program.nodes):
        if program.linear.isdisjoint(node.inputs):
            continue
        call = Call(node, program, scope == "local")
        terms = terms_of(call)
        if terms is None:
            opaque[node.name] = None
            terms = opaque_terms(call)
        for position, number in enumerate(node.outputs):
            if number is None:
                continue
            found = _read_terms(call, terms.get(position, ()), number, known, dense)
            known[number] = found
        for number in node.inputs:
            if last[number] == k and number not in program.outputs:
                known.pop(number, None)
    found = [None if n is None else known[n] for n in program.outputs]
    return Reading(
        [None if f is None else f.whole for f in found],
        [None if f is None else f.varying for f in found],
        tuple(opaque),
        tuple(dense),
    )


def _inputs(program: LinearProgram) -> dict[int, _Dependence]:
    shapes = [program.values[n].shape for n in program.tangents]
    starts = np.cumsum([0, *[prod(shape) for shape in shapes]])
    size = int(starts[-1])
    return {
        n: _Dependence(identity(shape, int(start), size), nothing(shape, size))
        for n, shape, start in zip(program.tangents, shapes, starts[:-1], strict=True)
    }


def _read_terms(
    call: Call, terms: Terms, number: int, known: dict[int, _Dependence], dense: dict[str, None]
) -> _Dependence:
    """Read the terms of one result; where the sets grow too full, with coarser ones."""
    try:
        found = _sum_of_terms(call, terms, number, known)
    except HeadingForDense:
        for term in terms:
            known[term.source.number] = known[term.source.number].collapsed()
        found = _sum_of_terms(call, terms, number, known).collapsed()
        dense[call.node.name] = None
    if found.whole.is_all_but_dense:
        dense[call.node.name] = None
        return found.collapsed()
    return found


def _sum_of_terms(
    call: Call, terms: Terms, number: int, known: dict[int, _Dependence]
) -> _Dependence:
    shape = call.program.values[number].shape
    size = sum([prod(call.program.values[n].shape) for n in call.program.tangents])
    whole = varying = nothing(shape, size)
    depends_on_x = _has_varying_factor(call.node, call.program)
    for term in terms:
        source = known[term.source.number]
        sets = _chain(source.whole, term)
        if sets.shape != shape:
            raise RuntimeError(
                f"the rule of {call.node.name} gives shape {sets.shape}, the operation {shape}"
            )
        whole = union(whole, sets)
        if depends_on_x or source.varying is source.whole:
            varying = union(varying, sets)
        elif not source.varying.is_empty:
            varying = union(varying, _chain(source.varying, term))
    return _Dependence(whole, whole if depends_on_x else varying)


def _chain(sets: IndexSets, term: Term) -> IndexSets:
    for linear_map in term.maps:
        sets = read(sets, linear_map)
    return sets


def _has_varying_factor(node: Node, program: LinearProgram) -> bool:
    """Whether an operation has an argument that depends on x."""
    return any([n not in program.linear and n not in program.constants for n in node.inputs])
