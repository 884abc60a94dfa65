"""What a plan says of itself: what was found, what was chosen, what it cost."""

from collections.abc import Iterator
from html import escape
from math import isinf

import torch

from torchjac._evaluate.direct.runner import CUDAGRAPHS, INDUCTOR, REPLAY
from torchjac._evaluate.memory import human
from torchjac._inputs.checks import BLOCKS
from torchjac._pattern.separable import separable_axes
from torchjac._planner.core import Core
from torchjac._planner.prepare import Given
from torchjac._planner.structure import Candidate, Structure

_WHAT = {1: "Jacobian", 2: "Hessian"}
_WIDTH = 14
# Of results with more blocks than these the shapes of the first ones are told.
_MOST_SHAPES = 4
_COLUMNS = (
    ("seeds", 7), ("memory", 10), ("moved", 10), ("Mflop", 7), ("launches", 8), ("once", 7),
    ("predicted", 9),
)  # fmt: skip


def as_text(core: Core) -> str:
    """Lines for people, and the pattern in Braille."""
    lines = [f"Plan of a {_WHAT[core.request.order]}"]
    lines += [f"  {name:<{_WIDTH}}{text}" for name, text in _facts(core)]
    return "\n".join([*lines, *_table(core.main), str(core.main.pattern)])


def as_html(core: Core) -> str:
    """The same for notebooks."""
    facts = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(text)}</td></tr>"
        for name, text in _facts(core)
    )
    table = escape("\n".join(_table(core.main)))
    title = f"Plan of a {_WHAT[core.request.order]}"
    picture = core.main.pattern._repr_html_()
    return f"<b>{title}</b><table>{facts}</table><pre>{table}</pre>{picture}"


def _facts(core: Core) -> list[tuple[str, str]]:
    """Label and text of each line."""
    facts = [*_of_pattern(core), *_of_passes(core.main), *_of_program(core)]
    facts.append(("result", _result(core)))
    if core.branches:
        facts.append(("branches", f"{len(core.branches)} more were planned"))
    return [*facts, ("prepared in", _times(core.main))]


def _result(core: Core) -> str:
    """Layout, and the shapes of blocks."""
    request = core.request
    parts = [str(request.layout), *(["flat"] if request.flat else [])]
    for where in [where for row in core.main.arrangements for where in row][:_MOST_SHAPES]:
        if request.layout == BLOCKS:
            parts.append(str(tuple(where.shape)))
        elif request.layout is torch.sparse_bsr:
            count, height, width = where.stored
            parts.append(f"{count:,} of {height} × {width}")
    return ", ".join(parts)


def _of_pattern(core: Core) -> Iterator[tuple[str, str]]:
    """What was found, and how sure that is."""
    found = core.main.found
    yield "pattern", _source(core.main)
    axes = _separable(core)
    if axes:
        pairs = "; ".join([f"output axis {a} and input axis {b}" for a, b in axes])
        yield "axes", f"{pairs} never mix: equal indices only"
    if found.constant_entries is not None:
        yield "constant", f"{found.constant_entries:,} entries do not depend on x"
    if found.opaque_ops:
        yield "no rule", f"taken as dense: {', '.join(found.opaque_ops)}"
    if found.dense_ops:
        yield "all but full", f"no longer told apart after: {', '.join(found.dense_ops)}"
    if core.main.is_live:
        yield "other inputs", "may change: the pattern is right for any, programs read them anew"
    if found.reads:
        yield "guards", f"values read from tensors, compared on use: {len(found.reads)}"


def _of_passes(main: Structure) -> Iterator[tuple[str, str]]:
    if main.scheme is None:
        return
    yield "coloring", main.scheme.coloring.summary
    for side in main.scheme.sides:
        size = "all" if side.chunk_size is None else str(side.chunk_size)
        seeds = "1 seed" if side.seeds == 1 else f"{side.seeds} seeds"
        yield "passes", f"{seeds}, {size} at once, {side.mode}/{side.method}"


