"""Seeds for the trace of a Hessian: coordinates that no output mixes share one.

With a vector v of ones in some places, v^T H v is the sum of all H_ij between these places. If no
two of them meet in H, it is the sum of their diagonal entries: a distance-1 coloring of the graph
of H gives seeds whose products add up to the trace. Coordinates whose diagonal entry is zero
throughout take no part.

As an edge has two ends, no two of which may have one color, such a coloring is a column coloring
at distance 2 of the matrix that has a row for each edge and entries at its ends.
"""

from math import inf, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._coloring.select import color_pattern
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._pattern.pattern import SparsityPattern
from torchjac._pattern.separable import find_blocks

Numbers = NDArray[np.int64]
# With more edges, to try more orders takes longer than a few seeds would.
FEW_EDGES = 200_000


def trace_seeds(hessian: SparsityPattern, like: Tensor, most_bytes: float = inf) -> Tensor:
    """Seeds whose quadratic forms add up to the trace.

    Args:
        hessian: Entries that can be nonzero, shape (n, n), in either triangle or both.
        like: A tensor with the n coordinates.
        most_bytes: What they may take.

    Returns:
        Shape (k, *S), with the dtype and device of `like`.

    Raises:
        TooManyDerivativesError: They would take more.

    >>> import numpy as np
    >>> tridiagonal = np.eye(4) + np.eye(4, k=1)
    >>> trace_seeds(SparsityPattern.from_dense(tridiagonal), torch.zeros(4)).tolist()
    [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    """
    blocks = find_blocks(hessian, like.shape, like.shape) if hessian.nnz else None
    if blocks is not None and hessian.nnz == prod(blocks.shape):  # all meet in each
        places = np.arange(like.numel())
        colors = blocks.column_numbers % blocks.shape[2]
    else:
        places, colors = _colored(hessian.symmetrized())
    if not len(places):
        return like.new_zeros(0, *like.shape)
    count = int(colors.max()) + 1
    refuse_many(count, like, most_bytes)
    seeds = torch.zeros(count, like.numel(), dtype=like.dtype, device=like.device)
    indices = [torch.from_numpy(part.astype(np.int64)).to(like.device) for part in (colors, places)]
    seeds[tuple(indices)] = 1
    return seeds.reshape(count, *like.shape)


def _colored(hessian: SparsityPattern) -> tuple[Numbers, Numbers]:
    """The coordinates with a diagonal entry, and their colors."""
    rows, columns = hessian.rows, hessian.indices
    places = np.unique(rows[rows == columns])
    vertex = np.full(hessian.shape[0], -1, np.int64)
    vertex[places] = np.arange(len(places))
    above = rows < columns
    ends = np.stack([vertex[rows[above]], vertex[columns[above]]], 1)
    return places, _colors(ends[(ends >= 0).all(1)], len(places))


def _colors(edges: Numbers, count: int) -> Numbers:
    """A color for each vertex, another one at both ends of each edge."""
    if not len(edges):
        return np.zeros(count, np.int64)
    starts = np.arange(0, edges.size + 1, 2)
    incidence = SparsityPattern((len(edges), count), starts, edges.reshape(-1).astype(np.int32))
    # In natural order the samples of a batch get the same seeds, so that what is computed from
    # seeds alone is the same for all of them: worth more than looking for a better order.
    best = color_pattern(incidence, "column", orders=("natural",))
    if len(edges) <= FEW_EDGES:
        other = color_pattern(incidence, "column")
        best = other if other.num_colors < best.num_colors else best
    return np.asarray(best.column_colors, np.int64)


def refuse_many(count: int, like: Tensor, most_bytes: float) -> None:
    """Refuse seeds that would not fit.

    Args:
        count: How many.
        like: What each of them is like.
        most_bytes: What they may take.

    Raises:
        TooManyDerivativesError: They would take more.
    """
    if count * like.numel() * like.element_size() > most_bytes:
        reason = f"{count:,} seeds take more memory than may be used"
        raise TooManyDerivativesError(reason)
