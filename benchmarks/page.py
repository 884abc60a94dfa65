"""The page of a run in Markdown, from what was measured and nothing else."""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks import report
from benchmarks.model import ASDEX, Growth, Row, Run
from benchmarks.plots import BATCH, SCALING, SPEEDUPS
from benchmarks.targets import Verdict, against_asdex, geometric_mean, judge, lost
from benchmarks.text import MIB, duration, factor, markdown, mebibytes, milliseconds
from benchmarks.workloads import FAMILIES, SPARSE_FAMILIES

ABOUT = {
    "brusselator": "Two species that react and diffuse on a periodic grid.",
    "allen_cahn": "A reaction and diffusion on a line; off-diagonal entries are constant.",
    "burgers": "Burgers' equation on a circle.",
    "convnet": "Two 3 × 3 convolutions of an image: 25 entries in a row.",
    "rosenbrock": "A tridiagonal Hessian.",
    "arrow": "One dense row, one dense column and the diagonal.",
    "bundle": "Reprojections of points in cameras, gathered by index.",
    "tutorial": "The small functions that tutorials begin with: what a call costs.",
    "waist": "Perceptrons that are narrow somewhere.",
    "plain": "A square perceptron: no structure to be found.",
    "batch": "A perceptron on a batch that is given whole, without a hint; "
    "the answer is a Jacobian for each sample.",
    "tokens": "The same perceptron for each token of a sequence, likewise.",
    "block": "A transformer block: layer norm, attention, layer norm, perceptron.",
    "decoder": "From few numbers to an image: many outputs.",
    "classifier": "From images to few numbers, per sample: many inputs.",
    "robot": "An arm with six joints in scalar code: many tiny operations.",
    "ntk": "The empirical neural tangent kernel: no Jacobian by the weights need be held.",
    "laplacian": "The trace of the Hessian at each sample.",
    "hessian": "The Hessian of a loss by all weights.",
}
INTRODUCTION = """\
# Benchmarks

Every Jacobian below is computed by torchjac and by whatever else can: `torch.func`, as it comes
and compiled, `torch.autograd.functional`, code written by hand, asdex (JAX, under `jit`), finite
differences of SciPy with the pattern given, and CasADi. **Answers are compared before anything is
timed**: against one in double precision, which for sparse problems is itself held against products
of `torch.func`.

The whole page is written by `make bench`, with the figures of one run in
[benchmarks.json](benchmarks.json). Compare only figures of one run, and ratios rather than times.
"""
HOW = """\
## How to read the tables

- **ms**: median time of a call, contenders of one library taking turns; what PyTorch runs shares
  a process, each other library has its own. Nothing else runs meanwhile.
- **ratio**: that time over the time of torchjac's plan. Above 1, torchjac is faster.
- **once**: what is spent before the second call: tracing, pattern, coloring, compiling, the first
  call; not what a process spends on loading the compilers. A second process may prepare something
  else on another core meanwhile. What one contender of a row has compiled, a later one may find:
  `plan`, which tries the others and keeps the fastest (`tune=True`), comes after them.
- **MiB once, MiB call**: growth of the resident set of the process meanwhile; a call's includes its
  result.
- **passes or k**: seeds of products, calls of `f`, or operations of an emitted program and `k`, the
  most entries in a row.
- **error**: distance to the answer in double precision, relative, in the Frobenius norm.
- **one f**: a call of the function itself. **floor**: the time in which the input can be read and
  the answer written at the speed of a large copy in the same process. Where both stay in a cache,
  less is possible.
- `plan, eager` makes passes through the function; `plan, replay` runs one emitted program operation
  by operation; `plan, inductor` compiles it; `out=` refills an earlier result.
"""


def render(run: Run, images: Sequence[str]) -> str:
    """The page.

    Args:
        run: What was measured.
        images: Names of the plots that there are.

    Returns:
        Markdown.
    """
    lines = [INTRODUCTION, *_machine(run), "", HOW]
    verdicts = judge(run)
    lines += [*_overview(run, images), *_promises(verdicts), *_lost(run)]
    groups = {
        "Sparse": [name for name in FAMILIES if name in SPARSE_FAMILIES],
        "Dense and structured": [name for name in FAMILIES if name not in SPARSE_FAMILIES],
    }
    for title, families in groups.items():
        lines += [f"## {title}", ""]
        for family in families:
            rows = [row for row in run.rows if row.family == family]
            if rows:
                lines += _family(family, rows)
    lines += [*_scaling(images), *_memory(run.growths), *_failures(run)]
    return "\n".join(lines).rstrip() + "\n"


