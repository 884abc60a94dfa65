"""Plans: the same numbers as dense Jacobians, at other inputs, in every layout, or an error."""

import pickle
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from tests.mistaken import WrongJvp, WronglyBatched
from torchjac._coloring.select import color_pattern
from torchjac._pattern.pattern import SparsityPattern
from torchjac.errors import (
    ArgumentError,
    BranchError,
    BranchWarning,
    DisagreementWarning,
    FallbackWarning,
    IndependenceWarning,
    PatternError,
    PlanMismatchError,
)
from torchjac.testing import scenario, scenarios

LAYOUTS = [
    torch.strided,
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
]
STRATEGIES = ["auto", "forward-mode", "reverse-mode"]
X = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
Y = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64)


def chain(x):
    """Two entries in each row but the first."""
    return torch.cat([x[:1].sin(), x[1:] * x[:-1]])


def energy(x):
    return (chain(x) ** 2).sum()


def dense(result):
    return result if result.layout is torch.strided else result.to_dense()


def assert_same(result, expected, **tolerance):
    torch.testing.assert_close(dense(result), expected.reshape(dense(result).shape), **tolerance)


# --- Numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_jacobian_at_other_inputs(layout, strategy):
    plan = torchjac.plan(chain, X, layout=layout, strategy=strategy)
    result = plan(Y)
    assert result.layout is layout
    assert_same(result, torchjac.jacobian(chain, Y))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", list(scenarios()), ids=lambda s: s.name)
def test_scenarios_equal_their_dense_derivatives(problem, dtype):
    x = problem.x(dtype)
    order = 2 if problem.hessian else 1
    plan = torchjac.plan(problem.function, x, order=order, layout=torch.strided)
    y = x + 0.01 * torch.sin(torch.arange(len(x), dtype=dtype))
    differentiate = torchjac.hessian if problem.hessian else torchjac.jacobian
    expected = differentiate(problem.function, y.double()).to(dtype)
    result = plan(y)
    assert result.dtype is dtype
    scale = expected.abs().max() * (1e-12 if dtype is torch.float64 else 2e-5)
    assert (result - expected).abs().max() <= scale


@pytest.mark.parametrize("name", ["brusselator", "burgers", "rosenbrock"])
def test_detected_patterns_are_those_derived_by_hand(name):
    problem = scenario(name, 12)
    plan = torchjac.plan(problem.function, problem.x(), order=2 if problem.hessian else 1)
    assert plan.pattern == problem.pattern


def test_a_large_stencil_takes_a_few_seeds():
    problem = scenario("brusselator", 32)
    plan = torchjac.plan(problem.function, problem.x(), backend="eager")
    with torchjac.record() as runs:
        result = plan(problem.x() + 0.1)
    assert result.shape == (2048, 2048)
    assert plan.coloring.num_colors == 8
    assert (runs[0].api, runs[0].seeds) == ("plan", 8)
    v = torch.randn(2048, dtype=torch.float64)
    _, product = torchjac.jvp(problem.function, problem.x() + 0.1, v)
    torch.testing.assert_close(result @ v, product)


def test_dense_rows_and_columns_are_taken_from_both_sides():
    problem = scenario("arrow", 40)
    options = {"coloring": "bidirectional", "backend": "eager"}
    plan = torchjac.plan(problem.function, problem.x(), **options)
    assert plan.coloring.num_colors == 3
    assert plan.method == "columns by forward mode and rows by reverse mode"
    assert_same(plan(problem.x() + 1), torchjac.jacobian(problem.function, problem.x() + 1))


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_seeds_may_go_in_chunks(strategy, chunk_size):
    func = lambda x: x.cumsum(0) ** 2  # noqa: E731
    options = {"strategy": strategy, "chunk_size": chunk_size, "backend": "eager"}
    plan = torchjac.plan(func, X, **options)
    with torchjac.record() as runs:
        result = plan(Y, check=True)
    assert runs[0].chunk_size == chunk_size
    assert_same(result, torchjac.jacobian(func, Y))


