"""The algebra read as extremes: the least and the greatest label that reach each element.

Where both are the same, one label reaches the element, whatever the operation sums up. So it is
seen along which axes an operation mixes, and which input element a sum belongs to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from torchjac._pattern.sets import run_on_integers
from torchjac._pattern.windows import windows

IntArray = NDArray[Any]
_NONE = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Extremes:
    """The least and the greatest label of each element.

    Attributes:
        low: int32, counted from 1; 0 where no label reaches.
        high: Likewise.
    """

    low: IntArray
    high: IntArray

    @property
    def span(self) -> int:
        """How far the labels that reach one element lie apart at most."""
        return int((self.high - self.low).max(initial=0))


def extremes(labels: IntArray, maps: Any) -> Extremes:
    """Least and greatest label after a chain of maps.

    Args:
        labels: Of the elements of the argument, 0 for none.
        maps: The chain.

    Returns:
        Those of the result.
    """
    found = Extremes(labels, labels)
    for linear_map in maps:
        found = _READINGS[type(linear_map)](found, linear_map)
    return found


def greatest(slices: IntArray, maps: Any) -> IntArray:
    """The greatest label after a chain of maps, for many slices at once.

    Args:
        slices: Labels of the elements of the argument, 0 for none, shape (k, *S).
        maps: The chain.

    Returns:
        Those of the result, shape (k, *T), which may be a view that repeats numbers.
    """
    for linear_map in maps:
        together = _TOGETHER.get(type(linear_map))
        if together is None or len(slices) == 1:
            slices = np.stack([extremes(labels, (linear_map,)).high for labels in slices])
        else:
            slices = together(slices, linear_map)
    return slices


def united(parts: Sequence[Extremes]) -> Extremes:
    """Extremes of what several chains put to the same elements.

    Args:
        parts: Those of each chain, at least one.

    Returns:
        Those of all.
    """
    if len(parts) == 1:
        return parts[0]
    low = np.minimum.reduce([np.where(part.low == 0, _NONE, part.low) for part in parts])
    high = np.maximum.reduce([part.high for part in parts])
    return Extremes(np.where(low == _NONE, 0, low), high)


def _each(found: Extremes, function: Callable[[IntArray], IntArray]) -> Extremes:
    low = function(found.low)
    return Extremes(low, low if found.high is found.low else function(found.high))


def _scale(found: Extremes, scale: Scale) -> Extremes:
    mask: Any = 1
    if scale.coefficient is not None:
        mask = np.broadcast_to((scale.coefficient != 0).cpu().numpy(), scale.shape)
    return _each(found, lambda x: np.broadcast_to(x, scale.shape) * np.int32(1) * mask)


def _move(found: Extremes, move: Move) -> Extremes:
    return _each(found, lambda x: run_on_integers(move.run, x))


def _over(found: Extremes, axes: tuple[int, ...], *, keepdim: bool) -> Extremes:
    """Extremes over axes; 0 is none."""
    low = np.where(found.low == 0, _NONE, found.low)
    low = low.min(axis=axes, keepdims=keepdim, initial=_NONE)
    high = found.high.max(axis=axes, keepdims=keepdim, initial=0)
    return Extremes(np.where(low == _NONE, 0, low).astype(np.int32), high.astype(np.int32))


def _reduce(found: Extremes, reduce: Reduce) -> Extremes:
    return _over(found, reduce.dims, keepdim=reduce.keepdim)


def _mix(found: Extremes, mix: Mix) -> Extremes:
    found = _over(found, mix.dims, keepdim=True)
    return _each(found, lambda x: np.broadcast_to(x, mix.shape))


def _opaque(found: Extremes, opaque: Opaque) -> Extremes:
    rank = found.low.ndim
    found = _over(found, tuple(range(opaque.batch_dims, rank)), keepdim=False)
    batch = opaque.shape[: opaque.batch_dims]
    ones = (1,) * (len(opaque.shape) - len(batch))
    return _each(found, lambda x: np.broadcast_to(x.reshape(*batch, *ones), opaque.shape))


def _scan(found: Extremes, scan: Scan) -> Extremes:
    low = np.where(found.low == 0, _NONE, found.low)
    flip = (lambda x: np.flip(x, scan.dim)) if scan.reverse else (lambda x: x)
    low = flip(np.minimum.accumulate(flip(low), axis=scan.dim))
    high = flip(np.maximum.accumulate(flip(found.high), axis=scan.dim))
    return Extremes(np.where(low == _NONE, 0, low), high)


def _deposited(found: Extremes, targets: IntArray, sources: Any, shape: Any) -> Extremes:
    low, high = np.full(prod(shape), _NONE, np.int32), np.zeros(prod(shape), np.int32)
    from_low, from_high = found.low.ravel()[sources], found.high.ravel()[sources]
    np.minimum.at(low, targets, np.where(from_low == 0, _NONE, from_low))
    np.maximum.at(high, targets, from_high)
    low = np.where(low == _NONE, 0, low).astype(np.int32)
    return Extremes(low.reshape(shape), high.reshape(shape))


def _deposit(found: Extremes, deposit: Deposit) -> Extremes:
    places = np.arange(1, prod(deposit.shape) + 1, dtype=np.int32).reshape(deposit.shape)
    targets = run_on_integers(deposit.run, places).ravel()
    live = targets > 0
    return _deposited(found, targets[live] - 1, live, deposit.shape)


def _matrix(found: Extremes, matrix: Matrix) -> Extremes:
    rows, columns = matrix.laid_out(found.low.shape)
    return _deposited(found, rows.cpu().numpy(), columns.cpu().numpy(), matrix.shape)


def _contract(found: Extremes, contract: Contract) -> Extremes:
    letters, _, out = contract.equation.replace("->", ",").split(",")
    summed = tuple([k for k, letter in enumerate(letters) if letter not in out])
    found, arrange = _over(found, summed, keepdim=False), _arrangement(contract, found.low.shape)
    return _each(found, lambda x: arrange(x[None])[0])


def _arrangement(contract: Contract, given: tuple[int, ...]) -> Callable[[IntArray], IntArray]:
    """What puts the axes that are left of slices of shape `given` where the result has them."""
    letters, others, out = contract.equation.replace("->", ",").split(",")
    sizes = dict(zip(others, contract.sizes, strict=True))
    for letter, length in zip(letters, given, strict=True):
        sizes[letter] = max(sizes.get(letter, 1), length)
    rest = [letter for letter in letters if letter in out]
    order = [0, *[rest.index(letter) + 1 for letter in out if letter in rest]]
    missing = [k + 1 for k, letter in enumerate(out) if letter not in rest]
    shape = tuple([sizes[letter] for letter in out])
    return lambda x: np.broadcast_to(np.expand_dims(x.transpose(order), missing), (len(x), *shape))


def _convolve(found: Extremes, convolve: Convolve) -> Extremes:
    batch, channels = found.low.shape[:2]
    groups = convolve.groups
    grouped = (batch, groups, channels // groups, *found.low.shape[2:])
    found = _over(_each(found, lambda x: x.reshape(grouped)), (2,), keepdim=False)
    found = _over(_each(found, lambda x: windows(x, convolve)), (-1,), keepdim=False)
    shape = (batch, groups, convolve.shape[1] // groups, *convolve.shape[2:])
    return _each(found, lambda x: np.broadcast_to(x[:, :, None], shape).reshape(convolve.shape))


_READINGS: Mapping[type[LinearMap], Callable[[Extremes, Any], Extremes]] = {
    Scale: _scale,
    Move: _move,
    Deposit: _deposit,
    Reduce: _reduce,
    Mix: _mix,
    Scan: _scan,
    Contract: _contract,
    Convolve: _convolve,
    Matrix: _matrix,
    Opaque: _opaque,
}


def _scaled(slices: IntArray, scale: Scale) -> IntArray:
    missing = len(scale.shape) + 1 - slices.ndim
    wide = slices.reshape(len(slices), *(1,) * missing, *slices.shape[1:])
    wide = np.broadcast_to(wide, (len(slices), *scale.shape))
    if scale.coefficient is None:
        return wide
    return wide * (scale.coefficient != 0).cpu().numpy()


def _moved(slices: IntArray, move: Move) -> IntArray:
    # Where each element comes from is found once, and looked up for all slices.
    count = prod(slices.shape[1:])
    numbers = np.arange(1, count + 1, dtype=np.int32).reshape(slices.shape[1:])
    sources = run_on_integers(move.run, numbers)
    flat = slices.reshape(len(slices), count)
    if count and (sources > 0).all():
        return np.take(flat, sources - 1, axis=1)
    return np.take(np.pad(flat, ((0, 0), (1, 0))), sources, axis=1)


def _summed(slices: IntArray, dims: tuple[int, ...], *, keepdim: bool) -> IntArray:
    return slices.max(axis=tuple([d + 1 for d in dims]), keepdims=keepdim, initial=0)


def _mixed(slices: IntArray, mix: Mix) -> IntArray:
    wide = _summed(slices, mix.dims, keepdim=True)
    return np.broadcast_to(wide, (len(slices), *mix.shape))


def _contracted(slices: IntArray, contract: Contract) -> IntArray:
    letters, _, out = contract.equation.replace("->", ",").split(",")
    summed = tuple([k for k, letter in enumerate(letters) if letter not in out])
    arrange = _arrangement(contract, slices.shape[1:])
    return arrange(_summed(slices, summed, keepdim=False))


_TOGETHER: Mapping[type[LinearMap], Callable[[IntArray, Any], IntArray]] = {
    Scale: _scaled,
    Move: _moved,
    Reduce: lambda slices, reduce: _summed(slices, reduce.dims, keepdim=reduce.keepdim),
    Mix: _mixed,
    Contract: _contracted,
}
