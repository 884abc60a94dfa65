"""Sums over segments: bags of embeddings, and segments of an axis."""

import torch
from torch import Tensor

from torchjac._local.algebra import Deposit, Move, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten
_MAX = 2  # of the modes of a bag


@rule(aten._segment_reduce_backward)
def segment_reduce_backward(call: Call) -> Terms:
    """Each element receives what belongs to its segment.

    _segment_reduce_backward(t, y, x, ..., lengths)  ->  t: Move(gather)
    """
    grad, axis, shape = call["grad"], call["axis"], call.out_shape()
    starts = _starts(call)
    if list(call.tangents()) != [grad] or starts is None:
        return NotImplemented
    axis %= len(shape)
    place = torch.arange(shape[axis]).expand(*starts.shape[:-1], shape[axis]).contiguous()
    segment = torch.searchsorted(starts, place, right=True) - 1
    outside = (segment < 0) | (segment >= starts.shape[-1] - 1)

    def run(tensor: Tensor) -> Tensor:
        ones = (1,) * (len(shape) - 1 - axis)
        index = segment.clamp(0, max(starts.shape[-1] - 2, 0)).reshape(*segment.shape, *ones)
        picked = tensor.gather(axis, index.expand(shape).to(tensor.device))
        return picked.masked_fill(outside.reshape(*segment.shape, *ones).to(tensor.device), 0)

    return [Term(grad, [Move(run)])]


def _starts(call: Call) -> Tensor | None:
    """Where each segment begins, and where the last one ends."""
    offsets, lengths = call["offsets"], call["lengths"]
    known = call.index(lengths if offsets is None else offsets)
    if known is None or offsets is not None:
        return known if known is None else known.cpu()
    return torch.nn.functional.pad(known.cpu().cumsum(-1), (1, 0))


@rule(aten._embedding_bag_backward, aten._embedding_bag_dense_backward)
def embedding_bag_backward(call: Call) -> Terms:
    """What a bag receives goes to the rows that it holds.

    _embedding_bag_backward(t, index, offsets, ...)  ->  t: Move(bag of each), Deposit(row of each)
    Of the largest, where it is known                ->  t: Deposit(gather)
    """
    grad, rows = call["grad"], call.index(call["indices"])
    bags = _bags(call)
    if list(call.tangents()) != [grad] or rows is None or bags is None:
        return NotImplemented
    largest = call.index(call["maximum_indices"]) if call["mode"] == _MAX else None
    if largest is not None:
        picked = largest.cpu().long().clamp(min=0)
        write = Deposit(lambda t: t.gather(0, picked.to(t.device)), call.out_shape())
        return [Term(grad, [write])]
    keep = (rows != call["padding_idx"])[:, None]
    weights = call.constant(call["per_sample_weights"])
    spread = Move(lambda t: t[bags.to(t.device)].masked_fill(~keep.to(t.device), 0))
    sizes = (len(rows), call.shape(grad)[1])
    scale = Scale(sizes, None if weights is None else weights[:, None])
    return [Term(grad, [spread, scale, Deposit(lambda t: t[rows.to(t.device)], call.out_shape())])]


@rule(aten._embedding_bag_per_sample_weights_backward)
def embedding_bag_weights_backward(call: Call) -> Terms:
    """The weight of a sample receives a product of its row with what its bag receives.

    _embedding_bag_per_sample_weights_backward(t, w, index, offsets, ...)
        ->  t: Reduce(1), Move(bag of each)
    """
    grad, rows, bags = call["grad"], call.index(call["indices"]), _bags(call)
    if list(call.tangents()) != [grad] or rows is None or bags is None:
        return NotImplemented
    ignored = rows == call["padding_idx"]
    spread = Move(lambda t: t[bags.to(t.device)].masked_fill(ignored.to(t.device), 0))
    return [Term(grad, [Reduce((1,)), spread])]


def _bags(call: Call) -> Tensor | None:
    """The bag of each sample."""
    offsets = call.arguments.get("offsets")
    if offsets is None:
        return call.index(call["offset2bag"])
    starts, samples = call.index(offsets), call.shape(call["indices"])[0]
    if starts is None:
        return None
    return torch.searchsorted(starts, torch.arange(samples, dtype=starts.dtype), right=True) - 1
