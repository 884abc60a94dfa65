"""What the answer to a problem must be, in double precision, and whether another one agrees."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.func import grad, jvp
from torch.utils import _pytree as pytree

import torchjac
from benchmarks import compare, torch_ways
from benchmarks.compare import WrongAnswerError
from benchmarks.model import COMPILED
from benchmarks.problems import Problem

# Directions in which a sparse answer must be what `torch.func` says the derivative is.
DIRECTIONS = 2


@dataclass(frozen=True)
class Reference:
    """What the answer must be.

    Attributes:
        answer: A sparse array, or a tree of tensors in double precision.
        shape: Outputs and inputs.
    """

    answer: Any
    shape: tuple[int, int]

    @property
    def entries(self) -> int:
        """Elements of the answer; of a sparse one, those that it stores."""
        if sparse.issparse(self.answer):
            return int(self.answer.nnz)
        return sum(leaf.numel() for leaf in pytree.tree_leaves(self.answer))

    def save(self, path: Path, problem: Problem) -> None:
        """Leave it for other processes, if it is one array."""
        if sparse.issparse(self.answer):
            compare.write_answer(path, problem.x.numpy(), self.answer)
        elif isinstance(self.answer, Tensor):
            compare.write_answer(path, problem.inputs[0].numpy(), self.answer.numpy())


def exact(problem: Problem, precise: Problem) -> Reference:
    """The answer in double precision, from PyTorch alone or held against it.

    Args:
        problem: As it is measured.
        precise: The same in double precision.

    Returns:
        The reference.

    Raises:
        WrongAnswerError: torchjac and PyTorch differ on a sparse derivative.
    """
    outputs = pytree.tree_leaves(problem.func(*problem.inputs))
    shape = sum(y.numel() for y in outputs), sum(x.numel() for x in problem.inputs)
    if problem.kind == "sparse":
        return Reference(_sparse(precise), shape)
    for peer in torch_ways.contenders(precise):
        if peer.share == 1 and not peer.way.endswith(COMPILED):
            if peer.name in problem.skipped:
                continue
            answer = peer.form(peer.make().call())
            return Reference(pytree.tree_map(torch.Tensor.detach, answer), shape)
    raise ValueError(f"{problem.name}: nobody can say what the answer is")


def _sparse(problem: Problem) -> sparse.csr_array:
    """The matrix by passes through the function, confirmed by products that PyTorch computes."""
    matrix = torchjac.plan(problem.func, problem.x, order=problem.order, backend="eager")(problem.x)
    found = as_scipy(matrix)
    func = problem.func if problem.order == 1 else grad(problem.func)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIRECTIONS):
        v = torch.randn(problem.x.shape, generator=generator, dtype=problem.x.dtype)
        _, expected = jvp(func, (problem.x,), (v,))
        bound = abs(found) @ abs(v.numpy())  # rounding is relative to what cancels
        difference = np.abs(found @ v.numpy() - expected.numpy())
        if not (difference <= compare.SPARSE["float64"] * bound.max(initial=0.0)).all():
            raise WrongAnswerError(f"{problem.name}: J v is not what torch.func.jvp says")
    return found


def as_scipy(matrix: Tensor) -> sparse.csr_array:
    """A sparse tensor in compressed rows, sharing its memory."""
    parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
    # Copies: what NumPy has seen may be written to without a trace, and is not refilled in place.
    data, indices, indptr = [part.detach().clone().numpy() for part in parts]
    return sparse.csr_array((data, indices, indptr), shape=tuple(matrix.shape))


def refuse(
    answer: Any, reference: Reference, problem: Problem, part: Callable[[Any], Any]
) -> float:
    """Refuse an answer that is not the reference.

    Args:
        answer: The answer in its common form.
        reference: What it must be.
        problem: What was asked.
        part: Takes from the reference what was computed.

    Returns:
        The distance, relative, in the Frobenius norm; of a tree the largest.

    Raises:
        WrongAnswerError: It is another.
    """
    dtype = str(problem.inputs[0].dtype).removeprefix("torch.")
    if problem.kind == "sparse":
        return compare.distance(_matrix(answer), reference.answer, compare.SPARSE[dtype])
    # Leaves alone: one way of PyTorch's returns lists where the others return tuples.
    leaves, expected = pytree.tree_leaves(answer), pytree.tree_leaves(part(reference.answer))
    if len(leaves) != len(expected):
        raise WrongAnswerError(f"{len(leaves)} blocks instead of {len(expected)}")
    pairs = zip(leaves, expected, strict=True)
    distances = [
        compare.distance(a.detach().double().numpy(), b.numpy(), compare.DENSE[dtype])
        for a, b in pairs
    ]
    return max(distances)


def _matrix(answer: Tensor) -> sparse.csr_array:
    """A matrix of any layout; what a dense one holds besides zeros."""
    if answer.layout is torch.sparse_csr:
        return as_scipy(answer)
    return sparse.csr_array(answer.detach().numpy())
