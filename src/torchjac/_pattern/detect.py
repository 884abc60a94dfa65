"""From a function to the sparsity pattern of its Jacobian."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

import torchjac._local.rules  # noqa: F401 - registers the rules
from torchjac._inputs.signature import Signature
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram, Node
from torchjac._local.call import Call
from torchjac._local.registry import Terms, opaque_terms, terms_of
from torchjac._pattern.pattern import SparsityPattern
from torchjac._pattern.read import read
from torchjac._pattern.sets import IndexSets, identity, nothing, union


@dataclass(frozen=True, eq=False)
class Detection:
    """A pattern and how it was found.

    Attributes:
        pattern: Over all outputs and all inputs, each laid out flat, one after the other.
        program: The linear program that was read.
        scope: "global", or "local" to this x.
        opaque_ops: Names of the operations that no rule knows, each once.
        pattern_s: Seconds that reading took.
    """

    pattern: SparsityPattern
    program: LinearProgram
    scope: str
    opaque_ops: tuple[str, ...]
    pattern_s: float


def detect(signature: Signature, scope: str = "global") -> Detection:
    """Find the sparsity pattern of a Jacobian.

    Args:
        signature: The function and where it is differentiated.
        scope: "global": right for every x that takes the same branches; "local": indices that
            depend on x (of a sort, a maximum) count as they are at this x.

    Returns:
        The pattern.
    """
    program, outputs = linearize(signature)
    began = perf_counter()
    results, opaque = read_program(program, scope)
    pattern = _joined(program, results, outputs)
    return Detection(pattern, program, scope, opaque, perf_counter() - began)


def read_program(
    program: LinearProgram, scope: str = "global"
) -> tuple[list[IndexSets | None], tuple[str, ...]]:
    """The index sets of the results of a program.

    Args:
        program: What to read.
        scope: As in `detect`.

    Returns:
        The sets of each result, None for one that is zero, and the names of the operations that
        no rule knows.
    """
    shapes = [program.values[n].shape for n in program.tangents]
    sizes = [prod(shape) for shape in shapes]
    starts = np.cumsum([0, *sizes])
    known = {
        n: identity(shape, int(start), int(starts[-1]))
        for n, shape, start in zip(program.tangents, shapes, starts[:-1], strict=True)
    }
    last = {number: k for k, node in enumerate(program.nodes) for number in node.inputs}
    kept = set(program.outputs)
    opaque: dict[str, None] = {}
    for k, node in enumerate(program.nodes):
        if program.linear.isdisjoint(node.inputs):
            continue
        call = Call(node, program, scope == "local")
        terms = terms_of(call)
        if terms is None:
            opaque[node.name] = None
            terms = opaque_terms(call)
        _read_node(node, terms, program, known, int(starts[-1]))
        for number in node.inputs:
            if last[number] == k and number not in kept:
                known.pop(number, None)
    return [None if n is None else known[n] for n in program.outputs], tuple(opaque)


def _read_node(
    node: Node,
    terms: Mapping[int, Terms],
    program: LinearProgram,
    known: dict[int, IndexSets],
    size: int,
) -> None:
    for position, number in enumerate(node.outputs):
        if number is None:
            continue
        result = nothing(program.values[number].shape, size)
        for term in terms.get(position, ()):
            sets = known[term.source.number]
            for linear_map in term.maps:
                sets = read(sets, linear_map)
            result = union(result, sets)
        if result.shape != program.values[number].shape:
            raise RuntimeError(
                f"the rule of {node.name} gives shape {result.shape}, "
                f"the operation {program.values[number].shape}"
            )
        known[number] = result


def _joined(
    program: LinearProgram, results: Sequence[IndexSets | None], outputs: Sequence[Tensor]
) -> SparsityPattern:
    """One pattern of all outputs by all inputs."""
    targets = [program.values[n].shape for n in program.primals]
    if program.direction == "jvp":
        targets = [tuple(output.shape) for output in outputs]
    counts = [prod(shape) for shape in targets]
    size = sum([prod(program.values[n].shape) for n in program.tangents])
    rows = [
        sp.csr_array((count, size), dtype=bool) if sets is None else sets.rows()
        for sets, count in zip(results, counts, strict=True)
    ]
    matrix = sp.vstack(rows, format="csr") if rows else sp.csr_array((0, size), dtype=bool)
    if program.direction == "vjp":
        matrix = matrix.T.tocsr()
    matrix.sort_indices()
    return SparsityPattern(matrix.shape, matrix.indptr, matrix.indices)