def _machine(run: Run) -> Iterator[str]:
    yield "Measured with " + ", ".join(f"{name} {value}" for name, value in run.machine.items())
    if run.quick:
        yield ""
        yield "This is the short form (`make bench ARGS=--quick`): fewer sizes and repetitions,"
        yield "double precision alone for what is sparse, of PyTorch's modes only the likelier one"
        yield "compiled, `f` not compiled, and neither decoder, classifier, Hessian, growth nor"
        yield "memory budgets."
    if run.again:
        yield ""
        yield f"Measured again later, by themselves: {'; '.join(run.again)}."


def _overview(run: Run, images: Sequence[str]) -> Iterator[str]:
    yield "## In short"
    yield ""
    factors = [value for row in run.rows if (value := against_asdex(row)) is not None]
    if factors:
        yield (
            f"On {len(factors)} sparse rows torchjac's plan is {geometric_mean(factors):.2f} times "
            f"as fast as asdex under `jit`, in the geometric mean; from {factor(min(factors))} to "
            f"{factor(max(factors))} times."
        )
        yield ""
    if SPEEDUPS in images:
        yield f"![How many times as fast as the fastest of all others](images/{SPEEDUPS})"
        yield ""
    table = [("", "one f", "compiled", "floor", "torchjac", "fastest other", "", "ratio")]
    for row in run.rows:
        best = min(row.peers, key=lambda m: m.time_s, default=None)
        own = row.own
        both = own is not None and best is not None
        table.append(
            (
                row.label,
                milliseconds(row.f_s),
                "" if row.f_compiled_s is None else milliseconds(row.f_compiled_s),
                milliseconds(row.floor_s),
                "" if own is None else milliseconds(own.time_s),
                "" if best is None else milliseconds(best.time_s),
                "" if best is None else best.name,
                factor(best.time_s / own.time_s) if both else "",
            )
        )
    numbers = (1, 2, 3, 4, 5, 7)
    if all(row.f_compiled_s is None for row in run.rows):
        table, numbers = [(*cells[:2], *cells[3:]) for cells in table], (1, 2, 3, 4, 6)
    yield "Times in ms; the ratio is that of the fastest other to torchjac."
    yield ""
    yield from markdown(table, numbers)
    yield ""


