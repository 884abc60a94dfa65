"""What it takes to plan a function of many operations, in a process of its own."""

import json
import warnings
from dataclasses import asdict

import torch
from torch import Tensor

import torchjac
from benchmarks.alone import timed
from benchmarks.model import Planning
from benchmarks.ours import spent

# Each adds seven operations to the linear program: what is traced, x and tangents alike.
STEPS = (10, 72)
UNKNOWNS = 1000
OPERATIONS_PER_STEP = 7


def chain(steps: int) -> Planning:
    """Plan a long chain of pointwise operations on a stencil."""

    def function(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = torch.sin(x) + 0.5 * x
        return x.roll(1) - x

    x = torch.linspace(0, 1, UNKNOWNS, dtype=torch.float64)
    plan, whole_s = timed(lambda: torchjac.plan(function, x))
    return Planning(int(OPERATIONS_PER_STEP * steps), whole_s, spent(str(plan)))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    warm, *found = [chain(steps) for steps in STEPS]
    print(json.dumps([asdict(planning) for planning in found]))
