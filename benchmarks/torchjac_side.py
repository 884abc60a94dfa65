"""The problems of `benchmarks.sparse`, solved by torchjac in a process of its own."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torchjac
from benchmarks.alone import Side, serve, timed
from torchjac._pattern.pattern import SparsityPattern
from torchjac.testing import scenario

COPIED_BYTES = 2**26
COPIES = 5


def torchjac_side(name: str) -> Side:
    return Side(
        problem=partial(scenario, name),
        array=torch.from_numpy,
        prepare=lambda problem, x: torchjac.plan(problem.function, x, order=1 + problem.hessian),
        evaluator=lambda _, plan: plan,
        function=lambda problem: problem.function,
        entries=_entries,
        facts=_facts,
    )


def _entries(matrix: Tensor) -> Sequence[np.ndarray]:
    pattern = SparsityPattern.from_torch(matrix)
    return pattern.rows, pattern.indices, matrix.values().numpy()


def _facts(plan: torchjac.Plan) -> dict[str, Any]:
    passes = 0 if plan.coloring is None else plan.coloring.num_colors
    return {"passes": passes, "how": plan.method, "copy_bandwidth": copy_bandwidth()}


def copy_bandwidth() -> float:
    """Bytes a second, read and written together, of a copy larger than the caches."""
    source = torch.zeros(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source))[1] for _ in range(COPIES))
    return 2 * COPIED_BYTES / best


if __name__ == "__main__":
    serve(torchjac_side)