def test_inputs_stay_as_they_are():
    x = Y.clone()
    plan = torchjac.plan(lambda x: x.mul_(2) * x, X)
    plan(x)
    assert torch.equal(x, Y)
    assert not x.requires_grad


# --- Trees, arguments, modules --------------------------------------------------------


def several(a, b):
    return {"u": a * b[:3], "v": [torch.stack([b.sum(), a[0] * b[1]])]}


A, B = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.arange(1.0, 6.0)


def test_blocks_are_nested_as_pytorch_nests_them():
    result = torchjac.plan(several, (A, B))((A, B))
    expected = torchjac.jacobian(several, (A, B))
    for ours, theirs in (
        (result["u"], expected["u"]),
        (result["v"][0], expected["v"][0]),
    ):
        for block, true in zip(ours, theirs, strict=True):
            assert block.dtype is true.dtype
            assert_same(block, true)


def test_flat_makes_one_matrix():
    result = torchjac.plan(several, (A, B), flat=True)((A, B))
    expected = torchjac.jacobian(several, (A, B))
    rows = [torch.cat([b.double() for b in row], 1) for row in (expected["u"], expected["v"][0])]
    assert_same(result, torch.cat(rows))


def test_one_argument_may_be_chosen():
    result = torchjac.plan(several, (A, B), wrt="b")((A, B))
    assert_same(result["u"], torchjac.jacobian(several, (A, B), wrt="b")["u"])


def test_parameters_of_a_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.rand(5, 3, dtype=torch.float64)
    plan = torchjac.plan(net, x, wrt=net)
    with torch.no_grad():
        net[0].weight.mul_(2)
    result, expected = plan(x), torchjac.jacobian(net, x, wrt=net)
    assert result.keys() == expected.keys()
    for name, block in expected.items():
        assert_same(result[name], block)


def test_a_batch_costs_the_passes_of_one_sample():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.rand(50, 3, dtype=torch.float64)
    plan = torchjac.plan(net, x, layout=torch.strided)
    assert plan.coloring.num_colors <= 3
    result = plan(x)
    assert result.shape == (50, 2, 50, 3)
    assert_same(result, torchjac.jacobian(net, x))


def test_aux_is_handed_through():
    plan = torchjac.plan(lambda x: (chain(x), {"sum": x.sum()}), X, has_aux=True)
    result, aux = plan(Y)
    assert_same(result, torchjac.jacobian(chain, Y))
    assert torch.equal(aux["sum"], Y.sum())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_value_comes_with_the_jacobian(strategy):
    plan = torchjac.plan(lambda x: (chain(x), x.sum()), X, has_aux=True, strategy=strategy)
    value, result, aux = plan.value_and_jacobian(Y)
    assert torch.equal(value, chain(Y))
    assert_same(result, torchjac.jacobian(chain, Y))
    assert torch.equal(aux, Y.sum())
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("func", "x", "shape"),
    [
        (lambda x: x * 2, torch.zeros(0), (0, 0)),
        (lambda x: x[:0], torch.ones(3), (0, 3)),
        (lambda x: x * 0, torch.ones(3), (3, 3)),
    ],
)
def test_empty_matrices(func, x, shape):
    result = torchjac.plan(func, x)(x)
    assert result.shape == shape
    assert not dense(result).any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_of_the_caller_does_not_matter(mode):
    with mode():
        x = Y.clone()
        result = torchjac.plan(chain, x)(x)
    assert_same(result, torchjac.jacobian(chain, Y))


# --- Hessians -------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("coloring", [None, "star", "acyclic"])
def test_hessians(coloring, strategy):
    plan = torchjac.plan(energy, X, order=2, coloring=coloring, strategy=strategy)
    assert_same(plan(Y), torchjac.hessian(energy, Y))


def test_the_value_of_a_hessian_is_the_gradient():
    gradient, result = torchjac.plan(energy, X, order=2).value_and_jacobian(Y)
    torch.testing.assert_close(gradient, torchjac.gradient(energy, Y))
    assert_same(result, torchjac.hessian(energy, Y))