def _of_program(core: Core) -> Iterator[tuple[str, str]]:
    """The program from x to the entries, or why there is none."""
    direct = core.main.direct
    if direct is not None:
        runs = {REPLAY: "run one by one", INDUCTOR: "compiled", CUDAGRAPHS: "in one CUDA graph"}
        run = runs[direct.backend]
        yield "program", f"{direct.form.operations:,} operations, {run}; in place of the passes"
        for step in direct.form.left_out:
            yield "left out", f"{step}, which failed"
    elif core.main.scheme is not None:
        yield "program", why_no_program(core)


def why_no_program(core: Core) -> str:
    """What stands in the way of an emitted program, for a plan that computes by passes.

    Args:
        core: The plan.

    Returns:
        A few words.
    """
    main, request = core.main, core.request
    tried = [c for c in main.candidates if not c.seeds]
    if tried:
        note = tried[0].note.removesuffix(": not used") or "slower than the passes"
        return note if note.startswith("not made") else f"not used: {note}"
    obstacles = (
        (main.constant is not None, "nothing depends on x"),
        (main.found.source != "detected", f"the pattern was {main.found.source}"),
        (main.found.scope == "local", "indices are those of this x only"),
        (bool(main.found.reads), "the function reads values from tensors"),
        (main.is_stateful, "the function draws random numbers or moves buffers"),
        (core.given != Given() or request.asks_for_passes, "passes were asked for"),
        (_can_change_unseen(core), "some of what the function can read cannot be watched"),
    )
    return "none: " + next((why for holds, why in obstacles if holds), "passes were asked for")


def _can_change_unseen(core: Core) -> bool:
    world = core.known.world
    return world is None or not world.is_complete


def _times(main: Structure) -> str:
    found = main.found
    times = [("trace", found.trace_s), ("pattern", found.pattern_s), ("coloring", main.coloring_s)]
    if main.emit_s:
        times.append(("program", main.emit_s))
    return ", ".join([f"{name} {time_in_words(seconds)}" for name, seconds in times])


def _separable(core: Core) -> list[tuple[int, int]]:
    """Axes that never mix, if there is one output and one input."""
    if len(core.main.outputs) != 1 or len(core.fit.selected) != 1:
        return []
    (output,), ((shape, *_),) = core.main.outputs, core.fit.selected
    return separable_axes(core.main.pattern, output.shape, shape)


def _source(main: Structure) -> str:
    found = main.found
    if found.source != "detected":
        return f"{found.source}, certified by random products"
    where = {
        "global": "for every x on this branch" if found.reads else "for every x",
        "local": "LOCAL: for indices as they were at this x",
    }
    return f"detected from the {found.direction}, {where[found.scope]}; certified"


def _table(main: Structure) -> list[str]:
    """One line for each candidate."""
    if not main.candidates:
        return []
    width = max(len(c.name) for c in main.candidates)
    head = [f"{'candidate':<{width}}", *[f"{name:>{size}}" for name, size in _COLUMNS]]
    lines = ["    " + "  ".join(head)]
    for c in main.candidates:
        cells = [f"{cell:>{size}}" for cell, (_, size) in zip(_cells(c), _COLUMNS, strict=True)]
        mark = "->" if c.is_chosen else "  "
        lines.append("  ".join([f"  {mark}{c.name:<{width}}", *cells, c.note]).rstrip())
    return lines


def _cells(c: Candidate) -> tuple[str, ...]:
    """What one evaluation takes, what it costs once, and its time."""
    moved, work, launches = "-", "-", "-"
    if c.cost is not None:
        moved, launches = human(c.cost.moved_bytes), f"{c.cost.launches:,}"
        work = f"{c.cost.work / 1e6:,.3g}"
    seeds = str(c.seeds or "-")
    once = time_in_words(c.once_s) if c.once_s else "-"
    return seeds, human(c.bytes), moved, work, launches, once, time_in_words(c.predicted_s)


def time_in_words(seconds: float) -> str:
    """A time with its unit.

    Args:
        seconds: The time.

    Returns:
        Three digits; a dash if it is infinite.

    >>> time_in_words(0.00251), time_in_words(0.25)
    ('2.51 ms', '250 ms')
    """
    if isinf(seconds):
        return "-"
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"
