"""The Laplacian as one program: forward mode of second order, collapsed.

The sum of D^2 f[v_k, v_k] over some vectors v_k is carried from the input to the output beside f
itself. What is linear in v_k is computed for all k at once. What is linear in both arguments of
the second derivative, and so in v_k twice, is summed over k as soon as it arises: from there on
one tensor moves through the rest of the function, where a Hessian would move one for each k.

An elementwise operation takes what it is given apart: of a product c(x) v the coefficient is kept
beside v, and the sum of two such products over k is one of the coefficients times the sum of
v_k v_k, which is the same for all that share these vectors (and a number where v_k are columns of
a matrix that does not depend on x).

Sources:
    Li et al. (2024), "A computational framework for neural network-based variational Monte Carlo
    with Forward Laplacian", Nature Machine Intelligence 6.
    Dangel et al. (2025), "Collapsing Taylor mode automatic differentiation", NeurIPS 38.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.direct.assemble import Assembly
from torchjac._evaluate.direct.bilinear import SecondOrder
from torchjac._evaluate.direct.emit import DirectProgram, IsConstant, emit_recorded
from torchjac._linearize.program import Node, Ref, map_refs
from torchjac._linearize.rerun import run_node
from torchjac._torch import batched, outside_modes

# Rounding in which an operation may differ from a multiplication, in units of the precision.
ROUNDING_UNITS = 1e3


def emit_collapsed(
    second: SecondOrder,
    x: Tensor,
    seeds: Tensor,
    like: Tensor,
    most_bytes: float = inf,
) -> DirectProgram:
    """Emit the program of the sum of D^2 f(x)[v_k, v_k].

    Args:
        second: The second derivative.
        x: Where it was traced.
        seeds: v_k, shape (k, *S).
        like: A tensor like the output of the function.
        most_bytes: What large tensors may take at one time.

    Returns:
        The program from x to the sum.

    Raises:
        TooManyDerivativesError: It would hold too much.
        NotImplementedError: An operation cannot be carried out on several vectors at once.
    """

    def assembled(inputs: Sequence[Tensor], _: IsConstant) -> Assembly:
        total = collapsed(second, inputs[0], seeds, like)
        return Assembly(total, total, None)

    size = like.numel() * like.element_size()
    return emit_recorded(assembled, [x], size, like.device, most_bytes)


def collapsed(second: SecondOrder, x: Tensor, seeds: Tensor, like: Tensor) -> Tensor:
    """The sum of D^2 f(x)[v_k, v_k].

    Args:
        second: The second derivative.
        x: Where.
        seeds: v_k, shape (k, *S).
        like: A tensor like the output of the function.

    Returns:
        Shape and dtype of `like`.

    Raises:
        NotImplementedError: An operation cannot be carried out on several vectors at once.
    """
    if second.output is None or not len(seeds):
        return torch.zeros_like(like)
    run = _Run(second, x, seeds)
    for node in second.program.nodes:
        run.take(node)
    return run.known[second.output].to(like.dtype)


class _Carried(NamedTuple):
    """A tensor that is linear in v_k, for all k: a coefficient, and what it multiplies.

    Attributes:
        number: Of the tensor that `base` is; the same for the same numbers.
        base: Shape (k, *S).
        factor: Of x alone, with a shape that S broadcasts to; None for one.
    """

    number: int
    base: Tensor
    factor: Tensor | None

    @property
    def shape(self) -> torch.Size:
        """Without the axis of the vectors."""
        return self.base.shape[1:] if self.factor is None else self.factor.shape

    @property
    def coefficient(self) -> Tensor:
        """The factor, ones in place of none."""
        if self.factor is None:
            return torch.ones((), dtype=self.base.dtype, device=self.base.device).expand(self.shape)
        return self.factor


class _Run:
    """The operations at one x.

    Attributes:
        known: Tensors of x alone, and sums over k, by number.
    """

    def __init__(self, second: SecondOrder, x: Tensor, seeds: Tensor) -> None:
        program = second.program
        place, vector = program.primals
        self._second = second
        self._apart = _kept_apart(second)
        self._program = program
        self.known: dict[int, Any] = dict(program.constants) | {place: x}
        self._carried = {vector: _Carried(vector, seeds, None)}
        self._whole: dict[int, Tensor] = {}
        self._sums: dict[tuple[int, int], Tensor] = {}

    def take(self, node: Node) -> None:
        """Carry out one operation.

        Args:
            node: Whose arguments are known.

        Raises:
            NotImplementedError: It cannot be carried out.
        """
        degree = max([self._second.degree(n) for n in node.outputs])
        of_second = [n for n in node.inputs if self._second.degree(n) == 2]
        carried = [n for n in node.inputs if self._second.degree(n) == 1]
        is_apart = not self._apart.isdisjoint(node.outputs)
        if degree == 0 or (of_second and not carried and not is_apart):
            run_node(node, self.known, self._program)
            if any([n is not None and self.known[n] is None for n in node.outputs]):
                raise NotImplementedError(f"{node.name} gives less without autograd")
        elif of_second or is_apart:
            self._batched(node, dict.fromkeys([*carried, *of_second]), is_second=True)
        elif degree == 2 and not self._multiplies(node, carried):
            self._batched(node, dict.fromkeys(carried), is_second=True)
        elif degree == 1 and not self._scales(node, carried):
            self._batched(node, dict.fromkeys(carried), is_second=False)

    def _scales(self, node: Node, carried: Sequence[int]) -> bool:
        """Take an operation for one on coefficients, if it is."""
        parts = [self._carried[n] for n in carried]
        (first, *others), (out, *more) = parts, node.outputs
        if not _is_elementwise(node) or any([p.number != first.number for p in others]):
            return False
        if out is None or more or not self._is_product(node, parts, is_second=False):
            return False
        factor = self._on(node, [p.coefficient for p in parts], self.known)
        self._carried[out] = _Carried(first.number, first.base, factor)
        return True

    def _multiplies(self, node: Node, carried: Sequence[int]) -> bool:
        """Take an operation for one on coefficients and a sum of products, if it is."""
        parts = [self._carried[n] for n in carried]
        (out, *more) = node.outputs
        if not _is_elementwise(node) or len(parts) != 2:
            return False
        if out is None or more or not self._is_product(node, parts, is_second=True):
            return False
        factor = self._on(node, [p.coefficient for p in parts], self.known)
        self.known[out] = factor * self._sum_of_products(*parts)
        return True

    def _is_product(self, node: Node, parts: Sequence[_Carried], *, is_second: bool) -> bool:
        """Whether an operation on vectors gives their product times what it gives on ones."""
        found = self._second.products
        if node not in found:
            # What depends on x is replaced by other numbers, so that it is so for every x.
            with outside_modes():
                others = _Others(self.known, self._program.constants)
                given, vectors = [], []
                for k, part in enumerate(parts):
                    vectors.append(_random(part.base.shape[1:], part.base, k * is_second))
                    given.append(_random(part.shape, part.base, len(parts) + k))
                product = vectors[0] * vectors[1] if is_second else vectors[0]
                scaled = [c * v for c, v in zip(given, vectors, strict=True)]
                expected = self._on(node, given, others) * product
                found[node] = _close(self._on(node, scaled, others), expected)
        return found[node]

    def _sum_of_products(self, one: _Carried, other: _Carried) -> Tensor:
        """What the vectors of two tensors multiplied with each other are, summed over k."""
        key = min(one.number, other.number), max(one.number, other.number)
        if key not in self._sums:
            axes = max(one.base.dim(), other.base.dim()) - 1
            self._sums[key] = (_lifted(one.base, axes) * _lifted(other.base, axes)).sum(0)
        return self._sums[key]

    def _batched(self, node: Node, carried: Iterable[int], *, is_second: bool) -> None:
        """Carry out an operation for all k at once."""
        outputs = [n for n in node.outputs if n is not None]

        def once(vectors: list[Tensor]) -> list[Tensor]:
            known = self.known | dict(zip(carried, vectors, strict=True))
            run_node(node, known, self._program)
            return [known[n] for n in outputs]

        results = batched(once, [self._full(n) for n in carried])
        for number, result in zip(outputs, results, strict=True):
            if result is None:
                raise NotImplementedError(f"{node.name} gives less without autograd")
            if is_second:
                self.known[number] = result.sum(0)
            if not is_second or number in self._apart:
                self._carried[number] = _Carried(number, result, None)

    def _full(self, number: int) -> Tensor:
        """A tensor for all k, its coefficient multiplied in."""
        if number not in self._whole:
            part = self._carried[number]
            whole = part.base
            if part.factor is not None:
                whole = _lifted(whole, part.factor.dim()) * part.factor
            self._whole[number] = whole
        return self._whole[number]

    def _on(self, node: Node, given: Sequence[Tensor], known: Mapping[int, Tensor]) -> Tensor:
        """An elementwise operation with other tensors in place of those that are carried."""
        left = iter(given)

        def fetch(ref: Ref) -> Tensor:
            return next(left) if ref.number in self._carried else known[ref.number]

        kwargs = {key: map_refs(fetch, value) for key, value in node.kwargs.items()}
        return node.op(*map_refs(fetch, node.args), **kwargs)


def _kept_apart(second: SecondOrder) -> frozenset[int]:
    """Tensors of second degree that are needed for each k: they meet some of first degree."""
    found: set[int] = set()
    for node in reversed(second.program.nodes):
        degrees = {n: second.degree(n) for n in node.inputs}
        is_needed = any([n in found for n in node.outputs])
        if is_needed or {1, 2} <= set(degrees.values()):
            found.update([n for n, degree in degrees.items() if degree == 2])
    return frozenset(found)


def _is_elementwise(node: Node) -> bool:
    return torch.Tag.pointwise in getattr(node.op, "tags", ())


def _lifted(stacked: Tensor, axes: int) -> Tensor:
    """Vectors with so many axes each, new ones in front."""
    k, *shape = stacked.shape
    return stacked.reshape(k, *[1] * (axes - len(shape)), *shape)


class _Others(Mapping[int, Tensor]):
    """Random tensors like those that depend on x, and those that do not as they are."""

    def __init__(self, known: Mapping[int, Tensor], constants: Mapping[int, Tensor]) -> None:
        self._known, self._constants = known, constants

    def __getitem__(self, number: int) -> Tensor:
        tensor = self._known[number]
        if number in self._constants:
            return tensor
        if tensor.dtype == torch.bool:
            return _random(tensor.shape, tensor.float(), number) > 0
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            return _random(tensor.shape, tensor, number)
        return tensor

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _random(shape: Sequence[int], like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if like.is_complex() else torch.float64
    return torch.randn(shape, generator=generator, dtype=dtype).to(like.device, like.dtype)


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    allowed = ROUNDING_UNITS * torch.finfo(one.dtype).eps
    return torch.allclose(one, other, rtol=allowed, atol=0.0, equal_nan=True)
