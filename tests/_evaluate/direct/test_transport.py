"""Operations applied to derivatives, against dense Jacobians at another point."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests._evaluate.direct.emitted import dense_jacobian, emitted
from torchjac._evaluate.direct import emit as emit_module
from torchjac._evaluate.direct.transport import TooManyDerivativesError

DIRECTIONS = ["jvp", "vjp"]


def points(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in "ab"]


def assert_direct(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], direction: str
) -> int:
    """Compare at another point than the one traced at; the number of operations."""
    here, elsewhere = points(shape)
    made = emitted(function, here, (direction,))[direction]
    torch.testing.assert_close(made.dense([elsewhere]), dense_jacobian(function, elsewhere))
    return made.program.whole.one_by_one.operations


# -- Windows -----------------------------------------------------------------------------------

PLANE = (2, 2, 5, 6)
POOLS = {
    "plain": lambda x: F.avg_pool2d(x, 2),
    "overlapping": lambda x: F.avg_pool2d(x, 3, 1),
    "padding counts": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "padding does not count": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "ceil": lambda x: F.avg_pool2d(x, 2, 2, 1, ceil_mode=True),
    "ceil, padding does not count": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, True, False),
    "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "largest": lambda x: F.max_pool2d(x, 2),
    "largest of overlapping ones": lambda x: F.max_pool2d(x, 3, 1, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "interpolated": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "unfolded and folded": lambda x: F.fold(F.unfold(x, 2), (5, 6), 2),
    "reflected": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", POOLS)
def test_windows_of_a_plane(name, direction) -> None:
    assert_direct(lambda x: POOLS[name](x.sin()), PLANE, direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rank", [1, 3])
def test_means_of_windows_in_other_ranks(rank, direction) -> None:
    pool = {1: F.avg_pool1d, 3: F.avg_pool3d}[rank]
    shape = (2, 1, *(4, 3, 5)[:rank])
    assert_direct(lambda x: pool(x * x, 2, 1, 1, count_include_pad=False), shape, direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_large_pooling_stays_small(direction) -> None:
    """Elements that never meet in a window share a slice, whatever the size of the plane."""
    x = torch.rand(1, 4, 64, 64)
    made = emitted(lambda t: F.avg_pool2d(t * t, 2), x, (direction,))[direction]
    assert made.found.pattern.nnz == x.numel()
    assert made.program.whole.one_by_one.operations < 50
    torch.testing.assert_close(made.nonzeros([x]).sum(), x.sum() / 2)


# -- A tangent that an operation holds more than once -------------------------------------------

INDEX = torch.tensor([0, 2, 2, 1])
ROTATION = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 5.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
TWICE = {
    "index_add": lambda x: x.index_add(0, INDEX, x),
    "index_add with alpha": lambda x: x.index_add(0, INDEX, x, alpha=-2),
    "scatter_add": lambda x: x.scatter_add(0, INDEX[:, None].expand(4, 3), x),
    "masked_scatter": lambda x: x.masked_scatter(x.detach() > 9, x),
    "addmm": lambda x: torch.addmm(x, x, ROTATION, beta=2, alpha=3),
    "cross": lambda x: torch.linalg.cross(x, x.roll(1, 0)),
    "cat": lambda x: torch.cat([x, x, 2 * x]),
    "add": lambda x: torch.add(x, x, alpha=3),
    "subtract": lambda x: torch.sub(x, x, alpha=3),
    "index_put": lambda x: x.index_put((INDEX,), x, accumulate=True),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", TWICE)
def test_a_tensor_that_is_used_twice(name, direction) -> None:
    assert_direct(TWICE[name], (4, 3), direction)


# -- Sums ----------------------------------------------------------------------------------------

GATHERED = torch.tensor([3, 1, 3, 0])
CHECKED = torch.tensor([[False, True], [True, False]])
SUMS = {
    "difference": lambda x: torch.sub(x, x[0], alpha=2),
    "broadcast": lambda x: x[:, None] + x[None],
    "integer and float": lambda x: x + torch.arange(4),
    "sum": lambda x: (x[:, None] * x).sum(0),
    "sum of all": lambda x: x.square().sum(),
    "mean over some": lambda x: x.reshape(2, 2).mean(0) * x[:2],
    "mean of what shares its input": lambda x: x[:, None].expand(4, 3).mean(1),
    "gather": lambda x: x[GATHERED] * x,
    "gather rows": lambda x: torch.outer(x, x)[GATHERED, 1:],
    "take": lambda x: x.take(GATHERED.reshape(2, 2)),
    "cumsum": lambda x: x.square().cumsum(0),
    "sort": lambda x: x.sort().values * x,
    "diagonal": lambda x: torch.outer(x, x).diagonal() * torch.diag(x).sum(0),
    "outer": lambda x: torch.outer(x, x.sin()),
    "dot": lambda x: torch.dot(x, x.cos()),
    "complex dot": lambda x: torch.vdot((1j * x).exp(), (2j * x).exp()).real,
    "complex": lambda x: torch.view_as_real((1j * x).exp().conj() * x),
    "unfold": lambda x: x.unfold(0, 2, 1).prod(1),
    "sum of what lies apart": lambda x: torch.where(CHECKED, x.reshape(2, 2), 0).cos().sum(),
    "mean of what lies apart": lambda x: F.avg_pool2d(torch.diag(x[:2].exp())[None], 2).flatten(),
    "norm of what lies apart": lambda x: torch.diag(x.exp()).norm(),
    "strides": lambda x: (x * x).as_strided((3, 2), (1, 1)),
    "flip": lambda x: x.flip(0).cumsum(0) * x,
    "product": lambda x: x.prod(),
    "solve": lambda x: torch.linalg.solve(torch.diag(x) + torch.ones(4, 4).double(), x),
    "inverse": lambda x: torch.linalg.inv(torch.diag(3 + x * x)),
    "fourier": lambda x: torch.view_as_real(torch.fft.rfft(x * x)),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", SUMS)
def test_sums_and_movements(name, direction) -> None:
    assert_direct(SUMS[name], (4,), direction)


def test_another_precision_inside() -> None:
    # Forward and backward round differently, so that only the backward program is trusted.
    assert_direct(lambda x: (x.float() * 3).double() * x, (4,), "vjp")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_result_without_elements(direction) -> None:
    x = torch.rand(5, 3)
    none = torch.zeros(0, 2)
    made = emitted(lambda t: (t[:, :0] @ none).sum() + t.sum(), x, (direction,))
    assert made[direction].nonzeros([x]).tolist() == [1.0] * 15


@pytest.mark.parametrize("mask", [None, "shared", "own", "causal"])
@pytest.mark.parametrize("samples", [1, 2])
def test_attention_takes_slices_as_samples(samples, mask) -> None:
    generator = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, samples, 2, 5, 3, dtype=torch.float64, generator=generator)
    shape = {"shared": (4, 5), "own": (samples, 2, 4, 5)}.get(mask or "", ())
    bias = torch.randn(shape, dtype=torch.float64, generator=generator) if shape else None

    def attend(x):
        query = x.reshape(samples, 2, 4, 3)
        return F.scaled_dot_product_attention(query, key, value, bias, is_causal=mask == "causal")

    assert assert_direct(attend, (samples * 24,), "vjp") < 60


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_a_sparse_constant_matrix_takes_as_many_slices_as_a_row_has_entries(layout) -> None:
    n = 2000
    diagonal = torch.arange(n)
    entries = torch.stack([diagonal, diagonal.roll(1)])
    ones = torch.ones(n, dtype=torch.float64)
    matrix = torch.sparse_coo_tensor(entries, ones, (n, n), check_invariants=True)
    matrix = matrix.coalesce().to_sparse(layout=layout)
    x = torch.rand(n, dtype=torch.float64)
    made = emitted(lambda t: (matrix @ t[:, None])[:, 0] ** 2, x, ("vjp",))["vjp"]
    assert made.found.pattern.nnz == n
    torch.testing.assert_close(made.nonzeros([x]), 2 * x[diagonal.roll(1)])


# -- What is refused -----------------------------------------------------------------------------


def test_too_many_derivatives_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(emit_module, "FEW_DERIVATIVES", 100)
    x = torch.rand(40, dtype=torch.float64)
    # In between every element depends on all.
    with pytest.raises(TooManyDerivativesError, match="derivatives at aten"):
        emitted(lambda t: torch.fft.rfft(t).abs().sum(), x, ("jvp",))


def test_too_many_operations_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(emit_module, "MOST_OPERATIONS", 3)
    with pytest.raises(TooManyDerivativesError, match="operations"):
        emitted(lambda t: t.sin().cos().exp(), torch.rand(3), ("jvp",))


def test_detours_of_autograd_that_are_not_linear_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="abs is not linear in the tangent"):
        emitted(lambda t: t.logcumsumexp(0), torch.rand(4), ("vjp",))


def test_an_exponential_of_a_tangent_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="matrix_exp is not linear"):
        emitted(torch.matrix_exp, torch.rand(3, 3), ("jvp",))


def test_random_numbers_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="draws random numbers"):
        emitted(lambda t: F.rrelu(t * t - 1, training=True), torch.rand(4), ("jvp",))


def test_results_that_are_there_under_autograd_only_are_refused() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4).eval()
    with pytest.raises(NotImplementedError, match="mkldnn_rnn_layer"):
        emitted(lambda x: lstm(x)[0], torch.randn(2, 1, 3))


def test_sparse_tangents_are_refused() -> None:
    pattern = torch.eye(3, dtype=torch.float64).to_sparse_coo()
    x = torch.rand(3, 3, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="works with sparse tensors"):
        emitted(lambda t: t.sparse_mask(pattern).to_dense() ** 2, x, ("vjp",))


def test_a_choice_between_tangents_and_numbers_is_refused():
    # The forward rule of cumprod chooses so at the first zero, wherever that is.
    x = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="takes tangents here, numbers there"):
        emitted(lambda x: x.cumprod(0), x, ("jvp",))


def test_a_choice_between_tangents_and_zero():
    x = torch.tensor([-0.5, 2.0], dtype=torch.float64)
    (direct,) = emitted(lambda x: torch.where(x > 0, x * x, 3.0), x, ("jvp",)).values()
    assert direct.dense([-x]).tolist() == [[1.0, 0.0], [0.0, 0.0]]


# -- Linear systems ----------------------------------------------------------------------------

SYSTEM = torch.arange(16.0, dtype=torch.float64).sin().view(4, 4) + 4 * torch.eye(4).double()
SYSTEMS = {
    "vector": lambda x: torch.linalg.solve(SYSTEM, x[0, 0].sin()),
    "several sides": lambda x: torch.linalg.solve(SYSTEM, x.sin()),
    "from the right": lambda x: torch.linalg.solve(SYSTEM, x.sin(), left=False),
    "matrices of x": lambda x: torch.linalg.solve(x @ x.mT + SYSTEM, x.sin()),
    "matrices of x, from the right": lambda x: torch.linalg.solve(x @ x.mT + SYSTEM, x, left=False),
    "a batch of matrices": lambda x: torch.linalg.solve(torch.stack([SYSTEM, SYSTEM.mT]), x[0]),
    "factored, adjoint": lambda x: torch.linalg.lu_solve(
        *torch.linalg.lu_factor(SYSTEM), x.sin(), adjoint=True
    ),
    "lower triangle": lambda x: torch.linalg.solve_triangular(SYSTEM, x.sin(), upper=False),
    "upper triangle, from the right": lambda x: torch.linalg.solve_triangular(
        SYSTEM.triu(), x.sin(), upper=True, left=False
    ),
    "triangle of x": lambda x: torch.linalg.solve_triangular(x + SYSTEM, x, upper=False),
    "Cholesky factor": lambda x: torch.cholesky_solve(x.sin(), SYSTEM.tril()),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name, direction) -> None:
    assert_direct(SYSTEMS[name], (2, 4, 4), direction)


def test_a_system_is_solved_once_for_all_that_its_side_is_made_of() -> None:
    def accelerations(x: Tensor) -> Tensor:
        force = x[:4].sin() - x[4:8] ** 2 + x[8:] + x[:4].flip(0) * x[4:8]
        return torch.linalg.solve(SYSTEM + torch.diag(x[:4].cos()), force)

    here, _ = points((12,))
    form = emitted(accelerations, here, ("jvp",))["jvp"].program.whole.one_by_one
    assert [str(n.target) for n in form.graph.graph.nodes if "lu_solve" in str(n.target)] == [
        "aten.linalg_lu_solve.default"
    ]


# -- Derivatives that are not finite -----------------------------------------------------------

BAND = torch.eye(6, dtype=torch.float64) - torch.eye(6, dtype=torch.float64).roll(1, 1)
# Functions of square roots: one by zero is infinite, and constant zeros keep it from the others.
ROOTS = {
    "matrix": lambda x: BAND @ x.sqrt(),
    "differences": lambda x: x.sqrt()[1:] - x.sqrt()[:-1],
    "scan": lambda x: x.sqrt().cumsum(0),
    "window": lambda x: F.avg_pool1d(x.sqrt()[None], 3, 1, 1)[0],
    "masked": lambda x: (BAND * x.sqrt()).sum(1),
}
GAP = pytest.mark.xfail(strict=True, reason="zeros of a mask times infinity are added to others")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=GAP if n == "masked" else ()) for n in ROOTS]
)
def test_an_infinite_derivative_leaves_those_by_other_inputs_alone(name) -> None:
    here = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)
    elsewhere = here.clone()
    elsewhere[2] = 0.0
    made = emitted(ROOTS[name], here, ("jvp",))["jvp"]
    found, expected = made.dense([elsewhere]), torch.func.jacrev(ROOTS[name])(elsewhere)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(found[:, others], expected[:, others])