def test_hessians_of_trees():
    def func(d):
        return (d["p"].sum() * d["q"] ** 2).sum()

    inputs = {"p": A, "q": A + 1}
    result, expected = torchjac.plan(func, inputs, order=2)(inputs), torchjac.hessian(func, inputs)
    for i in inputs:
        for j in inputs:
            assert_same(result[i][j], expected[i][j])


# --- Differentiable results -----------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_can_be_differentiated(layout, strategy):
    plan = torchjac.plan(chain, X, layout=layout, strategy=strategy)
    y = Y.clone().requires_grad_()
    weights = torch.randn(12, 12, dtype=torch.float64)
    (ours,) = torch.autograd.grad((dense(plan(y, create_graph=True)) * weights).sum(), y)
    expected = torchjac.jacobian(chain, y, create_graph=True)
    (true,) = torch.autograd.grad((expected * weights).sum(), y)
    torch.testing.assert_close(ours, true)


def test_results_from_both_sides_can_be_differentiated():
    problem = scenario("arrow", 12)
    plan = torchjac.plan(problem.function, problem.x(), coloring="bidirectional")
    y = problem.x().requires_grad_()
    (ours,) = torch.autograd.grad(plan(y, create_graph=True).to_dense().pow(2).sum(), y)
    expected = torchjac.jacobian(problem.function, y, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(2).sum(), y)[0])


def test_third_derivatives_through_a_sparse_hessian():
    plan = torchjac.plan(energy, X, order=2)
    y = Y.clone().requires_grad_()
    (ours,) = torch.autograd.grad(plan(y, create_graph=True).to_dense().pow(2).sum(), y)
    expected = torchjac.hessian(energy, y, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(2).sum(), y)[0])


def test_forward_rules_with_wrong_derivatives_are_not_used_for_graphs():
    # PyTorch's forward rule of layer_norm cannot be differentiated again.
    func = lambda x: nn.functional.layer_norm(x.view(3, 4), (4,))  # noqa: E731
    plan = torchjac.plan(func, X, strategy="forward-mode")
    y = (Y**2).requires_grad_()
    (ours,) = torch.autograd.grad(plan(y, create_graph=True).to_dense().pow(3).sum(), y)
    expected = torchjac.jacobian(func, y, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(3).sum(), y)[0])


# --- Filling in place -----------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_earlier_result_is_filled(layout):
    plan = torchjac.plan(chain, X, layout=layout)
    result = plan(X)
    assert plan(Y, out=result) is result
    assert_same(result, torchjac.jacobian(chain, Y))


def test_nested_results_are_filled():
    plan = torchjac.plan(several, (A, B))
    result = plan((A, B))
    plan((A + 1, B), out=result)
    assert_same(result["u"][1], torchjac.jacobian(several, (A + 1, B))["u"][1])


@pytest.mark.parametrize(
    ("out", "line"),
    [
        (torch.zeros(12, 11).to_sparse_csr(), r"shape: planned \(12, 12\), given \(12, 11\)"),
        (torch.zeros(12, 12), "layout: planned torch.sparse_csr, given torch.strided"),
        (torch.eye(12).to_sparse_csr(), "dtype: planned torch.float64, given torch.float32"),
        (torch.eye(12).double().to_sparse_csr(), r"stored entries: planned \(23,\), given \(12,\)"),
        ([torch.zeros(1), torch.zeros(1)], "number of tensors: planned 1, given 2"),
        ("J", "`out`: planned a Tensor, given <class 'str'>"),
    ],
)
def test_what_is_no_earlier_result_is_refused(out, line):
    plan = torchjac.plan(chain, X)
    with pytest.raises(PlanMismatchError, match=line):
        plan(Y, out=out)


def test_a_result_with_other_places_is_refused():
    plan = torchjac.plan(chain, X)
    other = torchjac.plan(lambda x: chain(x).flip(0), X)(X)
    with pytest.raises(PlanMismatchError, match="places of the entries: DIFFERS"):
        plan(Y, out=other)


def test_a_result_with_a_graph_cannot_be_filled_in():
    plan = torchjac.plan(chain, X)
    for call in (plan, plan.value_and_jacobian):
        with pytest.raises(ArgumentError, match="carries a graph"):
            call(Y, out=plan(X), create_graph=True)


