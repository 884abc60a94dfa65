"""Plans answer for the function as it is now; results belong to one plan."""

import copy
import threading

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import torchjac
from torchjac.errors import BranchWarning

pytestmark = pytest.mark.filterwarnings("ignore:Sparse", "ignore::torchjac.errors.BranchWarning")
BACKENDS = ("auto", "eager")
X = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
Y = 1.7 * X - 0.3


def mixed(x):
    """Entries that depend on x, and others."""
    return x[1:] * x[:-1] + 3 * x[:-1]


def assert_right(result, func, x):
    expected = torch.autograd.functional.jacobian(func, x)
    torch.testing.assert_close(result.to_dense(), expected)


def by_data():
    weight = torch.zeros(6, dtype=torch.float64)
    return lambda x: x * x + weight * x.roll(2), lambda: weight.data.add_(1)


def by_numpy():
    array = np.zeros(6)
    return lambda x: x * x + torch.from_numpy(array) * x.roll(2), lambda: array.fill(1.0)


def by_slots():
    class Holder:
        __slots__ = ("k",)

    holder = Holder()
    holder.k = 0.0
    return lambda x: x * x + holder.k * x.roll(2), lambda: setattr(holder, "k", 1.0)


def by_nested():
    array = np.zeros(6)

    def inner(x):
        return torch.as_tensor(array) * x.roll(2)

    return lambda x: x * x + inner(x), lambda: array.fill(1.0)


def by_attribute():
    class Simulation:
        k = 0.0

        def step(self, x):
            return x * x + self.k * x.roll(2)

    return Simulation().step, lambda: setattr(Simulation, "k", 1.0)


@pytest.mark.parametrize("make", [by_data, by_numpy, by_slots, by_nested, by_attribute])
@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_that_become_numbers(make, backend):
    func, change = make()
    plan = torchjac.plan(func, X, backend=backend)
    assert plan.pattern.nnz == 6
    change()
    assert_right(plan.value_and_jacobian(Y)[1], func, Y)
    assert_right(plan(X), func, X)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_are_not_differentiated(backend):
    func = lambda x, t: t * x * x + (t - 1) * x.roll(1)  # noqa: E731
    t = torch.ones(6, dtype=torch.float64)
    plan = torchjac.plan(func, (X, t), wrt=0, backend=backend)
    t.data.fill_(3.0)
    assert_right(plan((Y, t)), lambda x: func(x, t), Y)


def test_a_function_that_counts_is_not_frozen_when_planned_anew():
    calls, weight = [0], [0.0]

    def func(x):
        calls[0] += 1
        return x * x + weight[0] * x.roll(1)

    plan = torchjac.plan(func, X)
    weight[0] = 1.0
    plan(X)
    before = calls[0]
    plan(Y)
    assert calls[0] > before


def test_a_precision_that_is_cast():
    weight = torch.rand(6, 6)
    func = lambda x: (weight @ x) * x  # noqa: E731
    plan = torchjac.plan(func, X.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_right(plan(Y.float()), func, Y.float())


def test_a_branch_is_trusted_only_in_the_state_that_it_was_found_in():
    weight = torch.zeros(6, dtype=torch.float64)

    def func(x):
        return x * x if x.sum() > 0 else x**3 + weight * x.roll(1)

    plan = torchjac.plan(func, X)
    plan(-X)
    weight.fill_(1.0)
    assert_right(plan(-Y - 5), func, -Y - 5)
    assert_right(plan(Y + 5), func, Y + 5)


def test_a_copied_plan_trusts_nothing():
    plan = copy.deepcopy(torchjac.plan(torch.tanh, X))
    assert plan._core.known.world is None
    assert_right(plan(Y), torch.tanh, Y)


def test_a_copied_plan_differentiates_by_the_module_that_its_function_uses():
    net = torch.nn.Linear(6, 2, dtype=torch.float64)
    for func in (net, lambda x: net(x), net.forward):
        plan = torchjac.plan(func, X, wrt=net, layout=torch.strided)
        found, expected = copy.deepcopy(plan)(Y), torchjac.jacobian(net, Y, wrt=net)
        assert found.keys() == expected.keys()
        for name, block in found.items():
            torch.testing.assert_close(block, expected[name])


# Whether forward mode is taken, which PyTorch cannot batch here, is a question of speed.
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_functions_that_read_memory_by_its_place():
    func = lambda x: x.as_strided((3,), (1,), 0) * x[:3]  # noqa: E731
    plan = torchjac.plan(func, X)
    part = torch.arange(12.0, dtype=torch.float64)[4:10]
    with pytest.warns(BranchWarning):
        result = plan(part)
    assert_right(result, func, part)


def test_two_threads_after_a_change():
    weight = torch.zeros(6, dtype=torch.float64)
    func = lambda x: x * x.roll(1) + weight * x.roll(2)  # noqa: E731
    plan = torchjac.plan(func, X)
    weight.fill_(1.0)
    points = [X + k for k in range(4)]
    expected = [torch.autograd.functional.jacobian(func, x) for x in points]
    wrong = []

    def work(k):
        for _ in range(10):
            if not torch.allclose(plan(points[k]).to_dense(), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- Results that are filled again -------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda result: result.values().mul_(2),
        lambda result: result.mul_(2),
        lambda result: result.values().numpy().fill(0.0),
        lambda result: result.t().values().zero_(),
        lambda result: None,
    ],
)
def test_writes_to_a_result(write):
    plan = torchjac.plan(mixed, X)
    result = plan(X)
    write(result)
    assert plan(Y, out=result) is result
    assert_right(result, mixed, Y)


@pytest.mark.parametrize("duplicate", [copy.copy, torch.clone])
def test_a_copy_of_a_result(duplicate):
    plan = torchjac.plan(mixed, X)
    result = plan(X)
    other = duplicate(result)
    result.values().zero_()
    other.values().mul_(3)
    assert_right(plan(Y, out=other), mixed, Y)


def test_a_result_of_a_plan_that_died():
    for k in range(1, 20):
        result = torchjac.plan(mixed, X)(X)
        func = lambda x, k=k: k * x[:-1] + x[1:] ** 2  # noqa: E731
        assert_right(torchjac.plan(func, X)(Y, out=result), func, Y)


def test_a_result_of_another_plan():
    plans = [torchjac.plan(lambda x, c=c: c * x[:-1] + x[1:] ** 2, X) for c in (2.0, 3.0)]
    result = plans[0](X)
    assert_right(plans[1](Y, out=result), lambda x: 3 * x[:-1] + x[1:] ** 2, Y)


def test_matrices_of_scipy_leave_the_plan_alone():
    plan = torchjac.plan(mixed, X)
    result = plan(X)
    parts = [p.numpy() for p in (result.values(), result.col_indices(), result.crow_indices())]
    matrix = csr_array(tuple(parts), shape=(5, 6))
    matrix.data[0] = 0.0
    matrix.eliminate_zeros()
    assert_right(plan(Y), mixed, Y)


def test_results_share_no_memory_with_what_the_function_reads():
    func = lambda x: x**2 / 2  # noqa: E731
    x = Y.clone()
    result = torchjac.plan(func, X)(x)
    x.zero_()
    assert_right(result, func, Y)


def test_results_of_tensors_of_inference_mode():
    plan = torchjac.plan(mixed, X)
    with torch.inference_mode():
        result = plan(Y.clone())
        plan(X, out=result)
    assert_right(result, mixed, X)
