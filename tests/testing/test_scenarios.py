"""Every scenario against dense derivatives, brute-force coloring and published counts."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.func import hessian, jacrev

from tests.testing.coloring import VALID, is_colorable
from torchjac._api.color import color
from torchjac.testing import batched, dense_pattern, in_place, scenario, scenarios, shuffled

SMALL = list(scenarios())
WITH_FORMULA = [s for s in SMALL if s.derivative is not None]
COUNTS = [(s, count) for s in SMALL for count in s.color_counts]
ROOMY = ("column", "row")
MODIFIERS = [in_place, shuffled, partial(batched, size=3)]


def name_of(value) -> str:
    return getattr(value, "name", None) or getattr(value, "kind", None) or str(value)


def dense(scenario, x):
    return (hessian if scenario.hessian else jacrev)(scenario.function)(x)


def near(scenario, dtype) -> torch.Tensor:
    """A point where nothing vanishes by symmetry."""
    x = scenario.x()
    return (x + 0.1 * torch.cos(torch.arange(len(x), dtype=x.dtype))).to(dtype)


@pytest.mark.parametrize("problem", SMALL, ids=name_of)
def test_the_pattern_is_that_of_dense_derivatives(problem) -> None:
    found = dense_pattern(problem.function, problem.x(), hessian=problem.hessian)
    assert problem.pattern == found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", WITH_FORMULA, ids=name_of)
def test_the_derivative_is_right(problem, dtype) -> None:
    x = near(problem, dtype)
    expected = dense(problem, x.double())
    found = problem.derivative(x)
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    scale = expected.abs().max()
    torch.testing.assert_close(found.double(), expected, rtol=50 * eps, atol=50 * eps * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", SMALL, ids=name_of)
def test_the_function_keeps_dtype_and_input(problem, dtype) -> None:
    x = problem.x(dtype)
    before = x.clone()
    y = problem.function(x)
    assert y.dtype == dtype
    assert y.shape == (() if problem.hessian else (problem.pattern.shape[0],))
    assert torch.equal(x, before)
    assert y.isfinite().all()


@pytest.mark.parametrize("problem", SMALL, ids=name_of)
def test_the_starting_point_is_new_each_time(problem) -> None:
    x = problem.x()
    x += 1
    assert not torch.equal(x, problem.x())
    assert x.shape == (problem.pattern.shape[1],)


@pytest.mark.parametrize("modify", MODIFIERS, ids=["in_place", "shuffled", "batched"])
@pytest.mark.parametrize("problem", SMALL[1::2], ids=name_of)
def test_modified_scenarios_are_right(problem, modify) -> None:
    changed = modify(problem)
    assert problem.name in changed.name
    found = dense_pattern(changed.function, changed.x(), hessian=changed.hessian)
    assert changed.pattern == found
    assert (changed.derivative is None) == (problem.derivative is None)
    if changed.derivative is not None:
        x = near(changed, torch.float64)
        torch.testing.assert_close(changed.derivative(x), dense(changed, x))


# --- Colors ---------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "count"), [c for c in COUNTS if c[1].witness], ids=name_of)
def test_the_given_coloring_is_valid(problem, count) -> None:
    colors = count.witness()
    mask = problem.pattern.to_scipy().toarray() != 0
    assert VALID[count.kind](mask, colors.tolist())
    assert len(np.unique(colors)) >= count.lower


@pytest.mark.parametrize(("problem", "count"), COUNTS, ids=name_of)
def test_fewer_colors_than_the_bound_are_not_enough(problem, count) -> None:
    mask = problem.pattern.to_scipy().toarray() != 0
    vertices = mask.shape[0] if count.kind == "row" else mask.shape[1]
    # Columns that meet in one row all differ; where none has as many, every coloring is tried.
    lengths = mask.sum(axis={"column": 1, "row": 0}[count.kind]) if count.kind in ROOMY else [0]
    fewer = partial(is_colorable, partial(VALID[count.kind], mask), vertices, count.lower - 1)
    assert max(lengths) >= count.lower or not fewer()


@pytest.mark.parametrize(
    ("name", "sizes", "colors"),
    [
        ("brusselator", (24,), 6),
        ("brusselator", (28,), 7),
        ("brusselator", (32,), 8),
        ("brusselator", (64,), 8),
        ("burgers", (1000,), 4),
        ("bratu", (64,), 5),
        ("convnet", (28,), 25),
    ],
)
def test_colorings_of_large_problems(name: str, sizes: tuple[int, ...], colors: int) -> None:
    problem = scenario(name, *sizes)
    (count,) = problem.color_counts
    given = count.witness()
    pairs = problem.pattern.rows.astype(np.int64) * colors + given[problem.pattern.indices]
    assert given.max() + 1 == colors
    assert len(np.unique(pairs)) == problem.pattern.nnz


# --- Sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "nnz"),
    [
        ("brusselator", (32,), 12_288),
        ("brusselator", (64,), 49_152),
        ("brusselator", (256,), 786_432),
        ("allen_cahn", (1000,), 2_998),
        ("burgers", (1000,), 3_000),
        ("convnet", (28,), 17_956),
        ("convnet", (64,), 98_596),
        ("rosenbrock", (1000,), 2_998),
        ("rosenbrock", (100_000,), 299_998),
        ("arrow", (1000,), 2_998),
        ("bundle", (10, 200, 1000), 24_000),
        ("bundle", (50, 5000, 40000), 960_000),
    ],
)
def test_published_numbers_of_nonzeros(name: str, sizes: tuple[int, ...], nnz: int) -> None:
    assert scenario(name, *sizes).pattern.nnz == nnz


def test_residuals_at_the_published_starting_points() -> None:
    """Values of MGH and of CUTEst that a slip in a formula would change."""
    assert scenario("extended_rosenbrock", 2).function(torch.tensor([1.0, 1.0])).tolist() == [0, 0]
    powell = scenario("extended_powell", 4)
    assert powell.function(powell.x()).square().sum().item() == pytest.approx(215)
    rosenbrock = scenario("rosenbrock", 2)
    assert rosenbrock.function(rosenbrock.x()).item() == pytest.approx(24.2)
    assert scenario("arrowhead", 11).function(torch.ones(11)).item() == 30
    assert scenario("bdqrtic", 5).function(torch.ones(5)).item() == 226
    liarwhd = scenario("liarwhd", 3)
    assert liarwhd.function(liarwhd.x()).item() == 3 * (4 * 12**2 + 9)


def test_an_entry_that_vanishes_at_the_start_is_found_nearby() -> None:
    assert dense_pattern(lambda x: x**2, torch.zeros(3)).nnz == 3


def test_dense_pattern_takes_any_shape() -> None:
    pattern = dense_pattern(lambda x: x.sum(0), torch.ones(2, 3))
    assert pattern.indices.tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(("problem", "count"), COUNTS, ids=name_of)
def test_the_bound_of_the_engine_is_a_bound(problem, count) -> None:
    coloring = color(problem.pattern, count.kind)
    assert count.lower <= coloring.num_colors
    if count.witness is not None:
        assert coloring.lower_bound <= count.witness().max() + 1