def _promises(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    met = sum(verdict.met for verdict in verdicts)
    yield "## What was promised"
    yield ""
    yield (
        f"{met} of {len(verdicts)} kept. × is how many times as fast; 0.91 × is 10 % slower, the "
        "most that some promises allow."
    )
    yield ""
    by_promise: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_promise.setdefault(verdict.promise, []).append(verdict)
    table = [("promise", "limit", "kept", "worst", "where")]
    for promise, found in by_promise.items():
        worst = min(found, key=_margin)
        limit = str(worst).partition("(")[2].rstrip(")")
        value = str(worst).partition("(")[0].strip()
        kept = f"{sum(v.met for v in found)} of {len(found)}"
        table.append((promise, limit, kept, value, worst.where))
    yield from markdown(table, ())
    missed = [verdict for verdict in verdicts if not verdict.met]
    if missed:
        yield ""
        yield "Not kept:"
        yield ""
        yield from (f"- {verdict.where}, {verdict.promise}: {verdict}" for verdict in missed)
    yield ""


def _margin(verdict: Verdict) -> float:
    """How far from the limit on the good side, below 1 where it is missed."""
    if verdict.value is None:
        return 0.0
    ratio = verdict.value / verdict.limit
    return ratio if verdict.at_least else 1 / max(ratio, 1e-9)


def _lost(run: Run) -> Iterator[str]:
    """Rows on which torchjac is not the fastest, the worst first."""
    found = lost(run)
    yield "## Where others are faster"
    yield ""
    if not found:
        yield "Nowhere in this run."
        yield ""
        return
    yield "The fastest other on rows where torchjac's plan, or call, is not the fastest."
    yield ""
    table = [("", "torchjac, ms", "fastest other", "ms", "torchjac takes")]
    for row, best, times in found:
        own = milliseconds(row.own.time_s) if row.own is not None else ""
        table.append((row.label, own, best.name, milliseconds(best.time_s), f"{times:.2f} ×"))
    yield from markdown(table, (1, 3, 4))
    yield ""


def _family(family: str, rows: Sequence[Row]) -> Iterator[str]:
    yield f"### {family}"
    yield ""
    yield ABOUT[family]
    yield ""
    table = [report.HEADINGS]
    for row in rows:
        title = f"**{row.label}**"
        table.append((title, *[""] * (len(report.HEADINGS) - 1)))
        table += [report.cells(row, measured) for measured in report.by_time(row)]
    yield from markdown(table, report.NUMBERS)
    yield ""
    yield from (f"- {report.head(row)}." for row in rows)
    yield from _spent(rows)
    yield from _notes(rows)
    yield ""


def _spent(rows: Sequence[Row]) -> Iterator[str]:
    """What the plan and asdex spend once, by stage."""
    for row in rows:
        for measured in (row.own, row.find(ASDEX)):
            if measured is not None and (told := report.parts(measured)):
                yield f"- {row.label}, once, {measured.name}: {told}."


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """Notes, and who is wrong or missing, each said once with all rows that it holds for."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for measured in row.measured:
            if measured.note:
                said.setdefault(f"{measured.name}: {measured.note}", []).append(row.label)
        for name, why in row.wrong.items():
            said.setdefault(f"{name}: WRONG: {_plain(why)}", []).append(row.label)
    for text, labels in said.items():
        where = "" if len(labels) == len(rows) else f" ({'; '.join(labels)})"
        yield f"- {text}{where}."
    for why, names in _absent(rows).items():
        yield f"- not measured, {_plain(why)}: {'; '.join(names)}."


def _absent(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Who is missing, and on which rows if not on all, by the reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.absent.items():
            where.setdefault((why, name), []).append(row.label)
    said: dict[str, list[str]] = {}
    for (why, name), labels in where.items():
        rest = "" if len(labels) == len(rows) else f" ({', '.join(labels)})"
        said.setdefault(why, []).append(name + rest)
    return said


def _plain(text: str) -> str:
    """What a program said, so that Markdown shows it as it is."""
    return "".join(f"\\{c}" if c in "\\*_<>[]`" else c for c in text).rstrip(".")


def _scaling(images: Sequence[str]) -> Iterator[str]:
    captions: Mapping[str, str] = {
        SCALING: "Time of a call, what is spent once, and memory, against the unknowns",
        BATCH: "Jacobians of samples: time and memory against the number of samples",
    }
    if not captions.keys() & set(images):
        return
    yield "## Growth"
    yield ""
    for name, caption in captions.items():
        if name in images:
            yield f"{caption}, both axes logarithmic."
            yield ""
            yield f"![{caption}](images/{name})"
            yield ""


def _memory(growths: Sequence[Growth]) -> Iterator[str]:
    if not growths:
        return
    yield "## Memory budgets"
    yield ""
    yield (
        "One-shot Jacobians of a function that holds far more numbers than it returns, each in a "
        "fresh process: growth of the resident set, and the tensors alone."
    )
    yield ""
    table = [("", "", "MiB", "limit", "tensors", "time", "how")]
    for growth in growths:
        limit = "" if growth.limit_bytes is None else f"{growth.limit_bytes / MIB:.0f}"
        table.append(
            (
                growth.case,
                growth.contender,
                mebibytes(growth.growth_bytes),
                limit,
                mebibytes(growth.meter_bytes),
                duration(growth.wall_s),
                "; ".join(growth.runs),
            )
        )
    yield from markdown(table, (2, 3, 4, 5))
    yield ""


def _failures(run: Run) -> Iterator[str]:
    if run.failures:
        yield "## What went wrong"
        yield ""
        yield from (f"- {_plain(text)}" for text in run.failures)
