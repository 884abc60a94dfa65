"""One problem from beginning to end: compare the answers, then measure, then judge."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks import problems
from benchmarks.contenders import FUNC, IDIOM, LOOP, OURS, VECTORIZED, Contender, contenders
from benchmarks.facts import Facts, WrongAnswer, answer_bytes, compare, exact_answer, find_facts
from benchmarks.problems import Problem
from benchmarks.targets import Verdict, judge, ratio_to_best
from benchmarks.timing import Effort, Samples, measure

# The name under which one call of the function itself is timed.
FUNCTION = "one call of f"
PEERS = (FUNC, LOOP, VECTORIZED, IDIOM)


@dataclass(frozen=True)
class Row:
    """One contender in one problem.

    Attributes:
        contender: Who.
        samples: Times of the whole answer, extrapolated where only part was computed.
        ratio: Time relative to the fastest contender that is not torchjac's.
        facts: What was found out beside the time.
        verdicts: Whether the project's promises are kept.
    """

    contender: Contender
    samples: Samples
    ratio: float
    facts: Facts
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Race:
    """One problem and all its rows.

    Attributes:
        problem: The problem.
        result_bytes: Bytes of the answer.
        function: Times of one call of the function.
        rows: One per contender.
        absent: Contenders that were left out or failed, and why.
    """

    problem: Problem
    result_bytes: int
    function: Samples
    rows: tuple[Row, ...]
    absent: Mapping[str, str]


def pairs(group: str) -> list[tuple[Problem, Problem]]:
    """The problems of a group, each as it is measured and in double precision."""
    measured = problems.build(group, torch.float32)
    return list(zip(measured, problems.build(group, torch.float64), strict=True))


def race(problem: Problem, precise: Problem, effort: Effort) -> Race:
    """Run one problem.

    Args:
        problem: As it is measured.
        precise: The same in double precision.
        effort: How long to measure.

    Returns:
        The outcome.
    """
    field, absent, size = _compare_all(problem)
    exact = exact_answer(precise)
    facts = {c.name: find_facts(problem, c, exact) for c in field}
    calls = {FUNCTION: lambda: problem.func(*problem.inputs)}
    samples = measure(calls | {c.name: c.call for c in field}, effort)
    function = samples.pop(FUNCTION)
    for c in field:
        if c.share < 1:
            samples[c.name] = samples[c.name].extrapolated(c.share, function)
    verdicts = judge(problem.target, field, samples)
    rows = [
        Row(
            contender=c,
            samples=samples[c.name],
            ratio=ratio_to_best(samples[c.name], field, samples, PEERS),
            facts=facts[c.name],
            verdicts=tuple(verdicts.get(c.name, ())),
        )
        for c in field
    ]
    return Race(problem, size, function, tuple(rows), absent)


def _compare_all(problem: Problem) -> tuple[list[Contender], dict[str, str], int]:
    """Compare everybody's answer with that of the first peer.

    A peer that PyTorch cannot run is left out and says why; torchjac has no such excuse.

    Args:
        problem: What is asked.

    Returns:
        Those who answered, those who could not with the reason, and the bytes of the answer.

    Raises:
        WrongAnswer: Answers differ, or torchjac has none.
    """
    able, unable = [], dict(problem.skipped)
    reference = None
    for c in sorted(contenders(problem), key=lambda c: (c.role == OURS, c.share < 1)):
        try:
            answer = c.form(c.call())
        except Exception as error:
            if c.role == OURS:
                raise WrongAnswer(f"{problem.name}: {c.name} raises {error!r}") from error
            unable[c.name] = f"{type(error).__name__}: {error}"
            continue
        reference = answer if reference is None else reference
        compare(problem, c, answer, reference)
        able.append(c.name)
    field = [c for c in contenders(problem) if c.name in able]
    return field, unable, answer_bytes(reference)
