"""A process in which torchjac and PyTorch solve problems: compare the answers, then measure.

`python -m benchmarks.torch_side REQUEST FOLDER` reads what is asked of it from a JSON file, leaves
the answers that other libraries are held against in a folder, and prints a line for each problem,
and one before each contender, so that if the process dies one knows of whom.
"""

import gc
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch._C import (
    _dispatch_tls_local_exclude_set,
    _dispatch_tls_local_include_set,
    _ForceDispatchKeyGuard,
)
from torch._C._functorch import pop_dynamic_layer_stack_and_undo_to_depth
from torch.autograd import forward_ad
from torch.func import jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import torchjac
from benchmarks import ours, problems, torch_ways
from benchmarks.alone import OutOfTimeError, limit, measured, one_core, timed
from benchmarks.answers import Reference, WrongAnswerError, exact, refuse
from benchmarks.contender import Contender, Ready, UnableError, compiled
from benchmarks.model import (
    EAGER,
    FAILED,
    PLAN,
    REPLAY,
    ROW,
    TORCHJAC,
    TRYING,
    Measured,
    Row,
)
from benchmarks.problems import Problem
from benchmarks.request import Asked, Request
from benchmarks.timing import Samples, measure, set_aside

COPIED_BYTES = 2**26
COPIES = 5
FUNCTION, COMPILED_FUNCTION = "f", "f compiled"
# Characters of an error that is passed on.
MOST_TOLD = 200


class BrokenError(Exception):
    """A contender left PyTorch in a state in which nothing works."""


@dataclass
class Field:
    """Who takes part in one row, as it becomes known.

    Attributes:
        able: Contenders that answered, with what they prepared.
        once: Seconds and bytes of preparing, by name.
        grown: Bytes by which the resident set grows in a call, by name.
        errors: Distances to the answer in double precision, by name.
        absent: Who did not answer, and why.
        wrong: Whose answer was refused, and why.
    """

    able: list[tuple[Contender, Ready]] = field(default_factory=list)
    once: dict[str, tuple[dict[str, float], int]] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """What was measured of one row.

    Attributes:
        samples: Times by name.
        copy_bandwidth: Bytes a second of a large copy.
    """

    samples: dict[str, Samples]
    copy_bandwidth: float


def serve(request: Request, folder: Path) -> Iterator[Row]:
    """Solve all that is asked for.

    Args:
        request: What is asked.
        folder: Where to leave answers.

    Yields:
        A row for each problem.
    """
    effort, turns = request.effort, request.turns
    if request.cpu_time:
        torch.set_num_threads(1)
        effort = one_core(effort)
    with turns.among_others():
        warm_up()
    for asked in request.asked:
        torch.compiler.reset()
        set_aside()
        tell({TRYING: ""})
        with turns.among_others():
            problem, precise = build(asked, asked.dtype), build(asked, "float64")
            reference = exact(problem, precise)
            reference.save(folder / asked.file, problem)
        row = Comparison(problem, reference, request, asked)
        promised, among_others, tuned = row.by_turn()
        if promised:
            with turns.alone():
                row.compare(promised)
        for contender in among_others:
            with turns.among_others():
                row.compare([contender])
        tell({TRYING: ""})
        function = {FUNCTION: lambda problem=problem: problem.func(*problem.inputs)}
        if request.compiles_function:
            with turns.among_others():
                function |= compiled_function(problem, request.limit_s)
        with turns.alone():
            row.compare(tuned)
            tell({TRYING: ""})
            calls = function | {who.name: ready.call for who, ready in row.found.able}
            figures = Figures(measure(calls, effort), copy_bandwidth())
        yield _row(problem, reference, row.found, figures)


def warm_up() -> None:
    """Do what a process does once for whatever comes: load the compilers, build their headers."""
    x = torch.linspace(0, 1, 8, dtype=torch.float64)
    torchjac.plan(lambda x: x[1:] * x[:-1], x)(x)
    compiled(torch.sin, x)()


