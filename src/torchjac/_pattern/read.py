"""The algebra read as index sets: what each local map does to the sets of its argument."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from string import ascii_lowercase
from typing import Any

import numpy as np
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
)
from torchjac._pattern.sets import (
    IndexSets,
    IntArray,
    deposited,
    gathered,
    run_on_integers,
)
from torchjac._pattern.windows import convolved

# A coefficient with more nonzeros than this counts as full, or its zeros would cost too much.
_MOST_ENTRIES = 50_000_000


def read(sets: IndexSets, linear_map: LinearMap) -> IndexSets:
    """The sets of a result.

    Args:
        sets: Those of the argument.
        linear_map: What happens to it.

    Returns:
        The sets of the result.
    """
    return _READINGS[type(linear_map)](sets, linear_map)


def _scale(sets: IndexSets, scale: Scale) -> IndexSets:
    result = sets.expanded(scale.shape)
    if scale.coefficient is None:
        return result
    nonzero = (scale.coefficient != 0).cpu().numpy()
    return result.kept_where(np.broadcast_to(nonzero, scale.shape))


def _move(sets: IndexSets, move: Move) -> IndexSets:
    return sets.moved(move.run)


def _deposit(sets: IndexSets, deposit: Deposit) -> IndexSets:
    count = prod(deposit.shape)
    places = np.arange(1, count + 1, dtype=np.int32).reshape(deposit.shape)
    return deposited(sets, run_on_integers(deposit.run, places), deposit.shape)


def _reduce(sets: IndexSets, reduce: Reduce) -> IndexSets:
    kept = [d for d in range(sets.of.ndim) if d not in reduce.dims]
    shape = tuple([sets.shape[d] for d in kept])
    count, width = prod(shape), prod([sets.shape[d] for d in reduce.dims])
    numbers = sets.of.transpose([*kept, *reduce.dims]).reshape(count, width)
    result = gathered(sets, numbers, shape)
    if not reduce.keepdim:
        return result
    return result.reshaped(tuple([1 if d in reduce.dims else n for d, n in enumerate(sets.shape)]))


def _mix(sets: IndexSets, mix: Mix) -> IndexSets:
    if mix.nonzero is not None:
        letters = ascii_lowercase[: sets.of.ndim]
        (dim,), batch = mix.dims, letters[: mix.nonzero.ndim - 2]
        out = letters[:dim] + "Z" + letters[dim + 1 :]
        equation = f"{letters},{batch}Z{letters[dim]}->{out}"
        return _contracted(sets, equation, tuple(mix.nonzero.shape), mix.nonzero)
    return _reduce(sets, Reduce(mix.dims, keepdim=True)).expanded(mix.shape)


def _scan(sets: IndexSets, scan: Scan) -> IndexSets:
    length = sets.shape[scan.dim]
    numbers = np.moveaxis(sets.of, scan.dim, -1)
    upto = np.tri(length, dtype=bool)
    upto = upto.T if scan.reverse else upto
    wide = np.where(upto, numbers[..., None, :], np.int32(0))
    result = gathered(sets, wide.reshape(numbers.size, length), numbers.shape)
    return IndexSets(np.moveaxis(result.of, -1, scan.dim), result.table)


def _opaque(sets: IndexSets, opaque: Opaque) -> IndexSets:
    batch = opaque.shape[: opaque.batch_dims]
    rest = tuple(range(opaque.batch_dims, sets.of.ndim))
    result = _reduce(sets, Reduce(rest))
    ones = (1,) * (len(opaque.shape) - len(batch))
    return result.reshaped((*batch, *ones)).expanded(opaque.shape)


def _matrix(sets: IndexSets, matrix: Matrix) -> IndexSets:
    rows, columns = matrix.rows.cpu().numpy(), matrix.columns.cpu().numpy()
    if matrix.dim is None:
        return _apply(sets, rows, columns, matrix.shape)
    length = matrix.shape[matrix.dim]
    seen = _seen_by_row(rows, columns, length, sets.shape[matrix.dim])
    numbers = np.moveaxis(sets.of, matrix.dim, -1)
    numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    wide = numbers[..., seen]
    result = gathered(sets, wide.reshape(-1, seen.shape[1]), wide.shape[:-1])
    return IndexSets(np.moveaxis(result.of, -1, matrix.dim), result.table)


def _seen_by_row(rows: IntArray, columns: IntArray, count: int, missing: int) -> IntArray:
    """The columns of each row, shape (count, most of any row), filled up with `missing`."""
    lengths = np.bincount(rows, minlength=count)
    order = np.argsort(rows, kind="stable")
    starts = np.cumsum(lengths) - lengths
    seen = np.full((count, max(int(lengths.max(initial=0)), 1)), missing)
    seen[rows[order], np.arange(len(rows)) - np.repeat(starts, lengths)] = columns[order]
    return seen


def _apply(sets: IndexSets, rows: IntArray, columns: IntArray, shape: tuple[int, ...]) -> IndexSets:
    """Unite the sets that the nonzeros of a matrix select."""
    numbers = IndexSets(sets.of.ravel()[columns], sets.table)
    return deposited(numbers, rows + 1, shape)


def _contract(sets: IndexSets, contract: Contract) -> IndexSets:
    return _contracted(sets, contract.equation, contract.sizes, contract.value)


def _contracted(
    sets: IndexSets, equation: str, lengths: tuple[int, ...], value: Tensor | None
) -> IndexSets:
    letters, others, out = equation.replace("->", ",").split(",")
    nonzeros = _nonzeros(value)
    # Letters that only the tangent has, and which are summed over, need no coefficient.
    free = [k for k, letter in enumerate(letters) if letter not in others and letter not in out]
    sets = _reduce(sets, Reduce(tuple(free)))
    letters = "".join([letter for k, letter in enumerate(letters) if k not in free])
    sizes = dict(zip(others, lengths, strict=True))
    sizes |= {k: n for k, n in zip(letters, sets.shape, strict=True) if n != 1 or k not in sizes}
    if nonzeros is not None and len(nonzeros[0]):
        # Along an axis that is broadcast the coefficient has nothing to choose.
        chosen = [d for d, k in enumerate(others) if lengths[d] == sizes[k]]
        others = "".join([others[d] for d in chosen])
        nonzeros = [nonzeros[d] for d in chosen]
    if nonzeros == []:
        nonzeros = None
    if nonzeros is not None:
        kept = prod([sizes[k] for k in letters if k not in others])
        if len(nonzeros[0]) * kept <= _MOST_ENTRIES:
            return _contract_nonzeros(sets, nonzeros, letters, others, out, sizes)
    summed = [k for k, letter in enumerate(letters) if letter not in out]
    sets = _reduce(sets, Reduce(tuple(summed)))
    rest = [letter for letter in letters if letter in out]
    order = [rest.index(letter) for letter in out if letter in rest]
    numbers = sets.of.transpose(order)
    spread = numbers.reshape([n if k in rest else 1 for k, n in _along(out, rest, numbers.shape)])
    return IndexSets(spread, sets.table).expanded(tuple([sizes[letter] for letter in out]))


def _along(out: str, rest: list[str], lengths: tuple[int, ...]) -> list[tuple[str, int]]:
    remaining = iter(lengths)
    return [(letter, next(remaining) if letter in rest else 1) for letter in out]


def _nonzeros(value: Tensor | None) -> list[IntArray] | None:
    """Where a coefficient is not zero, an array for each axis; None if it is zero nowhere."""
    if value is None:
        return None
    if value.layout is not torch.strided:
        found = value.to_sparse_coo().coalesce()
        return list(found.indices()[:, found.values() != 0].cpu().numpy())
    if bool(value.all()):
        return None
    return [part.cpu().numpy() for part in torch.nonzero(value, as_tuple=True)]


def _contract_nonzeros(
    sets: IndexSets,
    nonzeros: list[IntArray],
    letters: str,
    others: str,
    out: str,
    sizes: Mapping[str, int],
) -> IndexSets:
    """The sets of a contraction with a coefficient that has zeros: only the rest counts."""
    places = {letter: part[:, None] for letter, part in zip(others, nonzeros, strict=True)}
    alone = [letter for letter in letters if letter not in others]
    lengths = [sizes[letter] for letter in alone]
    grid = np.indices(lengths).reshape(len(alone), 1, prod(lengths))
    places |= dict(zip(alone, grid, strict=True))

    def flat(names: str, lengths: Sequence[int]) -> IntArray:
        number = np.zeros((len(nonzeros[0]), grid.shape[-1]), np.int64)
        for letter, length in zip(names, lengths, strict=True):
            number = number * length + (places[letter] if length != 1 else 0)
        return number.ravel()

    shape = tuple([sizes[letter] for letter in out])
    return _apply(sets, flat(out, shape), flat(letters, sets.shape), shape)


_READINGS: Mapping[type, Callable[[IndexSets, Any], IndexSets]] = {
    Scale: _scale,
    Move: _move,
    Deposit: _deposit,
    Reduce: _reduce,
    Mix: _mix,
    Scan: _scan,
    Opaque: _opaque,
    Matrix: _matrix,
    Contract: _contract,
    Convolve: convolved,
}