# --- Wrong patterns and colorings are caught ------------------------------------------


def random_problem(seed):
    """A nonlinear function with a random pattern of at least one entry in each row."""
    rng = np.random.default_rng(seed)
    mask = rng.random((15, 12)) < 0.25
    mask[np.arange(15), rng.integers(0, 12, 15)] = True
    weights = torch.from_numpy(np.where(mask, rng.standard_normal((15, 12)), 0.0))
    return (lambda x: torch.sin(weights @ x + 0.1)), SparsityPattern.from_dense(mask), rng


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(34))
def test_a_missing_entry_is_caught_and_its_row_named(seed, strategy):
    func, pattern, rng = random_problem(seed)
    lost = rng.integers(pattern.nnz)
    kept = np.delete(np.arange(pattern.nnz), lost)
    wrong = SparsityPattern.from_coo(pattern.shape, pattern.rows[kept], pattern.indices[kept])
    with pytest.raises(PatternError) as caught:
        torchjac.plan(func, X, pattern=wrong, strategy=strategy)
    reason = f"row {pattern.rows[lost]} has nonzeros in columns {pattern.indices[lost]}, which"
    assert reason in str(caught.value)


@pytest.mark.parametrize("seed", range(100, 134))
def test_shifted_rows_are_caught(seed):
    func, pattern, rng = random_problem(seed)
    rows = (pattern.rows + rng.integers(1, 15)) % 15
    wrong = SparsityPattern.from_coo(pattern.shape, rows, pattern.indices)
    with pytest.raises(PatternError, match="which the pattern lacks"):
        torchjac.plan(func, X, pattern=wrong)


@pytest.mark.parametrize("kind", ["column", "row"])
@pytest.mark.parametrize("seed", range(200, 234))
def test_swapped_colors_are_caught(seed, kind):
    func, pattern, rng = random_problem(seed)
    coloring = color_pattern(pattern, kind)
    colors = coloring.column_colors if kind == "column" else coloring.row_colors
    first = rng.integers(len(colors))
    second = rng.choice(np.flatnonzero(colors != colors[first]))
    swapped = colors.copy()
    swapped[[first, second]] = colors[[second, first]]
    wrong = replace(coloring, **{f"{kind}_colors": swapped})
    try:
        plan = torchjac.plan(func, X, pattern=pattern, coloring=wrong)
    except PatternError:
        return
    # Some swaps leave the coloring valid: then the answer is right.
    assert_same(plan(Y), torchjac.jacobian(func, Y))


def test_a_pattern_that_is_wrong_elsewhere_is_caught_by_check():
    pattern = SparsityPattern.from_dense(np.eye(12))
    plan = torchjac.plan(
        lambda x: x.relu() + (x - 1.4).relu().sum(), X.clamp(max=1.3), pattern=pattern
    )
    plan(X.clamp(max=1.3), check=True)
    with pytest.raises(PatternError, match=r"rows 0, 1, 2, 3, 4 and 7 more"):
        plan(X, check=True)


def test_a_pattern_larger_than_needed_is_fine():
    pattern = SparsityPattern.from_dense(np.ones((12, 12)))
    assert_same(torchjac.plan(chain, X, pattern=pattern)(Y), torchjac.jacobian(chain, Y))


def test_values_that_cancel_are_not_taken_for_wrong_ones():
    func = lambda x: (x * 1e12 + x) - x * 1e12 + x.flip(0) ** 2  # noqa: E731
    plan = torchjac.plan(func, X)
    assert_same(plan(Y, check=True), torchjac.jacobian(func, Y), rtol=0, atol=1e-3)


# --- Other inputs, other branches, other weights --------------------------------------


def test_inputs_of_another_kind_are_refused():
    plan = torchjac.plan(several, (A, B))
    with pytest.raises(PlanMismatchError, match=r"input 0: .* matches\n.*input 1: .* DIFFERS"):
        plan((A, B[:4]))


