"""Compressed evaluation: many columns or rows of a sparse Jacobian in one product.

Columns that share no row can be pushed forward together, rows that share no column can be pulled
back together; a coloring says which. With a seed matrix S of one 0-1 row for each color,
B = S J^T (forward mode) or B = S J (reverse mode) holds every entry of J.

Source: Curtis, Powell & Reid (1974), J. Inst. Maths Applics 13; Gebremedhin, Manne & Pothen
(2005), SIAM Review 47(4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.attention import uses_fused_attention, with_math_attention
from torchjac._evaluate.blocks import apply_seeds
from torchjac._evaluate.forward import replaying
from torchjac._evaluate.ladder import LOOP, VMAP, Rung, batchings
from torchjac._evaluate.options import Options
from torchjac._evaluate.randomness import RandomState, random_state
from torchjac._evaluate.sweep import Chunks, sweep
from torchjac._evaluate.tape import Tape, grad_recorded, record
from torchjac._evaluate.watch import Watch
from torchjac._evaluate.work import MATH, METHODS
from torchjac._inputs.signature import Outputs, Signature
from torchjac._torch import batched, push_forward

# seeds(start, stop) -> (stop - start, size) over all elements of what is seeded, in order
Seeds = Callable[[int, int], Tensor]
# multiply(seeds (k, elements of what is seeded)) -> products (k, elements of what comes out)
Multiply = Callable[[Tensor], Tensor]


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds the values of all of them."""
    return reduce(torch.promote_types, [t.dtype for t in tensors])


def split_seeds(seeds: Tensor, likes: Sequence[Tensor]) -> list[Tensor]:
    """Seeds over everything raveled, cut into those of each tensor.

    Args:
        seeds: Shape (k, total elements).
        likes: The tensors.

    Returns:
        For each tensor its part, shape (k, *shape), with its dtype and device.
    """
    if len(likes) == 1:
        return [seeds.to(likes[0]).view(len(seeds), *likes[0].shape)]
    parts = seeds.split([like.numel() for like in likes], dim=1)
    return [
        part.to(like).reshape(len(seeds), *like.shape)
        for part, like in zip(parts, likes, strict=True)
    ]


