"""The numbers of tensors and arrays at one time, and whether they are the same now."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

# What holds numbers of its own.
Data: TypeAlias = Tensor | np.ndarray[Any, Any]


class Bytes:
    """Numbers that lie in one piece in the memory of the CPU: compared by bytes, at its speed.

    Zeros of different sign are told apart, and NaN is the same as itself.

    Args:
        tensor: The tensor, for which `lies_in_one_piece`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._kind = _kind(tensor)
        self._now = _memory(tensor)
        self._then = bytearray(self._now)

    def are_there(self) -> bool:
        """Whether the memory in which they were holds them still."""
        return self._then == self._now

    def are_same(self) -> bool:
        """Whether the tensor holds them, wherever it keeps its numbers by now."""
        tensor = self._tensor
        if _kind(tensor) != self._kind or not lies_in_one_piece(tensor):
            return False
        return self._then == _memory(tensor)


class Copies:
    """Numbers of anything else: other devices, strides and layouts, arrays.

    Args:
        data: The tensor or the array.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self._copies = tuple(map(_copy, parts_of(data)))

    def are_there(self) -> bool:
        """Whether the data has them, which is looked up anew."""
        return self.are_same()

    def are_same(self) -> bool:
        """Whether the data has them."""
        return all(
            [_is_equal(a, b) for a, b in zip(parts_of(self._data), self._copies, strict=True)]
        )


def numbers_of(data: Data) -> Bytes | Copies:
    """The numbers that a tensor or an array has now.

    Args:
        data: The tensor, of any layout and device, or the array.

    Returns:
        What can say whether it has them still.

    >>> weight = torch.zeros(3)
    >>> then = numbers_of(weight)
    >>> before = then.are_there()
    >>> weight.data[0] = 1
    >>> before, then.are_there()
    (True, False)
    """
    if isinstance(data, Tensor) and lies_in_one_piece(data):
        return Bytes(data)
    return Copies(data)


def lies_in_one_piece(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor are all of one range of the CPU's memory, in order."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def parts_of(data: Data) -> Sequence[Data]:
    """Tensors or arrays with all numbers of one.

    Args:
        data: A tensor of any layout, or an array.

    Returns:
        Itself; of a sparse tensor its indices and values.
    """
    if not isinstance(data, Tensor) or data.layout is torch.strided:
        return (data,)
    data = data.detach()
    if data.layout is torch.sparse_coo:
        return data._indices(), data._values()
    if data.layout in (torch.sparse_csr, torch.sparse_bsr):
        return data.crow_indices(), data.col_indices(), data.values()
    return data.ccol_indices(), data.row_indices(), data.values()


def _memory(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().view(-1).view(torch.uint8).numpy()


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype


def _copy(data: Data) -> Data:
    return data.detach().clone() if isinstance(data, Tensor) else data.copy()


def _is_equal(one: Data, other: Data) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.device == other.device and torch.equal(one, other)
    return np.array_equal(one, other)
