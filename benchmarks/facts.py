"""What is true of a contender whatever the clock says: its answer, its memory, its passes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import torchjac
from benchmarks.contenders import OURS, Contender, contenders
from benchmarks.problems import Problem
from torchjac._evaluate.memory import MemoryMeter

# Largest difference between two answers, relative to the largest entry of the block.
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}


class WrongAnswer(Exception):
    """Two contenders differ."""


@dataclass(frozen=True)
class Facts:
    """What was found out beside the time.

    Attributes:
        error: Distance to the answer in double precision, relative, in the Frobenius norm.
        calls: Evaluations of the function.
        peak_bytes: Most bytes of tensors alive at once, beyond what was there before.
        runs: How torchjac says that it computed, one entry per Jacobian.
    """

    error: float
    calls: int
    peak_bytes: int
    runs: tuple[torchjac.Evaluation, ...]


def answer_bytes(answer: Any) -> int:
    """Bytes of the tensors of an answer."""
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(answer))


def exact_answer(problem: Problem) -> Any:
    """The answer to a problem in double precision, from the first contender not torchjac's.

    Args:
        problem: The problem in double precision.

    Returns:
        The answer in its common form, whole.
    """
    peers = [c for c in contenders(problem) if c.role != OURS and c.share == 1]
    return peers[0].form(peers[0].call())


def compare(problem: Problem, contender: Contender, answer: Any, reference: Any) -> None:
    """Refuse an answer that is not the reference.

    Args:
        problem: What was asked.
        contender: Who answered.
        answer: The answer in its common form.
        reference: What it must be, whole.

    Raises:
        WrongAnswer: It is not.
    """
    expected = contender.part(reference)
    largest = max(float(t.abs().max()) for t in pytree.tree_leaves(expected))
    tolerance = TOLERANCE[problem.inputs[0].dtype]
    try:
        torch.testing.assert_close(answer, expected, rtol=tolerance, atol=tolerance * largest)
    except AssertionError as error:
        raise WrongAnswer(f"{problem.name}: {contender.name} is wrong: {error}") from error


def find_facts(problem: Problem, contender: Contender, exact: Any) -> Facts:
    """Everything but the time, from a call of its own.

    Args:
        problem: The problem.
        contender: Who solves it.
        exact: The answer in double precision.

    Returns:
        The facts.
    """
    calls = [0]
    counted = replace(
        problem,
        func=_counting(problem.func, calls),
        sample=problem.sample and _counting(problem.sample, calls),
    )
    (same,) = [c for c in contenders(counted) if c.name == contender.name]
    calls[0] = 0  # some contenders look at the function when they are made
    with torchjac.record() as runs, MemoryMeter() as meter:
        answer = same.call()
    return Facts(
        error=_distance(contender.form(answer), contender.part(exact)),
        calls=calls[0],
        peak_bytes=meter.peak_bytes,
        runs=tuple(runs),
    )


def _counting(func: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls[0] += 1
        return func(*args)

    return counted


def _distance(answer: Any, exact: Any) -> float:
    def flat(tree: Any) -> Tensor:
        return torch.cat([t.detach().double().flatten() for t in pytree.tree_leaves(tree)])

    a, b = flat(answer), flat(exact)
    return float((a - b).norm() / b.norm())
