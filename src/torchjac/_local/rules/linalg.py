"""Linear algebra other than products of matrices and systems."""

import torch

from torchjac._linearize.program import Ref
from torchjac._local.algebra import (
    Contract,
    Deposit,
    LinearMap,
    Mix,
    Move,
    Opaque,
    Reduce,
    Scale,
    Term,
)
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@rule(aten.trace)
def trace(call: Call) -> Terms:
    """The sum of the diagonal.

    trace(t)  ->  t: Move(diagonal), Reduce(0)
    """
    return [Term(call["self"], [Move(lambda t: t.diagonal()), Reduce((0,))])]


@rule(aten.linalg_matrix_exp)
def matrix_exp(call: Call) -> Terms:
    """Of a block matrix whose one block is the tangent: all its elements meet.

    linalg_matrix_exp([[a, t], [0, a]])  ->  t: Opaque(batch kept apart)
    """
    shape = call.out_shape()
    return [Term(call["self"], [Opaque(shape, len(shape) - 2)])]


@rule(aten.linalg_cross)
def cross(call: Call) -> Terms:
    """Vectors of length three: each element sees the two others.

    cross(t, c)[i] = t[i + 1] c[i + 2] - t[i + 2] c[i + 1]
    """
    a, b, shape = call["self"], call["other"], call.out_shape()
    dim = call["dim"] % len(shape)
    terms: list[Term] = []
    for tangent, factor in ((a, b), (b, a)):
        if call.is_tangent(tangent):
            known = call.constant(factor)
            terms += [_turned(tangent, known, k, dim, shape) for k in (1, 2)]
    return terms


def _turned(
    tangent: Ref, known: torch.Tensor | None, k: int, dim: int, shape: tuple[int, ...]
) -> Term:
    coefficient = None if known is None else known.roll(k - 3, dim)
    return Term(tangent, [Move(lambda t: t.roll(-k, dim)), Scale(shape, coefficient)])


@rule(aten._trilinear)
def trilinear(call: Call) -> Terms:
    """A sum of products of three tensors, each without some of the axes.

    _trilinear(t, w, c)  ->  t: Contract(w), if w is constant, else Reduce and Scale
    """
    names = ("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")
    refs = [call[name] for name, _ in names]
    rank = len(call.shape(refs[0])) + len(call["expand1"])
    everything = _LETTERS[:rank]
    missing = [{d % rank for d in call[name]} for _, name in names]
    letters = [_without(everything, dims) for dims in missing]
    summed = {d % rank for d in call["sumdim"]}
    out = _without(everything, summed)
    terms: list[Term] = []
    for ref, mine, gone in zip(refs, letters, missing, strict=True):
        if call.is_tangent(ref):
            factors = [(r, its) for r, its in zip(refs, letters, strict=True) if r != ref]
            maps = _contraction(call, mine, factors, out)
            terms.append(Term(ref, maps or _product(call, gone, summed)))
    return terms


def _without(letters: str, dims: set[int]) -> str:
    return "".join([letter for d, letter in enumerate(letters) if d not in dims])


def _contraction(
    call: Call, mine: str, factors: list[tuple[Ref, str]], out: str
) -> list[LinearMap]:
    """With the zeros of a constant factor, if that and the tangent have all axes of the result."""
    for factor, its in factors:
        known = call.constant(factor)
        if known is not None and set(out) <= set(mine) | set(its):
            return [Contract(f"{mine},{its}->{out}", factor, call.shape(factor), known)]
    return []


def _product(call: Call, gone: set[int], summed: set[int]) -> list[LinearMap]:
    def spread(tensor: torch.Tensor) -> torch.Tensor:
        for dim in sorted(gone):
            tensor = tensor.unsqueeze(dim)
        return tensor

    return [Move(spread), Reduce(tuple(sorted(summed))), Scale(call.out_shape())]


@rule(aten._cdist_backward)
def cdist_backward(call: Call) -> Terms:
    """A distance reaches the whole vector that it starts from.

    _cdist_backward(t, x1, x2, p, cdist)  ->  t: Mix(-1)
    """
    grad, shape = call["grad"], call.out_shape()
    if len(list(call.tangents())) > 1 or not call.is_tangent(grad):
        return NotImplemented
    if call["p"] == 0:
        return []
    maps: list[LinearMap] = [Mix((len(shape) - 1,), shape)]
    batch = (*shape[:-1], call.shape(grad)[-1])
    return [Term(grad, maps if call.shape(grad) == batch else [Scale(batch), *maps])]


@rule(aten._pdist_backward)
def pdist_backward(call: Call) -> Terms:
    """A distance reaches both its vectors.

    _pdist_backward(t, x, p, pdist)  ->  t: Deposit(first), Scale  and  t: Deposit(second), Scale
    """
    grad, shape = call["grad"], call.out_shape()
    if len(list(call.tangents())) > 1 or not call.is_tangent(grad):
        return NotImplemented
    if call["p"] == 0:
        return []
    count = shape[0]
    return [Term(grad, _to_vectors(ends, shape)) for ends in torch.triu_indices(count, count, 1)]


def _to_vectors(ends: torch.Tensor, shape: tuple[int, ...]) -> list[LinearMap]:
    pick = Deposit(lambda t: t.index_select(0, ends), shape[:1])
    return [pick, Move(lambda t: t.unsqueeze(1)), Scale(shape)]
