"""What a plan says of itself: what was found, what was chosen, what it cost."""

from html import escape

from torchjac._evaluate.memory import human
from torchjac._planner.core import Core
from torchjac._planner.structure import Structure

_WHAT = {1: "Jacobian", 2: "Hessian"}


def as_text(core: Core) -> str:
    """Lines for people, and the pattern in Braille."""
    lines = [f"Plan of a {_WHAT[core.request.order]}"]
    lines += [f"  {name:<12}{text}" for name, text in _facts(core)]
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
    main, request = core.main, core.request
    facts = [("pattern", _source(main))]
    if main.found.constant_entries is not None:
        facts.append(("constant", f"{main.found.constant_entries:,} entries do not depend on x"))
    if main.found.opaque_ops:
        facts.append(("no rule", f"taken as dense: {', '.join(main.found.opaque_ops)}"))
    if main.found.dense_ops:
        facts.append(("dense at", ", ".join(main.found.dense_ops)))
    if main.found.reads:
        facts.append(
            ("guards", f"values read from tensors, compared on use: {len(main.found.reads)}")
        )
    if main.scheme is not None:
        facts.append(("coloring", main.scheme.coloring.summary))
        for side in main.scheme.sides:
            size = "all" if side.chunk_size is None else str(side.chunk_size)
            facts.append(
                ("passes", f"{side.seeds} seeds, {size} at once, {side.mode}/{side.method}")
            )
    facts.append(("result", f"{request.layout}{', flat' if request.flat else ''}"))
    if core.branches:
        facts.append(("branches", f"{len(core.branches)} more were planned"))
    found = main.found
    times = (("trace", found.trace_s), ("pattern", found.pattern_s), ("coloring", main.coloring_s))
    if main.emit_s:
        times = (*times, ("program", main.emit_s))
    facts.append(("prepared in", ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in times)))
    return facts


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
    head = f"    {'candidate':<{width}}  {'seeds':>7}  {'memory':>10}  {'predicted':>10}"
    lines = [head]
    for c in main.candidates:
        mark = "->" if c.is_chosen else "  "
        row = f"{c.name:<{width}}  {c.seeds:>7}  {human(c.bytes):>10}  {_time(c.predicted_s):>10}"
        lines.append(f"  {mark}{row}  {c.note}".rstrip())
    return lines


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"
