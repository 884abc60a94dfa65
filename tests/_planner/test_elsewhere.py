"""What was found at x is held against the function at another point."""

import pytest
import torch

import torchjac
from torchjac._evaluate.direct.runner import Direct
from torchjac._local.algebra import Scale, Term
from torchjac._local.registry import _RULES
from torchjac._pattern.detect import Detection
from torchjac._planner import elsewhere
from torchjac._planner.certificate import agree
from torchjac._planner.elsewhere import moved
from torchjac.errors import PatternError

ZEROS = torch.zeros(6, dtype=torch.float64)
X = torch.linspace(-1.0, 1.6, 6, dtype=torch.float64)


def products(x):
    return x * x.roll(1)


@pytest.fixture
def lacks_an_entry(monkeypatch):
    """A rule that forgets the first element of every product."""

    def wrong(call):
        shape = call.out_shape()
        mask = torch.ones(shape, dtype=torch.bool)
        mask.view(-1)[0] = False
        return [Term(ref, [Scale(shape, mask)]) for ref in call.tangents()]

    monkeypatch.setitem(_RULES, torch.ops.aten.mul, wrong)


# --- Points ---------------------------------------------------------------------------


@pytest.mark.parametrize("shuffled", [False, True])
def test_other_points_have_no_zeros(shuffled):
    x = torch.tensor([0.0, -1.0, 4.0, 0.0])
    (other,) = moved([x], shuffled=shuffled)
    assert bool((other != 0).all())
    assert other.dtype == x.dtype


def test_elements_keep_their_sign_and_size():
    x = torch.tensor([-2.0, 5.0, 1e-9, 1e9], dtype=torch.float64)
    (other,) = moved([x], shuffled=False)
    assert bool((other / x > 0.75).all())
    assert bool((other / x < 1.25).all())


def test_a_shuffled_point_has_another_order():
    x = torch.arange(1.0, 21.0)
    (other,) = moved([x], shuffled=True)
    assert not torch.equal(other.argsort(), x.argsort())
    assert other.max() < 25


def test_zeros_become_as_large_as_other_elements():
    (other,) = moved([torch.tensor([0.0, 100.0])], shuffled=False)
    assert 50 <= float(other[0]) <= 100


def test_what_is_not_finite_stays_so():
    (other,) = moved([torch.tensor([float("inf"), 1.0])], shuffled=False)
    assert other.isinf().tolist() == [True, False]


def test_a_tensor_without_elements():
    assert moved([torch.empty(0, 3)], shuffled=True)[0].shape == (0, 3)


# --- Patterns -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "eager", "replay"])
@pytest.mark.usefixtures("lacks_an_entry")
def test_a_wrong_pattern_is_seen_where_all_entries_are_zero(backend):
    with pytest.raises(PatternError, match="which the pattern lacks"):
        torchjac.plan(products, ZEROS, backend=backend)


@pytest.mark.usefixtures("lacks_an_entry")
def test_what_is_computed_once_is_not_asked_elsewhere():
    result = torchjac.jacobian(products, ZEROS, layout=torch.sparse_csr)
    assert not result.to_dense().any()


def test_what_is_right_stays():
    assert torchjac.plan(products, ZEROS).method == "direct, replay"


# --- Programs -------------------------------------------------------------------------


def planned_with(monkeypatch, wrong, **options):
    """A plan at zero, of programs that do something wrong."""
    right = Direct.nonzeros
    monkeypatch.setattr(Direct, "nonzeros", lambda self, leaves: wrong(right(self, leaves)))
    return torchjac.plan(products, ZEROS, **options)


@pytest.mark.parametrize("backend", ["auto", "replay"])
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_a_wrong_program_is_not_used(monkeypatch, backend):
    plan = planned_with(monkeypatch, lambda values: 1.001 * values, backend=backend)
    assert plan.method.startswith(("columns", "rows"))
    assert "gives other values at another point: not used" in str(plan)
    expected = torch.autograd.functional.jacobian(products, X)
    torch.testing.assert_close(plan(X).to_dense(), expected)


def test_rounding_refuses_no_program(monkeypatch):
    plan = planned_with(monkeypatch, lambda values: values * (1 + 1e-13), backend="replay")
    assert plan.method == "direct, replay"


def test_entries_that_are_not_the_same_everywhere_are_no_constants(monkeypatch):
    monkeypatch.setattr(Detection, "is_constant", True)
    plan = torchjac.plan(products, ZEROS, backend="eager")
    expected = torch.autograd.functional.jacobian(products, X)
    assert plan.method != "constant"
    torch.testing.assert_close(plan(X).to_dense(), expected)


# --- Where there is no other point ----------------------------------------------------


def test_a_function_that_refuses_other_points_is_planned():
    def picky(x):
        if not torch.equal(x.detach().long(), torch.arange(6)):
            raise ValueError("only there")
        return x * x

    x = torch.arange(6, dtype=torch.float64)
    assert torchjac.plan(picky, x)(x).to_dense().diagonal().tolist() == (2 * x).tolist()


def test_a_function_without_a_derivative_elsewhere_is_planned():
    def edge(x):
        return (x - x.detach().clone().clamp(max=1.0)).sqrt() * x  # inf for all but large x

    x = torch.full((4,), 3.0, dtype=torch.float64)
    assert torchjac.plan(edge, x).pattern.nnz == 4


def test_the_next_point_is_tried_where_the_first_is_no_good(monkeypatch):
    asked, right = [], elsewhere._proof

    def fails_at_first(scheme, there):
        asked.append(there.signature.leaves[0])
        if len(asked) == 1:
            raise ValueError("out of the domain")
        return right(scheme, there)

    monkeypatch.setattr(elsewhere, "_proof", fails_at_first)
    torchjac.plan(products, X)
    assert [torch.equal(x.sign(), X.sign()) for x in asked] == [False, True]


