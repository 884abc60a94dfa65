"""What the use of a parameter in a layer says of its Jacobian.

With the cotangent g of the layer's output, the Jacobian of one sample by a weight is

    sum over positions t of  g_t (outer) x_t     linear, convolution (x: patches), embedding (x:
                                                 one-hot)
    sum over positions t of  g_t * z_t           normalisation, elementwise products and sums

Nothing is decided here on samples: axis 0 of what is returned are rows, each of which belongs to
one of them.

Source: Novak, Sohl-Dickstein & Schoenholz (2022), Fast Finite Width Neural Tangent Kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.kernel.uses import Use
from torchjac._torch import saved_by, shape_after

ByRows = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Product:
    """A use as outer products.

    Attributes:
        node: Node of the layer.
        inputs: x, shape (rows, groups, positions, in); with `one_hot` the classes instead, shape
            (rows,), -1 for none; None for ones, of a bias.
        by_rows: From cotangents (seeds, *output) to (seeds, rows, elements of a row).
        groups: Groups of channels in a row.
        channels: Channels of a group, each with its positions; 0: all that a row has is one
            position.
        flipped: Whether the parameter is (in, out), not (out, in).
        one_hot: Number of classes, 0 where `inputs` are numbers.
    """

    node: Any
    inputs: Tensor | None
    by_rows: ByRows
    groups: int = 1
    channels: int = 0
    flipped: bool = False
    one_hot: int = 0

    def arrange(self, rows: Tensor) -> Tensor:
        """(seeds, rows, elements) as (seeds, rows, groups, positions, channels)."""
        seeds, count, elements = rows.shape
        channels = self.channels or elements
        positions = elements // max(1, self.groups * channels)
        return rows.reshape(seeds, count, self.groups, channels, positions).mT


@dataclass(frozen=True, slots=True)
class Scaling:
    """A use as products of elements.

    Attributes:
        node: Node of the layer.
        factors: z, broadcastable to the output; None for ones.
        shape: The parameter's, as it is broadcast to the output.
    """

    node: Any
    factors: Tensor | None
    shape: tuple[int, ...]


Place = Product | Scaling
Rule = Callable[[Use, Tensor], Place | None]


def place_of(use: Use, parameter: Tensor) -> Place | None:
    """Read a use.

    Args:
        use: Where a parameter enters the graph.
        parameter: The parameter.

    Returns:
        What its Jacobian is made of, or None where no rule knows the operation.
    """
    if use.node is None:
        return None
    key = (use.node.name(), use.argument)
    rule = _RULES.get(key)
    if rule is None or (use.transposed and key not in _TRANSPOSABLE):
        return None
    return rule(use, parameter)


# Linear layers: y = x W^T + b, rows of a matrix product


def _weight_of_matmul(use: Use, parameter: Tensor) -> Place | None:  # noqa: ARG001 - a rule
    node, name = use.node, use.node.name()
    first, second = ("self", "mat2") if name == "MmBackward0" else ("mat1", "mat2")
    if name == "AddmmBackward0" and saved_by(node, "alpha") != 1:
        return None
    is_second = use.argument == (1 if name == "MmBackward0" else 2)
    if is_second:
        rows = saved_by(node, first)
        return Product(node, rows[:, None, None], _rows, flipped=not use.transposed)
    rows = saved_by(node, second).mT
    return Product(node, rows[:, None, None], _columns, flipped=use.transposed)


def _rows(cotangents: Tensor) -> Tensor:
    return cotangents


def _columns(cotangents: Tensor) -> Tensor:
    return cotangents.mT


def _bias_of_matmul(use: Use, parameter: Tensor) -> Place | None:
    if saved_by(use.node, "beta") != 1:
        return None
    if tuple(parameter.shape) != (shape_after(use.node)[1],):
        return Scaling(use.node, None, tuple(parameter.shape))
    return Product(use.node, None, _rows)


# Convolutions: the same with patches


def _of_convolution(use: Use, parameter: Tensor) -> Place | None:
    node = use.node
    if len(shape_after(node)) < 3:
        return None
    groups = saved_by(node, "groups")
    channels = shape_after(node)[1] // groups
    inputs = None
    if use.argument == 1:
        if saved_by(node, "transposed"):
            return None
        inputs = _patches(node, saved_by(node, "input"), parameter.shape[2:])
    return Product(node, inputs, _images, groups, channels)


def _images(cotangents: Tensor) -> Tensor:
    return cotangents.flatten(2)


def _patches(node: Any, x: Tensor, kernel: torch.Size) -> Tensor:
    """What each position sees, shape (rows, groups, positions, channels of a group * kernel)."""
    groups = saved_by(node, "groups")
    view = _patch_view(node, x, kernel)  # rows, channels, *positions, *kernel
    spatial = len(kernel)
    rows, channels = x.shape[:2]
    apart = view.reshape(rows, groups, channels // groups, *view.shape[2:])
    positions, taps = range(3, 3 + spatial), range(3 + spatial, 3 + 2 * spatial)
    return apart.permute(0, 1, *positions, 2, *taps).reshape(
        rows, groups, view.shape[2 : 2 + spatial].numel(), channels // groups * kernel.numel()
    )


def _patch_view(node: Any, x: Tensor, kernel: torch.Size) -> Tensor:
    """A view of the padded input, shape (rows, channels, *positions, *kernel)."""
    stride, padding, dilation = (saved_by(node, k) for k in ("stride", "padding", "dilation"))
    x = torch.nn.functional.pad(x, [p for size in reversed(padding) for p in (size, size)])
    for axis, size in enumerate(kernel):
        reach = dilation[axis] * (size - 1) + 1
        x = x.unfold(axis + 2, reach, stride[axis])[..., :: dilation[axis]]
    return x


# Embeddings: x is one-hot


def _of_embedding(use: Use, parameter: Tensor) -> Place | None:
    node = use.node
    if saved_by(node, "scale_grad_by_freq"):
        return None
    classes = saved_by(node, "indices").reshape(-1)
    skipped = saved_by(node, "padding_idx")
    classes = torch.where(classes == skipped, -1, classes)
    return Product(node, classes, _embedded, flipped=True, one_hot=parameter.shape[0])


def _embedded(cotangents: Tensor) -> Tensor:
    return cotangents.flatten(1, -2)


# Normalisation and elementwise operations


def _of_layer_norm(use: Use, parameter: Tensor) -> Place | None:
    shape = tuple(parameter.shape)
    if use.argument == 2:
        return Scaling(use.node, None, shape)
    x, mean, scale = (saved_by(use.node, k) for k in ("input", "result1", "result2"))
    return Scaling(use.node, (x - mean) * scale, shape)


def _of_group_norm(use: Use, parameter: Tensor) -> Place | None:
    node = use.node
    x = saved_by(node, "input")
    shape = (parameter.numel(), *[1] * (x.dim() - 2))
    if use.argument == 2:
        return Scaling(node, None, shape)
    mean, scale = (saved_by(node, k)[..., None] for k in ("result1", "result2"))
    apart = x.reshape(x.shape[0], saved_by(node, "group"), -1)
    return Scaling(node, ((apart - mean) * scale).reshape(x.shape), shape)


def _of_batch_norm(use: Use, parameter: Tensor) -> Place | None:
    node = use.node
    if saved_by(node, "training"):
        return None
    x = saved_by(node, "input")
    shape = (parameter.numel(), *[1] * (x.dim() - 2))
    if use.argument == 2:
        return Scaling(node, None, shape)
    mean, variance = (saved_by(node, k).reshape(shape) for k in ("running_mean", "running_var"))
    return Scaling(node, (x - mean) * (variance + saved_by(node, "eps")).rsqrt(), shape)


def _of_sum(use: Use, parameter: Tensor) -> Place | None:
    if use.argument == 1 and saved_by(use.node, "alpha") != 1:
        return None
    return Scaling(use.node, None, tuple(parameter.shape))


def _of_product(use: Use, parameter: Tensor) -> Place | None:
    other = saved_by(use.node, "self" if use.argument == 1 else "other")
    return Scaling(use.node, other, tuple(parameter.shape))


# Where a transposed parameter is read as such.
_TRANSPOSABLE = frozenset(
    {("AddmmBackward0", 1), ("AddmmBackward0", 2), ("MmBackward0", 0), ("MmBackward0", 1)}
)
_RULES: dict[tuple[str, int], Rule] = {
    ("AddBackward0", 0): _of_sum,
    ("AddBackward0", 1): _of_sum,
    ("AddmmBackward0", 0): _bias_of_matmul,
    ("AddmmBackward0", 1): _weight_of_matmul,
    ("AddmmBackward0", 2): _weight_of_matmul,
    ("ConvolutionBackward0", 1): _of_convolution,
    ("ConvolutionBackward0", 2): _of_convolution,
    ("EmbeddingBackward0", 0): _of_embedding,
    ("MmBackward0", 0): _weight_of_matmul,
    ("MmBackward0", 1): _weight_of_matmul,
    ("MulBackward0", 0): _of_product,
    ("MulBackward0", 1): _of_product,
    ("NativeBatchNormBackward0", 1): _of_batch_norm,
    ("NativeBatchNormBackward0", 2): _of_batch_norm,
    ("CudnnBatchNormBackward0", 1): _of_batch_norm,
    ("CudnnBatchNormBackward0", 2): _of_batch_norm,
    ("NativeGroupNormBackward0", 1): _of_group_norm,
    ("NativeGroupNormBackward0", 2): _of_group_norm,
    ("NativeLayerNormBackward0", 1): _of_layer_norm,
    ("NativeLayerNormBackward0", 2): _of_layer_norm,
}
