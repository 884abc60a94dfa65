"""Where the entries of a pattern go in a tensor of one layout, decided once and used often.

Every layout is the same work: gather the values in the order the layout stores them, and put them
beside index tensors that were made before. The index tensors are shared by all results.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchjac._layout.cut import Piece
from torchjac._pattern.pattern import Indices, SparsityPattern

# Larger blocks than these gain nothing more.
MAX_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The way from values in CSR order to a tensor.

    Attributes:
        layout: Layout of the tensor.
        shape: Its shape: (m, n), or for `torch.strided` any with m n elements.
        indices: Index tensors of the layout; for `torch.strided` the flat place of each entry.
        take: Number of the entry that each stored value is, None if they are stored in order.
        is_padded: Whether zeros are stored too: `take` counts from one, and 0 means such a zero.
        stored: Shape of the stored values.
        origin: What `indices` were made of, in memory that no result has.
    """

    layout: torch.layout
    shape: tuple[int, ...]
    indices: tuple[Tensor, ...]
    take: Tensor | None
    is_padded: bool
    stored: tuple[int, ...]
    origin: tuple[Indices, ...]

    @property
    def places(self) -> tuple[Tensor, ...]:
        """The index tensors, copies of them once NumPy may write to those that results have."""
        # SciPy's matrices sort and remove indices in place, in arrays that share memory.
        if all([t.untyped_storage().resizable() for t in self.indices]):
            return self.indices
        return tuple([_tensor(array, self.indices[0].device) for array in self.origin])

    def assemble(self, values: Tensor) -> Tensor:
        """The tensor with these values, differentiable in them.

        Args:
            values: One for each entry of the whole pattern, in CSR order.

        Returns:
            A tensor on the device of `values`, whose memory it may share.
        """
        kept = self.ordered(values)
        if self.layout is torch.strided:
            size = int(np.prod(self.shape, dtype=np.int64))
            return kept.new_zeros(size).scatter_(0, self.indices[0], kept).view(self.shape)
        places = self.places
        if self.layout is torch.sparse_coo:
            return torch.sparse_coo_tensor(
                places[0], kept, self.shape, is_coalesced=True, check_invariants=False
            )
        return torch.sparse_compressed_tensor(
            places[0],
            places[1],
            kept,
            self.shape,
            layout=self.layout,
            check_invariants=False,
        )

    def refill(self, out: Tensor, values: Tensor) -> None:
        """Write other values into a tensor that `assemble` made.

        Args:
            out: The tensor.
            values: As in `assemble`.
        """
        kept = self.ordered(values)
        if self.layout is torch.strided:
            out.zero_()
            out.view(-1).scatter_(0, self.indices[0], kept)
        else:
            out.values().copy_(kept)

    def ordered(self, values: Tensor) -> Tensor:
        """The values in the order in which they are stored."""
        if self.take is None:
            return values.view(self.stored)
        if self.is_padded:
            values = torch.cat([values.new_zeros(1), values])
        return values.index_select(0, self.take).view(self.stored)

    def stored_in(self, out: Tensor) -> tuple[int, ...]:
        """Shape of the values that `out` stores, as `stored` has it; its layout is this one."""
        if self.layout is torch.strided:
            return self.stored
        if self.layout is torch.sparse_coo and not out.is_coalesced():
            return (out._nnz(),)
        return tuple(out.values().shape)

    def fits(self, out: Tensor) -> bool:
        """Whether `out` has the places of the entries of this arrangement."""
        if self.layout is torch.strided:
            return out.is_contiguous()
        if self.layout is torch.sparse_coo and not out.is_coalesced():
            return False
        return all(map(torch.equal, self.places, index_tensors(out)))


def index_tensors(tensor: Tensor) -> tuple[Tensor, ...]:
    """Index tensors of a sparse tensor, as `Arrangement.indices` has them."""
    if tensor.layout is torch.sparse_coo:
        return (tensor.indices(),)
    if tensor.layout is torch.sparse_csc:
        return tensor.ccol_indices(), tensor.row_indices()
    return tensor.crow_indices(), tensor.col_indices()


