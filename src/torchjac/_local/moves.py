"""Operations that move the elements of a tensor, whatever they are."""

import torch

aten = torch.ops.aten

# Each element of the result is one of an argument, or a constant; numbers of any dtype will do.
MOVES = frozenset(
    {
        aten.alias,
        aten.block_diag,
        aten.cat,
        aten.constant_pad_nd,
        aten.detach,
        aten.diag,
        aten.diag_embed,
        aten.diagonal,
        aten.diagonal_scatter,
        aten.expand,
        aten.flip,
        aten.permute,
        aten.repeat,
        aten.reshape,
        aten.roll,
        aten.select,
        aten.select_scatter,
        aten.slice,
        aten.slice_scatter,
        aten.squeeze,
        aten.stack,
        aten.t,
        aten.transpose,
        aten.tril,
        aten.triu,
        aten.unsqueeze,
        aten.view,
        aten._unsafe_view,
    }
)
