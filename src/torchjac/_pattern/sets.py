"""Sets of input elements, one for every element of a tensor, as sparse as they are.

A tensor that depends on the input has a set of input elements for each of its own. Many elements
share a set (all channels of a convolution, all entries of a broadcast), so that a tensor is an
array of numbers of sets, and the sets themselves are rows of a table. Set 0 is empty.

Moving data then moves numbers, whatever the sets hold, and only a union makes new sets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._torch import outside_modes

# Sets that hold more than this, counted over the elements they are to be united for, or that fill
# more than this part of their matrix, are not worth having one by one.
MOST_ENTRIES = 200_000_000
MOST_DENSITY = 0.3
FEW_ENTRIES = 1_000_000
# Sets so many times larger than others may hold them, which is looked at before they are united.
_MANY_TIMES = 8

IntArray = NDArray[Any]
Table = Any  # scipy.sparse.csr_array of bool, which scipy leaves without a type


class HeadingForDense(Exception):
    """So many entries that the pattern will be all but dense: the walk goes on with fewer."""


@dataclass(frozen=True, eq=False)
class IndexSets:
    """Which input elements each element of a tensor depends on.

    Attributes:
        of: Number of the set of each element, int32, with the shape of the tensor.
        table: The sets, one a row, shape (sets, input elements); row 0 is empty.
    """

    of: IntArray
    table: Table

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.of.shape

    @cached_property
    def is_empty(self) -> bool:
        """Whether no element depends on anything."""
        return not self.of.any()

    def moved(self, run: Callable[[Tensor], Tensor]) -> "IndexSets":
        """The sets after a movement of data: `run` moves numbers as it moves elements.

        Args:
            run: Moves entries, repeats them, or puts zeros between.

        Returns:
            The sets of the elements of its result.
        """
        return IndexSets(run_on_integers(run, self.of), self.table)

    def reshaped(self, shape: tuple[int, ...]) -> "IndexSets":
        """The same elements under another shape."""
        return IndexSets(self.of.reshape(shape), self.table)

    def expanded(self, shape: tuple[int, ...]) -> "IndexSets":
        """The elements repeated as broadcasting does."""
        return (
            self if shape == self.shape else IndexSets(np.broadcast_to(self.of, shape), self.table)
        )

    def kept_where(self, mask: IntArray) -> "IndexSets":
        """The sets of the elements where `mask` holds, empty ones elsewhere."""
        return IndexSets(np.where(mask, self.of, np.int32(0)), self.table)

    @property
    def entries(self) -> int:
        """Number of entries of all elements together."""
        return int(np.diff(self.table.indptr)[self.of.ravel()].sum(dtype=np.int64))

    @property
    def is_all_but_dense(self) -> bool:
        """Whether the sets are so full that keeping them one by one does not pay."""
        entries = self.table.nnz
        return entries > FEW_ENTRIES and entries > MOST_DENSITY * prod(self.table.shape)

    def collapsed(self) -> "IndexSets":
        """One set for all elements that have any: all that they depend on together."""
        full = np.unique(self.table.indices)
        indptr = np.array([0, 0, len(full)])
        table = sp.csr_array(
            (np.ones(len(full), bool), full, indptr), shape=(2, self.table.shape[1])
        )
        return IndexSets((self.of > 0).astype(np.int32), table)

    def rows(self) -> Table:
        """A row for every element, in order: CSR, shape (elements, input elements)."""
        self.table.sort_indices()  # sets that many elements share are sorted once
        return self.table[self.of.ravel()]


def identity(shape: tuple[int, ...], start: int, size: int) -> IndexSets:
    """The sets of an input: each element is its own.

    Args:
        shape: Shape of the input.
        start: Number of its first element among all input elements.
        size: Number of all input elements.

    Returns:
        The sets.
    """
    count = prod(shape)
    indptr = np.concatenate([[0], np.arange(count + 1)]).astype(np.int32)
    columns = np.arange(start, start + count, dtype=np.int32)
    table = sp.csr_array((np.ones(count, bool), columns, indptr), shape=(count + 1, size))
    return IndexSets(np.arange(1, count + 1, dtype=np.int32).reshape(shape), table)


def nothing(shape: tuple[int, ...], size: int) -> IndexSets:
    """The sets of a tensor that depends on no input."""
    return IndexSets(np.zeros(shape, np.int32), _table_of_empty(size))


def union(a: IndexSets, b: IndexSets) -> IndexSets:
    """The union of two sets for every element.

    Args:
        a: The sets of a tensor.
        b: Sets of one of the same shape.

    Returns:
        The unions.
    """
    if b.is_empty or (a.table is b.table and (a.of is b.of or np.array_equal(a.of, b.of))):
        return a
    if a.is_empty:
        return b
    both = (a.of > 0) & (b.of > 0)
    # Where one is empty the other stands, renumbered for a table that holds the sets of both.
    shift = a.table.shape[0] - 1
    of = a.of + np.where(b.of > 0, b.of + np.int32(shift), np.int32(0))
    if not both.any():
        return _pruned(of, sp.vstack([a.table, b.table[1:]], format="csr"))
    firsts, seconds, inverse = _distinct_pairs(a.of[both], b.of[both], b.table.shape[0])
    for one, other, inner, outer in ((a, b, firsts, seconds), (b, a, seconds, firsts)):
        if not ((one.of > 0) & (other.of == 0)).any() and _contains(other, outer, one, inner):
            return other
    merged = a.table[firsts] + b.table[seconds]
    if both.all():
        table = sp.vstack([_table_of_empty(merged.shape[1]), merged], format="csr")
        return IndexSets((inverse + 1).astype(np.int32).reshape(both.shape), table)
    table = sp.vstack([a.table, b.table[1:], merged], format="csr")
    of[both] = inverse + (shift + b.table.shape[0])
    return _pruned(of, table)


def _contains(outer: IndexSets, of_outer: IntArray, inner: IndexSets, of_inner: IntArray) -> bool:
    """Whether sets hold those that they are to be united with, where that is quick to see."""
    # Along an axis that a softmax sums over all elements get one set, which holds their own.
    lengths = np.diff(inner.table.indptr)[of_inner]
    most = int(np.diff(outer.table.indptr)[of_outer].sum(dtype=np.int64))
    if most < FEW_ENTRIES or most < _MANY_TIMES * int(lengths.sum(dtype=np.int64)):
        return False
    width = outer.table.shape[1]
    given = outer.table.tocoo()
    known = np.sort(given.row.astype(np.int64) * width + given.col)
    wanted = np.repeat(of_outer.astype(np.int64) * width, lengths) + inner.table[of_inner].indices
    near = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return bool((known[near] == wanted).all())


def gathered(sets: IndexSets, numbers: IntArray, shape: tuple[int, ...]) -> IndexSets:
    """The union of the sets of several elements, for every element of a result.

    Args:
        sets: The sets of a tensor.
        numbers: Numbers of sets, shape (elements of the result, sets for each), 0 for none.
        shape: Shape of the result.

    Returns:
        The unions.
    """
    if not numbers.size:
        return nothing(shape, sets.table.shape[1])
    if numbers.shape[1] == 1 or (numbers == numbers[:, :1]).all():
        return IndexSets(np.ascontiguousarray(numbers[:, 0]).reshape(shape), sets.table)
    first, inverse = _distinct_rows(numbers)
    chosen = numbers[first]
    count, width = chosen.shape
    indptr = np.arange(0, count * width + 1, width)
    chosen = np.ascontiguousarray(chosen).ravel()
    return combined(sets.table, chosen, indptr, inverse.reshape(shape))


def deposited(sets: IndexSets, targets: IntArray, shape: tuple[int, ...]) -> IndexSets:
    """The union of the sets of all elements that are put to one place.

    Args:
        sets: The sets of a tensor.
        targets: Where each of its elements is put, counted from 1 in the result; 0 for nowhere.
        shape: Shape of the result.

    Returns:
        The unions, empty where nothing was put.
    """
    count = prod(shape)
    live = (targets.ravel() > 0) & (sets.of.ravel() > 0)
    places, numbers = targets.ravel()[live] - 1, sets.of.ravel()[live]
    order = np.argsort(places, kind="stable")
    lengths = np.bincount(places, minlength=count)
    if (lengths <= 1).all():
        of = np.zeros(count, np.int32)
        of[places] = numbers
        return _pruned(of.reshape(shape), sets.table)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    inverse = np.arange(count).reshape(shape)
    return combined(sets.table, numbers[order], indptr, inverse)


def combined(table: Table, numbers: IntArray, indptr: IntArray, inverse: IntArray) -> IndexSets:
    """New sets, each the union of some of a table.

    Args:
        table: The sets there are.
        numbers: Numbers of those to unite, one new set after the other.
        indptr: Where each new set begins in `numbers`.
        inverse: Which new set each element has, with the shape of the tensor.

    Returns:
        The sets.

    Raises:
        HeadingForDense: They would hold too much.
    """
    if int(np.diff(table.indptr)[numbers].sum(dtype=np.int64)) > MOST_ENTRIES:
        raise HeadingForDense
    which = sp.csr_array(
        (np.ones(len(numbers), bool), numbers, indptr), shape=(len(indptr) - 1, table.shape[0])
    )
    united = sp.vstack([_table_of_empty(table.shape[1]), which @ table], format="csr")
    return IndexSets((inverse + 1).astype(np.int32), united)


def run_on_integers(run: Callable[[Tensor], Tensor], numbers: IntArray) -> IntArray:
    """Move integers as `run` moves the entries of a tensor.

    Args:
        run: An operation that moves entries, repeats them, or puts zeros between.
        numbers: What to move, int32.

    Returns:
        Its result, int32. Some operations take floating-point numbers only: those of float64
        hold all integers up to 2^53.
    """
    with outside_modes():  # nobody who records what is done to tensors shall record this
        tensor = torch.from_numpy(np.require(numbers, requirements=["C", "W"]))
        try:
            moved = run(tensor)
        except (RuntimeError, NotImplementedError):
            moved = run(tensor.double())
        return moved.to(torch.int32).contiguous().numpy()


@lru_cache(maxsize=16)
def _table_of_empty(size: int) -> Table:
    return sp.csr_array((1, size), dtype=bool)


def _distinct_pairs(a: IntArray, b: IntArray, size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Pairs that differ, and which of them each pair is."""
    if min(a.max(), b.max()) < len(a) // 2:  # fewer sets than elements: some pairs are the same
        keys, inverse = np.unique(a.astype(np.int64) * size + b, return_inverse=True)
        return keys // size, keys % size, inverse
    return a, b, np.arange(len(a))


def _distinct_rows(numbers: IntArray) -> tuple[IntArray, IntArray]:
    """The first of each kind of row, and which kind each row is."""
    everything = np.arange(len(numbers))
    if len(numbers) < 2:
        return everything, everything
    weights = np.random.default_rng(0).integers(1, 2**62, numbers.shape[1])
    _, first, inverse = np.unique(numbers @ weights, return_index=True, return_inverse=True)
    if len(first) > len(numbers) // 2 or not np.array_equal(numbers[first][inverse], numbers):
        return everything, everything
    return first, inverse


def _pruned(of: IntArray, table: Table) -> IndexSets:
    """The sets without those that no element has, if they are many."""
    if table.shape[0] <= 2 * of.size + 1:
        return IndexSets(of.astype(np.int32, copy=False), table)
    used = np.zeros(table.shape[0], bool)
    used[of.ravel()] = True
    used[0] = True
    renumbered = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return IndexSets(renumbered[of], table[np.flatnonzero(used)])
