"""What it takes to plan a function of many operations, in a process of its own."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import torch
from torch import Tensor

import torchjac
from benchmarks.alone import timed
from benchmarks.model import Planning
from benchmarks.ours import spent
from torchjac._evaluate.chain.bracket import MOST_CUTS
from torchjac._evaluate.chain.cuts import nested_cuts
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize

Function = Callable[[Tensor], Tensor]
# Each step of a stencil is seven operations of the linear program, what is traced, x and tangents
# alike; each layer of a perceptron is six.
STEPS, FEW_STEPS = 72, 10
LAYERS, FEW_LAYERS = 84, 8
UNKNOWNS = 1000
# Widths of the layers, in turns, so that each fifth is a waist.
WIDTHS = (16, 24, 32, 40, 48)


def stencil(steps: int) -> tuple[Function, Tensor]:
    """A long chain of pointwise operations, and a stencil."""

    def function(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = torch.sin(x) + 0.5 * x
        return x.roll(1) - x

    return function, torch.linspace(0, 1, UNKNOWNS, dtype=torch.float64)


def perceptron(layers: int) -> tuple[Function, Tensor]:
    """A long chain of matrix products."""
    generator = torch.Generator().manual_seed(0)
    widths = [WIDTHS[k % len(WIDTHS)] for k in range(layers + 1)]
    weights = [
        torch.randn(out, into, generator=generator, dtype=torch.float64) / into**0.5
        for into, out in pairwise(widths)
    ]

    def function(x: Tensor) -> Tensor:
        for weight in weights:
            x = torch.tanh(weight @ x)
        return x

    return function, torch.linspace(0, 1, widths[0], dtype=torch.float64)


def planned(func: Function, x: Tensor) -> Planning:
    """Plan it, and tell the time beyond tracing."""
    plan, whole_s = timed(lambda: torchjac.plan(func, x))
    parts = spent(str(plan))
    return Planning("planning beyond tracing", _operations(func, x), whole_s - parts["trace"])


def cut(func: Function, x: Tensor) -> Planning:
    """Find its waists by minimum cuts, one behind the other."""
    program, _ = linearize(bind("plan", func, x))
    _, seconds = timed(lambda: nested_cuts(program, MOST_CUTS))
    return Planning("minimum cuts", _operations(func, x), seconds)


def _operations(func: Function, x: Tensor) -> int:
    return len(linearize(bind("plan", func, x))[0].nodes)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    planned(*stencil(FEW_STEPS))
    cut(*perceptron(FEW_LAYERS))
    found = [planned(*stencil(STEPS)), cut(*perceptron(LAYERS))]
    print(json.dumps([asdict(planning) for planning in found]))