@pytest.mark.parametrize("strategy", ["forward-mode", "reverse-mode"])
def test_outputs_of_another_shape_are_refused(strategy):
    size = [3]
    plan = torchjac.plan(lambda x: x[: size[0]], X, strategy=strategy)
    size[0] = 4
    with pytest.raises(ArgumentError, match="shapes"):
        plan(X)


def branching(x):
    return x * x if x.sum() > 0 else x * x.flip(0)


def test_another_branch_is_planned_anew_with_one_warning():
    plan = torchjac.plan(branching, X)
    assert plan.pattern.nnz == 12
    with pytest.warns(BranchWarning, match="another branch"):
        result = plan(-X)
    assert_same(result, torchjac.jacobian(branching, -X))
    assert_same(plan(-Y.abs()), torchjac.jacobian(branching, -Y.abs()))
    assert_same(plan(X), torchjac.jacobian(branching, X))


def test_another_branch_can_be_an_error():
    plan = torchjac.plan(branching, X, on_branch="raise")
    with pytest.raises(BranchError, match=r"read \(False\) from tensors, planned were \(True\)"):
        plan(-X)


@pytest.mark.parametrize("create_graph", [False, True])
def test_graphs_follow_the_branch(create_graph):
    plan = torchjac.plan(branching, X)
    x = (-X).requires_grad_()
    with pytest.warns(BranchWarning):
        result = plan(x, create_graph=create_graph)
    assert_same(result.detach(), torchjac.jacobian(branching, -X))
    assert result.requires_grad is create_graph


@pytest.mark.filterwarnings("ignore::torchjac.errors.HiddenValueWarning")
def test_numbers_that_are_read_need_no_new_plan():
    func = lambda x: x * x.sum().item()  # noqa: E731
    plan = torchjac.plan(func, X)
    assert_same(plan(Y), torchjac.jacobian(func, Y))


def test_a_selection_of_another_size_is_planned_anew():
    func = lambda x: x[x > 1] * 2  # noqa: E731
    plan = torchjac.plan(func, X)
    with pytest.warns(BranchWarning):
        result = plan(Y)
    assert_same(result, torchjac.jacobian(func, Y))


def test_local_patterns_are_verified_on_use():
    func = lambda x: x.sort().values  # noqa: E731
    plan = torchjac.plan(func, X, scope="local")
    assert plan.pattern.nnz == 12
    with pytest.warns(BranchWarning):
        result = plan(X.flip(0))
    assert_same(result, torchjac.jacobian(func, X.flip(0)))


def test_weights_that_were_zero_are_noticed():
    weight = torch.zeros(12, dtype=torch.float64)
    func = lambda x: x**2 + weight * x.flip(0) ** 2  # noqa: E731
    plan = torchjac.plan(func, X)
    assert plan.pattern.nnz == 12
    weight.fill_(2.0)
    with pytest.warns(BranchWarning, match="what it holds has changed"):
        result = plan(Y)
    assert plan.pattern.nnz == 24
    assert_same(result, torchjac.jacobian(func, Y))


def test_weights_that_change_and_keep_the_pattern_need_no_new_plan():
    weight = torch.ones(12, dtype=torch.float64)
    func = lambda x: weight * chain(x)  # noqa: E731
    plan = torchjac.plan(func, X)
    weight.mul_(3)
    assert_same(plan(Y), torchjac.jacobian(func, Y))


def test_a_constant_jacobian_is_computed_once():
    func = lambda x: x[1:] - 2 * x[:-1]  # noqa: E731
    plan = torchjac.plan(func, X)
    assert plan.method == "constant"
    first, second = plan(Y), plan(X)
    first.values().zero_()
    assert_same(second, torchjac.jacobian(func, Y))
    assert_same(plan(Y), torchjac.jacobian(func, Y))


def test_a_constant_that_changes_is_noticed():
    weight = torch.tensor(2.0, dtype=torch.float64)
    func = lambda x: weight * x[1:] - x[:-1]  # noqa: E731
    plan = torchjac.plan(func, X)
    assert plan.method == "constant"
    weight.fill_(5.0)
    assert_same(plan(Y), torchjac.jacobian(func, Y))


