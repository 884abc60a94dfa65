"""torchjac as a contender: plans with each backend, and the calls that need none."""

import inspect
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import torchjac
from benchmarks.contender import Contender, Ready, UnableError, as_it_is, same
from benchmarks.model import BACKENDS, INDUCTOR, PLAN, REFILL, REPLAY, TORCHJAC
from benchmarks.problems import Problem

UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
SPENT = re.compile(r"([a-z][a-z -]*) ([\d.]+) (us|ms|s)\b")


def contenders(problem: Problem) -> Iterator[Contender]:
    """Every way of torchjac to the answer, the plan first."""
    if problem.kind == "laplacian":
        yield from _laplacians(problem)
    elif problem.kind == "ntk":
        yield Contender(
            TORCHJAC, "ntk", as_it_is(lambda: torchjac.ntk(problem.func, problem.x, problem.x))
        )
    else:
        yield from _plans(problem)
        yield from _one_calls(problem)


def _plans(problem: Problem) -> Iterator[Contender]:
    options: dict[str, Any] = {"order": 2} if _is_hessian(problem) else {}
    form: Callable[[Any], Any] = same
    if problem.kind != "sparse":
        options["layout"] = torch.strided
    if problem.kind == "samples":
        options["layout"] = "blocks"
        out = problem.one(problem.x[0]).shape
        form = lambda answer: answer.reshape(len(problem.x), *out, *problem.x.shape[1:])  # noqa: E731
    compiled: list[torchjac.Plan] = []
    for backend, way in BACKENDS.items():
        yield Contender(
            TORCHJAC,
            way,
            lambda b=backend: _plan(problem, compiled, **options, backend=b),
            form=form,
        )
    if problem.kind == "sparse":
        yield Contender(TORCHJAC, REFILL, lambda: _refill(problem, compiled))
    # Last, so that what the compiler costs is told where it is asked for.
    yield Contender(TORCHJAC, PLAN, lambda: _plan(problem, [], **options, **_tuned()), form=form)


def _laplacians(problem: Problem) -> Iterator[Contender]:
    """Plans of a Laplacian, and the call that needs none."""
    func, x = problem.func, problem.x

    def ready(**options: Any) -> Ready:
        began = time.perf_counter()
        plan = torchjac.plan_laplacian(func, x, **options)
        whole_s = time.perf_counter() - began
        if not plan.method.endswith(options.get("backend", "")):
            raise UnableError(f"fell back to {plan.method}")
        once = spent(str(plan))
        once["other"] = max(0.0, whole_s - sum(once.values()))
        return Ready(lambda: plan(x), once, f"{plan.method}: {plan.seeds} seeds")

    def form(answer: torch.Tensor) -> torch.Tensor:
        return answer.squeeze(-1)

    for way in (REPLAY, INDUCTOR):
        backend = way.rpartition(" ")[2]
        yield Contender(TORCHJAC, way, lambda b=backend: ready(backend=b), form=form)
    call = as_it_is(lambda: torchjac.laplacian(func, x, batch_dim=0))
    yield Contender(TORCHJAC, "laplacian", call, form=form)
    yield Contender(TORCHJAC, PLAN, lambda: ready(tune=True), form=form)


def _is_hessian(problem: Problem) -> bool:
    return problem.kind == "hessian" or problem.order == 2


def _tuned() -> dict[str, Any]:
    """The argument that asks for the plan which is fastest once it is made."""
    return {"tune": True} if "tune" in inspect.signature(torchjac.plan).parameters else {}


def _plan(problem: Problem, made: list[torchjac.Plan], **options: Any) -> Ready:
    """A plan, which is added to those that were made."""
    given = problem.given
    began = time.perf_counter()
    plan = torchjac.plan(problem.func, given, **options)
    whole_s = time.perf_counter() - began
    text = str(plan)
    _refuse_passes(text, plan, options.get("backend"))
    made.append(plan)
    once = spent(text)
    once["other"] = max(0.0, whole_s - sum(once.values()))
    return Ready(lambda: plan(given), once, _work(text, plan))


def _refill(problem: Problem, made: list[torchjac.Plan]) -> Ready:
    """The last plan that was made, into a result that is there."""
    if not made or not made[-1].method.endswith("inductor"):
        raise UnableError("no compiled plan to refill by")
    plan, given = made[-1], problem.given
    out = plan(given)
    return Ready(lambda: plan(given, out=out), {}, plan.method)


def _refuse_passes(text: str, plan: torchjac.Plan, backend: str | None) -> None:
    """A plan that was to run a program and cannot is the eager one under another name."""
    if backend in (None, "eager") or plan.method == "constant":
        return
    (why,) = re.findall(r"^  program +(not used: .*|none: .*)$", text, re.MULTILINE) or [""]
    if why:
        raise UnableError(f"no program, {why.partition(': ')[2]}")
    if not plan.method.endswith(backend):
        raise UnableError(f"fell back to {plan.method}")


def spent(text: str) -> dict[str, float]:
    """Seconds by stage, from the line in which a plan tells them.

    >>> spent("  prepared in   trace 18.9 ms, pattern 2 us, program 3.22 s")
    {'trace': 0.0189, 'pattern': 2e-06, 'program': 3.22}
    """
    line = next((line for line in text.splitlines() if "prepared in" in line), "")
    stages = SPENT.findall(line.partition("prepared in")[2])
    return {stage.strip(): float(count) * UNITS_S[unit] for stage, count, unit in stages}


def _work(text: str, plan: torchjac.Plan) -> str:
    """The method, with operations and entries per row of a program, or the seeds of passes."""
    longest = 0
    if plan.pattern.nnz:
        longest = int(torch.from_numpy(plan.pattern.indptr).diff().max())
    (count,) = re.findall(r"^  program +([\d,]+) operations", text, re.MULTILINE) or [""]
    if count:
        return f"{plan.method}: {count} operations, k = {longest}"
    seeds = sum(c.seeds for c in plan.candidates if c.is_chosen)
    return f"{plan.method}: {seeds} seeds" if seeds else plan.method


def _one_calls(problem: Problem) -> Iterator[Contender]:
    """The calls that trace nothing and keep nothing."""
    func, given = problem.func, problem.given
    if problem.kind == "jacobian":
        calls = {"jacobian": lambda: torchjac.jacobian(func, given)}
        if problem.rows is None:  # reverse mode, as PyTorch's: all rows take too long here
            calls["functional.jacobian"] = lambda: torchjac.functional.jacobian(func, given)
    elif problem.kind == "samples":
        calls = {"batch_jacobian": lambda: torchjac.batch_jacobian(func, given)}
    elif problem.kind == "hessian":
        calls = {"hessian": lambda: torchjac.hessian(func, given)}
    else:
        return
    for way, call in calls.items():
        yield Contender(TORCHJAC, way, lambda c=call: _recorded(c))


def _recorded(call: Callable[[], Any]) -> Ready:
    """A call, and the passes that it says it makes."""
    with torchjac.record() as runs:
        call()
    work = "; ".join(f"{run.mode}, {run.seeds} seeds in {run.passes}" for run in runs)
    return Ready(call, {}, work)
