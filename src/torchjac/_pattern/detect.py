"""From a function to the sparsity pattern of its Jacobian."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor

from torchjac._inputs.signature import Signature
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram
from torchjac._pattern.pattern import SparsityPattern
from torchjac._pattern.sets import IndexSets
from torchjac._pattern.walk import walk
from torchjac.errors import MemoryBudgetError

# Entries of the largest pattern: eight bytes each make 8 GiB.
MOST_ENTRIES = 2**30


@dataclass(frozen=True, eq=False)
class Detection:
    """A pattern and how it was found.

    Attributes:
        pattern: Over all outputs and all inputs, each laid out flat, one after the other.
        constant: For each entry whether it is the same at every x, shape (nnz,).
        program: The linear program that was read.
        scope: "global", or "local" to this x.
        opaque_ops: Names of the operations that no rule knows, each once.
        dense_ops: Names of those at which the pattern was all but dense and was given up.
        pattern_s: Seconds that reading took.
    """

    pattern: SparsityPattern
    constant: NDArray[np.bool_]
    program: LinearProgram
    scope: str
    opaque_ops: tuple[str, ...]
    dense_ops: tuple[str, ...]
    pattern_s: float

    @property
    def direction(self) -> str:
        """Which program was read, "jvp" or "vjp"."""
        return self.program.direction

    @property
    def trace_s(self) -> float:
        """Seconds that tracing took."""
        return self.program.trace_s

    @cached_property
    def is_constant(self) -> bool:
        """Whether the whole Jacobian is the same at every x."""
        return bool(self.constant.all())


def detect(signature: Signature, scope: str = "global", *, live: bool = False) -> Detection:
    """Find the sparsity pattern of a Jacobian.

    Args:
        signature: The function and where it is differentiated.
        scope: "global": right for every x that takes the same branches; "local": indices that
            depend on x (of a sort, a maximum) count as they are at this x.
        live: Whether the pattern shall be right for any numbers in the tensors beside those that
            are differentiated.

    Returns:
        The pattern.

    Raises:
        MemoryBudgetError: It has more entries than can be kept.
    """
    program, outputs = linearize(signature, live=live)
    began = perf_counter()
    reading = walk(program.for_any_weights(), scope)
    pattern = _joined(signature.api, program, reading.results, outputs)
    constant = np.zeros(pattern.nnz, bool)
    if _entries(reading.varying) < pattern.nnz:
        constant = _not_in(_joined(signature.api, program, reading.varying, outputs), pattern)
    return Detection(
        pattern,
        constant,
        program,
        scope,
        reading.opaque_ops,
        reading.dense_ops,
        perf_counter() - began,
    )


def _entries(results: Sequence[IndexSets | None]) -> int:
    return sum([sets.entries for sets in results if sets is not None])


def _joined(
    api: str,
    program: LinearProgram,
    results: Sequence[IndexSets | None],
    outputs: Sequence[Tensor],
) -> SparsityPattern:
    """One pattern of all outputs by all inputs."""
    targets = [program.values[n].shape for n in program.primals[: len(program.outputs)]]
    if program.direction == "jvp":
        targets = [tuple(output.shape) for output in outputs]
    counts = [prod(shape) for shape in targets]
    size = sum([prod(program.values[n].shape) for n in program.tangents])
    entries = _entries(results)
    if entries > MOST_ENTRIES:
        raise MemoryBudgetError(
            f"{api}: the Jacobian, shape ({sum(counts)}, {size}) or transposed, has {entries:,} "
            "entries that can be nonzero, too many for a pattern. Use layout=torch.strided, or "
            "give a pattern that you know."
        )
    rows: list[Any] = [
        sp.csr_array((count, size), dtype=bool) if sets is None else sets.rows()
        for sets, count in zip(results, counts, strict=True)
    ]
    matrix: Any = sp.csr_array((0, size), dtype=bool)
    if rows:
        matrix = rows[0] if len(rows) == 1 else sp.vstack(rows, format="csr")
    if program.direction == "vjp":
        matrix = matrix.T.tocsr()
    matrix.sort_indices()
    return SparsityPattern(matrix.shape, matrix.indptr, matrix.indices)


def _not_in(part: SparsityPattern, whole: SparsityPattern) -> NDArray[np.bool_]:
    """For each entry of `whole` whether `part`, which lies within it, lacks it."""
    width = whole.shape[1]
    keys = whole.rows.astype(np.int64) * width + whole.indices
    found = part.rows.astype(np.int64) * width + part.indices
    lacks = np.ones(whole.nnz, bool)
    lacks[np.searchsorted(keys, found)] = False
    return lacks