# --- Functions that are not easy ------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_random_functions_see_one_mask(strategy):
    func = lambda x: nn.functional.dropout(x) * x  # noqa: E731
    plan = torchjac.plan(func, X, strategy=strategy)
    torch.manual_seed(3)
    value, result = plan.value_and_jacobian(Y)
    torch.testing.assert_close(dense(result).diagonal() * Y, 2 * value)
    torch.manual_seed(3)
    func(Y)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    plan(Y)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_buffers_move_once_for_each_call(strategy):
    norm = nn.BatchNorm1d(3).double()
    x = torch.rand(4, 3, dtype=torch.float64)
    plan = torchjac.plan(norm, x, strategy=strategy)
    assert int(norm.num_batches_tracked) == 1
    plan(x)
    assert int(norm.num_batches_tracked) == 2


def test_modules_whose_buffers_stay_get_a_program():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh()).double().eval().requires_grad_(False)
    x = torch.rand(4, 3, dtype=torch.float64)
    plan = torchjac.plan(net, x)
    assert plan.method.startswith("direct")
    net[0].running_var.fill_(2.0)
    assert_same(plan(x), torchjac.jacobian(net, x))


def test_buffers_move_once_for_each_call_after_a_switch_to_training():
    norm = nn.BatchNorm1d(3).double().eval()
    x = torch.rand(4, 3, dtype=torch.float64)
    plan = torchjac.plan(norm, x)
    norm.train()
    for count in (1, 2, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BranchWarning)
            result = plan(x)
        assert int(norm.num_batches_tracked) == count
    copy = nn.BatchNorm1d(3).double()
    assert_same(result, torchjac.jacobian(copy, x))


class Counting(nn.Module):
    """x^2, with a mean that moves but need not change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        self.mean.mul_(0.5).add_(0.5 * x.detach())
        return x * x


def test_buffers_that_move_without_changing_are_seen():
    counting = Counting()
    plan = torchjac.plan(counting, torch.zeros(3, dtype=torch.float64))
    x = torch.ones(3, dtype=torch.float64)
    assert_same(plan(x), torch.diag(2 * x))
    assert counting.mean.tolist() == [0.5, 0.5, 0.5]


def test_forward_rules_that_contradict_reverse_mode_are_given_up():
    func = lambda x: WrongJvp.apply(x) * x  # noqa: E731
    with pytest.warns(DisagreementWarning, match="rows by reverse mode"):
        plan = torchjac.plan(func, X, strategy="forward-mode", backend="eager")
    assert plan.method == "rows by reverse mode"
    assert_same(plan(Y), torchjac.jacobian(func, Y))


def test_products_that_are_wrong_in_a_batch_are_taken_one_by_one():
    with pytest.warns(DisagreementWarning, match="batched reverse-mode products disagree"):
        plan = torchjac.plan(WronglyBatched.apply, X, backend="eager")
    assert_same(plan(Y), torch.diag(2 * Y))


class Unbatchable(torch.autograd.Function):
    """x^2 with a backward pass that takes one seed at a time, and no forward rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        g.sum().item()
        return 2 * ctx.saved_tensors[0] * g


@pytest.mark.parametrize("strategy", ["auto", "forward-mode"])
def test_what_cannot_be_batched_is_looped_over_with_a_warning(strategy):
    with pytest.warns(FallbackWarning):
        plan = torchjac.plan(Unbatchable.apply, X, strategy=strategy, backend="eager")
    assert_same(plan(Y), torch.diag(2 * Y))


@pytest.mark.parametrize("func", [WronglyBatched.apply, Unbatchable.apply])
def test_nothing_is_said_of_passes_where_a_program_runs(func):
    plan = torchjac.plan(func, X, backend="replay")
    assert plan.method == "direct, replay"
    assert_same(plan(Y), torch.diag(2 * Y))


def test_outputs_without_derivative_are_warned_of():
    with pytest.warns(IndependenceWarning, match="plan: output 1"):
        plan = torchjac.plan(lambda x: (x * 2, x.detach()), X)
    assert dense(plan(Y)[1]).count_nonzero() == 0