def test_the_next_point_is_tried_where_the_modes_contradict_each_other():
    def phasors(x):  # PyTorch's backward pass is another one for negative lengths
        return torch.polar(x[:4], x[4:]).real * x[:4]

    x = torch.tensor([1.1, 0.9, 1.2, 0.8, 0.3, -0.2, 0.1, -0.5], dtype=torch.float64)
    plan = torchjac.plan(phasors, x, backend="replay")
    assert plan.method == "direct, replay"
    torch.testing.assert_close(plan(x).to_dense(), torch.func.jacfwd(phasors)(x))


def test_functions_with_branches_are_not_asked_elsewhere():
    points = []

    def branching(x):
        points.append(x.detach().clone())
        return x * x if float(x.detach().sum()) > -100 else x

    torchjac.plan(branching, X)
    assert all(torch.equal(point, X) for point in points)


def test_random_numbers_go_on_as_if_nothing_had_been_asked():
    torch.manual_seed(0)
    torchjac.plan(products, X)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


# --- Rounding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "off", "expected"),
    [
        (torch.float64, 1e-12, True),
        (torch.float64, 1e-9, False),
        (torch.float32, 1e-4, True),
        (torch.float32, 3e-3, False),
        (torch.bfloat16, 0.05, True),
        (torch.bfloat16, 0.5, False),
    ],
)
def test_how_far_two_ways_may_differ(dtype, off, expected):
    values = torch.tensor([1.0, 0.5, float("nan")], dtype=dtype)
    found = values + torch.tensor([0.0, off, 0.0], dtype=torch.float64).to(dtype)
    assert agree(found, values) == expected


def test_entries_that_are_no_numbers_agree_with_each_other_only():
    no_numbers = torch.full((3,), float("nan"))
    assert agree(no_numbers, no_numbers)
    assert not agree(torch.zeros(3), no_numbers)


def determinant(x):
    """The factorisation behind it is that of x or of its transpose, as x lies in memory."""
    return torch.linalg.slogdet(x).logabsdet * x.sum(1)


def normalised(x):
    """A kernel that takes contiguous memory only."""
    return torch.nn.functional.group_norm(x[None], 3)[0].sin()


@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@pytest.mark.parametrize("func", [determinant, normalised])
def test_inputs_that_lie_otherwise_in_memory(func):
    first = torch.rand(3, 3, dtype=torch.float64) + torch.eye(3, dtype=torch.float64)
    wide = torch.rand(3, 6, dtype=torch.float64) + 0.5
    wide[:, ::2] += torch.eye(3, dtype=torch.float64)
    for start in (first, first.T):
        made = torchjac.plan(func, start, layout=torch.strided, backend="replay")
        for x in (wide[:, ::2].contiguous().T, wide[:, ::2], wide[:, 1::2].contiguous()):
            torch.testing.assert_close(made(x), torch.func.jacrev(func)(x.contiguous()))
            smooth = made(x.detach().requires_grad_(), create_graph=True)
            torch.testing.assert_close(smooth.detach(), made(x))


@pytest.mark.parametrize("ask", [torch.Tensor.is_contiguous, lambda x: x.stride()[0] > 1])
def test_a_function_that_asks_how_its_input_lies_in_memory(ask):
    def either(x):
        return x.sin() if ask(x) else x.cos()

    x = torch.rand(3, 3, dtype=torch.float64)
    made = torchjac.plan(either, x, layout=torch.strided, backend="replay")
    torch.testing.assert_close(made(x + 1), torch.func.jacrev(either)(x + 1))
    with pytest.warns(torchjac.errors.BranchWarning, match="another branch"):
        found = made(x.T)
    torch.testing.assert_close(found, torch.func.jacrev(either)(x.T))


def test_where_weights_lie_decides_nothing_new():
    weight = torch.rand(3, 3, dtype=torch.float64).T

    def weighed(x):
        return x.sin() @ (weight if weight.is_contiguous() else weight.contiguous())

    x = torch.rand(3, 3, dtype=torch.float64)
    made = torchjac.plan(weighed, x, layout=torch.strided, backend="replay")
    torch.testing.assert_close(made(x.T), torch.func.jacrev(weighed)(x.T))


def test_hessians_of_functions_that_ask_for_no_places_are_planned_once():
    x = torch.linspace(0.1, 1.0, 12, dtype=torch.float64)
    plan = torchjac.plan(lambda x: (x[1:] * x[:-1] ** 2).sum(), x, order=2)
    assert plan._core.main.strides is None
    part = torch.cat([x, x])[6:18]
    expected = torch.func.hessian(lambda x: (x[1:] * x[:-1] ** 2).sum())(part)
    torch.testing.assert_close(plan(part).to_dense(), expected)


def centered(x):
    """Rows whose derivatives cancel to a small part of what they are made of."""
    y = x - x.mean(1, keepdim=True)
    y = y.prod(0, keepdim=True) * 0.1 + y
    return torch.nn.functional.pad(y.movedim(0, -1), (1, 0)).movedim(-1, 0).sin().sum(-1)


@pytest.mark.parametrize("seed", [3000, 3009, 3020, 3100])
def test_derivatives_that_cancel_are_no_fault_of_the_pattern(seed):
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    plan = torchjac.plan(centered, x, layout=torch.strided)
    expected = torch.func.jacrev(centered)(x)
    torch.testing.assert_close(plan(x), expected, rtol=1e-9, atol=1e-12)
