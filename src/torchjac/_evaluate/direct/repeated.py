"""Products of many matrices with one: a single product of a tall matrix.

Batching writes them as a batch of products, in which the one matrix is repeated. A library may be
quick with that; a compiler lays the repetitions out in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torchjac._linearize.program import LinearProgram, Node, Ref, Value

aten = torch.ops.aten


def without_repeated_factors(program: LinearProgram) -> LinearProgram:
    """The program with a matrix product for each batch of products with one matrix.

    Args:
        program: Linear in nothing.

    Returns:
        A program with the same results.
    """
    rewriter = _Rewriter(list(program.values), dict(program.constants), program.makers)
    for node in program.nodes:
        if node.op is aten.bmm.default:
            rewriter.rewrite(node)
        else:
            rewriter.nodes.append(node)
    return replace(
        program,
        nodes=tuple(rewriter.nodes),
        values=tuple(rewriter.values),
        constants=rewriter.constants,
    )


@dataclass
class _Rewriter:
    """The new program, as far as it is written."""

    values: list[Value]
    constants: dict[int, Tensor]
    makers: Mapping[int, Node]
    nodes: list[Node] = field(default_factory=list)

    def rewrite(self, node: Node) -> None:
        """Write a batch of products as one product, if a factor is the same for all."""
        left, right = node.args
        (result,) = node.outputs
        (count, rows, inner), columns = self._shape(left), self._shape(right)[2]
        if result is None or count < 2:
            self.nodes.append(node)
            return
        if (matrix := self._repeated(right)) is not None:
            tall = self._reshape(left, (count * rows, inner))
            product = self._add(aten.mm.default, (tall, matrix), (count * rows, columns))
            self._finish(aten.reshape.default, (product, [count, rows, columns]), result)
        elif (matrix := self._repeated(left)) is not None:
            moved = self._add(aten.permute.default, (right, [1, 0, 2]), (inner, count, columns))
            wide = self._reshape(moved, (inner, count * columns))
            product = self._add(aten.mm.default, (matrix, wide), (rows, count * columns))
            apart = self._reshape(product, (rows, count, columns))
            self._finish(aten.permute.default, (apart, [1, 0, 2]), result)
        else:
            self.nodes.append(node)

    def _repeated(self, ref: Ref) -> Ref | None:
        """The matrix that a batch repeats."""
        known = self.constants.get(ref.number)
        if known is not None:
            if known.stride(0):
                return None
            number = self._new(tuple(known.shape[1:]), known.dtype)
            self.constants[number] = known[0]
            return Ref(number)
        maker = self.makers.get(ref.number)
        if maker is None or maker.op is not aten.expand.default:
            return None
        (given, *_) = maker.args
        *batch, rows, columns = self._shape(given)
        if batch not in ([], [1]):
            return None
        return self._reshape(given, (rows, columns)) if batch else given

    def _reshape(self, ref: Ref, shape: tuple[int, ...]) -> Ref:
        return self._add(aten.reshape.default, (ref, list(shape)), shape)

    def _add(self, op: object, args: tuple[object, ...], shape: tuple[int, ...]) -> Ref:
        first = next(arg for arg in args if isinstance(arg, Ref))
        number = self._new(shape, self.values[first.number].dtype)
        self._finish(op, args, number)
        return Ref(number)

    def _finish(self, op: object, args: tuple[object, ...], result: int) -> None:
        self.nodes.append(Node(op, args, {}, (result,)))

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        self.values.append(Value(shape, dtype))
        return len(self.values) - 1

    def _shape(self, ref: Ref) -> tuple[int, ...]:
        return self.values[ref.number].shape
