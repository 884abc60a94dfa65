"""Functions whose derivative holds one operation of PyTorch that no other derivative is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten, prims = torch.ops.aten, torch.ops.prims
Apply = Callable[[Tensor], Tensor]


class Sample(NamedTuple):
    """An operation that is linear in t, and the shape of t."""

    shape: tuple[int, ...]
    apply: Apply


def numbers(*shape: int, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def matrix_of(apply: Apply, like: Tensor) -> Tensor:
    """A linear operation as a matrix, column by column."""
    basis = torch.eye(like.numel(), dtype=like.dtype).reshape(-1, *like.shape)
    return torch.stack([apply(unit).reshape(-1) for unit in basis], dim=1)


def squares_through(apply: Apply) -> Apply:
    """The function x -> L(x²), whose forward derivative holds L itself."""

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return apply(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.shape = inputs[0].shape

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            matrix = matrix_of(apply, torch.zeros(ctx.shape, dtype=g.dtype))
            return (g.reshape(-1) @ matrix).reshape(ctx.shape)

        @staticmethod
        def jvp(ctx: Any, t: Tensor) -> Tensor:
            return apply(t)

    return lambda x: Linear.apply(x * x)


INDEX = torch.tensor([2, 0, 2])
GRID_2D, GRID_3D = 0.7 * numbers(1, 3, 2, 2).tanh(), 0.7 * numbers(1, 2, 2, 2, 3).tanh()
QUERY, KEY, VALUE = (numbers(1, 2, 3, 4, seed=k) for k in range(3))
ATTENDED = aten._scaled_dot_product_flash_attention_for_cpu(QUERY, KEY, VALUE)
SAMPLES: Mapping[str, Sample] = {
    "aten._embedding_bag_dense_backward": Sample(
        (2, 3),
        lambda t: aten._embedding_bag_dense_backward(
            t,
            torch.tensor([0, 2, 1, 2]),
            torch.tensor([0, 0, 1, 1]),
            torch.tensor([2, 2]),
            torch.empty(0, dtype=torch.int64),
            4,
            False,
            0,
            None,
        ),
    ),
    "aten._index_put_impl": Sample(
        (5,), lambda t: aten._index_put_impl(t, [INDEX], t[:3], True, False)
    ),
    "aten._neg_view": Sample((4,), lambda t: aten._neg_view(t) * numbers(4)),
    "aten._reshape_alias": Sample((2, 3), lambda t: aten._reshape_alias(t, [3, 2], [2, 1])),
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": Sample(
        (1, 2, 3, 4),
        lambda t: aten._scaled_dot_product_flash_attention_for_cpu_backward(
            t, QUERY, KEY, VALUE, *ATTENDED, 0.0, False
        )[0],
    ),
    "aten._unsafe_index": Sample((4, 2), lambda t: aten._unsafe_index(t, [INDEX])),
    "aten._unsafe_index_put": Sample(
        (5,), lambda t: aten._unsafe_index_put(t, [INDEX], t[:3], True)
    ),
    "aten._upsample_bicubic2d_aa": Sample(
        (1, 1, 4, 4), lambda t: aten._upsample_bicubic2d_aa(t, [3, 2], False)
    ),
    "aten._upsample_bicubic2d_aa_backward": Sample(
        (1, 1, 3, 2),
        lambda t: aten._upsample_bicubic2d_aa_backward(t, [3, 2], [1, 1, 4, 4], False),
    ),
    "aten._weight_norm_interface_backward": Sample(
        (3, 2),
        lambda t: aten._weight_norm_interface_backward(
            t, numbers(3, 2), numbers(3, 1), numbers(3, 2).norm(dim=1, keepdim=True), 0
        )[0],
    ),
    "aten.addmv": Sample((2, 3), lambda t: aten.addmv(t[0], numbers(3, 3), t[1], beta=2, alpha=3)),
    "aten.addr": Sample((3, 3), lambda t: aten.addr(t, t[0], numbers(3))),
    "aten.baddbmm": Sample((2, 3, 3), lambda t: aten.baddbmm(t, t, numbers(2, 3, 3))),
    "aten.fill": Sample((4,), lambda t: aten.fill(numbers(3), t.sum())),
    "aten.grid_sampler_2d": Sample(
        (1, 2, 4, 4), lambda t: aten.grid_sampler_2d(t, GRID_2D, 0, 0, False)
    ),
    "aten.grid_sampler_3d": Sample(
        (1, 1, 3, 3, 3), lambda t: aten.grid_sampler_3d(t, GRID_3D, 0, 0, False)
    ),
    "aten.grid_sampler_3d_backward": Sample(
        (1, 1, 2, 2, 2),
        lambda t: aten.grid_sampler_3d_backward(
            t, numbers(1, 1, 3, 3, 3), GRID_3D, 0, 0, False, [True, False]
        )[0],
    ),
    "aten.glu_backward_jvp": Sample(
        (2, 3),
        lambda t: aten.glu_backward_jvp(
            numbers(2, 6), numbers(2, 3), numbers(2, 6), t, torch.zeros(2, 6).double(), 1
        ),
    ),
    "aten.nan_to_num": Sample((4,), lambda t: aten.nan_to_num(t)),
    "aten.nansum": Sample((3, 4), lambda t: aten.nansum(t, [1])),
    "aten.native_channel_shuffle": Sample(
        (1, 4, 2), lambda t: aten.native_channel_shuffle(t[..., None], 2)
    ),
    "aten.native_dropout_backward": Sample(
        (5,), lambda t: aten.native_dropout_backward(t, numbers(5) > 0, 2.0)
    ),
    "aten.unsafe_split_with_sizes": Sample(
        (5,), lambda t: aten.unsafe_split_with_sizes(t, [2, 3])[1]
    ),
    "prims.add": Sample((4,), lambda t: prims.add(t, t.flip(0))),
    "prims.convert_element_type": Sample(
        (4,), lambda t: prims.convert_element_type(t, torch.float64)
    ),
    "prims.mul": Sample((4,), lambda t: prims.mul(t, numbers(4))),
}
