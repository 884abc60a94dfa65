"""One operation of a linear program, carried out on slices of derivatives."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block, Factors
from torchjac._linearize.plain import plain
from torchjac._linearize.program import Ref, map_refs
from torchjac._local.call import Call
from torchjac._torch import batched, outside_modes

aten = torch.ops.aten
# They have no batching rule, and treat the samples along their first axis apart.
_SAMPLES_FIRST = frozenset({aten._scaled_dot_product_flash_attention_for_cpu_backward})
# Linear systems, with the argument that is the right-hand side.
SOLVES = {
    aten.linalg_lu_solve: "B",
    aten.linalg_solve_triangular: "B",
    aten.cholesky_solve: "self",
}
# PyTorch's batching rule of these gives wrong numbers.
_WRONG_IN_BATCHES = frozenset({aten._cdist_backward})


class Operation:
    """A result of an operation, as a function of its tangents.

    Args:
        call: The operation.
        position: Which of its results.
        values: The tensors that do not depend on a tangent, by number.
    """

    def __init__(self, call: Call, position: int, values: Mapping[int, Tensor]) -> None:
        self._call = call
        self._position = position
        self._values = values
        self._packet = getattr(call.node.op, "overloadpacket", None)

    def on(self, given: Mapping[int, Tensor]) -> Tensor:
        """The operation on some tangents, the others zero.

        Args:
            given: Tangents by number.

        Returns:
            Its result.
        """

        def fetch(ref: Ref) -> Tensor:
            if ref.number in given:
                return given[ref.number]
            if self._call.is_tangent(ref):
                like = next(iter(given.values()))
                value = self._call.value(ref)
                return torch.zeros(value.shape, dtype=value.dtype, device=like.device)
            return self._values[ref.number]

        return self._run(fetch)

    def _run(self, fetch: Callable[[Ref], Tensor]) -> Tensor:
        node = self._call.node
        kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
        result = plain(node.op)(*map_refs(fetch, node.args), **kwargs)
        return result[self._position] if isinstance(result, tuple | list) else result

    def on_slices(self, blocks: Mapping[int, Block]) -> Tensor:
        """The operation on one slice of each block after the other, or on all at once.

        Args:
            blocks: Blocks of tangents, by number, with as many slices each.

        Returns:
            The results, stacked.
        """
        numbers = list(blocks)

        def once(slices: list[Tensor]) -> list[Tensor]:
            return [self.on(dict(zip(numbers, slices, strict=True)))]

        if self._packet in _SAMPLES_FIRST and len(list(self._call.tangents())) == 1:
            return self._as_samples(next(iter(blocks.values())))
        if self._packet in SOLVES and self._call.is_tangent(self._call[SOLVES[self._packet]]):
            return self._as_sides(next(iter(blocks.values())))
        stacked = [block.values for block in blocks.values()]
        if self._works_in_batches():
            try:
                return next(t for t in batched(once, stacked) if t is not None)
            except RuntimeError:  # no batching rule
                return _one_by_one(once, stacked)
        return _one_by_one(once, stacked)

    def _as_samples(self, block: Block) -> Tensor:
        """The operation once, the slices of its one tangent being further samples."""
        samples, count = block.shape[0], block.slices

        def fetch(ref: Ref) -> Tensor:
            if self._call.is_tangent(ref):
                return block.values.flatten(0, 1)
            tensor = self._values[ref.number]
            if tensor.dim() < 3 or tensor.shape[0] != samples:  # a mask that all samples share
                return tensor
            return tensor.expand(count, *tensor.shape).flatten(0, 1)

        return self._run(fetch).unflatten(0, (count, samples))

    def _as_sides(self, block: Block) -> Tensor:
        """The system solved once, the slices of its right-hand side being further sides."""
        # A batch would copy the matrix for each slice.
        is_left = self._call.arguments.get("left", True)
        at, side = (-2, -1) if is_left else (-3, -2)
        sides = block.values.movedim(0, at).flatten(*sorted((at, at + 1)))

        def fetch(ref: Ref) -> Tensor:
            return sides if self._call.is_tangent(ref) else self._values[ref.number]

        count = (block.slices, block.shape[side])
        return self._run(fetch).unflatten(side, count).movedim(at, 0)

    def factors(
        self, number: int, block: Block, values: Tensor, is_constant: Callable[[Tensor], bool]
    ) -> Factors | None:
        """What the derivatives of an elementwise operation are products of.

        Args:
            number: Of its tangent.
            block: Derivatives of that.
            values: Those of its result.
            is_constant: Whether a tensor is the same at every x.

        Returns:
            Weights are those of `block`, or its derivatives if they are the same at every x. None
            if there are no such, or shape or dtype change.
        """
        known = block.factors
        if known is None and is_constant(block.values):
            like = torch.ones((), dtype=values.dtype, device=values.device)
            known = Factors(block.values, lambda: like.expand(block.shape))
        given = block.values
        is_kept = values.shape == given.shape and values.dtype == given.dtype
        if known is None or not is_kept or values.is_complex() or is_constant(values):
            return None
        weights, shared = known
        return Factors(weights, lambda: self.on({number: shared()}))

    def is_linear(self) -> bool:
        """Whether multiples of random tangents give the same multiples of a result.

        Returns:
            False where an absolute value, an exponential or a comparison is applied to a tangent,
            or where it is multiplied with another.
        """
        device = next((t.device for t in self._values.values()), None)
        generator = torch.Generator().manual_seed(0)
        given: dict[int, Tensor] = {}
        for ref in self._call.tangents():
            value = self._call.value(ref)
            if not (value.dtype.is_floating_point or value.dtype.is_complex):
                return False
            random = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            given[ref.number] = random.to(device, value.dtype)
        with outside_modes(), torch.no_grad():
            once = self.on(given)
            twice = self.on({number: -2 * tensor for number, tensor in given.items()})
        return once.dtype != torch.bool and torch.allclose(twice, -2 * once, equal_nan=True)

    def _works_in_batches(self) -> bool:
        """Whether `vmap` may be tried; with sparse tensors it can crash."""
        if self._packet in _WRONG_IN_BATCHES:
            return False
        others = [self._values.get(number) for number in self._call.node.inputs]
        return all(t is None or t.layout is torch.strided for t in others)


def _one_by_one(once: Callable[[list[Tensor]], list[Tensor]], stacked: list[Tensor]) -> Tensor:
    return torch.stack([once(list(slices))[0] for slices in zip(*stacked, strict=True)])