def test_inner_no_grad_counts_as_constant_in_forward_mode():
    def func(x):
        with torch.no_grad():
            scale = x.sin()
        return scale * x

    plan = torchjac.plan(func, X, strategy="forward-mode")
    assert_same(plan(Y), torch.diag(Y.sin()))


def test_fused_attention():
    q = torch.rand(1, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    func = lambda q: nn.functional.scaled_dot_product_attention(q, q, q)  # noqa: E731
    with pytest.warns(FallbackWarning, match="math attention"):
        plan = torchjac.plan(func, q, strategy="reverse-mode")
    expected = torchjac.jacobian(func, 2 * q, vectorize=False)
    assert_same(plan(2 * q), expected, rtol=1e-4, atol=1e-5)


# --- Plans as values ------------------------------------------------------------------


def test_plans_can_be_pickled():
    plan = pickle.loads(pickle.dumps(torchjac.plan(torch.tanh, X)))
    assert_same(plan(Y), torchjac.jacobian(torch.tanh, Y))


def test_a_pickled_plan_of_a_module_keeps_its_trust():
    plan = torchjac.plan(nn.ConstantPad1d(1, 0.0), X)
    again = pickle.loads(pickle.dumps(plan))
    assert again.method == "constant"
    assert_same(again(Y), dense(plan(Y)))


def test_a_pickled_plan_of_a_changed_module_looks_again():
    net = nn.Linear(12, 12, bias=False).double()
    plan = torchjac.plan(net, X)
    with torch.no_grad():
        net.weight.mul_(2)
    again = pickle.loads(pickle.dumps(plan))
    assert_same(again(Y), net.weight.detach())


def test_plans_can_be_used_by_several_threads():
    plans = [torchjac.plan(chain, X, strategy=s) for s in STRATEGIES[1:]]
    points = [Y + k for k in range(6)]
    expected = [torchjac.jacobian(chain, y) for y in points]
    wrong = []

    def work(k):
        for _ in range(10):
            wrong.extend(k for p in plans if not torch.equal(dense(p(points[k])), expected[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_plan_comes_back_from_its_file(tmp_path):
    torchjac.plan(chain, X, layout=torch.sparse_coo).save(tmp_path / "plan.npz")
    plan = torchjac.Plan.load(tmp_path / "plan.npz", chain, X)
    assert plan(Y).layout is torch.sparse_coo
    assert_same(plan(Y), torchjac.jacobian(chain, Y))


def test_a_file_of_another_function_is_refused(tmp_path):
    torchjac.plan(chain, X).save(tmp_path / "plan.npz")
    with pytest.raises(PatternError, match="written for another function"):
        torchjac.Plan.load(tmp_path / "plan.npz", lambda x: x.cumsum(0), X)


def test_what_a_plan_tells():
    plan = torchjac.plan(chain, X, strategy="reverse-mode", backend="eager")
    assert repr(plan) == "Plan(12 × 12, nnz=23, method='rows by reverse mode')"
    assert plan.coloring.kind == "row"
    assert [c.is_chosen for c in plan.candidates].count(True) == 1


def test_a_given_coloring_brings_its_pattern():
    coloring = color_pattern(torchjac.plan(chain, X).pattern, "column")
    plan = torchjac.plan(chain, X, coloring=coloring)
    assert plan.coloring is coloring
    assert_same(plan(Y), torchjac.jacobian(chain, Y))


def test_no_warning_is_issued_for_an_ordinary_function():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        torchjac.plan(chain, X)(Y)
    assert [warning.message for warning in caught] == []


# --- Inputs that are not differentiated -----------------------------------------------


def with_time(x, t):
    return x**2 * t + (x.flip(0) ** 2 if t > 2 else 0)


def test_numbers_among_the_inputs_may_change():
    plan = torchjac.plan(with_time, (X, 1.0), wrt=0)
    for t in (1.5, 2.0):
        assert_same(plan((Y, t)), torchjac.jacobian(with_time, (Y, t), wrt=0))


def test_numbers_that_change_the_pattern_are_noticed():
    plan = torchjac.plan(with_time, (X, 1.0), wrt=0)
    with pytest.warns(BranchWarning):
        result = plan((Y, 3.0))
    assert_same(result, torchjac.jacobian(with_time, (Y, 3.0), wrt=0))


def test_masks_among_the_inputs_may_change():
    func = lambda x, mask: (x.flip(0) * mask) ** 2 + x  # noqa: E731
    mask = torch.zeros(12, dtype=torch.float64)
    plan = torchjac.plan(func, (X, mask), wrt=0)
    assert plan.pattern.nnz == 12
    with pytest.warns(BranchWarning):
        result = plan((Y, 1 - mask))
    assert_same(result, torchjac.jacobian(func, (Y, 1 - mask), wrt=0))


def test_the_data_of_a_module_may_change():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    plan = torchjac.plan(net, X.view(4, 3), wrt=net)
    result, expected = plan(Y.view(4, 3)), torchjac.jacobian(net, Y.view(4, 3), wrt=net)
    for name, block in expected.items():
        assert_same(result[name], block)


def test_a_hessian_follows_the_branch():
    func = lambda x: (x**3).sum() if x.sum() > 0 else (x * x.flip(0)).sum()  # noqa: E731
    plan = torchjac.plan(func, X, order=2)
    with pytest.warns(BranchWarning):
        result = plan(-X)
    assert_same(result, torchjac.hessian(func, -X))
    assert_same(plan(X + 1), torchjac.hessian(func, X + 1))


def test_a_hessian_with_aux_and_gradient():
    plan = torchjac.plan(lambda x: (energy(x), x.sum()), X, order=2, has_aux=True)
    gradient, result, aux = plan.value_and_jacobian(Y)
    torch.testing.assert_close(gradient, torchjac.gradient(energy, Y))
    assert_same(result, torchjac.hessian(energy, Y))
    assert torch.equal(aux, Y.sum())


def test_a_graph_on_another_branch_needs_no_columns():
    plan = torchjac.plan(branching, X, coloring="column")
    x = (-X).requires_grad_()
    with pytest.warns(BranchWarning):
        result = plan(x, create_graph=True)
    (ours,) = torch.autograd.grad(result.to_dense().pow(2).sum(), x)
    expected = torchjac.jacobian(branching, x, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(2).sum(), x)[0])


def test_entries_that_are_rounding_alone_are_not_taken_for_wrong_ones():
    weight = torch.randn(2, 2, dtype=torch.float64)
    func = lambda x: weight @ (x.softmax(0) + x.softmax(0).roll(1))  # noqa: E731
    x = torch.tensor([0.3, -0.8], dtype=torch.float64)
    assert plan_is_zero(torchjac.plan(func, x, strategy="forward-mode")(x, check=True))


def plan_is_zero(result):
    return bool(dense(result).abs().max() < 1e-14)


def test_entries_at_uneven_places_are_refilled_by_the_program():
    def residual(u):
        v = torch.nn.functional.pad(u, (1, 1, 1, 1))
        return 4 * u - v[2:, 1:-1] - v[:-2, 1:-1] - v[1:-1, 2:] - v[1:-1, :-2] - u.exp()

    u = torch.linspace(0, 1, 25, dtype=torch.float64).reshape(5, 5)
    plan = torchjac.plan(residual, u, backend="replay")
    J = plan(u)
    assert plan(2 * u, out=J) is J
    expected = torch.autograd.functional.jacobian(residual, 2 * u).reshape(25, 25)
    assert torch.allclose(J.to_dense(), expected, rtol=1e-14)


def test_a_parameter_like_the_input_is_not_taken_for_it():
    module = torch.nn.Linear(3, 3, bias=False).double()
    x = torch.ones(3, 3, dtype=torch.float64)
    plan = torchjac.plan(lambda x: module(x) ** 2, x, wrt=module, layout=torch.strided)
    for point in (x, x + 1):
        found = plan(point)["weight"]
        expected = torchjac.jacobian(lambda x: module(x) ** 2, point, wrt=module)["weight"]
        torch.testing.assert_close(found, expected)
