"""Every scenario by every method, in every layout and precision, equals the dense derivative.

By default one factor varies at a time; the full product is slow.
"""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacrev

import torchjac
from tests._evaluate.direct.emitted import emitted
from torchjac.testing import Scenario, batched, scenario, scenarios

SMALL = {problem.name: problem for problem in scenarios()}
ORDINARY = list(SMALL)[1::2]
# Of each kind one: stencil, convolution, gathered cameras, border, Hessian.
SAMPLE = ["brusselator(3)", "convnet(8)", "bundle(4, 6, 18)", "arrow(12)", "bdqrtic(14)"]
BLOCKS = {
    problem.name: problem
    for problem in (batched(scenario("arrow", 4), 3), batched(scenario("bdqrtic", 6), 2))
}
PROBLEMS = SMALL | BLOCKS
JACOBIAN_COLORINGS = ("column", "row", "bidirectional")
HESSIAN_COLORINGS = ("star", "acyclic")
LAYOUTS = [
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_coo,
    torch.sparse_bsr,
    torch.strided,
]
DTYPES = [torch.float64, torch.float32]
# Rounding of an entry, in units of the precision, of the largest entry of its row; and of all.
ROW_UNITS, ALL_UNITS = 200, 4


class Method(NamedTuple):
    """How entries are computed: by passes of a coloring, or by a program."""

    backend: str
    coloring: str | None = None

    @property
    def name(self) -> str:
        return f"{self.backend} {self.coloring}" if self.coloring else self.backend


REPLAY, INDUCTOR = Method("replay"), Method("inductor")


def methods_of(problem: Scenario) -> list[Method]:
    """All but the compiled program."""
    colorings = HESSIAN_COLORINGS if problem.hessian else JACOBIAN_COLORINGS
    return [*[Method("eager", coloring) for coloring in colorings], REPLAY]


def points(problem: Scenario, dtype: torch.dtype) -> list[Tensor]:
    """The start of a scenario, and two other points, one of them without its symmetries."""
    x = problem.x()
    wave = torch.cos(1 + torch.arange(len(x), dtype=x.dtype))
    return [point.to(dtype) for point in (x, x + 0.3 * wave, 0.2 - 0.7 * x.flip(0))]


@cache
def expected(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Dense derivatives in double precision at the same points."""
    problem = PROBLEMS[name]
    dense = hessian if problem.hessian else jacrev
    return [dense(problem.function)(x.double()) for x in points(problem, dtype)]


def assert_equal(found: Tensor, dense: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    of_row = dense.abs().amax(1, keepdim=True)
    allowed = eps * (ROW_UNITS * of_row + ALL_UNITS * dense.abs().max())
    off = (found.double() - dense).abs()
    assert found.shape == dense.shape
    assert bool((off <= allowed).all()), f"off by {float((off / allowed).max())} times the rounding"


def assert_right(name: str, method: Method, layout: torch.layout | str, dtype: torch.dtype) -> None:
    """Planned at one point, evaluated at others: new, checked, and written over another result."""
    problem = PROBLEMS[name]
    here, *others = points(problem, dtype)
    plan = torchjac.plan(
        problem.function,
        here,
        order=2 if problem.hessian else 1,
        layout=layout,
        backend=method.backend,
        coloring=method.coloring,
    )
    if method.coloring is None:
        assert plan.method in ("constant", f"direct, {method.backend}")
    elif plan.coloring is not None:
        assert plan.coloring.kind == method.coloring
    at_here, *elsewhere = expected(name, dtype)
    refilled = plan(here)
    assert_equal(dense_of(refilled, at_here), at_here, dtype)
    for x, dense in zip(others, elsewhere, strict=True):
        assert_equal(dense_of(plan(x), dense), dense, dtype)
        assert_equal(dense_of(plan(x, check=True), dense), dense, dtype)
        plan(x, out=refilled)
        assert_equal(dense_of(refilled, dense), dense, dtype)


def dense_of(result: Tensor, like: Tensor) -> Tensor:
    if result.dim() == 3:  # blocks along the diagonal
        return torch.block_diag(*result)
    dense = result if result.layout is torch.strided else result.to_dense()
    return dense.reshape(like.shape)


def combinations(names: list[str]) -> list[tuple[str, Method]]:
    return [(name, method) for name in names for method in methods_of(PROBLEMS[name])]


def name_of(value: object) -> str:
    return str(getattr(value, "name", value)).removeprefix("torch.")


every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)


@pytest.mark.parametrize(("name", "method"), combinations(list(SMALL)), ids=name_of)
def test_every_method(name, method) -> None:
    assert_right(name, method, torch.sparse_csr, torch.float64)


@every_layout
@pytest.mark.parametrize(("name", "method"), combinations(SAMPLE), ids=name_of)
def test_every_layout_in_single_precision(name, method, layout) -> None:
    assert_right(name, method, layout, torch.float32)


@every_dtype
@pytest.mark.parametrize(("name", "method"), combinations(list(BLOCKS)), ids=name_of)
def test_blocks_along_the_diagonal(name, method, dtype) -> None:
    assert_right(name, method, "blocks", dtype)


@pytest.mark.parametrize("name", ["brusselator(3)", "bdqrtic(14)"])
def test_compiled_programs(name) -> None:
    assert_right(name, INDUCTOR, torch.sparse_csr, torch.float64)


@pytest.mark.parametrize("direction", ["jvp", "vjp"])
@pytest.mark.parametrize("name", [n for n in ORDINARY if not SMALL[n].hessian])
def test_programs_of_both_directions(name, direction) -> None:
    problem = SMALL[name]
    here, *others = points(problem, torch.float64)
    (direct,) = emitted(problem.function, here, (direction,)).values()
    for x, dense in zip(others, expected(name, torch.float64)[1:], strict=True):
        assert_equal(direct.dense([x]), dense, torch.float64)
        refilled = direct.refilled(direct.nonzeros([here]), [x])
        assert_equal(direct.spread(refilled), dense, torch.float64)


@pytest.mark.slow
@every_dtype
@every_layout
@pytest.mark.parametrize(("name", "method"), combinations(list(SMALL)), ids=name_of)
def test_the_full_product(name, method, layout, dtype) -> None:
    assert_right(name, method, layout, dtype)


@pytest.mark.slow
@every_dtype
@pytest.mark.parametrize("name", ORDINARY)
def test_every_compiled_program(name, dtype) -> None:
    assert_right(name, INDUCTOR, torch.sparse_csr, dtype)
