"""A Jacobian as a product of smaller matrices that is never multiplied out."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError

API = "JacobianOperator"
_MOST_DIMS = 2
_SPARSE = (torch.sparse_csr, torch.sparse_csc)


class JacobianOperator:
    """A Jacobian J = F_p ... F_2 F_1, kept as its factors.

    Where a function passes through few numbers, the factors hold far fewer numbers than J, and a
    product with a vector takes as much less. The operator is a value: its factors are those of one
    point, and products with it can be differentiated as products of matrices can.

    Args:
        factors: From last to first, each of shape (m_k, n_k), strided, CSR or CSC; n_k of one is
            m_k of the next. All have one dtype and one device.

    Raises:
        ArgumentError: There is no factor, or dtypes or devices differ.
        ArgumentTypeError: One is no tensor, or has another layout.
        ShapeError: One is not two-dimensional, or they cannot be multiplied.

    >>> left, right = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0, 0.0, 2.0, 0.0]])
    >>> J = JacobianOperator([left, right])
    >>> J
    JacobianOperator(3 x 4 = (3 x 1) (1 x 4), 7 of 12 numbers, torch.float32, cpu)
    >>> (J @ torch.ones(4)).tolist(), (J.T @ torch.ones(3)).tolist()
    ([3.0, 6.0, 9.0], [6.0, 0.0, 12.0, 0.0])
    """

    def __init__(self, factors: Sequence[Tensor]) -> None:
        self._factors = tuple(factors)
        if not self._factors:
            raise ArgumentError(f"{API}: `factors` expected a matrix at least, got none: give one.")
        for k, factor in enumerate(self._factors):
            _check(k, factor, self._factors[0])
        for k, (left, right) in enumerate(pairwise(self._factors)):
            if left.shape[1] != right.shape[0]:
                raise ShapeError(
                    f"{API}: `factors[{k + 1}]` expected {left.shape[1]} rows, as many as "
                    f"`factors[{k}]` has columns, got shape {tuple(right.shape)}: give them from "
                    "last to first."
                )

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The factors, from last to first."""
        return self._factors

    @property
    def shape(self) -> torch.Size:
        """(m, n): numbers of outputs and of inputs, all of them laid out flat."""
        return torch.Size((self._factors[0].shape[0], self._factors[-1].shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the factors."""
        return self._factors[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the factors are."""
        return self._factors[0].device

    @cached_property
    def T(self) -> "JacobianOperator":
        """The transposed operator, shape (n, m)."""
        return JacobianOperator([_transposed(factor) for factor in reversed(self._factors)])

    def __matmul__(self, other: Tensor) -> Tensor:
        """J v, or J V.

        Args:
            other: A vector, shape (n,), or a matrix, shape (n, k).

        Returns:
            Shape (m,) or (m, k).

        Raises:
            ArgumentTypeError: It is no strided tensor.
            ShapeError: Its shape does not fit.
        """
        _check_operand("right", other, self.shape[1], axis=0)
        for factor in reversed(self._factors):
            other = factor @ other
        return other

    def __rmatmul__(self, other: Tensor) -> Tensor:
        """u^T J, or U J.

        Args:
            other: A vector, shape (m,), or a matrix, shape (k, m).

        Returns:
            Shape (n,) or (k, n).

        Raises:
            ArgumentTypeError: It is no strided tensor.
            ShapeError: Its shape does not fit.
        """
        _check_operand("left", other, self.shape[0], axis=-1)
        return (self.T @ other.mT).mT if other.dim() == _MOST_DIMS else self.T @ other

    # A tensor on the left shall leave the product to the operator.
    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """`tensor @ operator`, which PyTorch asks the operator for; nothing else is understood."""
        if func in (torch.Tensor.matmul, torch.Tensor.__matmul__) and not kwargs:
            left, right = args
            if isinstance(right, cls):
                return right.__rmatmul__(left)
        return NotImplemented

    def to_dense(self) -> Tensor:
        """The Jacobian itself, multiplied out in the cheapest order.

        Returns:
            Strided, shape (m, n), new memory.
        """
        dense = [f if f.layout is torch.strided else f.to_dense() for f in self._factors]
        return torch.linalg.multi_dot(dense) if len(dense) > 1 else dense[0].clone()

    def __repr__(self) -> str:
        parts = " ".join([f"({m} x {n})" for m, n in (f.shape for f in self._factors)])
        m, n = self.shape
        kept = sum([_numbers(factor) for factor in self._factors])
        of = f"{kept:,} of {m * n:,} numbers"
        return f"{API}({m} x {n} = {parts}, {of}, {self.dtype}, {self.device})"


def operator_of(entries: Sequence[tuple[Tensor, SparsityPattern]]) -> JacobianOperator:
    """The operator of factors that are known by their nonzeros.

    Args:
        entries: For each factor, from last to first, its nonzeros in CSR order and its pattern.

    Returns:
        The operator; factors without zeros are strided, others CSR.
    """
    return JacobianOperator(
        [
            values.reshape(pattern.shape)
            if pattern.nnz == pattern.shape[0] * pattern.shape[1]
            else pattern.to_torch(values)
            for values, pattern in entries
        ]
    )


def _check(k: int, factor: Tensor, first: Tensor) -> None:
    if not isinstance(factor, Tensor):
        raise ArgumentTypeError(
            f"{API}: `factors[{k}]` expected a tensor, got {type(factor)}: convert it."
        )
    if factor.layout not in (torch.strided, *_SPARSE):
        raise ArgumentTypeError(
            f"{API}: `factors[{k}]` expected layout torch.strided, torch.sparse_csr or "
            f"torch.sparse_csc, got {factor.layout}: convert it with `.to_sparse_csr()`."
        )
    if factor.dim() != _MOST_DIMS:
        raise ShapeError(
            f"{API}: `factors[{k}]` expected two dimensions, got shape {tuple(factor.shape)}: "
            "reshape it."
        )
    if (factor.dtype, factor.device) != (first.dtype, first.device):
        raise ArgumentError(
            f"{API}: `factors[{k}]` expected {first.dtype} on {first.device} as `factors[0]`, got "
            f"{factor.dtype} on {factor.device}: convert it with `.to()`."
        )


def _check_operand(side: str, other: Tensor, size: int, axis: int) -> None:
    if not isinstance(other, Tensor) or other.layout is not torch.strided:
        got = other.layout if isinstance(other, Tensor) else type(other)
        raise ArgumentTypeError(
            f"{API}: the {side} operand of `@` expected a strided tensor, got {got}: convert it."
        )
    if not 0 < other.dim() <= _MOST_DIMS or other.shape[axis] != size:
        wanted = f"({size},) or ({size}, k)" if axis == 0 else f"({size},) or (k, {size})"
        raise ShapeError(
            f"{API}: the {side} operand of `@` expected shape {wanted}, got {tuple(other.shape)}: "
            "lay inputs and outputs out flat, one after the other."
        )


def _transposed(factor: Tensor) -> Tensor:
    return factor.mT if factor.layout is torch.strided else factor.transpose(0, 1)


def _numbers(factor: Tensor) -> int:
    return factor.numel() if factor.layout is torch.strided else factor.values().numel()