def join_products(
    products: Sequence[Tensor | None], likes: Sequence[Tensor], count: int, empty: Tensor
) -> Tensor:
    """The inverse of `split_seeds` for what came out; None becomes zeros.

    Args:
        products: For each tensor its part, shape (k, *shape).
        likes: The tensors.
        count: Number of seeds k.
        empty: Has the dtype and device of the result.

    Returns:
        Shape (k, total elements).
    """
    parts = [
        empty.new_zeros(count, like.numel())
        if product is None
        else product.reshape(count, like.numel()).to(empty)
        for product, like in zip(products, likes, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(slots=True)
class Passes:
    """A function at one point, ready for products with its Jacobian.

    Attributes:
        signature: The function.
        likes: Tensors with the shapes and dtypes that it returns.
        options: How to compute.
        state: Where the random generators stood before the function ran first.
        tape: Its value and graph, once there is one.
        value: Its value, once it was evaluated.
    """

    signature: Signature
    likes: Sequence[Tensor]
    options: Options
    state: RandomState
    tape: Tape | None = None
    value: Outputs | None = None
    _math_tape: Tape | None = field(default=None, init=False)

    @classmethod
    def begin(cls, signature: Signature, likes: Sequence[Tensor], options: Options) -> "Passes":
        """Start at the point of `signature`; nothing is evaluated yet."""
        return cls(signature, likes, options, random_state(signature.leaves))

    def evaluate(self, *, keep_graph: bool) -> Outputs:
        """The value of the function; evaluated once, whatever follows.

        Args:
            keep_graph: Record a tape, for passes in reverse mode or because the function needs
                one itself.

        Returns:
            What the function returned.
        """
        if self.tape is None and keep_graph:
            self.tape = record(self.signature, create_graph=self.options.create_graph)
            self.value = self.tape.outputs
        if self.value is None:
            with grad_recorded(), torch.no_grad():
                copies = [leaf.detach().clone() for leaf in self.signature.leaves]
                self.value = self.signature.evaluate(copies)
        return self.value

    def push(self, seeds: Seeds, count: int, chunks: Chunks, method: str) -> Tensor:
        """Jacobian-vector products by forward mode.

        Args:
            seeds: Rows of S, over all inputs raveled.
            count: How many.
            chunks: Sizes of the passes.
            method: "vmap", "loop" or the like.

        Returns:
            S J^T, shape (count, elements of all outputs).
        """
        return _swept(self.pusher(method), seeds, count, chunks, self._empty(self.likes))

    def pusher(self, method: str) -> Multiply:
        """What makes one pass of `push`: seeds (k, inputs) -> products (k, outputs)."""
        signature = with_math_attention(self.signature) if method == MATH else self.signature
        leaves = [_plain(leaf) for leaf in signature.leaves]
        stacked = method != LOOP

        def evaluate(copies: list[Tensor]) -> Sequence[Tensor]:
            return signature.replay(copies).tensors

        watch = Watch(signature.api, warn=False)
        flat = replaying(signature.api, evaluate, self.likes, self.state, watch)

        def once(tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
            return push_forward(flat, leaves, tangents)

        def product(tangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
            return batched(once, tangents, "same") if stacked else once(tangents)

        def multiply(seeds: Tensor) -> Tensor:
            with grad_recorded():
                made = apply_seeds(product, split_seeds(seeds, leaves), stacked=stacked)
                return join_products(made, self.likes, len(seeds), self._empty(self.likes))

        return multiply

    def pull(self, seeds: Seeds, count: int, chunks: Chunks, method: str) -> Tensor:
        """Vector-Jacobian products by reverse mode.

        Args:
            seeds: Rows of S, over all outputs raveled.
            count: How many.
            chunks: Sizes of the passes.
            method: "vmap", "loop" or the like.

        Returns:
            S J, shape (count, elements of all inputs), differentiable if that was asked for.
        """
        multiply, empty = self.puller(method), self._empty(self.signature.leaves)
        graph = self.options.create_graph
        return _swept(multiply, seeds, count, chunks, empty, graph=graph)

    def puller(self, method: str, which: Sequence[int] | None = None) -> Multiply:
        """What makes one pass of `pull`: seeds (k, outputs) -> products (k, inputs).

        Args:
            method: As in `pull`.
            which: Outputs that are seeded, None for all.

        Returns:
            The function.
        """
        tape = self._tape_for(method)
        seeded = range(len(tape.outputs.tensors)) if which is None else which
        outputs = [tape.outputs.tensors[i] for i in seeded]
        stacked, graph = method != LOOP, self.options.create_graph

        def product(cotangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
            return tape.pull(seeded, cotangents, stacked=stacked, create_graph=graph)

        def multiply(seeds: Tensor) -> Tensor:
            made = apply_seeds(product, split_seeds(seeds, outputs), stacked=stacked)
            return join_products(made, tape.inputs, len(seeds), self._empty(tape.inputs))

        return multiply

    def _empty(self, targets: Sequence[Tensor]) -> Tensor:
        """An empty matrix with a column for each element of all targets."""
        size = sum([target.numel() for target in targets])
        device = self.signature.leaves[0].device
        return torch.empty(0, size, dtype=common_dtype(targets), device=device)

    def _tape_for(self, method: str) -> Tape:
        if method == MATH:
            if self._math_tape is None:
                self._math_tape = self._recorded(with_math_attention(self.signature), again=True)
            return self._math_tape
        if self.tape is None:
            self.tape = self._recorded(self.signature, again=self.value is not None)
        return self.tape

    def _recorded(self, signature: Signature, *, again: bool) -> Tape:
        if not again:
            return record(signature, create_graph=self.options.create_graph)
        with self.state.replayed():
            return record(
                signature._replace(call=signature.recall), create_graph=self.options.create_graph
            )

    def rungs(self, mode: str, run: Callable[[str, str], Any]) -> list[Rung[Any]]:
        """Ways to make products in a mode, fastest first.

        Args:
            mode: "forward-mode" or "reverse-mode".
            run: What to do, given mode and method.

        Returns:
            The rungs of a ladder.
        """
        rungs = batchings(mode, self.options.stackings, lambda stacked: run(mode, METHODS[stacked]))
        fused = self.tape is not None and uses_fused_attention(self.tape.survey().node_names)
        if fused and rungs[0].method == VMAP:
            rungs.insert(1, Rung(mode, MATH, lambda: run(mode, MATH)))
        return rungs


def _swept(
    multiply: Multiply,
    seeds: Seeds,
    count: int,
    chunks: Chunks,
    empty: Tensor,
    *,
    graph: bool = False,
) -> Tensor:
    """One product for each seed, over all targets raveled."""

    def run(start: int, stop: int) -> Sequence[Tensor | None]:
        return [multiply(seeds(start, stop))]

    whole = sweep(count, run, chunks, differentiable=graph)[0] if count else None
    return empty.new_zeros(count, empty.shape[1]) if whole is None else whole


def _plain(leaf: Tensor) -> Tensor:
    leaf = leaf.detach().contiguous()
    return leaf.clone() if leaf.is_inference() else leaf
