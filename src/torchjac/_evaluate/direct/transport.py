"""One operation of a linear program, applied to the derivatives of its arguments."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.apart import apart, one_hot, sources_of, varies
from torchjac._evaluate.direct.blocks import Block, added, merged
from torchjac._evaluate.direct.convolve import convolved
from torchjac._evaluate.direct.extremes import extremes
from torchjac._evaluate.direct.join import joined
from torchjac._linearize.program import Ref, Value, map_refs
from torchjac._local.algebra import Contract, Convolve, Deposit, Move, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._pattern.sets import run_on_integers

aten = torch.ops.aten
_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})
_SUMS = frozenset({aten.add, aten.sub})
_REDUCTIONS = frozenset({aten.sum, aten.mean})
_PRODUCTS = frozenset(
    {
        aten.mm,
        aten.bmm,
        aten.mv,
        aten.dot,
        aten.vdot,
        aten.ger,
        aten.outer,
        aten.addmm,
        aten.baddbmm,
        aten.addmv,
        aten.addr,
    }
)
_DEPOSITS = frozenset(
    {
        aten.scatter_add,
        aten.index_add,
        aten.index_put,
        aten.select_backward,
        aten.slice_backward,
        aten.unfold_backward,
        aten.diagonal_backward,
        aten.col2im,
    }
)
_CONVOLUTIONS = frozenset({aten.convolution, aten.convolution_backward})


class TooManyDerivativesError(Exception):
    """Carrying all derivatives would take more room than the Jacobian is worth."""


def without_strides(op: Any) -> Any:
    """The operation, or one that does the same whatever the strides of its argument.

    Without copies a tensor may have other strides than when the program was recorded.

    Args:
        op: An operator.

    Returns:
        `reshape` for a view, any other operator itself.
    """
    return aten.reshape.default if op in _VIEWS else op


class Transport:
    """One operation, applied to the derivatives of its arguments."""

    def __init__(
        self,
        call: Call,
        position: int,
        result: Value,
        values: Mapping[int, Tensor],
        is_constant: Callable[[Tensor], bool],
        room: int,
    ) -> None:
        self._call = call
        self._is_constant = is_constant
        self._position = position
        self._values = values
        self._shape = result.shape
        self._dtype = result.dtype
        self._room = room
        self._packet = getattr(call.node.op, "overloadpacket", call.node.op)

    def run(self, terms: Sequence[Term], carried: Mapping[int, list[Block]]) -> list[Block]:
        """The derivatives of the result.

        Args:
            terms: What it is a sum of.
            carried: The derivatives of the arguments.

        Returns:
            Its blocks.

        Raises:
            TooManyDerivativesError: They would hold too much.
        """
        if len(terms) > 1 and all(type(m) is Move for term in terms for m in term.maps):
            sources = {term.source.number: carried[term.source.number] for term in terms}
            results = self._moved_together(terms, joined(sources, self._is_constant))
        else:
            pairs = [(term, block) for term in terms for block in carried[term.source.number]]
            results = added([self._through(term, block) for term, block in pairs])
        results = [block for block in results if block.index.any()]
        self._check_room(sum([block.index.size for block in results]))
        return results

    def _through(self, term: Term, block: Block) -> Block:
        if self._packet in _SUMS:
            return self._summand(term, block)
        if {type(linear_map) for linear_map in term.maps} <= {Scale, Move}:
            return self._apply(term, block)
        linear_map = term.maps[0] if len(term.maps) == 1 else None
        # Only of these is it known that the weights are one, or all the same.
        if isinstance(linear_map, Reduce) and self._packet in _REDUCTIONS:
            return self._reduced(term, linear_map, block)
        if (
            isinstance(linear_map, Contract)
            and self._packet in _PRODUCTS
            and self._is_plain("alpha")
        ):
            return self._contracted(term, linear_map, block)
        if (
            isinstance(linear_map, Deposit)
            and self._packet in _DEPOSITS
            and self._is_plain("alpha")
        ):
            return self._deposited(linear_map, block)
        mixes = len(self._mixed_dims(term, block)) > 0
        if isinstance(linear_map, Convolve) and self._packet in _CONVOLUTIONS and mixes:
            weight = self._values[self._call["weight"].number]
            return convolved(block, linear_map, weight)
        return self._mixed(term, block)

    def _is_plain(self, name: str) -> bool:
        return self._call.arguments.get(name, 1) == 1

    def _summand(self, term: Term, block: Block) -> Block:
        """One side of a sum or difference."""
        arguments = self._call.arguments
        first, second = arguments["self"], arguments["other"]
        sign = arguments["alpha"]
        if self._packet is aten.sub:
            sign = -sign
        if first == second:
            sign = 1 + sign
        elif term.source == first:
            sign = 1
        wide = (1,) * (len(self._shape) - len(block.shape)) + block.shape
        shape = (block.slices, *self._shape)
        index = np.broadcast_to(block.index.reshape(block.slices, *wide), shape)
        values = block.values.reshape(block.slices, *wide).expand(shape)
        values = values.to(self._dtype)
        return Block(index, values if sign == 1 else values * sign)

    def _deposited(self, deposit: Deposit, block: Block) -> Block:
        """Sums of elements put to one place: the summands stay apart."""
        places = np.arange(1, prod(deposit.shape) + 1, dtype=np.int32).reshape(deposit.shape)
        sources = sources_of(run_on_integers(deposit.run, places).ravel(), prod(deposit.shape))
        self._check_room(sources.size * block.slices)
        flat = block.index.reshape(block.slices, -1)
        index = np.pad(flat, ((0, 0), (0, 1)))[:, sources]
        values = torch.nn.functional.pad(block.values.reshape(block.slices, -1), (0, 1))
        where = torch.from_numpy(sources).to(values.device)
        values = values[:, where]
        return merged(Block(index.reshape(-1, *deposit.shape), values.reshape(-1, *deposit.shape)))

    def _operation(self, given: Mapping[int, Tensor]) -> Tensor:
        """The operation on some tangents, the others zero."""

        def fetch(ref: Ref) -> Tensor:
            if ref.number in given:
                return given[ref.number]
            if self._call.is_tangent(ref):
                like = next(iter(given.values()))
                value = self._call.value(ref)
                return torch.zeros(value.shape, dtype=value.dtype, device=like.device)
            return self._values[ref.number]

        node = self._call.node
        kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
        result = without_strides(node.op)(*map_refs(fetch, node.args), **kwargs)
        return result[self._position] if isinstance(result, tuple | list) else result

    def _apply(self, term: Term, block: Block) -> Block:
        """The operation on each slice, where no two inputs meet in one element."""
        values = self._on_slices({term.source.number: block})
        return Block(self._indices(term, block), values)

    def _on_slices(self, blocks: Mapping[int, Block]) -> Tensor:
        """The operation on one slice of each block after the other, or on all at once."""
        numbers = list(blocks)

        def once(*slices: Tensor) -> Tensor:
            return self._operation(dict(zip(numbers, slices, strict=True)))

        stacked = [block.values for block in blocks.values()]
        try:
            return torch.vmap(once)(*stacked)
        except RuntimeError:  # no batching rule
            return torch.stack([once(*slices) for slices in zip(*stacked, strict=True)])

    def _indices(self, term: Term, block: Block) -> np.ndarray:
        return np.stack([extremes(index, term.maps).high for index in block.index])

    def _moved_together(
        self, terms: Sequence[Term], rows: Sequence[Mapping[int, Block]]
    ) -> list[Block]:
        """Slices of several arguments that go to different places, in one operation for all."""
        results: list[Block] = []
        for row in rows:
            values = self._on_slices(row)
            parts = [
                self._indices(t, row[t.source.number]) for t in terms if t.source.number in row
            ]
            results.append(Block(np.maximum.reduce(parts), values))
        return added(results)

    def _mixed(self, term: Term, block: Block) -> Block:
        """The operation where it mixes axes: derivatives along them apart, so that none meet."""
        for dim in self._mixed_dims(term, block):
            self._check_room(block.index.size * block.shape[dim])
            block = one_hot(block, dim)
        return merged(self._apply(term, block))

    def _mixed_dims(self, term: Term, block: Block) -> list[int]:
        """Axes along which the operation mixes, and the inputs change."""
        changing = [d for d, n in enumerate(block.shape) if n > 1 and varies(block, d)]
        return [d for d in changing if self._mixes(term, block, d)]

    def _mixes(self, term: Term, block: Block, dim: int) -> bool:
        labels = np.arange(1, block.shape[dim] + 1, dtype=np.int32)
        labels = labels.reshape([-1 if d == dim else 1 for d in range(len(block.shape))])
        return not extremes(np.broadcast_to(labels, block.shape), term.maps).agree

    def _check_room(self, derivatives: int) -> None:
        if derivatives > self._room:
            raise TooManyDerivativesError(f"{derivatives:,} derivatives at {self._call.node.name}")

    def _reduced(self, term: Term, reduce: Reduce, block: Block) -> Block:
        """A sum: over axes on which the index changes, the summands stay apart."""
        varying = [d for d in reduce.dims if block.shape[d] > 1 and varies(block, d)]
        if not varying:
            return self._apply(term, block)
        rest = tuple([d + 1 for d in reduce.dims if d not in varying])
        values = block.values.sum(rest, keepdim=True) if rest else block.values
        like = torch.ones((), dtype=values.dtype, device=values.device)
        ones = like.expand(block.shape)
        weight = self._operation({term.source.number: ones}).flatten()[0]
        index = block.index.max(axis=rest, keepdims=True) if rest else block.index
        block = apart(Block(index, values), varying)
        shape = (block.slices, *self._shape)
        weight = weight / prod([length for d, length in enumerate(ones.shape) if d in reduce.dims])
        return merged(Block(block.index.reshape(shape), block.values.reshape(shape) * weight))

    def _contracted(self, term: Term, contract: Contract, block: Block) -> Block:
        """A sum of products: over axes on which the index changes, the products stay apart."""
        letters, others, out = contract.equation.replace("->", ",").split(",")
        dims = [d for d, letter in enumerate(letters) if letter not in out]
        varying = [d for d in dims if block.shape[d] > 1 and varies(block, d)]
        factor = self._values[contract.coefficient.number]
        if not varying or factor.layout is not torch.strided or 1 in factor.shape:
            return self._mixed(term, block)
        kept = "".join([letters[d] for d in varying])
        index = block.index.max(
            axis=tuple([d + 1 for d in dims if d not in varying]), keepdims=False
        )
        left = "".join([c for d, c in enumerate(letters) if d not in dims or d in varying])
        sizes = dict(zip(letters, block.shape, strict=True))
        sizes |= dict(zip(others, factor.shape, strict=True))
        index = _arranged(index, left, kept + out, sizes)
        if self._is_one(block.values):  # the product with an identity is not computed
            values = _arranged_tensor(factor, others, kept + out, sizes)
            values = values.expand(block.slices, *values.shape)
        else:
            z = next(c for c in "zyxw" if c not in contract.equation)
            equation = f"{z}{letters},{others}->{z}{kept}{out}"
            values = torch.einsum(equation, block.values, factor)
        return merged(Block(index.reshape(-1, *self._shape), values.reshape(-1, *self._shape)))

    def _is_one(self, values: Tensor) -> bool:
        return self._is_constant(values) and bool((values == 1).all())


def _arranged(index: np.ndarray, letters: str, wanted: str, sizes: Mapping[str, int]) -> np.ndarray:
    """Axes named by letters, after the first, in another order, and new ones repeated."""
    order = [0, *[letters.index(c) + 1 for c in wanted if c in letters]]
    missing = [d + 1 for d, c in enumerate(wanted) if c not in letters]
    wide = np.expand_dims(index.transpose(order), missing)
    return np.broadcast_to(wide, (len(index), *[sizes[c] for c in wanted]))


def _arranged_tensor(factor: Tensor, letters: str, wanted: str, sizes: Mapping[str, int]) -> Tensor:
    factor = factor.permute([letters.index(c) for c in wanted if c in letters])
    for dim, letter in enumerate(wanted):
        if letter not in letters:
            factor = factor.unsqueeze(dim)
    return factor.expand([sizes[c] for c in wanted])
