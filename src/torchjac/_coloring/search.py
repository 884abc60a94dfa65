"""Try several orders, keep the best coloring, then improve on it.

Source: Culberson & Luo (1996), "Exploring the k-colorable landscape with iterated greedy", DIMACS
Series 26. Coloring again, one color class after the other, never needs more colors at distance 2
and often fewer; for the other kinds it is a way to new orders.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._coloring.orders import Order, Orders

Array = NDArray[Any]

# Refinement where no time is given: rounds of about this many steps of a kernel in all.
DEFAULT_STEPS = 500_000
MOST_ROUNDS = 40
# Rounds without a gain after which a time budget is given back.
PATIENCE = 1000


@dataclass(frozen=True)
class Effort:
    """How hard to look for few colors.

    Attributes:
        orders: Orders to try.
        refine_s: Seconds for refinement. None: a few rounds, the fewer the larger the matrix.
        seed: Of everything random.
    """

    orders: tuple[Order, ...]
    refine_s: float | None
    seed: int


@dataclass(frozen=True, eq=False)
class Found:
    """A coloring of vertices.

    Attributes:
        colors: Of each vertex, -1 for none, shape (vertices,).
        order: What it was found with.
    """

    colors: Array
    order: str

    @property
    def count(self) -> int:
        """Number of colors."""
        return int(self.colors.max(initial=-1)) + 1


@dataclass(frozen=True, eq=False)
class Task:
    """Vertices to color.

    Attributes:
        fit: Colors of the vertices of an order, colored greedily one by one.
        wanted: Which vertices to color, shape (vertices,).
        bound: No coloring has fewer colors.
        steps: What one `fit` costs, in steps of its kernel.
    """

    fit: Callable[[Array], Array]
    wanted: Array
    bound: int
    steps: int


def search(task: Task, orders: Orders, effort: Effort) -> Found:
    """Color in several orders and refine the best; stop as soon as the bound is reached.

    Args:
        task: What to color.
        orders: Orders of all vertices.
        effort: How hard to try.

    Returns:
        The best coloring.
    """
    first, *others = effort.orders
    best = attempt(task, orders, first)
    for name in others:
        if best.count <= task.bound:
            break
        found = attempt(task, orders, name)
        if found.count < best.count:
            best = found
    return refine(task, best, effort)


def attempt(task: Task, orders: Orders, name: Order) -> Found:
    """Color in one order."""
    order = orders[name]
    return Found(task.fit(order[task.wanted[order]]), name)


def refine(task: Task, start: Found, effort: Effort) -> Found:
    """Color again and again, whole color classes in a new order each time."""
    rng = np.random.default_rng(effort.seed)
    best = current = start
    idle = 0
    deadline = None if effort.refine_s is None else time.perf_counter() + effort.refine_s
    rounds = min(max(DEFAULT_STEPS // max(task.steps, 1), 1), MOST_ROUNDS)
    patience = rounds if deadline is None else PATIENCE
    vertices = np.flatnonzero(task.wanted)
    while best.count > task.bound and idle < patience:
        if deadline is not None and time.perf_counter() >= deadline:
            break
        order = vertices[by_classes(current.colors[vertices], idle, rng)]
        current = Found(task.fit(order.astype(np.int32)), f"{start.order}, refined")
        idle += 1
        if current.count < best.count:
            best, idle = current, 0
        elif current.count > best.count:
            current = best
    return best


def by_classes(colors: Array, turn: int, rng: np.random.Generator) -> Array:
    """Positions class by class: reversed, shuffled, largest first, turn by turn; -1 is a class."""
    classes = colors + 1
    sizes = np.bincount(classes)
    ranks = np.arange(len(sizes))
    if turn % 3 == 0:
        ranks = ranks[::-1]
    elif turn % 3 == 1:
        rng.shuffle(ranks)
    else:
        ranks[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    # NumPy sorts numbers of 16 bits by their digits, in linear time.
    keys = ranks.astype(np.uint16 if len(sizes) <= 2**16 else np.int32)[classes]
    return np.argsort(keys, kind="stable")
