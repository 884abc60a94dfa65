"""`jacobian` and `value_and_jacobian`: trees, options, dtypes, shapes, differentiable results."""

import itertools
from collections import OrderedDict, namedtuple
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import torchjac
from torchjac import jacobian, value_and_jacobian
from torchjac.errors import (
    ArgumentTypeError,
    DisagreementWarning,
    FallbackWarning,
    MemoryBudgetError,
    StrictError,
)

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
MODES = ("reverse-mode", "forward-mode")
DTYPES = (torch.float64, torch.float32)

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Pose:
    place: torch.Tensor
    angle: torch.Tensor


class Box:
    """Registered with pytree without names for its parts."""

    def __init__(self, low, high):
        self.low, self.high = low, high


pytree.register_dataclass(Pose)
pytree.register_pytree_node(
    Box,
    lambda box: ([box.low, box.high], None),
    lambda parts, _: Box(*parts),
    serialized_type_name="tests.Box",
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def x3(dtype=torch.float64):
    return torch.tensor([0.5, -1.0, 2.0], dtype=dtype)


def y2(dtype=torch.float64):
    return torch.tensor([3.0, 0.25], dtype=dtype)


def outer(x, y):
    """f[i, j] = x[i]^2 y[j]: by x[i] the derivative is 2 x[i] y[j], by y[j] it is x[i]^2."""
    return torch.outer(x**2, y)


def outer_by_x(x, y):
    return torch.einsum("i,j,ik->ijk", 2 * x, y, torch.eye(3, dtype=x.dtype))


def outer_by_y(x, y):
    return torch.einsum("i,jk->ijk", x**2, torch.eye(2, dtype=x.dtype))


def assert_trees_close(actual, expected):
    ours, our_spec = pytree.tree_flatten(actual)
    theirs, their_spec = pytree.tree_flatten(expected)
    assert our_spec == their_spec
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


# Trees of inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_tensor_in_and_out_gives_one_tensor(strategy, dtype):
    x = x3(dtype)
    jac = jacobian(lambda x: x**2, x, strategy=strategy)
    assert isinstance(jac, torch.Tensor)
    torch.testing.assert_close(jac, torch.diag(2 * x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tuple_of_inputs_is_several_arguments(strategy, dtype):
    x, y = x3(dtype), y2(dtype)
    jac = jacobian(outer, (x, y), strategy=strategy)
    assert_trees_close(jac, (outer_by_x(x, y), outer_by_y(x, y)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tuple_of_one_input_gives_a_tuple_of_one(strategy):
    x = x3()
    jac = jacobian(lambda x: x**2, (x,), strategy=strategy)
    assert_trees_close(jac, (torch.diag(2 * x),))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda x, y: [x, y], lambda p: (p[0], p[1])),
        (lambda x, y: {"x": x, "y": y}, lambda p: (p["x"], p["y"])),
        (lambda x, y: OrderedDict(y=y, x=x), lambda p: (p["x"], p["y"])),
        (lambda x, y: Pair(x, y), lambda p: (p.first, p.second)),
        (lambda x, y: Pose(x, y), lambda p: (p.place, p.angle)),
        (lambda x, y: {"net": [{"x": x}, (y,)]}, lambda p: (p["net"][0]["x"], p["net"][1][0])),
        (lambda x, y: [Pair(x, {"y": y})], lambda p: (p[0].first, p[0].second["y"])),
    ],
    ids=["list", "dict", "OrderedDict", "namedtuple", "dataclass", "nested", "mixed"],
)
def test_a_tree_of_inputs_is_one_argument_and_gives_a_tree(pack, unpack, strategy):
    x, y = x3(), y2()
    jac = jacobian(lambda p: outer(*unpack(p)), pack(x, y), strategy=strategy)
    assert_trees_close(jac, pack(outer_by_x(x, y), outer_by_y(x, y)))


def test_a_node_registered_without_names_for_its_parts_is_a_tree_too():
    x, y = x3(), y2()
    jac = jacobian(lambda box: outer(box.low, box.high), Box(x, y))
    torch.testing.assert_close(jac.low, outer_by_x(x, y))
    torch.testing.assert_close(jac.high, outer_by_y(x, y))


def test_a_node_registered_without_names_does_not_hinder_the_others():
    x, y = x3(), y2()
    jac = jacobian(lambda box, y: outer(box.low, y), (Box(x, x), y), wrt=1)
    torch.testing.assert_close(jac, outer_by_y(x, y))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trees_may_stand_among_the_arguments(strategy):
    x, y = x3(), y2()
    jac = jacobian(lambda p, y: outer(p["x"], y), ({"x": x}, y), strategy=strategy)
    assert_trees_close(jac, ({"x": outer_by_x(x, y)}, outer_by_y(x, y)))


def test_keyword_arguments_are_bound_by_a_partial():
    x = x3()

    def func(x, *, power, scale=1.0):
        return scale * x**power

    jac = jacobian(partial(func, power=3, scale=2.0), x)
    torch.testing.assert_close(jac, torch.diag(6 * x**2))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_arguments_that_are_no_tensors_are_handed_on_where_wrt_leaves_them_out(strategy):
    x = x3()

    def func(mode, x, table, n, nothing):
        assert nothing is None
        return (x**n).sin() if mode == "sin" else x * table["factor"]

    args = ("sin", x, {"factor": 2}, 2, None)
    jac = jacobian(func, args, wrt=1, strategy=strategy)
    torch.testing.assert_close(jac, torch.diag(2 * x * (x**2).cos()))


def test_the_same_tensor_given_twice_is_two_inputs():
    x = x3()
    jac = jacobian(lambda a, b: a**2 * b, (x, x))
    assert_trees_close(jac, (torch.diag(2 * x * x), torch.diag(x**2)))


# wrt


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("wrt", [1, -1, "y"])
def test_wrt_of_one_argument_gives_what_stands_there(wrt, strategy):
    x, y = x3(), y2()
    jac = jacobian(outer, (x, y), wrt=wrt, strategy=strategy)
    torch.testing.assert_close(jac, outer_by_y(x, y))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("wrt", [(1, 0), ["y", "x"], ("y", -2)])
def test_wrt_of_several_arguments_gives_a_tuple_in_the_order_named(wrt, strategy):
    x, y = x3(), y2()
    jac = jacobian(outer, (x, y), wrt=wrt, strategy=strategy)
    assert_trees_close(jac, (outer_by_y(x, y), outer_by_x(x, y)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("wrt", ["net.x", "params.net.x", "net['x']", "0.net.x"])
def test_wrt_of_a_leaf_gives_that_leaf(wrt, strategy):
    x, y = x3(), y2()
    params = {"net": {"x": x}, "y": y}
    jac = jacobian(lambda params: outer(params["net"]["x"], params["y"]), params, wrt=wrt)
    torch.testing.assert_close(jac, outer_by_x(x, y))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_wrt_of_a_subtree_gives_its_tree(strategy):
    x, y = x3(), y2()
    params = {"net": [x, {"y": y}], "rest": x}
    jac = jacobian(
        lambda p: outer(p["net"][0], p["net"][1]["y"]), params, wrt="net", strategy=strategy
    )
    assert_trees_close(jac, [outer_by_x(x, y), {"y": outer_by_y(x, y)}])


# Trees of outputs


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "pack",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"a": a, "b": b},
        lambda a, b: Pair(a, b),
        lambda a, b: Pose(a, b),
        lambda a, b: {"x": [a, ({"y": b},)]},
        lambda a, b: (a,),
    ],
    ids=["tuple", "list", "dict", "namedtuple", "dataclass", "nested", "one"],
)
def test_a_tree_of_outputs_gives_a_tree(pack, strategy):
    x = x3()
    jac = jacobian(lambda x: pack(x**2, x.sum()), x, strategy=strategy)
    assert_trees_close(jac, pack(torch.diag(2 * x), torch.ones(3, dtype=x.dtype)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_outputs_are_outside_and_inputs_inside(strategy):
    x, y = x3(), y2()
    jac = jacobian(
        lambda p: {"prod": outer(p.first, p.second), "sum": [p.first.sum()]},
        Pair(x, y),
        strategy=strategy,
    )
    expected = {
        "prod": Pair(outer_by_x(x, y), outer_by_y(x, y)),
        "sum": [Pair(torch.ones_like(x), torch.zeros_like(y))],
    }
    assert_trees_close(jac, expected)


@pytest.mark.parametrize("empty", [(), [], {}])
def test_a_function_without_outputs_has_an_empty_jacobian(empty):
    assert jacobian(lambda x: empty, x3()) == empty


def test_outputs_of_torch_functions_keep_their_type():
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    jac = jacobian(torch.linalg.eigh, matrix)
    assert type(jac).__name__ == "linalg_eigh"
    # d w_k = v_k^T dA v_k for the eigenvalues of the lower triangle, as PyTorch symmetrizes it.
    v = torch.linalg.eigh(matrix).eigenvectors
    torch.testing.assert_close(jac[0], torch.einsum("ik,jk->kij", v, v))


def test_many_small_outputs_are_told_apart():
    x = x3()
    jac = jacobian(lambda x: tuple(k * x[k % 3] ** 2 for k in range(9)), x)
    for k, row in enumerate(jac):
        expected = torch.zeros(3, dtype=x.dtype)
        expected[k % 3] = 2 * k * x[k % 3]
        torch.testing.assert_close(row, expected)


# Aux


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("aux", [None, 3, "text", {"calls": [1, 2]}, (1, 2)])
def test_aux_is_handed_through(aux, strategy):
    x = x3()
    jac, got = jacobian(lambda x: (x**2, aux), x, has_aux=True, strategy=strategy)
    torch.testing.assert_close(jac, torch.diag(2 * x))
    assert got == aux


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_aux_may_hold_tensors_and_the_output_may_be_a_tree(strategy):
    x = x3()
    (jac,), aux = jacobian(
        lambda x: ((x**2,), {"argmax": x.argmax()}), x, has_aux=True, strategy=strategy
    )
    torch.testing.assert_close(jac, torch.diag(2 * x))
    assert aux["argmax"].item() == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tensors_in_aux_are_detached(strategy):
    x = x3()
    _, aux = jacobian(lambda x: (x**2, {"cube": [x**3]}), x, has_aux=True, strategy=strategy)
    torch.testing.assert_close(aux["cube"][0], x**3)
    assert not aux["cube"][0].requires_grad


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("result", [torch.ones(2), (1, 2, 3), [torch.ones(2), 1], None])
def test_has_aux_needs_a_pair(result, strategy):
    with pytest.raises(ArgumentTypeError, match="pair"):
        jacobian(lambda x: result, x3(), has_aux=True, strategy=strategy)


def test_aux_comes_last_beside_the_value():
    x = x3()
    value, jac, aux = value_and_jacobian(lambda x: (x**2, "aux"), x, has_aux=True)
    torch.testing.assert_close(value, x**2)
    torch.testing.assert_close(jac, torch.diag(2 * x))
    assert aux == "aux"


def test_aux_inside_vmap_has_the_batch_axis():
    batch = torch.randn(4, 3)
    jac, aux = torch.func.vmap(lambda x: jacobian(lambda x: (x**2, 3 * x), x, has_aux=True))(batch)
    torch.testing.assert_close(jac, torch.diag_embed(2 * batch))
    torch.testing.assert_close(aux, 3 * batch)


# Options do not change the answer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 1000])
@pytest.mark.parametrize("vectorize", [None, True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_option_changes_the_answer(strategy, vectorize, chunk_size, create_graph, dtype):
    x, y = x3(dtype), y2(dtype)

    def func(x, y):
        return outer(x, y), (x.sum() * y).sin(), y.prod()

    ours = jacobian(
        func,
        (x, y),
        create_graph,
        vectorize=vectorize,
        strategy=strategy,
        chunk_size=chunk_size,
    )
    theirs = torch.autograd.functional.jacobian(func, (x, y))
    assert_trees_close(pytree.tree_map(torch.Tensor.detach, ours), theirs)


@pytest.mark.parametrize("memory", [10**9, 0.5, 1.0, None])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_does_not_change_the_answer(strategy, memory):
    x, y = x3(), y2()
    jac = jacobian(outer, (x, y), strategy=strategy, memory=memory)
    assert_trees_close(jac, (outer_by_x(x, y), outer_by_y(x, y)))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_result_larger_than_memory_is_refused_whatever_its_size(strategy, chunk_size):
    with pytest.raises(MemoryBudgetError, match="needs"):
        jacobian(
            lambda x: x**2, torch.ones(50), strategy=strategy, memory=16, chunk_size=chunk_size
        )


@pytest.mark.parametrize("n_out", [2, 60])
def test_the_order_of_positional_options_is_that_of_torch_autograd(n_out):
    x = x3()
    weights = torch.randn(n_out, 3, dtype=x.dtype)

    def func(x):
        return weights @ x.sin()

    ours = jacobian(func, x, True, False, True, "reverse-mode")
    theirs = torch.autograd.functional.jacobian(func, x, True, False, True, "reverse-mode")
    torch.testing.assert_close(ours, theirs)
    assert ours.requires_grad == theirs.requires_grad


@pytest.mark.parametrize(
    ("strategy", "vectorize", "chunk_size", "passes"),
    [
        ("reverse-mode", True, None, 1),
        ("reverse-mode", True, 2, 3),
        ("forward-mode", True, 2, 2),
    ],
)
def test_chunk_size_is_the_number_of_seeds_in_a_pass(strategy, vectorize, chunk_size, passes):
    with torchjac.record() as runs:
        jacobian(
            lambda x: torch.cat([x, x[:2]]) ** 2,
            x3(),
            strategy=strategy,
            vectorize=vectorize,
            chunk_size=chunk_size,
        )
    assert (runs[0].mode, runs[0].method, runs[0].passes) == (strategy, "vmap", passes)


@pytest.mark.parametrize("strategy", MODES)
def test_vectorize_false_runs_one_seed_at_a_time(strategy):
    with torchjac.record() as runs:
        jacobian(lambda x: x**2, x3(), vectorize=False, strategy=strategy)
    assert (runs[0].mode, runs[0].method) == (strategy, "loop")


class Unbatchable(torch.autograd.Function):
    """x -> x^2 whose passes take one seed at a time."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        assert g.sum().item() == g.sum()  # data-dependent: cannot be batched
        return g * 2 * ctx.saved_tensors[0]


def test_vectorize_none_falls_back_to_single_passes_and_says_so():
    x = x3()
    with pytest.warns(FallbackWarning, match="reverse-mode/loop"):
        jac = jacobian(Unbatchable.apply, x)
    torch.testing.assert_close(jac, torch.diag(2 * x))


def test_vectorize_true_does_not_fall_back():
    with pytest.raises(RuntimeError, match="vmap"):
        jacobian(Unbatchable.apply, x3(), vectorize=True)


@pytest.mark.parametrize(
    ("n_in", "n_out", "mode"),
    [(3, 3, "reverse-mode"), (64, 1, "reverse-mode"), (2, 64, "forward-mode")],
)
def test_the_strategy_is_chosen_by_size(n_in, n_out, mode):
    weights = torch.randn(n_out, n_in)
    with torchjac.record() as runs:
        jac = jacobian(lambda x: weights @ x, torch.ones(n_in))
    assert runs[0].mode == mode
    torch.testing.assert_close(jac, weights)


# Strict


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("vectorize", [None, True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strict_lets_dependent_outputs_through(strategy, vectorize, create_graph):
    x, y = x3(), y2()
    jac = jacobian(lambda x, y: outer(x, y) ** 2, (x, y), create_graph, True, vectorize, strategy)
    expected = torch.autograd.functional.jacobian(lambda x, y: outer(x, y) ** 2, (x, y))
    assert_trees_close(pytree.tree_map(torch.Tensor.detach, jac), expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("func", "message"),
    [
        (lambda x, y: x**2, "Output 0 .* is independent of input 1"),
        (lambda x, y: (x * y.sum(), y**2), "Output 1 .* is independent of input 0"),
        (lambda x, y: (x * y.sum()).detach(), "Output 0 .* does not require gradients"),
        (lambda x, y: (x * y.sum(), torch.ones(2)), "Output 1 .* does not require gradients"),
    ],
)
def test_strict_refuses_independent_outputs(func, message, strategy):
    with pytest.raises(StrictError, match=message):
        jacobian(func, (x3(), y2()), strict=True, strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strict_refuses_a_constant_jacobian_that_is_to_be_differentiated(strategy):
    with pytest.raises(StrictError, match=r"jacobian .* is independent of input 0"):
        jacobian(lambda x: 2 * x, x3(), create_graph=True, strict=True, strategy=strategy)


# Differentiable results


def cubic(x, weight):
    return (weight @ x) ** 3


def cubic_jacobian(x, weight):
    return 3 * (weight @ x)[:, None] ** 2 * weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_out", [2, 40])
def test_the_jacobian_can_be_differentiated_twice(n_out, strategy, vectorize, chunk_size, dtype):
    weight = torch.randn(n_out, 3, dtype=dtype) / n_out
    x = x3(dtype).requires_grad_()
    jac = jacobian(
        partial(cubic, weight=weight),
        x,
        create_graph=True,
        vectorize=vectorize,
        strategy=strategy,
        chunk_size=chunk_size,
    )
    (first,) = torch.autograd.grad((jac**2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    direct = cubic_jacobian(x, weight)
    (expected_first,) = torch.autograd.grad((direct**2).sum(), x, create_graph=True)
    (expected_second,) = torch.autograd.grad((expected_first**2).sum(), x)
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    )
    torch.testing.assert_close(jac, direct, **tolerance)
    torch.testing.assert_close(first, expected_first, **tolerance)
    torch.testing.assert_close(second, expected_second, **tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("n_out", [2, 40])
def test_the_jacobian_can_be_differentiated_by_what_is_closed_over(n_out, chunk_size, strategy):
    weight = torch.randn(n_out, 3, dtype=torch.float64).requires_grad_()
    x = x3()
    jac = jacobian(
        lambda x: cubic(x, weight), x, create_graph=True, chunk_size=chunk_size, strategy=strategy
    )
    (ours,) = torch.autograd.grad((jac**2).sum(), weight)
    (theirs,) = torch.autograd.grad((cubic_jacobian(x, weight) ** 2).sum(), weight)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_jacobian_by_one_input_can_be_differentiated_by_another(strategy):
    weight = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    x = x3().requires_grad_()
    jac = jacobian(cubic, (x, weight), create_graph=True, wrt=0, strategy=strategy)
    ours = torch.autograd.grad(jac.sin().sum(), (x, weight))
    theirs = torch.autograd.grad(cubic_jacobian(x, weight).sin().sum(), (x, weight))
    assert_trees_close(ours, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_jacobian_is_connected_to_the_graph_that_the_inputs_came_from(strategy):
    weight = torch.randn(2, 3, dtype=torch.float64)
    seed = x3().requires_grad_()
    jac = jacobian(partial(cubic, weight=weight), seed.exp(), create_graph=True, strategy=strategy)
    (ours,) = torch.autograd.grad(jac.sum(), seed)
    (theirs,) = torch.autograd.grad(cubic_jacobian(seed.exp(), weight).sum(), seed)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_value_is_differentiable_with_create_graph(strategy):
    weight = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    x = x3().requires_grad_()
    value, jac = value_and_jacobian(
        lambda x: cubic(x, weight), x, create_graph=True, strategy=strategy
    )
    ours = torch.autograd.grad(value.sum() + jac.sum(), (x, weight))
    theirs = torch.autograd.grad(
        cubic(x, weight).sum() + cubic_jacobian(x, weight).sum(), (x, weight)
    )
    assert_trees_close(ours, theirs)


def determinant(x):
    return torch.linalg.det(torch.outer(x, x) + torch.eye(3, dtype=x.dtype)) * x


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_out", [2, 40])
@pytest.mark.parametrize(
    "inner",
    [
        lambda x: nn.functional.layer_norm(x, (3,)),
        lambda x: torch.linalg.solve(torch.outer(x, x) + torch.eye(3, dtype=x.dtype), x),
        determinant,
        lambda x: torch.linalg.slogdet(torch.outer(x, x) + torch.eye(3, dtype=x.dtype))[1] * x,
    ],
    ids=["layer_norm", "solve", "det", "slogdet"],
)
def test_ops_whose_forward_rule_cannot_be_differentiated_again_are_right(inner, n_out, strategy):
    weight = torch.randn(n_out, 3, dtype=torch.float64)
    x = x3().requires_grad_()

    def func(x):
        return weight @ inner(x).sin()

    is_det = inner is determinant
    # PyTorch's rule for a batch of determinants has no right derivative either.
    told = pytest.warns(FallbackWarning, match="LinalgDetBackward") if is_det else nullcontext()
    with told:
        jac = jacobian(func, x, create_graph=True, strategy=strategy)
    (ours,) = torch.autograd.grad((jac**2).sum(), x)

    def penalty(x):
        return (torch.func.jacrev(func)(x) ** 2).sum()

    step = 1e-5
    theirs = torch.stack(
        [
            (penalty(x.detach() + step * e) - penalty(x.detach() - step * e)) / (2 * step)
            for e in torch.eye(3, dtype=x.dtype)
        ]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 8])
def test_an_op_whose_forward_rule_is_wrong_is_right_whatever_the_sizes(copies):
    x = x3()

    def func(x):
        matrix = torch.outer(x, x) + torch.eye(3, dtype=x.dtype)
        return torch.cholesky_inverse(torch.linalg.cholesky(matrix)).flatten().repeat(copies)

    theirs = torch.autograd.functional.jacobian(
        lambda x: torch.linalg.inv(torch.outer(x, x) + torch.eye(3, dtype=x.dtype)).flatten(), x
    )
    # Only where columns are chosen is there a forward rule to disagree with.
    disagrees = pytest.warns(DisagreementWarning) if copies == 8 else nullcontext()
    with disagrees:
        result = jacobian(func, x)
    torch.testing.assert_close(result, theirs.repeat(copies, 1))


# Nothing is left behind


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_out", [3, 60])
def test_results_are_detached_and_inputs_stay_as_they_were(n_out, strategy):
    weight = torch.randn(n_out, 3, dtype=torch.float64, requires_grad=True)
    x = x3().requires_grad_()
    before = x.detach().clone()
    value, jac = value_and_jacobian(lambda x: weight @ x**2, x, strategy=strategy)
    assert not value.requires_grad
    assert not jac.requires_grad
    assert torch.equal(x, before)
    assert x.requires_grad
    assert x.is_leaf
    assert x.grad is None
    assert weight.grad is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inputs_are_not_asked_to_require_gradients(strategy):
    x = x3()
    jacobian(lambda x: x**2, x, strategy=strategy)
    assert not x.requires_grad
    assert x.grad_fn is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("func", [lambda x: x, lambda x: x.view(1, 3), lambda x: x[:2]])
def test_results_share_no_memory_with_the_inputs(func, strategy):
    x = x3()
    value, jac = value_and_jacobian(func, x, strategy=strategy)
    value.fill_(7.0)
    jac.fill_(7.0)
    assert torch.equal(x, x3())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_blocks_share_no_memory_with_each_other(strategy):
    x, y = x3(), x3() + 1
    by_x, by_y = jacobian(lambda x, y: x + y, (x, y), strategy=strategy)
    by_x.fill_(7.0)
    assert torch.equal(by_y, torch.eye(3, dtype=x.dtype))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("enabled", [True, False])
def test_the_gradient_mode_of_the_caller_is_ignored_and_restored(enabled, strategy):
    x = x3()
    with torch.set_grad_enabled(enabled):
        jac = jacobian(lambda x: x**2, x, strategy=strategy)
        assert torch.is_grad_enabled() is enabled
    torch.testing.assert_close(jac, torch.diag(2 * x))


# Values and calls


@pytest.mark.parametrize("n_out", [3, 60])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_value_is_that_of_the_function(strategy, n_out):
    weight = torch.randn(n_out, 3, dtype=torch.float64)
    x = x3()

    def func(x):
        return {"y": weight @ x, "s": [x.sum()]}

    value, jac = value_and_jacobian(func, x, strategy=strategy)
    assert_trees_close(value, func(x))
    assert_trees_close(jac, {"y": weight, "s": [torch.ones_like(x)]})


@pytest.mark.parametrize("api", [jacobian, value_and_jacobian])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("strategy", ["auto", "reverse-mode"])
def test_reverse_mode_calls_the_function_once(strategy, chunk_size, api):
    calls = []

    def func(x):
        calls.append(x)
        return x**2

    api(func, x3(), strategy=strategy, chunk_size=chunk_size)
    assert len(calls) == 1


# Shapes


SHAPES = ((), (1,), (3,), (1, 1), (2, 3), (0,), (2, 0))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("in_shape", "out_shape"), list(itertools.product(SHAPES, SHAPES)))
def test_the_shape_is_that_of_the_output_then_that_of_the_input(
    in_shape, out_shape, strategy, chunk_size
):
    x = torch.randn(in_shape, dtype=torch.float64)
    factors = torch.randn(out_shape, dtype=torch.float64)
    jac = jacobian(lambda x: factors * (x**2).sum(), x, strategy=strategy, chunk_size=chunk_size)
    expected = factors.reshape(out_shape + (1,) * x.dim()) * (2 * x)
    assert jac.shape == out_shape + in_shape
    torch.testing.assert_close(jac, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_output_without_a_graph_is_not_warned_of(strategy):
    assert jacobian(lambda x: x.new_zeros(0), x3(), strategy=strategy).shape == (0, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 2).T,
        torch.ones(1).expand(4),
        torch.randn(8)[::2],
        torch.randn(2, 2, dtype=torch.complex64).conj().imag,
        nn.Parameter(torch.randn(3)),
    ],
    ids=["transposed", "expanded", "strided", "negated view", "parameter"],
)
def test_inputs_may_have_any_memory_layout(x, strategy):
    jac = jacobian(lambda x: (x**3).flatten(), x, strategy=strategy)
    expected = torch.diag(3 * x.detach().flatten() ** 2).reshape(x.numel(), *x.shape)
    assert type(jac) is torch.Tensor
    torch.testing.assert_close(jac, expected)


# Dtypes


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_input(dtype, strategy, chunk_size):
    x = torch.tensor([0.5, -1.0, 2.0], dtype=dtype)
    jac = jacobian(lambda x: x**2 * x.sum(), x, strategy=strategy, chunk_size=chunk_size)
    assert jac.dtype is dtype
    # x.sum() is 1.5: J[i, j] = 3 x[i] on the diagonal, plus x[i]^2 everywhere.
    expected = torch.diag(3 * x) + (x**2)[:, None]
    torch.testing.assert_close(jac, expected)


@pytest.mark.parametrize("n_out", [1, 40])
def test_the_dtype_does_not_depend_on_the_mode_that_is_chosen(n_out):
    x = x3(torch.float32)
    jac = jacobian(lambda x: (x.double() ** 2).sum().expand(n_out), x)
    assert jac.dtype is torch.float32
    torch.testing.assert_close(jac, (2 * x).expand(n_out, 3))


@pytest.mark.parametrize("strategy", ["auto", "reverse-mode"])
def test_inputs_of_several_dtypes_keep_theirs(strategy):
    x, y = x3(torch.float32), y2(torch.float64)
    by_x, by_y = jacobian(outer, (x, y), strategy=strategy)
    assert (by_x.dtype, by_y.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(by_x, outer_by_x(x, y.float()))
    torch.testing.assert_close(by_y, outer_by_y(x.double(), y))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_out", [2, 40])
def test_a_holomorphic_function_has_its_complex_derivative(
    n_out, strategy, create_graph, vectorize, chunk_size
):
    weight = torch.randn(n_out, 3, dtype=torch.complex128) / n_out
    z = torch.randn(3, dtype=torch.complex128)
    jac = jacobian(
        lambda z: (weight @ z).sin(),
        z,
        create_graph,
        vectorize=vectorize,
        strategy=strategy,
        chunk_size=chunk_size,
        holomorphic=True,
    )
    torch.testing.assert_close(jac.detach(), (weight @ z).cos()[:, None] * weight)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strict_does_not_conjugate_a_holomorphic_jacobian(strategy):
    z = torch.tensor([1 + 2j, 2 - 1j])
    jac = jacobian(lambda z: z**2 * 1j, z, strict=True, strategy=strategy, holomorphic=True)
    torch.testing.assert_close(jac, torch.diag(2j * z))


@pytest.mark.parametrize("strategy", MODES)
def test_a_holomorphic_jacobian_can_be_differentiated(strategy):
    z = torch.tensor([1 + 2j, 2 - 1j], requires_grad=True)
    jac = jacobian(lambda z: z**3, z, create_graph=True, strategy=strategy, holomorphic=True)
    # d Re(sum 3 z^2) = Re(6 z dz), whose gradient in PyTorch's convention is conj(6 z).
    (grad,) = torch.autograd.grad(jac.real.sum(), z)
    torch.testing.assert_close(grad, (6 * z).conj().detach().resolve_conj())


# Inside the transforms of torch.func


def tangled(x):
    return x.sin() * x.flip(0) + x.cumsum(0) ** 2


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "outside",
    [
        lambda jac: torch.func.vmap(jac),
        lambda jac: torch.func.vmap(jac, in_dims=1),
        lambda jac: torch.func.vmap(torch.func.grad(lambda x: (jac(x) ** 2).sum())),
        lambda jac: torch.func.grad(lambda x: (torch.func.vmap(jac)(x) ** 2).sum()),
        lambda jac: torch.func.vmap(torch.func.jacrev(jac)),
        lambda jac: torch.func.vmap(torch.func.jacfwd(jac)),
        lambda jac: torch.func.vmap(lambda x: torch.func.jvp(jac, (x,), (x,))),
    ],
    ids=[
        "vmap",
        "vmap in_dims",
        "vmap grad",
        "grad vmap",
        "vmap jacrev",
        "vmap jacfwd",
        "vmap jvp",
    ],
)
def test_calls_nest_in_the_transforms_of_torch_func(outside, strategy, vectorize, chunk_size):
    batch = torch.randn(3, 3, dtype=torch.float64)
    ours = outside(
        lambda x: jacobian(
            tangled, x, strategy=strategy, vectorize=vectorize, chunk_size=chunk_size
        )
    )(batch)
    theirs = outside(torch.func.jacrev(tangled))(batch)
    assert_trees_close(ours, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_holomorphic_functions_are_right_inside_vmap(strategy):
    batch = torch.randn(4, 3, dtype=torch.complex128)
    jac = torch.func.vmap(
        lambda z: jacobian(lambda z: z**2 * 1j, z, strategy=strategy, holomorphic=True)
    )(batch)
    torch.testing.assert_close(jac, torch.diag_embed(2j * batch))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_value_is_differentiable_inside_a_transform_as_the_jacobian_is(strategy):
    x = x3()

    def total(x):
        value, jac = value_and_jacobian(tangled, x, strategy=strategy)
        return value.sum() + 0 * jac.sum()

    torch.testing.assert_close(
        torch.func.grad(total)(x), torch.func.grad(lambda x: tangled(x).sum())(x)
    )


@pytest.mark.parametrize("n_out", [3, 60])
def test_solving_is_right_inside_vmap(n_out):
    weight = torch.randn(n_out, 3, dtype=torch.float64)
    batch = torch.randn(4, 3, dtype=torch.float64)

    def func(x):
        return weight @ torch.linalg.solve(torch.outer(x, x) + torch.eye(3, dtype=x.dtype), x)

    ours = torch.func.vmap(lambda x: jacobian(func, x))(batch)
    theirs = torch.stack([torch.autograd.functional.jacobian(func, x) for x in batch])
    torch.testing.assert_close(ours, theirs)


# Nested calls


@pytest.mark.parametrize("outer_strategy", STRATEGIES)
@pytest.mark.parametrize("inner_strategy", STRATEGIES)
@pytest.mark.parametrize("copies", [1, 20])
def test_calls_nest_in_each_other(copies, inner_strategy, outer_strategy):
    x = x3()

    def inner(x):
        jac = jacobian(lambda x: x**3, x, create_graph=True, strategy=inner_strategy)
        return jac.diagonal().repeat(copies)

    jac = jacobian(inner, x, strategy=outer_strategy)
    torch.testing.assert_close(jac, torch.diag(6 * x).repeat(copies, 1))


@pytest.mark.parametrize("outer_strategy", STRATEGIES)
@pytest.mark.parametrize("copies", [1, 20])
def test_nested_values_are_differentiated_with_their_jacobians(copies, outer_strategy):
    x = x3()

    def inner(x):
        value, jac = value_and_jacobian(lambda x: x**3, x, create_graph=True)
        return (value * jac.diagonal()).repeat(copies)

    jac = jacobian(inner, x, strategy=outer_strategy)
    torch.testing.assert_close(jac, torch.diag(15 * x**4).repeat(copies, 1))


@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@pytest.mark.parametrize("outer_strategy", STRATEGIES)
@pytest.mark.parametrize("copies", [1, 20])
def test_a_strict_call_may_be_nested_whatever_the_sizes(copies, outer_strategy):
    x = x3()

    def inner(x):
        jac = jacobian(lambda x: x**3, x, create_graph=True, strict=True)
        return jac.diagonal().repeat(copies)

    jac = jacobian(inner, x, strategy=outer_strategy)
    torch.testing.assert_close(jac, torch.diag(6 * x).repeat(copies, 1))


@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@pytest.mark.parametrize("copies", [1, 20])
def test_functions_that_differentiate_on_their_own_are_right_whatever_the_sizes(copies):
    x = x3()

    def force(x):
        (grad,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        return grad.repeat(copies)

    jac = jacobian(force, x)
    torch.testing.assert_close(jac, torch.diag(6 * x).repeat(copies, 1))


@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@pytest.mark.parametrize("copies", [1, 20])
def test_jacobian_of_may_be_nested_whatever_the_sizes(copies):
    x = x3()

    def inner(x):
        return torchjac.jacobian_of((x**3).sum(), x, create_graph=True).repeat(copies)

    jac = jacobian(inner, x)
    torch.testing.assert_close(jac, torch.diag(6 * x).repeat(copies, 1))
