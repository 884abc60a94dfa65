"""Problems with known answers, and slow checkers that owe nothing to the engine.

A scenario is a function with its sparsity pattern, and where it is short its derivative, derived by
hand. Use them to test a tool of your own, or a rule that you have added:

>>> import torch
>>> from torchjac.testing import dense_pattern, scenario
>>> problem = scenario("broyden_tridiagonal", 5)
>>> problem.pattern.nnz, problem.pattern == dense_pattern(problem.function, problem.x())
(13, True)
>>> problem.derivative(problem.x(torch.float32))[0]
tensor([ 7., -2.,  0.,  0.,  0.])
"""

from torchjac.testing.catalog import FAMILIES, scenario, scenarios
from torchjac.testing.dense import dense_pattern
from torchjac.testing.known import ColorCount, Scenario
from torchjac.testing.modify import batched, in_place, shuffled

__all__ = [
    "ColorCount",
    "FAMILIES",
    "Scenario",
    "batched",
    "dense_pattern",
    "in_place",
    "scenario",
    "scenarios",
    "shuffled",
]
