"""Plots of a run: where torchjac stands on each row, and what grows how."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.model import (
    ASDEX,
    CASADI,
    HAND,
    INDUCTOR,
    PLAN,
    REPLAY,
    SCIPY,
    TORCHJAC,
    Measured,
    Row,
    Run,
)
from benchmarks.text import MIB

mpl.use("Agg")
STYLE: dict[str, Any] = {
    "svg.hashsalt": "torchjac",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 4,
}
SPEEDUPS, SCALING, BATCH = "speedup.svg", "scaling.svg", "batch.svg"
GRIDS = ("allen_cahn", "burgers", "brusselator")
# Library, way and name of each line.
Line = tuple[str, str, str]
GRID_LINES: tuple[Line, ...] = (
    (TORCHJAC, INDUCTOR, "torchjac, inductor"),
    (TORCHJAC, REPLAY, "torchjac, replay"),
    (ASDEX, "jit", "asdex, jit"),
    (CASADI, "SX", "CasADi"),
    (SCIPY, "finite differences", "scipy, finite differences"),
)
BATCH_LINES: tuple[Line, ...] = (
    (TORCHJAC, PLAN, "torchjac, plan"),
    (TORCHJAC, "batch_jacobian", "torchjac, batch_jacobian"),
    (HAND, "vmap(jacrev), compiled", "vmap(jacrev), compiled"),
    (HAND, "vmap(jacrev)", "vmap(jacrev)"),
    ("torch.func", "jacrev", "jacrev, batch given whole"),
)
Value = Callable[[Measured], float]
PANELS: tuple[tuple[str, Value], ...] = (
    ("ms a call", lambda m: 1e3 * m.time_s),
    ("s once", lambda m: m.once_s),
    ("MiB, once or in a call", lambda m: max(m.once_bytes, m.call_bytes) / MIB),
)


def draw(run: Run, folder: Path) -> list[str]:
    """Draw what a run holds enough for.

    Args:
        run: The run.
        folder: Where the files go.

    Returns:
        Their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(STYLE):
        for name, figure in (
            (SPEEDUPS, _speedups(run.rows)),
            (SCALING, _scaling([*run.rows, *run.scaling])),
            (BATCH, _batch([*run.rows, *run.scaling])),
        ):
            if figure is not None:
                figure.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight")
                plt.close(figure)
                drawn.append(name)
    return drawn


def _speedups(rows: Sequence[Row]) -> Any:
    """A bar for each row: how many times as fast as the fastest of all others torchjac is."""
    bars = []
    for row in rows:
        best = min(row.peers, key=lambda m: m.time_s, default=None)
        if row.own is not None and best is not None:
            bars.append((row.label, best.time_s / row.own.time_s, best.library))
    if not bars:
        return None
    labels, factors, libraries = zip(*reversed(bars), strict=True)
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.21 * len(bars)))
    colors = ["tab:blue" if value >= 1 else "tab:red" for value in factors]
    axes.barh(range(len(bars)), [math.log10(value) for value in factors], color=colors)
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    for k, (value, library) in enumerate(zip(factors, libraries, strict=True)):
        text = f" {value:.2g}× {library} " if value < 100 else f" {value:.0f}× {library} "
        place = "left" if value >= 1 else "right"
        axes.text(math.log10(value), k, text, va="center", ha=place, fontsize=6)
    ends = [math.floor(math.log10(min(1, *factors))), math.ceil(math.log10(max(1, *factors)))]
    ticks = range(ends[0], ends[1] + 1)
    axes.set_xticks(ticks, [f"{10.0**tick:g}×" for tick in ticks])
    axes.set_xlim(ends[0] - 0.6, ends[1] + 0.9)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the fastest of all others")
    axes.set_ylim(-0.7, len(bars) - 0.3)
    return figure


def _scaling(rows: Sequence[Row]) -> Any:
    """Time, what is spent once and memory against the unknowns, for each equation."""
    found = [r for r in rows if r.family in GRIDS and r.dtype == "float64"]
    if not found:
        return None
    figure, grid = plt.subplots(3, len(GRIDS), figsize=(9, 7), sharex=True, sharey="row")
    for column, family in enumerate(GRIDS):
        of_family = sorted([r for r in found if r.family == family], key=lambda r: r.unknowns)
        for axes, (label, value) in zip(grid[:, column], PANELS, strict=True):
            _lines(axes, of_family, GRID_LINES, lambda row: row.unknowns, value)
            if label == PANELS[0][0]:
                places = [row.unknowns for row in of_family]
                floors = [1e3 * row.floor_s for row in of_family]
                axes.plot(places, floors, "k:", label="floor")
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_title(family)
        grid[-1, column].set_xlabel("unknowns")
    grid[0, 0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def _batch(rows: Sequence[Row]) -> Any:
    """Time and memory of per-sample Jacobians against the number of samples."""
    found = sorted([r for r in rows if r.family == "batch"], key=_samples)
    if len(found) < 2:
        return None
    figure, grid = plt.subplots(1, 2, figsize=(9, 3.2))
    for axes, (label, value) in zip(grid, (PANELS[0], ("MiB a call", _call_mib)), strict=True):
        _lines(axes, found, BATCH_LINES, _samples, value)
        axes.set_xlabel("samples")
        axes.set_ylabel(label)
    grid[0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def _lines(
    axes: Any, rows: Sequence[Row], lines: Sequence[Line], place: Callable[[Row], int], value: Value
) -> None:
    for library, way, name in lines:
        points = [
            (place(row), value(m)) for row in rows if (m := row.find(library, way)) is not None
        ]
        points = [(x, y) for x, y in points if y > 0]
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", label=name)


def _samples(row: Row) -> int:
    return int(row.name.partition("/")[2])


def _call_mib(measured: Measured) -> float:
    return measured.call_bytes / MIB
