"""One operation of a linear program, applied to the derivatives of its arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchjac._evaluate.direct.addend import addend
from torchjac._evaluate.direct.apart import (
    apart,
    comb,
    gathered,
    sources_of,
    summands_of,
    varying,
)
from torchjac._evaluate.direct.blocks import Block, added, merged, sums
from torchjac._evaluate.direct.contract import contracted
from torchjac._evaluate.direct.convolve import convolved
from torchjac._evaluate.direct.extremes import extremes, greatest, united
from torchjac._evaluate.direct.join import joined
from torchjac._evaluate.direct.operate import SOLVES, Operation
from torchjac._evaluate.direct.placed import Part, Placed, moved, whole
from torchjac._linearize.program import Ref, Value
from torchjac._local.algebra import (
    Contract,
    Convolve,
    Deposit,
    LinearMap,
    Move,
    Reduce,
    Scale,
    Term,
)
from torchjac._local.call import Call
from torchjac._local.rules.pointwise import LINEAR
from torchjac._pattern.sets import run_on_integers

aten = torch.ops.aten
_SUMS = frozenset({aten.add, aten.sub})
_REDUCTIONS = frozenset({aten.sum, aten.mean})
PRODUCTS = frozenset(
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
# The elements stay in their order.
_RESHAPES = frozenset({aten.view, aten.reshape, aten._unsafe_view, aten.squeeze, aten.unsqueeze})
_CONVOLUTIONS = frozenset({aten.convolution, aten.convolution_backward})
# Rules know these, which are not linear: of a block matrix only one block is.
_CURVED = frozenset({aten.linalg_matrix_exp})
# Not linear in several arguments together.
_MULTIPLYING = PRODUCTS | {aten.mul, aten.div}
# They read memory, whatever the shape of their argument.
_BY_MEMORY = frozenset({aten.as_strided, aten.as_strided_scatter})


class TooManyDerivativesError(Exception):
    """Carrying all derivatives would take more room than the Jacobian is worth."""


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
        self._operation = Operation(call, position, values)
        self._is_constant = is_constant
        self._values = values
        self._shape = result.shape
        self._dtype = result.dtype
        self._room = room
        self._packet = getattr(call.node.op, "overloadpacket", call.node.op)

    def check_linear(self) -> None:
        """Try whether the operation is linear in its tangents.

        Raises:
            NotImplementedError: It is not.
        """
        if not self._operation.is_linear():
            raise NotImplementedError(f"{self._call.node.name} is not linear in the tangent")

    def run(self, terms: Sequence[Term], carried: Mapping[int, list[Part]]) -> list[Part]:
        """The derivatives of the result.

        Args:
            terms: What it is a sum of.
            carried: The derivatives of the arguments.

        Returns:
            Those of its own.

        Raises:
            TooManyDerivativesError: They would hold too much.
            NotImplementedError: The operation is not linear in its tangents.
        """
        if not prod(self._shape):
            return []
        by_source: dict[int, list[Term]] = {}
        for term in terms:
            by_source.setdefault(term.source.number, []).append(term)
        if self._may_be_curved(by_source):
            self.check_linear()
        if self._adds_a_number():
            raise NotImplementedError(f"{self._call.node.name} takes tangents here, numbers there")
        few, rest = self._of_few(by_source, carried)
        results = self._of_blocks(by_source, rest)
        parts = [*[block for block in results if block.index.any()], *few]
        sizes = [
            part.block.index.size if isinstance(part, Placed) else part.index.size for part in parts
        ]
        self._check_room(sum(sizes))
        return parts

    def _of_few(
        self, by_source: Mapping[int, list[Term]], carried: Mapping[int, list[Part]]
    ) -> tuple[list[Placed], dict[int, list[Block]]]:
        """What comes of derivatives of few elements, and the blocks that are left."""
        few: list[Placed] = []
        rest: dict[int, list[Block]] = {}
        for number, terms in by_source.items():
            rest[number] = []

            def on(given: Tensor, number: int = number) -> Tensor:
                return self._operation.on({number: given})

            for part in carried[number]:
                found = moved(part, terms, self._shape, self._dtype, on)
                if found is None:
                    rest[number].append(whole(part))
                else:
                    few += [each for each in found if each.block.index.any()]
        return few, rest

    def _of_blocks(
        self, by_source: Mapping[int, list[Term]], carried: Mapping[int, list[Block]]
    ) -> list[Block]:
        terms = [term for alike in by_source.values() for term in alike]
        moves = all([type(m) is Move for term in terms for m in term.maps])
        if len(terms) > 1 and moves and self._packet not in _BY_MEMORY:
            rows = joined({number: carried[number] for number in by_source}, self._is_constant)
            return added([self._moved_together(by_source, row) for row in rows])
        if self._packet in SOLVES and len(by_source) == 1:
            ((number, alike),) = by_source.items()
            combed = [self._combed(alike, block) for block in carried[number]]
            return self._solved(alike, combed)
        return added(
            [
                self._through(alike, block)
                for number, alike in by_source.items()
                for block in carried[number]
            ]
        )

    def _may_be_curved(self, by_source: Mapping[int, Any]) -> bool:
        """Whether rules hold for the dependence only: autograd itself takes a few detours."""
        tags = getattr(self._call.node.op, "tags", ())
        if torch.Tag.pointwise in tags and self._packet not in LINEAR:
            return True
        return self._packet in _CURVED or (len(by_source) > 1 and self._packet in _MULTIPLYING)

    def _adds_a_number(self) -> bool:
        """Whether a choice is between a tangent and what is none, as within that of cumprod."""
        # Zeros are tangents too, and NaN says that there is no derivative.
        if self._packet is not aten.where:
            return False
        _, *choices = self._call.node.args
        others = [part for part in choices if not self._call.is_tangent(part)]
        known = [self._call.constant(part) if isinstance(part, Ref) else part for part in others]
        return any([n is None or bool(torch.as_tensor(n).nan_to_num().any()) for n in known])

    def _through(self, terms: Sequence[Term], block: Block) -> Block:
        """What comes of one block, by all terms that hold its tensor."""
        if self._packet in _SUMS:
            return addend(self._call, terms[0], block, self._shape, self._dtype)
        if len(terms) == 1:
            (term,) = terms
            if {type(linear_map) for linear_map in term.maps} <= {Scale, Move}:
                by_memory = self._packet in _BY_MEMORY
                return self._gathered(term, block) if by_memory else self._apply(terms, block)
            known = self._by_weights(term, block)
            if known is not None:
                return known
        return self._mixed(terms, block)

    def _by_weights(self, term: Term, block: Block) -> Block | None:
        """The sums of an operation of which it is known that the weights are those of its rule."""
        packet, linear_map = self._packet, term.maps[-1]
        if self._call.arguments.get("alpha", 1) != 1:
            return None
        if isinstance(linear_map, Deposit) and packet in _DEPOSITS:
            return self._deposited(term, linear_map, block)
        if len(term.maps) > 1:
            return None
        if isinstance(linear_map, Reduce) and packet in _REDUCTIONS:
            return self._reduced(term, linear_map, block)
        if isinstance(linear_map, Contract) and packet in PRODUCTS:
            factor = self._values[linear_map.coefficient.number]
            is_one = self._is_constant(block.values) and bool((block.values == 1).all())
            if packet is aten.vdot and factor.is_complex():
                return None
            return contracted(
                block,
                linear_map,
                factor,
                self._shape,
                is_one=is_one,
                check_room=self._check_room,
            )
        if isinstance(linear_map, Convolve) and packet in _CONVOLUTIONS:
            weight = self._values[self._call["weight"].number]
            mixes = self._mixed_dims([term], block)
            return convolved(block, linear_map, weight) if mixes else None
        return None

    def _deposited(self, term: Term, deposit: Deposit, block: Block) -> Block | None:
        """Sums of elements put to one place: the summands stay apart."""
        first = term.maps[:-1]
        if not all([isinstance(m, Move) or _is_broadcast(m) for m in first]):
            return None
        count = prod(deposit.shape)
        places = np.arange(1, count + 1, dtype=np.int32).reshape(deposit.shape)
        sources = sources_of(run_on_integers(deposit.run, places).ravel(), count)
        if len(sources) <= 1:  # no two to one place
            return self._apply([term], block)
        self._check_room(sources.size * block.slices)
        put = np.append(0, extremes(_numbered(block), first).high)
        found = merged(gathered(block, put[sources].reshape(-1, *deposit.shape)))
        return replace(found, summands=summands_of(block, put[sources]))

    def _gathered(self, term: Term, block: Block) -> Block:
        """A movement, by where it takes each element from."""
        return gathered(block, extremes(_numbered(block), term.maps).high[None])

    def _apply(self, terms: Sequence[Term], block: Block) -> Block:
        """The operation on each slice, where no two inputs meet in one element."""
        number = terms[0].source.number
        values = self._operation.on_slices({number: block})
        factors = None
        if terms[0].maps and {type(m) for m in terms[0].maps} == {Scale}:
            factors = self._operation.factors(number, block, values, self._is_constant)
        is_view = self._packet in _RESHAPES
        return Block(
            self._indices(terms, block), values, factors, block.summands if is_view else None
        )

    def _indices(self, terms: Sequence[Term], block: Block) -> np.ndarray:
        if block.shape == self._shape and all([_keeps_places(t) for t in terms]):
            return block.index
        first, *others = [greatest(block.index, t.maps) for t in terms]
        return reduce(np.maximum, others, first)

    def _moved_together(
        self, terms: Mapping[int, Sequence[Term]], row: Mapping[int, Block]
    ) -> Block:
        """Slices of several arguments that go to different places, in one operation for all."""
        values = self._operation.on_slices(row)
        parts = [self._indices(terms[number], block) for number, block in row.items()]
        return Block(np.maximum.reduce(parts), values)

    def _mixed(self, terms: Sequence[Term], block: Block) -> Block:
        """The operation where it mixes axes."""
        return merged(self._apply(terms, self._combed(terms, block)))

    def _solved(self, terms: Sequence[Term], combed: Sequence[Block]) -> list[Block]:
        """A system with all derivatives as right-hand sides, those by the same inputs added up."""
        if not combed:
            return []
        index = np.concatenate([self._indices(terms, block) for block in combed])
        places: dict[bytes, int] = {}
        groups = np.array([places.setdefault(row.tobytes(), len(places)) for row in index])
        sides = torch.cat([block.values for block in combed])
        if len(places) < len(index):
            sides = sums(sides, groups, len(places))
        _, firsts = np.unique(groups, return_index=True)
        together = Block(np.concatenate([block.index for block in combed])[firsts], sides)
        number = terms[0].source.number
        return [merged(Block(index[firsts], self._operation.on_slices({number: together})))]

    def _combed(self, terms: Sequence[Term], block: Block) -> Block:
        """Derivatives along axes that the operation mixes apart, so that none meet."""
        for dim, period in self._mixed_dims(terms, block):
            self._check_room(block.index.size * period)
            block = comb(block, dim, period)
        return block

    def _mixed_dims(self, terms: Sequence[Term], block: Block) -> list[tuple[int, int]]:
        # Axes along which the operation mixes and the inputs change, and how far apart elements
        # must lie that it does not mix.
        shape = block.shape
        dims = [d for d, n in enumerate(shape) if n > 1 and not _is_repeated(block, d)]
        spans = {d: self._span(terms, shape, d) for d in dims}
        mixing = [d for d in dims if spans[d]]
        return [(d, min(spans[d] + 1, shape[d])) for d in varying(block, mixing)]

    def _span(self, terms: Sequence[Term], shape: tuple[int, ...], dim: int) -> int:
        labels = np.arange(1, shape[dim] + 1, dtype=np.int32)
        labels = labels.reshape([-1 if d == dim else 1 for d in range(len(shape))])
        labels = np.broadcast_to(labels, shape)
        return united([extremes(labels, term.maps) for term in terms]).span

    def _check_room(self, derivatives: int) -> None:
        if derivatives > self._room:
            raise TooManyDerivativesError(f"{derivatives:,} derivatives at {self._call.node.name}")

    def _reduced(self, term: Term, reduce: Reduce, block: Block) -> Block:
        """A sum: over axes on which the index changes, the summands stay apart."""
        changing = varying(block, reduce.dims)
        if not changing:
            return self._apply([term], block)
        rest = tuple([d + 1 for d in reduce.dims if d not in changing])
        values = block.values.sum(rest, keepdim=True) if rest else block.values
        like = torch.ones((), dtype=values.dtype, device=values.device)
        weight = self._operation.on({term.source.number: like.expand(block.shape)}).flatten()[0]
        index = block.index.max(axis=rest, keepdims=True) if rest else block.index
        parts = apart(Block(index, values), changing)
        shape = (parts.slices, *self._shape)
        weight = weight / prod([n for d, n in enumerate(block.shape) if d in reduce.dims])
        return merged(Block(parts.index.reshape(shape), parts.values.reshape(shape) * weight))


def _is_repeated(block: Block, dim: int) -> bool:
    first = np.take(block.index, [0], axis=dim + 1)
    return bool((block.index == first).all())


def _is_broadcast(linear_map: LinearMap) -> bool:
    return isinstance(linear_map, Scale) and linear_map.coefficient is None


def _keeps_places(term: Term) -> bool:
    """Whether each element comes of the same element, whatever its factor."""
    return all([isinstance(m, Scale) and m.coefficient is None for m in term.maps])


def _numbered(block: Block) -> np.ndarray:
    """The elements of a tensor, counted from 1."""
    return np.arange(1, prod(block.shape) + 1, dtype=np.int32).reshape(block.shape)
