"""A weight between a Jacobian and its transpose: a diagonal, a matrix, or a function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchjac.errors import ArgumentTypeError, ShapeError

# multiply(V of shape (size, k)) -> weight @ V
Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Weight:
    """A square matrix of some form.

    Attributes:
        api: Name of the public function, for messages.
        like: Has the dtype and the device of the products.
        size: Rows and columns.
        diagonal: The diagonal, where it is all there is.
        matrix: The matrix.
        operator: Multiplies by the matrix, which is symmetric.
    """

    api: str
    like: Tensor
    size: int
    diagonal: Tensor | None = None
    matrix: Tensor | None = None
    operator: Operator | None = None

    @property
    def mixes(self) -> bool:
        """Whether a row of the product needs other rows of what is multiplied."""
        return self.matrix is not None or self.operator is not None

    def times(self, block: Tensor) -> Tensor:
        """The weight times a matrix.

        Args:
            block: The matrix, shape (size, k).

        Returns:
            Shape (size, k).

        Raises:
            ShapeError: The user's function returned another shape.
        """
        if self.diagonal is not None:
            return self.diagonal[:, None] * block
        if self.matrix is not None:
            return self.matrix @ block
        if self.operator is None:
            return block
        product = self.operator(block)
        if not isinstance(product, Tensor) or product.shape != block.shape:
            got = tuple(product.shape) if isinstance(product, Tensor) else type(product)
            raise ShapeError(
                f"{self.api}: `weight` must return the weight times what it is given, of the same "
                f"shape {tuple(block.shape)}; got {got}."
            )
        return product.to(block)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, shape (stop - start, size)."""
        if self.matrix is not None:
            return self.matrix[start:stop]
        unit = self.like.new_zeros(self.size, stop - start)
        unit[start:stop].fill_diagonal_(1)
        return self.times(unit).T

    def scale(self, rows: Tensor, start: int, stop: int) -> Tensor:
        """Some rows of a product with a weight that does not mix them."""
        return rows if self.diagonal is None else self.diagonal[start:stop, None] * rows


def read_weight(
    api: str, weight: Any, size: int, shapes: list[tuple[int, ...]], like: Tensor
) -> Weight:
    """Read the argument `weight`.

    Args:
        api: Name of the public function, for messages.
        weight: None, a Tensor, or a function.
        size: Rows that the weight must have.
        shapes: Of the tensors that the rows stand for.
        like: Has the dtype and the device of the products.

    Returns:
        The weight.

    Raises:
        ArgumentTypeError: It is of another type.
        ShapeError: It has another size.
    """
    if weight is None:
        return Weight(api, like, size)
    if isinstance(weight, Tensor):
        if not weight.dtype.is_floating_point:
            raise ArgumentTypeError(
                f"{api}: `weight` must be a floating-point Tensor, got dtype {weight.dtype}."
            )
        weight = weight.to(like)
        if tuple(weight.shape) == (size, size):
            return Weight(api, like, size, matrix=weight)
        if tuple(weight.shape) == (size,) or [tuple(weight.shape)] == shapes:
            return Weight(api, like, size, diagonal=weight.reshape(-1))
        raise ShapeError(
            f"{api}: `weight` must have shape ({size},) for a diagonal or ({size}, {size}) for a "
            f"matrix, one row for each of {shapes}; got {tuple(weight.shape)}."
        )
    if callable(weight):
        operator: Any = weight
        return Weight(api, like, size, operator=operator)
    raise ArgumentTypeError(
        f"{api}: `weight` must be None, a Tensor, or a function V -> weight @ V; got "
        f"{type(weight)}."
    )
