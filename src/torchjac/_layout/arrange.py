"""Where the entries of a pattern go in a tensor of one layout, decided once and used often.

Every layout is the same work: take the values in the order the layout stores them, and put them
beside index tensors that were made before. All results share the memory of the index tensors until
somebody writes to them. Where the order is regular the values are taken as a view: those of a full
matrix are the matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchjac._layout.cut import Piece
from torchjac._layout.slices import Slices, as_slices
from torchjac._layout.tiles import choose_blocksize, tiled
from torchjac._pattern.pattern import Indices
from torchjac._pattern.separable import DiagonalBlocks
from torchjac._torch import lazy_copy


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The way from values in CSR order to a tensor.

    Attributes:
        layout: Layout of the tensor.
        shape: Its shape: (m, n), or for `torch.strided` any with as many elements as it may have.
        indices: Index tensors of the layout, none for `torch.strided`.
        take: Number of the entry that each stored value is, None if they are stored in order.
        is_padded: Whether zeros are stored too: `take` counts from one, and 0 means such a zero.
        stored: Shape of the stored values.
        put: Where the stored values go in a tensor of zeros, None if they are the whole tensor.
    """

    layout: torch.layout
    shape: tuple[int, ...]
    indices: tuple[Tensor, ...]
    take: Tensor | Slices | None
    is_padded: bool
    stored: tuple[int, ...]
    put: Tensor | Slices | None = None

    def __getstate__(self) -> dict[str, Any]:
        """With copies, for pickling looks at memory in a way that ends the sharing of it."""
        return dict(self.__dict__, indices=tuple([t.clone() for t in self.indices]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, ready for several threads."""
        self.__dict__.update(state)
        share(self.indices)

    def assemble(self, values: Tensor) -> Tensor:
        """The tensor with these values, differentiable in them.

        Args:
            values: One for each entry of the whole pattern, in CSR order.

        Returns:
            A tensor on the device of `values`, whose memory it may share.
        """
        kept = self.ordered(values)
        if self.layout is torch.strided:
            if self.put is None:
                return kept
            return self._spread(kept, kept.new_zeros(self.shape))
        index = lazy_copy(self.indices[0])
        if self.layout is torch.sparse_coo:
            return torch.sparse_coo_tensor(
                index, kept, self.shape, is_coalesced=True, check_invariants=False
            )
        return torch.sparse_compressed_tensor(
            index,
            lazy_copy(self.indices[1]),
            kept,
            self.shape,
            layout=self.layout,
            check_invariants=False,
        )

    def refill(self, out: Tensor, values: Tensor, *, is_clean: bool = False) -> None:
        """Write other values into a tensor that `assemble` made.

        Args:
            out: The tensor.
            values: As in `assemble`.
            is_clean: Whether its zeros are known to be there still.
        """
        kept = self.ordered(values)
        if self.layout is not torch.strided:
            out.values().copy_(kept)
        elif self.put is None:
            out.copy_(kept)
        else:
            self._spread(kept, out if is_clean else out.zero_())

    def ordered(self, values: Tensor) -> Tensor:
        """The values in the order in which they are stored, contiguous."""
        if self.take is None:
            return values if values.shape == self.stored else values.view(self.stored)
        if isinstance(self.take, Slices):
            return self.take.view(values.contiguous()).reshape(self.stored).contiguous()
        if self.is_padded:
            values = torch.cat([values.new_zeros(1), values])
        return values.index_select(0, self.take).view(self.stored)

    @property
    def keeps_order(self) -> bool:
        """Whether a result stores the entries as they come, and nothing else."""
        in_order = self.take is None and self.put is None
        return in_order and self.layout in (torch.strided, torch.sparse_csr)

    def entries_in(self, out: Tensor) -> Tensor:
        """The entries in the memory of a result that keeps their order, shape (nnz,)."""
        return out.view(-1) if self.layout is torch.strided else out.values()

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
        return all(map(torch.equal, self.indices, index_tensors(out)))

    def _spread(self, kept: Tensor, zeros: Tensor) -> Tensor:
        """`zeros`, which is contiguous, after the values were put into it."""
        flat = zeros.view(-1)
        if isinstance(self.put, Slices):
            self.put.view(flat).copy_(kept.view(self.put.sizes))
        elif self.put is not None:
            flat.scatter_(0, self.put, kept)
        return zeros


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
    dense_shape: Sequence[int],
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
    if layout is torch.strided:
        return _dense(piece, device, tuple(dense_shape), None)
    if layout is torch.sparse_bsr:
        return _in_tiles(piece, device, blocksize or choose_blocksize(piece.pattern))
    return _in_lines(piece, layout, device)


def arrange_blocks(piece: Piece, blocks: DiagonalBlocks, device: torch.device) -> Arrangement:
    """Decide where entries go that lie in blocks along the diagonal: in a stack of these.

    Args:
        piece: As in `arrange`.
        blocks: Which hold all of its entries.
        device: Where the tensors will be.

    Returns:
        The arrangement, of a strided tensor of shape (B, m, n).
    """
    return _dense(piece, device, blocks.shape, blocks)


def _in_lines(piece: Piece, layout: torch.layout, device: torch.device) -> Arrangement:
    """Row by row, or column by column."""
    pattern, positions = piece.pattern, piece.positions
    if layout is torch.sparse_csc:
        view = pattern.csc
        index = (view.indptr, view.rows)
        positions = view.order if positions is None else positions[view.order]
    elif layout is torch.sparse_csr:
        index = (pattern.indptr, pattern.indices)
    else:
        index = (np.stack([pattern.rows, pattern.indices]),)
    take = _taken(positions, device)
    return Arrangement(layout, pattern.shape, _shared(index, device), take, False, (pattern.nnz,))


def _in_tiles(piece: Piece, device: torch.device, blocksize: tuple[int, int]) -> Arrangement:
    """In BSR blocks, which may hold zeros."""
    tiles = tiled(piece.pattern, blocksize)
    take, is_padded = tiles.entries, bool((tiles.entries < 0).any())
    if piece.positions is not None:
        take = np.where(take < 0, -1, piece.positions[take]) if is_padded else piece.positions[take]
    return Arrangement(
        torch.sparse_bsr,
        piece.pattern.shape,
        _shared((tiles.indptr, tiles.columns), device),
        _tensor(take + 1, device) if is_padded else _taken(take, device),
        is_padded,
        (len(tiles.columns), *blocksize),
    )


def _dense(
    piece: Piece, device: torch.device, shape: tuple[int, ...], blocks: DiagonalBlocks | None
) -> Arrangement:
    """In a strided tensor, of the whole or of its blocks: zeros where there are no entries."""
    pattern, positions = piece.pattern, piece.positions
    is_full = pattern.nnz == prod(shape)
    if is_full and (blocks is None or blocks.is_in_order):
        return Arrangement(torch.strided, shape, (), _taken(positions, device), False, shape)
    place = _place(piece, blocks)
    if not is_full:
        put, take = as_slices(place) or _tensor(place, device), _taken(positions, device)
        return Arrangement(torch.strided, shape, (), take, False, (pattern.nnz,), put=put)
    entries = np.empty_like(place)
    entries[place] = np.arange(pattern.nnz) if positions is None else positions
    return Arrangement(torch.strided, shape, (), _taken(entries, device), False, shape)


def _place(piece: Piece, blocks: DiagonalBlocks | None) -> Indices:
    """Where each entry goes in the raveled tensor."""
    pattern = piece.pattern
    if blocks is None:
        return pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices
    _, _, width = blocks.shape
    # The number of a row says both block and row in it, that of a column its place in the block.
    starts = np.repeat(blocks.row_numbers * width, pattern.row_counts)
    return starts + (blocks.column_numbers % width)[pattern.indices]


def _taken(positions: Indices | None, device: torch.device) -> Tensor | Slices | None:
    """How to take the values at these positions: as they are, as a view, or gathered."""
    slices = None if positions is None else as_slices(positions)
    return slices or (None if positions is None else _tensor(positions, device))


def share(tensors: Sequence[Tensor]) -> None:
    """Make tensors ready to be copied lazily in any thread.

    Args:
        tensors: Of which each has memory of its own.
    """
    for tensor in tensors:
        lazy_copy(tensor)


def _shared(arrays: Sequence[Indices], device: torch.device) -> tuple[Tensor, ...]:
    tensors = tuple([_tensor(array, device) for array in arrays])
    share(tensors)
    return tensors


def _tensor(array: Indices, device: torch.device) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.int64, device=device)
