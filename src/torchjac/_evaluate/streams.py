"""Ways to stream a product of a Jacobian with itself; `gram` says which there are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.compressed import Multiply, Passes
from torchjac._evaluate.differentiate import Point, explain_refusals
from torchjac._evaluate.ladder import LOOP, Rung, climb_down
from torchjac._evaluate.memory import FORWARD_PASS_BYTES, REVERSE_PASS_BYTES, Budget
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.report import Evaluation, Refusal, is_listened_to, publish
from torchjac._evaluate.sweep import Chunks, sweep
from torchjac._evaluate.weight import Weight
from torchjac._evaluate.witness import close, random_like
from torchjac._inputs.warn import warn
from torchjac.errors import DisagreementWarning, FallbackWarning

FORWARD, REVERSE = "forward-mode", "reverse-mode"
# A pass forward evaluates the function anew under two transforms.
FORWARD_COST = 1.5


class Request(NamedTuple):
    """What is to be computed.

    Attributes:
        over_outputs: J S J^T; J^T M J otherwise.
        weight: Between the two.
        residual: r of J^T r, flat; None where it is not asked for.
    """

    over_outputs: bool
    weight: Weight
    residual: Tensor | None


@dataclass(frozen=True, slots=True)
class Part:
    """Seeds that go through one kind of pass: where they begin, how many, and the pass."""

    offset: int
    count: int
    multiply: Multiply


@dataclass(slots=True)
class Sums:
    """What a sweep adds up.

    Attributes:
        matrix: G.
        products: J^T r and J^T u, for a random u, one column each.
        proofs: Pairs of vectors that are the same if both modes are right.
    """

    matrix: Tensor
    products: Tensor
    proofs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Way(NamedTuple):
    """A way to stream, its cost in passes, and why it is taken."""

    mode: str
    run: Callable[[str], Sums]
    cost: float
    why: str


class Streams:
    """One product under way."""

    def __init__(self, point: Point, options: Options, request: Request, budget: Budget) -> None:
        self._request, self._budget, self._options = request, budget, options
        self._tape, self._like = point.tape, request.weight.like
        outputs, leaves = point.tape.outputs.tensors, point.signature.leaves
        self._passes = Passes(
            point.signature, outputs, options, point.state, point.tape, point.tape.outputs
        )
        self._m = sum([output.numel() for output in outputs])
        self._n = sum([leaf.numel() for leaf in leaves])
        (self._u,) = random_like([self._like.new_empty(self._m)])
        self._side = self._m if request.over_outputs else self._n
        self._bytes = self._side**2 * self._like.element_size()
        self._custom = point.tape.survey().has_custom_functions
        self._accounts: list[Chunks] = []

    def run(self) -> tuple[Tensor, Tensor | None]:
        """The product, and J^T r if it was asked for."""
        ways = sorted(self._ways(), key=lambda way: way.cost)
        last = next(way for way in ways if way.mode == REVERSE)
        with Progress(shown=self._options.progress, label=self._budget.api) as self._progress:
            sums = self._climb([ways[0], last] if ways[0] is not last else [last])
        gradient = None if self._request.residual is None else sums.products[:, 0]
        return sums.matrix, gradient

    def _ways(self) -> list[Way]:
        m, n = self._m, self._n
        again = 2 if self._request.weight.mixes else 1
        shape = f"{m} outputs, {n} inputs"
        back = f"{shape}: columns of the result, by passes there and back"
        if not self._request.over_outputs:
            return [
                Way(REVERSE, self._along, m * again, f"{shape}: a sum over outputs"),
                Way(FORWARD, self._across, (1 + FORWARD_COST) * n, back),
            ]
        free = self._budget.pass_bytes(self._bytes, self._like.device)
        sets = 3 + 2 * m * n * self._like.element_size() // free  # two more are probes
        return [
            Way(FORWARD, self._along, FORWARD_COST * n * again, f"{shape}: a sum over inputs"),
            Way(FORWARD, self._across, (1 + FORWARD_COST) * m, back),
            Way(REVERSE, self._pairs, m * (1 + sets), f"{shape}: pairs of sets of rows"),
        ]

    def _climb(self, ways: list[Way]) -> Sums:
        owners = [
            (rung, way)
            for way in ways
            for rung in self._passes.rungs(way.mode, partial(self._attempt, way))
        ]
        rung, sums, refusals = climb_down([rung for rung, _ in owners])
        way = next(way for owned, way in owners if owned is rung)
        if refusals:
            warn(explain_refusals(self._budget.api, rung, refusals), FallbackWarning)
        self._report(way, rung, refusals)
        if self._is_proven(sums):
            return sums
        return self._without_doubt(ways[-1], way, rung, sums)

    def _attempt(self, way: Way, mode: str, method: str) -> Sums:
        del mode  # the way's own
        return way.run(method)

    def _without_doubt(self, last: Way, way: Way, rung: Rung[Sums], sums: Sums) -> Sums:
        """By single passes in reverse mode, which what was computed contradicts."""
        if way.mode == REVERSE and rung.method == LOOP:
            return sums
        single = last.run(LOOP)
        if not self._is_proven(single):
            return sums  # the proof itself is rounding, or a backward pass that is not linear
        said = "forward and reverse mode" if way.mode == FORWARD else "batched and single passes"
        warn(
            f"{self._budget.api}: {said} disagree for this function. The answer is that of single "
            "passes in reverse mode; `torchjac.check` shows the numbers.",
            DisagreementWarning,
        )
        return single

    def _is_proven(self, sums: Sums) -> bool:
        """Whether J^T u is the same as by a plain backward pass, and all else that was compared."""
        pairs = [*sums.proofs, (sums.products[:, -1], self._pulled_back())]
        return all(close(ours, true) for ours, true in pairs)

    def _pulled_back(self) -> Tensor:
        """J^T u by one plain backward pass."""
        return self._passes.puller(LOOP)(self._u[None])[0]

    # What all ways share

    def _begin(self) -> tuple[Sums, Tensor]:
        """Empty sums, and r and u as columns."""
        columns = [self._u] if self._request.residual is None else [self._request.residual, self._u]
        vectors = torch.stack([column.detach() for column in columns], 1)
        matrix = self._like.new_zeros(self._side, self._side)
        return Sums(matrix, self._like.new_zeros(self._n, vectors.shape[1])), vectors

    def _chunks(self, mode: str, method: str) -> Chunks:
        budget = self._budget
        if method == LOOP:
            budget = Budget(budget.api, budget.memory, 1, budget.held_bytes)
        device, most = (
            self._like.device,
            (FORWARD_PASS_BYTES if mode == FORWARD else REVERSE_PASS_BYTES),
        )
        chunks = Chunks(budget, self._bytes, False, device, self._progress, most)
        self._accounts.append(chunks)
        return chunks

    def _rows(self, method: str) -> list[Part]:
        """Passes to rows of J: each output by itself, lest 0 * inf spreads."""
        parts, offset = [], 0
        for i, output in enumerate(self._tape.outputs.tensors):
            parts.append(Part(offset, output.numel(), self._passes.puller(method, [i])))
            offset += output.numel()
        return parts

    def _columns(self, method: str) -> list[Part]:
        return [Part(0, self._n, self._passes.pusher(method))]

    def _unit(self, part: Part, start: int, stop: int) -> Tensor:
        seeds = self._like.new_zeros(stop - start, part.count)
        seeds.diagonal(start).fill_(1)
        return seeds

    def _sweep(self, parts: list[Part], mode: str, method: str, run: Callable[..., None]) -> None:
        chunks = self._chunks(mode, method)
        self._progress.expect(sum([part.count for part in parts]))
        for part in parts:

            def once(start: int, stop: int, part: Part = part) -> list[Tensor | None]:
                made = part.multiply(self._unit(part, start, stop)).detach().to(self._like)
                run(part, part.offset + start, part.offset + stop, made)
                return [None]

            if part.count:
                sweep(part.count, once, chunks, differentiable=False)

    # The ways

    def _along(self, method: str) -> Sums:
        """G += A_c^T (W A)_c."""
        forward, weight = self._request.over_outputs, self._request.weight
        sums, vectors = self._begin()
        parts = self._columns(method) if forward else self._rows(method)
        joint = parts[0].multiply if forward else self._passes.puller(method)

        def add(part: Part, start: int, stop: int, rows: Tensor) -> None:
            del part
            if weight.mixes:
                weighed = joint(weight.rows(start, stop)).detach().to(rows)
            else:
                weighed = weight.scale(rows, start, stop)
            self._add_products(sums, rows, vectors, start, stop, columns=forward)
            sums.matrix.addmm_(rows.mT, weighed)

        self._sweep(parts, FORWARD if forward else REVERSE, method, add)
        return sums

    def _across(self, method: str) -> Sums:
        """G_d = A^T (W A_d), or A^T W A where all columns came at once."""
        backward, weight = self._request.over_outputs, self._request.weight
        sums, vectors = self._begin()
        parts = self._rows(method) if backward else self._columns(method)
        back = self._passes.pusher(method) if backward else self._passes.puller(method)
        truth = self._pulled_back().to(self._like) if backward else vectors[:, -1]

        def put(part: Part, start: int, stop: int, columns: Tensor) -> None:
            del part
            weighed = weight.times(columns.mT)
            if stop - start == self._side:
                block = weighed.mT @ columns.mT
            else:
                block = back(weighed.mT).detach().to(columns)
                if backward:  # what was pushed forward, against what is pulled back
                    sums.proofs.append((block @ self._u, weighed.mT @ truth))
            self._add_products(sums, columns, vectors, start, stop, columns=not backward)
            sums.matrix[:, start:stop] = block.mT

        self._sweep(parts, FORWARD, method, put)
        return sums

    def _pairs(self, method: str) -> Sums:
        """G_de = A_d^T W A_e, rows of J for two sets of outputs at a time."""
        weight = self._request.weight
        sums, vectors = self._begin()
        parts = self._rows(method)

        def put(part: Part, start: int, stop: int, ours: Tensor) -> None:
            del part
            weighed = weight.times(ours.mT)
            self._add_products(sums, ours, vectors, start, stop, columns=False)

            def pair(part: Part, begin: int, end: int, theirs: Tensor) -> None:
                del part
                sums.matrix[begin:end, start:stop] = theirs @ weighed

            self._sweep(parts, REVERSE, method, pair)

        self._sweep(parts, REVERSE, method, put)
        return sums

    def _add_products(
        self, sums: Sums, made: Tensor, vectors: Tensor, start: int, stop: int, *, columns: bool
    ) -> None:
        """The part of J^T r and J^T u that some columns or rows of J have."""
        if columns:
            sums.products[start:stop] = made @ vectors
        else:
            sums.products += made.mT @ vectors[start:stop]

    def _report(self, way: Way, rung: Rung[Sums], refusals: tuple[Refusal, ...]) -> None:
        if not is_listened_to():
            return
        chunks = self._accounts[-1]
        told = Evaluation(
            self._budget.api,
            way.mode,
            rung.method,
            way.why,
            self._m if way.mode == REVERSE else self._n,
            chunks.passes,
            chunks.largest,
            chunks.seed_bytes,
            self._bytes,
        )
        publish(told, refusals)