def compiled_function(problem: Problem, limit_s: float) -> dict[str, Callable[[], Any]]:
    """The function compiled by PyTorch, if it can be."""
    calls = {}
    with in_order():
        try:
            with limit(limit_s):
                calls[COMPILED_FUNCTION] = compiled(problem.func, *problem.inputs)().call
        except (Exception, OutOfTimeError) as error:
            print(f"{problem.name}: f is not compiled: {told(error)}", file=sys.stderr)
    return calls


def build(asked: Asked, dtype: str) -> Problem:
    """The problem that is asked for."""
    kind = getattr(torch, dtype)
    if asked.sizes:
        return problems.sparse(asked.name, asked.sizes, kind)
    return problems.dense(asked.name, kind)


@dataclass
class Comparison:
    """Everybody answers one problem once, and is held against the reference.

    Attributes:
        problem: What is asked.
        reference: What the answer must be.
        request: How much may be tried.
        asked: Who is wanted.
        found: Those who answered rightly, and what became of the others.
    """

    problem: Problem
    reference: Reference
    request: Request
    asked: Asked
    found: Field = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nobody."""
        self.found = Field(absent={**self.problem.skipped, **self.asked.without})

    def by_turn(self) -> tuple[list[Contender], list[Contender], list[Contender]]:
        """Who is to be tried, so that few turns are to be taken.

        Returns:
            Those whose preparation is promised to be fast: alone, before anything is prepared; all
            who prepare among others; and the plan as it comes, which times its candidates: alone,
            as is what is timed after it.
        """
        promised, among_others, tuned = [], [], []
        for contender in self._wanted():
            is_own = contender.library == TORCHJAC
            if is_own and contender.way == PLAN:
                tuned.append(contender)
            elif is_own and contender.way in (EAGER, REPLAY) and self.problem.kind == "sparse":
                promised.append(contender)
            else:
                among_others.append(contender)
        return promised, among_others, tuned

    def _wanted(self) -> Iterator[Contender]:
        """Contenders that may be tried; the others are noted as absent."""
        problem, shape = self.problem, self.reference.shape
        for contender in chain(ours.contenders(problem), torch_ways.contenders(problem)):
            name, library, way = contender.name, contender.library, contender.way
            if name in self.found.absent or not self.asked.wants(name):
                continue
            if why := self.request.left_out(problem.name, library, way, problem.kind, shape):
                self.found.absent[name] = why
            else:
                yield contender

    def compare(self, contenders: Iterable[Contender]) -> None:
        """Let some answer, and compare.

        Args:
            contenders: Some of `by_turn`.

        Raises:
            BrokenError: After one that failed nothing works any more.
        """
        for contender in contenders:
            tell({TRYING: contender.name})
            with in_order():
                failed = _attempt(
                    contender, self.problem, self.reference, self.found, self.request.limit_s
                )
            if failed and contender.library == TORCHJAC:
                tell({FAILED: f"{self.problem.name}, {contender.name}", "why": failed})
            if failed and not is_sound():
                raise BrokenError(failed)


def _attempt(
    contender: Contender, problem: Problem, reference: Reference, found: Field, limit_s: float
) -> str:
    """Let one try; what it failed with, nothing if it answered, be it wrongly, or cannot."""
    try:
        with limit(limit_s):
            _try(contender, problem, reference, found)
    except WrongAnswerError as error:
        found.wrong[contender.name] = str(error)
    except UnableError as error:
        found.absent[contender.name] = str(error)
    except (Exception, OutOfTimeError) as error:
        found.absent[contender.name] = told(error)
        return told(error)
    return ""


def is_sound() -> bool:
    """Whether PyTorch still can trace a derivative, which fails first where something is wrong."""
    try:
        make_fx(vmap(jacrev(lambda x: x[..., 0] * x[..., 1])))(torch.ones(2, 2))
    except Exception:
        return False
    return True


@contextmanager
def in_order() -> Iterator[None]:
    """Leave PyTorch as it was found, whatever an error, or the end of the time, broke out of.

    A compiler that is interrupted while it traces `jacrev` leaves its level behind, and all that
    follows fails. An error holds generators that are suspended within changes of the thread's
    dispatch keys: whenever the collector ends them, they set the keys to what these were in the
    middle of the transform. So they are ended here, and the keys are set back.
    """
    keys = _dispatch_tls_local_include_set(), _dispatch_tls_local_exclude_set()
    with _ForceDispatchKeyGuard(*keys):
        yield
        gc.collect()
    pop_dynamic_layer_stack_and_undo_to_depth(0)
    while forward_ad._current_level >= 0:
        forward_ad.exit_dual_level()


def _try(contender: Contender, problem: Problem, reference: Reference, found: Field) -> None:
    """Let one prepare and answer, and compare."""
    ready, make_s, once_bytes = measured(contender.make)
    answer, first_s = timed(ready.call)
    error = refuse(contender.form(answer), reference, problem, contender.part)
    del answer
    _, again_s, grown = measured(ready.call)
    once = dict(ready.once)
    if contender.library == TORCHJAC or once:
        rest = make_s - sum(once.values()) + max(0.0, first_s - again_s)
        once["other"] = once.get("other", 0.0) + max(0.0, rest)
    found.able.append((contender, ready))
    found.once[contender.name] = once, once_bytes
    found.grown[contender.name] = grown
    found.errors[contender.name] = error


def told(error: BaseException) -> str:
    """An error in one short line, the part in front of PyTorch's advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told_lines = [line for line in lines if line.startswith("Explanation:")] or lines[:1]
    text = " ".join(told_lines) or type(error).__name__
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= MOST_TOLD else text[: MOST_TOLD - 3] + "..."