def arrange(
    piece: Piece,
    layout: torch.layout,
    device: torch.device,
    *,
    dense_shape: tuple[int, ...],
    blocksize: tuple[int, int] | None = None,
) -> Arrangement:
    """Decide where the entries of a pattern go.

    Args:
        piece: The pattern, and the place of its entries among all values.
        layout: Of the tensor.
        device: Where the tensors will be.
        dense_shape: Shape of the tensor if the layout is `torch.strided`.
        blocksize: Of BSR blocks; None chooses by `choose_blocksize`.

    Returns:
        The arrangement.
    """
    pattern, positions = piece.pattern, piece.positions
    if layout is torch.sparse_bsr:
        return _in_blocks(piece, device, blocksize or choose_blocksize(pattern))
    shape: tuple[int, ...] = pattern.shape
    if layout is torch.sparse_csc:
        view = pattern.csc
        index = (view.indptr, view.rows)
        positions = view.order if positions is None else positions[view.order]
    elif layout is torch.sparse_csr:
        index = (pattern.indptr, pattern.indices)
    elif layout is torch.sparse_coo:
        index = (np.stack([pattern.rows, pattern.indices]),)
    else:
        shape = dense_shape
        index = (pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices,)
    tensors = tuple([_tensor(array, device) for array in index])
    take = None if positions is None else _tensor(positions, device)
    return Arrangement(layout, shape, tensors, take, False, (pattern.nnz,), index)


def choose_blocksize(pattern: SparsityPattern) -> tuple[int, int]:
    """Square blocks that take the least memory.

    A stored value counts as much as the index of a block, so that blocks may hold a few zeros
    where that saves indices. Only sizes that divide both sides are possible in PyTorch.

    Args:
        pattern: The pattern.

    Returns:
        (height, width) of the blocks.

    >>> choose_blocksize(SparsityPattern.from_dense(np.kron(np.eye(3), np.ones((2, 2)))))
    (2, 2)
    """
    m, n = pattern.shape
    best, least = 1, 2 * pattern.nnz
    common = int(np.gcd(m, n)) or 1
    for size in range(2, min(common, MAX_BLOCK) + 1):
        if common % size == 0:
            blocks = len(_occupied(pattern, (size, size))[0])
            if blocks * (size * size + 1) < least:
                best, least = size, blocks * (size * size + 1)
    return best, best


def _occupied(pattern: SparsityPattern, blocksize: tuple[int, int]) -> tuple[Indices, Indices]:
    """Numbers of the blocks that hold an entry, row by row, and for each entry its block."""
    height, width = blocksize
    across = pattern.shape[1] // width
    block = (pattern.rows.astype(np.int64) // height) * across + pattern.indices // width
    return np.unique(block, return_inverse=True)


def _in_blocks(piece: Piece, device: torch.device, blocksize: tuple[int, int]) -> Arrangement:
    pattern, (height, width) = piece.pattern, blocksize
    m, n = pattern.shape
    numbers, which = _occupied(pattern, blocksize)
    across = max(n // width, 1)
    indptr = np.zeros(m // height + 1, dtype=np.int64)
    np.cumsum(np.bincount(numbers // across, minlength=m // height), out=indptr[1:])
    nnz = pattern.nnz
    positions = np.arange(nnz) if piece.positions is None else piece.positions
    place = (which * height + pattern.rows % height) * width + pattern.indices % width
    take = np.full(len(numbers) * height * width, -1, dtype=np.int64)
    take[place] = positions
    is_padded = bool((take < 0).any())
    index = indptr, numbers % across
    return Arrangement(
        torch.sparse_bsr,
        pattern.shape,
        tuple([_tensor(array, device) for array in index]),
        _tensor(take + is_padded, device),
        is_padded,
        (len(numbers), height, width),
        index,
    )


def _tensor(array: Indices, device: torch.device) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.int64, device=device)
