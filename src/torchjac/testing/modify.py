"""The same mathematics in other code: each modifier makes a new scenario of any scenario."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from torchjac._pattern.pattern import SparsityPattern
from torchjac.testing.known import Scenario


def in_place(scenario: Scenario) -> Scenario:
    """The function writes its result into memory that it has allocated before.

    Args:
        scenario: Any.

    Returns:
        A scenario with the same pattern and derivative.
    """

    def function(x: Tensor) -> Tensor:
        result = scenario.function(x)
        out = torch.zeros_like(result)
        out += result
        return out

    return replace(scenario, name=f"in_place {scenario.name}", function=function)


def batched(scenario: Scenario, size: int) -> Scenario:
    """The function applied by `torch.vmap` to several samples, raveled; a Hessian to their sum.

    Args:
        scenario: Any.
        size: Number of samples, at least 1.

    Returns:
        A scenario whose pattern has `size` blocks along the diagonal. Samples start apart.
    """

    def function(x: Tensor) -> Tensor:
        results = torch.vmap(scenario.function)(x.view(size, -1))
        return results.sum() if scenario.hessian else results.flatten()

    def start() -> Tensor:
        one = scenario.start()
        factors = 1 + 0.01 * torch.arange(size, dtype=one.dtype)
        return (factors[:, None] * one).flatten()

    def pattern() -> SparsityPattern:
        one, samples = scenario.pattern, np.arange(size)[:, None]
        (m, n), rows, columns = one.shape, one.rows.astype(np.int64), one.indices.astype(np.int64)
        places = (samples * m + rows).ravel(), (samples * n + columns).ravel()
        return SparsityPattern.from_coo((size * m, size * n), *places)

    formula = scenario.derivative

    def derivative(x: Tensor) -> Tensor:
        return torch.block_diag(*(formula(row) for row in x.view(size, -1))) if formula else x

    return replace(
        scenario,
        name=f"batched {scenario.name} by {size}",
        function=function,
        start=start,
        derive_pattern=pattern,
        derivative=derivative if formula else None,
        color_counts=(),
    )


def shuffled(scenario: Scenario, seed: int = 0) -> Scenario:
    """The unknowns in another order: what was a stencil becomes a gather.

    Args:
        scenario: Any.
        seed: Which order.

    Returns:
        A scenario whose columns, and for a Hessian rows, are permuted.
    """
    n = scenario.start().numel()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    back = torch.argsort(order)
    place = order.numpy()  # unknown k of the scenario is unknown place[k] of the new one

    def pattern() -> SparsityPattern:
        one = scenario.pattern
        rows = place[one.rows] if scenario.hessian else one.rows
        return SparsityPattern.from_coo(one.shape, rows, place[one.indices])

    formula = scenario.derivative

    def derivative(x: Tensor) -> Tensor:
        if formula is None:
            return x
        permuted = formula(x[order])[:, back]
        return permuted[back] if scenario.hessian else permuted

    return replace(
        scenario,
        name=f"shuffled {scenario.name}",
        function=lambda x: scenario.function(x[order.to(x.device)]),
        start=lambda: scenario.start()[back],
        derive_pattern=pattern,
        derivative=derivative if formula else None,
        color_counts=(),
    )