def _row(
    problem: Problem,
    reference: Reference,
    found: Field,
    figures: Figures,
) -> Row:
    samples = figures.samples
    function_s = samples[FUNCTION].median_s
    for contender, _ in found.able:
        if contender.share < 1:
            name = contender.name
            samples[name] = samples[name].extrapolated(contender.share, samples[FUNCTION])
    return Row(
        name=problem.name,
        family=problem.family,
        kind=problem.kind,
        size=problem.size,
        dtype=str(problem.inputs[0].dtype).removeprefix("torch."),
        unknowns=sum(x.numel() for x in problem.inputs),
        entries=reference.entries,
        itemsize=problem.inputs[0].itemsize,
        copy_bandwidth=figures.copy_bandwidth,
        f_s=function_s,
        f_compiled_s=samples[COMPILED_FUNCTION].median_s if COMPILED_FUNCTION in samples else None,
        measured=tuple([_one(c, ready, found, figures) for c, ready in found.able]),
        absent=found.absent,
        wrong=found.wrong,
    )


def _one(
    contender: Contender,
    ready: Ready,
    found: Field,
    figures: Figures,
) -> Measured:
    name = contender.name
    once, once_bytes = found.once[name]
    return Measured(
        library=contender.library,
        way=contender.way,
        time_s=figures.samples[name].median_s,
        spread=figures.samples[name].spread,
        once=once,
        call_bytes=found.grown[name],
        once_bytes=once_bytes,
        work=ready.work,
        error=found.errors[name],
        note=contender.note,
    )


def copy_bandwidth() -> float:
    """Bytes a second, read and written together, of a copy larger than the caches."""
    source = torch.zeros(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source))[1] for _ in range(COPIES))
    return 2 * COPIED_BYTES / best


def main(arguments: Sequence[str]) -> None:
    """Serve what a file asks for."""
    warnings.simplefilter("ignore")
    request, folder = Request.read(Path(arguments[0])), Path(arguments[1])
    for row in serve(request, folder):
        tell({ROW: asdict(row)})


def tell(what: dict[str, Any]) -> None:
    """Print a line of JSON."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
