"""`torchjac.func` beside `torch.func`: same answers, same errors, chunks for all three."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.func as theirs
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.dropin import Snapshot, assert_same, assert_same_outcome, outcome, twice_differentiated
from torchjac import func as ours

TRANSFORMS = ("jacrev", "jacfwd", "hessian")
CHUNK_SIZES = (1, 2, 3, 4, 1000)
transforms = pytest.mark.parametrize("name", TRANSFORMS)
both_modes = pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


def numbers(*shape: int, dtype: torch.dtype = torch.float64, start: float = 0.4) -> Tensor:
    """Positive numbers, none of them alike."""
    return torch.linspace(start, 1.9, int(np.prod(shape)), dtype=dtype).reshape(shape)


# --- Scenarios ---------------------------------------------------------------------------------


class Scenario(NamedTuple):
    """A function, the shapes of its tensors in the tree of its arguments, and argnums."""

    func: Callable[..., Any]
    shapes: tuple[Any, ...] = ((3,),)
    argnums: Any = 0


class Size(tuple):
    """A shape, so that a tuple of arguments is not taken for one."""


def tree_of_numbers(shapes: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    def fill(shape: Any) -> Any:
        return numbers(*shape, dtype=dtype) if isinstance(shape, Size) else shape

    return tuple(
        pytree.tree_map(fill, tree, is_leaf=lambda node: isinstance(node, Size)) for tree in shapes
    )


V, W, M, S, ONE, EMPTY = Size((3,)), Size((2,)), Size((2, 3)), Size(()), Size((1,)), Size((0,))

SCENARIOS = {
    "elementwise": Scenario(lambda x: x**3 * x.cos(), (V,)),
    "matrix": Scenario(torch.exp, (M,)),
    "number out": Scenario(lambda x: (x**3).sum(), (M,)),
    "zero-dim to zero-dim": Scenario(lambda x: x**3, (S,)),
    "zero-dim to vector": Scenario(lambda x: torch.stack([x, x**2, x.sin()]), (S,)),
    "size one": Scenario(lambda x: x**3, (ONE,)),
    "transposed": Scenario(lambda x: (x**2).t(), (M,)),
    "expanded": Scenario(lambda x: (x**2).expand(2, 3), (V,)),
    "linear": Scenario(lambda x: 2 * x, (V,)),
    "constant": Scenario(lambda x: torch.ones(2, dtype=x.dtype), (V,)),
    "returns its input": Scenario(lambda x: x, (V,)),
    "returns a view": Scenario(lambda x: x[1:], (V,)),
    "detached": Scenario(lambda x: x.detach() * x, (V,)),
    "under no_grad": Scenario(lambda x: torch.no_grad()(torch.exp)(x) * x, (V,)),
    "in place on a result": Scenario(lambda x: (x * x).mul_(x), (V,)),
    "value read": Scenario(lambda x: x * x.sum().item(), (V,)),
    "softmax": Scenario(lambda x: x.softmax(-1), (M,)),
    "integer out": Scenario(lambda x: x.long(), (V,)),
    "integer beside": Scenario(lambda x: (x**2, x.long()), (V,)),
    "other precision out": Scenario(lambda x: x.to(torch.float16) * 2, (V,)),
    "both precisions out": Scenario(lambda x: (x.double() ** 2, x.float() ** 3), (V,)),
    "empty out": Scenario(lambda x: x[:0] * 2, (V,)),
    "empty beside": Scenario(lambda x: (x[:0], x**2), (V,)),
    "empty in": Scenario(lambda x: x * 2, (EMPTY,)),
    "empty in, number out": Scenario(lambda x: x.sum(), (EMPTY,)),
    "first of two": Scenario(lambda x, y: x.exp() * y.sum(), (V, W)),
    "second of two": Scenario(lambda x, y: x.exp() * y.prod(), (V, W), 1),
    "last of two": Scenario(lambda x, y: x.exp() * y.prod(), (V, W), -1),
    "first, counted from the end": Scenario(lambda x, y: x.exp() * y.sum(), (V, W), -2),
    "tuple of one argnum": Scenario(lambda x, y: x.exp() * y.sum(), (V, W), (0,)),
    "both of two": Scenario(lambda x, y: x.outer(y) ** 2, (V, W), (0, 1)),
    "both of two, reversed": Scenario(lambda x, y: x.outer(y) ** 2, (V, W), (1, 0)),
    "both of two, from the end": Scenario(lambda x, y: x.outer(y) ** 2, (V, W), (-1, -2)),
    "two of three": Scenario(lambda x, y, z: (x * z, y * z.sum()), (V, W, V), (0, 2)),
    "argnums of None, which is all in forward mode": Scenario(lambda x, y: x * y[0], (V, W), None),
    "independent of one": Scenario(lambda x, y: x**2, (V, W), (0, 1)),
    "an empty one of two": Scenario(lambda x, y: y**2, (EMPTY, W), (0, 1)),
    "tuple out": Scenario(lambda x: (x**2, x.sum()), (V,)),
    "list out": Scenario(lambda x: [x**2, x.sum()], (V,)),
    "dict out": Scenario(lambda x: {"b": x**2, "a": [x.sum(), (x,)]}, (V,)),
    "named tuple out": Scenario(lambda x: torch.max(x, 0), (M,)),
    "dict in": Scenario(lambda p: p["w"] @ p["v"] + p["b"], ({"w": M, "v": V, "b": W},)),
    "list in": Scenario(lambda p: p[0] ** 2 * p[1].sum(), ([V, W],)),
    "trees in and out": Scenario(
        lambda p, q: {"x": p["a"][0] ** 2, "y": (p["a"][1] * q[0], q[0].sum())},
        ({"a": [V, W]}, (W,)),
        (0, 1),
    ),
    "number argument": Scenario(lambda x, n: x**n, (V, 3)),
    "text argument": Scenario(lambda x, how: getattr(x, how)(), (V, "exp")),
    "nothing as argument": Scenario(lambda x, none: x**2 if none is None else x, (V, None)),
    "tree with numbers as argument": Scenario(
        lambda x, p: x ** p["n"] + p["y"], (V, {"n": 2, "y": V})
    ),
    "many out": Scenario(lambda x: tuple(x[k % 3] ** k for k in range(12)), (V,)),
    "tall": Scenario(lambda x: (x[:, None].sin() * numbers(40, dtype=x.dtype)).flatten(), (W,)),
    "wide": Scenario(lambda x: (x**2).sum(1), (Size((2, 20)),)),
}

# What both libraries refuse.
REFUSED = {
    "argnum too large": Scenario(torch.mul, (V, V), 2),
    "argnum too small": Scenario(torch.mul, (V, V), -3),
    "argnum in a tuple too large": Scenario(torch.mul, (V, V), (0, 2)),
    "argnum twice": Scenario(torch.mul, (V, V), (0, 0)),
    "argnum twice, once from the end": Scenario(torch.mul, (V, V), (1, -1)),
    "no argnum": Scenario(torch.mul, (V, V), ()),
    "argnum of text": Scenario(torch.mul, (V, V), "x"),
    "argnum of text in a tuple": Scenario(torch.mul, (V, V), (0, "x")),
    "argnum with a fraction": Scenario(torch.mul, (V, V), 1.0),
    "argnums in a list": Scenario(torch.mul, (V, V), [0, 1]),
    "no argument": Scenario(lambda: torch.ones(2), ()),
    "number": Scenario(lambda x: torch.ones(2) * x, (2.0,)),
    "number named by argnums": Scenario(lambda x, n: x**n, (V, 2), 1),
    "number inside a dict": Scenario(lambda p: p["x"] ** p["n"], ({"x": V, "n": 2},)),
    "number out": Scenario(lambda x: 1.0, (V,)),
    "number beside": Scenario(lambda x: (x, 1.0), (V,)),
    "nothing out": Scenario(lambda x: None, (V,)),
    "empty tuple out": Scenario(lambda x: (), (V,)),
    "complex out": Scenario(lambda x: x * 1j, (V,)),
    "complex beside": Scenario(lambda x: (x, x * 1j), (V,)),
    "wrong shapes": Scenario(lambda x: x + torch.ones(7), (V,)),
}


def cases(scenarios: dict[str, Scenario]) -> Any:
    return pytest.mark.parametrize("scenario", scenarios.values(), ids=scenarios)


def applied(library: Any, name: str, scenario: Scenario, dtype: torch.dtype, **options: Any) -> Any:
    args = tree_of_numbers(scenario.shapes, dtype)
    return getattr(library, name)(scenario.func, scenario.argnums, **options)(*args)


# --- Signatures --------------------------------------------------------------------------------


def parameters(library: Any, name: str) -> list[tuple[Any, ...]]:
    signature = inspect.signature(getattr(library, name))
    return [(p.name, p.default, p.kind) for p in signature.parameters.values()]


@transforms
def test_signature_begins_with_that_of_pytorch(name):
    our_parameters, their_parameters = parameters(ours, name), parameters(theirs, name)
    assert our_parameters[: len(their_parameters)] == their_parameters


@transforms
def test_signature_adds_keywords_only(name):
    added = parameters(ours, name)[len(parameters(theirs, name)) :]
    expected = {
        "jacrev": [],
        "jacfwd": [("chunk_size", None)],
        "hessian": [("has_aux", False), ("randomness", "error"), ("chunk_size", None)],
    }
    assert [(p[0], p[1]) for p in added] == expected[name]
    assert all(p[2] is inspect.Parameter.KEYWORD_ONLY for p in added)


def test_exports_the_three_transforms():
    assert sorted(ours.__all__) == sorted(TRANSFORMS)


@transforms
def test_transformed_function_keeps_its_name(name):
    def velocity(x):
        """Metres per second."""
        return x

    transformed = getattr(ours, name)(velocity)
    reference = getattr(theirs, name)(velocity)
    assert (transformed.__name__, transformed.__doc__) == (reference.__name__, reference.__doc__)


# --- Values ------------------------------------------------------------------------------------


@dtypes
@transforms
@cases(SCENARIOS)
def test_result_is_that_of_pytorch(scenario, name, dtype):
    ours_say = outcome(lambda: applied(ours, name, scenario, dtype))
    theirs_say = outcome(lambda: applied(theirs, name, scenario, dtype), warn="ignore")
    assert_same_outcome(ours_say, theirs_say)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@transforms
@cases(SCENARIOS)
def test_chunks_change_nothing(scenario, name, chunk_size):
    whole = outcome(lambda: applied(theirs, name, scenario, torch.float64), warn="ignore")
    ours_say = outcome(lambda: applied(ours, name, scenario, torch.float64, chunk_size=chunk_size))
    if whole.error is None:
        assert_same_outcome(ours_say, whole)
    else:  # each size of chunk finds its own words for what cannot be differentiated
        assert isinstance(ours_say.error, RuntimeError)


@pytest.mark.parametrize("chunk_size", [None, *CHUNK_SIZES])
@cases(SCENARIOS)
def test_chunks_written_into_one_result_change_nothing(scenario, chunk_size):
    options = {"chunk_size": chunk_size, "_preallocate_and_copy": True}
    ours_say = outcome(lambda: applied(ours, "jacrev", scenario, torch.float64, **options))
    whole = outcome(lambda: applied(theirs, "jacrev", scenario, torch.float64), warn="ignore")
    assert_same_outcome(ours_say, whole)


@transforms
@cases(REFUSED)
def test_refused_with_the_words_of_pytorch(scenario, name):
    theirs_say = outcome(lambda: applied(theirs, name, scenario, torch.float64), warn="ignore")
    assert theirs_say.error is not None
    assert_same_outcome(outcome(lambda: applied(ours, name, scenario, torch.float64)), theirs_say)


COMPLEX = numbers(2).to(torch.complex128)


@pytest.mark.parametrize(
    "args",
    [(COMPLEX,), (numbers(2), COMPLEX), (numbers(2), {"a": numbers(2), "b": [COMPLEX]})],
    ids=["first", "second", "in a tree"],
)
@transforms
def test_complex_arguments_are_refused_with_the_words_of_pytorch(name, args):
    theirs_say = outcome(lambda: getattr(theirs, name)(lambda x, *rest: x**2)(*args))
    assert isinstance(theirs_say.error, RuntimeError)
    ours_say = outcome(lambda: getattr(ours, name)(lambda x, *rest: x**2)(*args))
    assert_same_outcome(ours_say, theirs_say)


@pytest.mark.parametrize("x", [torch.tensor([1, 2]), torch.tensor([True])], ids=["int", "bool"])
@transforms
def test_arguments_without_a_derivative_are_treated_as_by_pytorch(name, x):
    theirs_say = outcome(lambda: getattr(theirs, name)(lambda x: x * 2.5)(x), warn="ignore")
    assert_same_outcome(outcome(lambda: getattr(ours, name)(lambda x: x * 2.5)(x)), theirs_say)


@transforms
def test_function_that_writes_to_its_argument_does_as_under_pytorch(name):
    def call(library):
        x = numbers(3)
        return outcome(lambda: getattr(library, name)(lambda x: x.mul_(2) * x)(x)), x

    (ours_say, our_x), (theirs_say, their_x) = call(ours), call(theirs)
    assert_same_outcome(ours_say, theirs_say)
    assert_same(our_x, their_x)


@transforms
def test_keyword_arguments_are_treated_as_by_pytorch(name):
    def call(library):
        return lambda: getattr(library, name)(torch.mul)(numbers(2), other=numbers(2))

    assert_same_outcome(outcome(call(ours)), outcome(call(theirs)))


@transforms
def test_something_that_is_no_function_is_an_error_as_in_pytorch(name):
    theirs_say = outcome(lambda: getattr(theirs, name)(3)(numbers(2)))
    assert theirs_say.error is not None
    assert_same_outcome(outcome(lambda: getattr(ours, name)(3)(numbers(2))), theirs_say)


@transforms
def test_module_and_partial_are_functions(name):
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()
    bound = functools.partial(torch.pow, exponent=3)
    for func in (network, bound):
        assert_same(getattr(ours, name)(func)(numbers(2)), getattr(theirs, name)(func)(numbers(2)))


@both_modes
def test_parameters_of_a_module_as_a_dict(name):
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()
    state = {key: value.detach() for key, value in network.named_parameters()}

    def func(state, x):
        return torch.func.functional_call(network, state, (x,))

    for argnums in (0, 1, (0, 1)):
        expected = getattr(theirs, name)(func, argnums)(state, numbers(2))
        assert_same(getattr(ours, name)(func, argnums)(state, numbers(2)), expected)


@transforms
def test_arguments_stay_as_they_are(name):
    x, y = numbers(3).requires_grad_(), numbers(3)
    before = Snapshot([x, y])
    getattr(ours, name)(lambda x, y: (x * y).sin(), (0, 1))(x, y)
    before.assert_untouched()
    assert y.requires_grad is False


@both_modes
def test_result_can_be_viewed_as_a_matrix_where_that_of_pytorch_can(name):
    for func in (torch.exp, lambda x: (x**2).t(), lambda x: x.sum(0), lambda x: x @ x.t()):
        J = getattr(ours, name)(func)(numbers(2, 3))
        assert J.stride() == getattr(theirs, name)(func)(numbers(2, 3)).stride()


# --- Chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [0, -1])
@transforms
def test_chunks_must_hold_something(name, chunk_size):
    with pytest.raises(ValueError, match=f"{name}: `chunk_size` should be greater than 0."):
        getattr(ours, name)(torch.sin, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [1.0, 1.5, "2"])
@transforms
def test_chunks_are_counted_in_whole_numbers(name, chunk_size):
    with pytest.raises((TypeError, ValueError)):
        getattr(ours, name)(torch.sin, chunk_size=chunk_size)(numbers(3))


@pytest.mark.parametrize(
    ("chunk_size", "widths"),
    [(None, [7]), (1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (7, [7]), (8, [7])],
)
@both_modes
def test_chunk_size_is_the_number_of_seeds_in_a_pass(name, chunk_size, widths):
    seen = []

    class Noting(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * 1

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return Note.apply(g)

        @staticmethod
        def jvp(ctx, t):
            return Note.apply(t)

        @staticmethod
        def vmap(info, in_dims, x):
            return Noting.apply(x), in_dims[0]

    class Note(torch.autograd.Function):
        @staticmethod
        def forward(g):
            return g * 1

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return g

        @staticmethod
        def vmap(info, in_dims, g):
            seen.append(info.batch_size)
            return g * 1, in_dims[0]

    J = getattr(ours, name)(Noting.apply, chunk_size=chunk_size)(numbers(7))
    assert J.equal(torch.eye(7, dtype=torch.float64))
    if chunk_size == 1 and name == "jacrev":  # no vmap at all
        assert seen == []
    else:
        assert seen == widths


class Reads(torch.autograd.Function):
    """Twice the identity, whose derivatives take one seed at a time."""

    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g * (2 if g.sum().item() > 0 else 1)

    @staticmethod
    def jvp(ctx, t):
        return t * (2 if t.sum().item() > 0 else 1)


def test_one_row_at_a_time_needs_no_batching():
    """`chunk_size=1` runs what cannot be batched."""
    x = numbers(3)
    with pytest.raises(RuntimeError):
        ours.jacrev(Reads.apply)(x)
    J = ours.jacrev(Reads.apply, chunk_size=1)(x)
    assert J.equal(2 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_columns_are_batched_even_one_at_a_time(chunk_size):
    with pytest.raises(RuntimeError, match="tried to vmap over Reads"):
        ours.jacfwd(Reads.apply, chunk_size=chunk_size)(numbers(3))


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_random_columns_are_refused_whatever_the_chunks(chunk_size):
    with pytest.raises(RuntimeError, match="vmap: called random operation"):
        ours.jacfwd(lambda x: x * torch.rand_like(x), chunk_size=chunk_size)(numbers(3))


# --- Auxiliary values --------------------------------------------------------------------------

AUX = {
    "tensor": lambda x: (x**2, x * 3),
    "tree": lambda x: (x**2, {"k": (x * 3, [x.sum()])}),
    "tensor without the input": lambda x: (x**2, torch.arange(3)),
    "detached": lambda x: (x**2, x.detach() * 3),
    "its own value": lambda x: (x.sin(), x.sin()),
    "zero-dim": lambda x: (x**2, x.sum()),
    "several outputs": lambda x: ((x**2, x.sum()), x),
}
REFUSED_AUX = {
    "text": lambda x: (x**2, "text"),
    "number": lambda x: (x**2, 3),
    "nothing": lambda x: (x**2, None),
    "missing": lambda x: x**2,
    "three": lambda x: (x, x, x),
    "list": lambda x: [x, x],
}


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
@pytest.mark.parametrize("func", AUX.values(), ids=AUX)
@both_modes
def test_aux_is_handed_through(name, func, chunk_size):
    expected = getattr(theirs, name)(func, has_aux=True)(numbers(3))
    assert_same(
        getattr(ours, name)(func, has_aux=True, chunk_size=chunk_size)(numbers(3)), expected
    )


@pytest.mark.parametrize("func", REFUSED_AUX.values(), ids=REFUSED_AUX)
@both_modes
def test_aux_is_refused_where_pytorch_refuses_it(name, func):
    def call(library):
        return lambda: getattr(library, name)(func, has_aux=True)(numbers(3))

    assert_same_outcome(outcome(call(ours)), outcome(call(theirs)))


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
def test_hessian_hands_aux_through(chunk_size):
    def func(x):
        return (x**3).sum(), {"twice": 2 * x}

    x = numbers(3)
    H, aux = ours.hessian(func, has_aux=True, chunk_size=chunk_size)(x)
    torch.testing.assert_close(H, torch.diag(6 * x))
    torch.testing.assert_close(aux, {"twice": 2 * x})


@both_modes
def test_aux_is_positional_where_it_is_in_pytorch(name):
    def call(library):
        return lambda: getattr(library, name)(lambda x: (x**2, x), 0, True)(numbers(3))

    assert_same_outcome(outcome(call(ours)), outcome(call(theirs)))


# --- Randomness --------------------------------------------------------------------------------


def noisy(x):
    """Linear, with a random mask: every column of the Jacobian is the mask, times two."""
    return nn.functional.dropout(x.sum().expand(40))


@pytest.mark.parametrize("name", ["jacfwd", "hessian"])
def test_unknown_randomness_is_refused_as_by_pytorch(name):
    theirs_say = outcome(lambda: theirs.jacfwd(torch.sin, randomness="some")(numbers(3)))
    assert theirs_say.error is not None
    ours_say = outcome(lambda: getattr(ours, name)(torch.sin, randomness="some")(numbers(3)))
    assert_same_outcome(ours_say, theirs_say)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_random_function_is_refused_by_forward_mode_unless_told(chunk_size):
    theirs_say = outcome(lambda: theirs.jacfwd(noisy)(numbers(6)))
    assert isinstance(theirs_say.error, RuntimeError)
    ours_say = outcome(lambda: ours.jacfwd(noisy, chunk_size=chunk_size)(numbers(6)))
    assert_same_outcome(ours_say, theirs_say)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 4, 6, 100])
def test_same_randomness_is_one_mask_for_all_columns(chunk_size):
    torch.manual_seed(0)
    J = ours.jacfwd(noisy, randomness="same", chunk_size=chunk_size)(numbers(6))
    assert set(J.flatten().tolist()) == {0.0, 2.0}
    assert all(J[:, k].equal(J[:, 0]) for k in range(6))


def test_one_column_at_a_time_is_not_a_mixture_of_masks():
    """Without vmap nothing refuses a random function: its columns must still belong together."""
    torch.manual_seed(0)
    found = outcome(lambda: ours.jacfwd(noisy, chunk_size=1)(numbers(6)))
    if found.error is None:
        assert all(found.value[:, k].equal(found.value[:, 0]) for k in range(6))
    else:
        assert "random" in str(found.error)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_different_randomness_is_a_mask_for_each_column(chunk_size):
    torch.manual_seed(0)
    J = ours.jacfwd(noisy, randomness="different", chunk_size=chunk_size)(numbers(6))
    assert len({tuple(J[:, k].tolist()) for k in range(6)}) == 6


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_reverse_mode_evaluates_a_random_function_once(chunk_size):
    torch.manual_seed(0)
    J = ours.jacrev(noisy, chunk_size=chunk_size)(numbers(6))
    assert set(J.flatten().tolist()) == {0.0, 2.0}
    assert all(J[:, k].equal(J[:, 0]) for k in range(6))


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("name", ["jacfwd"])
def test_random_numbers_are_those_of_pytorch(name, randomness):
    drawn = []
    for library in (ours, theirs):
        torch.manual_seed(0)
        J = getattr(library, name)(noisy, randomness=randomness)(numbers(6))
        drawn.append((J, torch.rand(2)))
    assert_same(*drawn)


def test_hessian_of_a_random_function_has_one_mask():
    def func(x):
        return (nn.functional.dropout(torch.ones(40, dtype=x.dtype)) * x.sum() ** 2).sum()

    torch.manual_seed(0)
    H = ours.hessian(func, randomness="same")(numbers(3))
    assert set(H.flatten().tolist()) == {H[0, 0].item()}


# --- Grad modes and backpropagation --------------------------------------------------------------

MODES = {
    "plain": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 2])
@transforms
def test_grad_mode_of_the_caller_acts_as_in_pytorch(name, chunk_size, requires_grad, mode):
    x = numbers(3).requires_grad_(requires_grad)
    options = {} if chunk_size is None else {"chunk_size": chunk_size}
    with mode():
        expected = getattr(theirs, name)(lambda x: x**3 * x.sum())(x)
        assert_same(getattr(ours, name)(lambda x: x**3 * x.sum(), **options)(x), expected)
    assert not expected.is_inference() or mode is torch.inference_mode


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@transforms
def test_result_is_differentiable_by_the_arguments(name, chunk_size):
    def derivatives(library, **options):
        x, w = numbers(3).requires_grad_(), numbers(3, start=0.7).requires_grad_()
        J = getattr(library, name)(lambda x, w: (x**3 * w).sum() * x.sin(), **options)(x, w)
        return twice_differentiated(J, [x, w])

    assert_same(derivatives(ours, chunk_size=chunk_size), derivatives(theirs))


@transforms
def test_result_is_differentiable_by_what_the_function_holds(name):
    def gradients(library):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        (getattr(library, name)(network)(numbers(3)) ** 2).sum().backward()
        return [p.grad for p in network.parameters()]

    assert_same(gradients(ours), gradients(theirs))


# --- Nesting -----------------------------------------------------------------------------------


def cube(x):
    return x**3 * x.sum()


def apply_grad(func):
    return theirs.grad(lambda x: func(x).sin().sum())


def apply_jvp(func):
    return lambda x: theirs.jvp(func, (x,), (torch.ones_like(x),))


def apply_vjp(func):
    def pulled(x):
        value, pull = theirs.vjp(func, x)
        return value, pull(torch.ones_like(value))

    return pulled


def apply_vmap(func):
    return lambda x: theirs.vmap(func)(torch.stack([x, 2 * x, x.sin()]))


def apply_linearize(func):
    return lambda x: theirs.linearize(func, x)[1](torch.ones_like(x))


OUTSIDE = {
    "grad": apply_grad,
    "jvp": apply_jvp,
    "vjp": apply_vjp,
    "vmap": apply_vmap,
    "grad of grad": lambda func: apply_grad(apply_grad(func)),
    "vmap of grad": lambda func: apply_vmap(apply_grad(func)),
    "grad of vmap": lambda func: apply_grad(apply_vmap(func)),
    "vmap of vmap": lambda func: apply_vmap(apply_vmap(func)),
    "jvp of vmap": lambda func: apply_jvp(apply_vmap(func)),
    "vmap of jvp": lambda func: apply_vmap(apply_jvp(func)),
    "jvp of vjp": lambda func: apply_jvp(apply_vjp(func)),
    "vjp of grad": lambda func: apply_vjp(apply_grad(func)),
    "vmap in chunks": lambda func: (
        lambda x: theirs.vmap(func, chunk_size=2)(torch.stack([x, 2 * x, 3 * x]))
    ),
}
INSIDE = {
    "grad": lambda func: theirs.grad(lambda x: func(x).sum()),
    "jvp": lambda func: lambda x: theirs.jvp(func, (x,), (torch.ones_like(x),))[1],
    "vjp": lambda func: lambda x: theirs.vjp(func, x)[1](torch.ones_like(x))[0],
    "vmap": lambda func: lambda x: theirs.vmap(func)(torch.stack([x, 2 * x])),
    "vmap of grad": lambda func: (
        lambda x: theirs.vmap(theirs.grad(lambda x: func(x).sum()))(torch.stack([x, 2 * x]))
    ),
}


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("outside", OUTSIDE.values(), ids=OUTSIDE)
@transforms
def test_nests_inside_the_transforms_of_pytorch(name, outside, chunk_size):
    expected = outside(getattr(theirs, name)(cube))(numbers(3))
    got = outside(getattr(ours, name)(cube, chunk_size=chunk_size))(numbers(3))
    assert_same(got, expected)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
@transforms
def test_nests_around_the_transforms_of_pytorch(name, inside, chunk_size):
    expected = getattr(theirs, name)(inside(cube))(numbers(3))
    assert_same(getattr(ours, name)(inside(cube), chunk_size=chunk_size)(numbers(3)), expected)


@pytest.mark.parametrize("chunks", [(None, None), (1, 2), (2, None), (2, 1)], ids=str)
@pytest.mark.parametrize("mixed", ["ours in ours", "ours in theirs", "theirs in ours"])
@pytest.mark.parametrize("inner", TRANSFORMS)
@pytest.mark.parametrize("outer", TRANSFORMS)
def test_transforms_nest_in_each_other(outer, inner, mixed, chunks):
    expected = getattr(theirs, outer)(getattr(theirs, inner)(cube))(numbers(3))
    outside = theirs if mixed == "ours in theirs" else ours
    inside = theirs if mixed == "theirs in ours" else ours
    outer_options = {"chunk_size": chunks[0]} if outside is ours else {}
    inner_options = {"chunk_size": chunks[1]} if inside is ours else {}
    func = getattr(inside, inner)(cube, **inner_options)
    assert_same(getattr(outside, outer)(func, **outer_options)(numbers(3)), expected)


@pytest.mark.parametrize(
    "names", [("jacrev",) * 3, ("jacfwd",) * 3, ("jacrev", "jacfwd", "jacrev")]
)
def test_three_deep(names):
    def nested(library):
        func = cube
        for name in names:
            func = getattr(library, name)(func)
        return func(numbers(2))

    assert_same(nested(ours), nested(theirs))


@pytest.mark.parametrize("out_dims", [0, 1, -1])
@pytest.mark.parametrize("in_dims", [0, 1, -1])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@both_modes
def test_vmap_along_any_axis(name, chunk_size, in_dims, out_dims):
    x = numbers(3, 3)

    def mapped(library, **options):
        J = getattr(library, name)(cube, **options)
        return theirs.vmap(J, in_dims=in_dims, out_dims=out_dims)(x)

    assert_same(mapped(ours, chunk_size=chunk_size), mapped(theirs))


IN_DIMS = {
    "first only": (0, None),
    "second only": (None, 0),
    "both": (0, 0),
    "along other axes": (1, 0),
    "last axis": (-1, 0),
}


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("in_dims", IN_DIMS.values(), ids=IN_DIMS)
@pytest.mark.parametrize("chunk_size", [None, 2])
@transforms
def test_vmap_over_some_arguments(name, chunk_size, in_dims, argnums):
    x, y = numbers(3, 3), numbers(3, 2)

    def func(x, y):
        return x.exp() * (y**3).sum()

    def mapped(library, **options):
        return theirs.vmap(getattr(library, name)(func, argnums, **options), in_dims)(x, y)

    assert_same(mapped(ours, chunk_size=chunk_size), mapped(theirs))


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3])
def test_vmap_where_the_first_rows_do_not_depend_on_the_sample(chunk_size, preallocate):
    def func(x, w):
        return x**2, x * w

    def mapped(library, **options):
        J = library.jacrev(func, (0, 1), **options)
        return theirs.vmap(J, (None, 0))(numbers(3), numbers(2, 3))

    options = {"chunk_size": chunk_size, "_preallocate_and_copy": preallocate}
    assert_same_outcome(outcome(lambda: mapped(ours, **options)), outcome(lambda: mapped(theirs)))


@both_modes
def test_vmap_over_a_dict_of_parameters(name):
    parameters = {"w": numbers(4, 2, 3), "b": numbers(4, 2)}

    def func(p, x):
        return (p["w"] @ x + p["b"]).tanh()

    def mapped(library):
        J = getattr(library, name)(func)
        return theirs.vmap(J, in_dims=({"w": 0, "b": None}, 0))(
            {**parameters, "b": parameters["b"][0]}, numbers(4, 3)
        )

    assert_same(mapped(ours), mapped(theirs))


@both_modes
def test_functionalized_function(name):
    def func(x):
        y = x.clone()
        y[0] = x[0] * x[1]
        return y.add_(2)

    expected = getattr(theirs, name)(func)(numbers(3))
    assert_same(theirs.functionalize(getattr(ours, name)(func))(numbers(3)), expected)


def test_hessian_is_forward_over_reverse():
    x = numbers(2, 3)
    expected = theirs.jacfwd(theirs.jacrev(lambda x: x.prod() ** 2))(x)
    assert_same(ours.hessian(lambda x: x.prod() ** 2)(x), expected)


# --- The whole -----------------------------------------------------------------------------------


@transforms
def test_no_warning_leaks(name):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        getattr(ours, name)(lambda x: x.prod() ** 2)(numbers(3))
    assert [str(warning.message) for warning in heard] == []


@transforms
def test_pytorchs_own_transforms_are_not_called(name, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("torch.func was called")

    for module in (torch.func, torch._functorch.apis, torch._functorch.eager_transforms):
        for attribute in TRANSFORMS:
            monkeypatch.setattr(module, attribute, forbidden, raising=False)
    result = getattr(ours, name)(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
    expected = [[6.0, 0.0], [0.0, 12.0]] if name == "hessian" else [3.0, 12.0]
    assert result.tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("chunk_size", [None, 2])
@transforms
def test_compiled_gives_the_same(name, chunk_size, backend):
    torch._dynamo.reset()
    x = numbers(3)
    transformed = getattr(ours, name)(cube, chunk_size=chunk_size)
    compiled = torch.compile(transformed, backend=backend)
    torch.testing.assert_close(compiled(x), getattr(theirs, name)(cube)(x))
    torch.testing.assert_close(compiled(2 * x), getattr(theirs, name)(cube)(2 * x))


@pytest.mark.slow
@transforms
def test_compiled_as_part_of_a_function_gives_the_same(name):
    torch._dynamo.reset()

    def outer(library):
        return lambda x: (getattr(library, name)(cube)(x) * 2).sum() + x.sum()

    x = numbers(3)
    torch.testing.assert_close(torch.compile(outer(ours), backend="aot_eager")(x), outer(theirs)(x))


@pytest.mark.slow
@transforms
def test_compiles_into_one_graph_like_that_of_pytorch(name):
    torch._dynamo.reset()
    x = numbers(3)
    compiled = torch.compile(getattr(ours, name)(cube), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), getattr(theirs, name)(cube)(x))
