"""Traps that are silently wrong elsewhere: each is an error, a warning or the right answer."""

import contextlib
import inspect
import math
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchjac
from tests.mistaken import WrongJvp
from torchjac import jacobian, value_and_jacobian
from torchjac.errors import (
    ArgumentTypeError,
    ChangedShapeError,
    ClosureWarning,
    DisagreementWarning,
    FallbackWarning,
    HiddenValueWarning,
    IndependenceWarning,
    TorchjacError,
    TorchjacWarning,
)

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
MODES = ("reverse-mode", "forward-mode")
may_fall_back = pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")

POINT = torch.tensor([1.0, 2.0, 3.0])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def x3():
    return torch.tensor([1.0, 2.0, 3.0])


def wide(y):
    """Many rows, so that forward mode is chosen."""
    return y.repeat(20)


def assert_never_silently_wrong(call, expected):
    """The call raises one of our errors, or warns, or returns what is expected."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            got = call()
        except TorchjacError:
            return
    spoken = [w for w in caught if issubclass(w.category, TorchjacWarning)]
    if not [w for w in spoken if w.category is not FallbackWarning]:
        torch.testing.assert_close(got, expected)


# The function holds its input


def reads_global(y):
    return y * POINT


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_input_in_a_closure_cell_is_warned_of(strategy):
    x = x3()
    with pytest.warns(ClosureWarning, match="as x"):
        jac = jacobian(lambda y: y * x, x, strategy=strategy)
    assert torch.equal(jac, torch.diag(x))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_input_in_a_global_is_warned_of(strategy):
    with pytest.warns(ClosureWarning, match="as POINT"):
        jac = jacobian(reads_global, POINT, strategy=strategy)
    assert torch.equal(jac, torch.diag(POINT))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_input_in_a_partial_is_warned_of(strategy):
    x = x3()
    with pytest.warns(ClosureWarning, match="argument 0 of partial"):
        jac = jacobian(partial(torch.mul, x), x, strategy=strategy)
    assert torch.equal(jac, torch.diag(x))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_input_in_a_default_argument_is_warned_of(strategy):
    x = x3()

    def func(y, scale=x):
        return y * scale

    with pytest.warns(ClosureWarning, match="a default"):
        jac = jacobian(func, x, strategy=strategy)
    assert torch.equal(jac, torch.diag(x))


def test_a_held_input_is_warned_of_once_for_all_places():
    x = x3()

    def func(y, scale=x):
        return y * scale * x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jacobian(func, x)
    assert [w.category for w in caught] == [ClosureWarning]
    assert "x, a default" in str(caught[0].message)


def test_a_held_copy_is_not_warned_of():
    x = x3()
    held = x.detach().clone()
    assert torch.equal(jacobian(lambda y: y * held, x), torch.diag(x))


def test_a_held_input_is_no_trap_where_wrt_leaves_it_out():
    x, y = x3(), x3() + 1
    jac = jacobian(lambda a, b: a * b * y, (x, y), wrt=0)
    assert torch.equal(jac, torch.diag(y * y))


# Inference mode


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("spread", [lambda y: y, wide])
def test_the_derivative_is_computed_under_inference_mode(spread, strategy, create_graph):
    with torch.inference_mode():
        value, jac = value_and_jacobian(
            lambda x: spread(x**2), x3(), create_graph, strategy=strategy
        )
        assert torch.is_inference_mode_enabled()
    assert torch.equal(value, spread(x3() ** 2))
    assert torch.equal(jac[:3], torch.diag(2 * x3()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inference_tensors_are_differentiated_at_outside_of_inference_mode(strategy):
    with torch.inference_mode():
        x = x3()
    assert torch.equal(jacobian(lambda x: x**2, x, strategy=strategy), torch.diag(2 * x3()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inference_tensors_may_be_inputs_that_are_not_differentiated(strategy):
    with torch.inference_mode():
        x, y = x3(), x3() + 1
        jac = jacobian(lambda x, y: x**2 * y, (x, y), wrt=0, strategy=strategy)
    assert torch.equal(jac.clone(), torch.diag(2 * x3() * (x3() + 1)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_value_from_an_inner_inference_mode_is_constant(strategy):
    def func(x):
        with torch.inference_mode():
            scale = x.sum()
        return x * scale.clone()

    assert torch.equal(jacobian(func, x3(), strategy=strategy), 6 * torch.eye(3))


# no_grad inside the function


def scaled_by_norm(x):
    with torch.no_grad():
        scale = x.sum()
    return x * scale


def enabled_inside_disabled(x):
    with torch.no_grad():
        constant = x.sum()
        with torch.enable_grad():
            product = x.prod()
    return x * constant * product


@torch.no_grad()
def total(x):
    return x.sum()


def calls_decorated(x):
    return x * total(x)


def switches_by_call(x):
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    constant = x.sum()
    torch.set_grad_enabled(before)
    return x * constant


def writes_without_grad(x):
    y = x * 1
    with torch.no_grad():
        y.mul_(6)
    return y**2 / 12


# At (1, 2, 3): sum 6, prod 6, with d prod / d x_j = 6 / x_j.
NO_GRAD = {
    "no_grad": (scaled_by_norm, 6 * torch.eye(3)),
    "enable_grad inside": (
        enabled_inside_disabled,
        36 * torch.eye(3) + 6 * torch.outer(x3(), 6 / x3()),
    ),
    "decorator": (calls_decorated, 6 * torch.eye(3)),
    "set_grad_enabled": (switches_by_call, 6 * torch.eye(3)),
    "in-place": (writes_without_grad, torch.diag(x3())),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", NO_GRAD)
def test_forward_mode_takes_a_no_grad_block_as_constant_like_reverse_mode(
    case, strategy, vectorize, create_graph
):
    func, expected = NO_GRAD[case]
    jac = jacobian(func, x3(), create_graph, vectorize=vectorize, strategy=strategy)
    torch.testing.assert_close(jac.detach(), expected)


@pytest.mark.parametrize("case", NO_GRAD)
def test_a_no_grad_block_is_constant_where_forward_mode_is_chosen(case):
    func, expected = NO_GRAD[case]
    with torchjac.record() as runs:
        jac = jacobian(lambda x: wide(func(x)), x3())
    assert runs[0].mode == "forward-mode"
    torch.testing.assert_close(jac, expected.repeat(20, 1))


@pytest.mark.parametrize(
    "transform",
    [
        lambda call: torch.func.vmap(call)(x3()[None])[0],
        lambda call: torch.func.jvp(call, (x3(),), (torch.zeros(3),))[0],
        lambda call: torch.func.grad(lambda x: ((j := call(x)).sum(), j), has_aux=True)(x3())[1],
    ],
    ids=["vmap", "jvp", "grad"],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", NO_GRAD)
def test_a_no_grad_block_is_constant_inside_a_transform_under_every_strategy(
    case, strategy, transform
):
    func, expected = NO_GRAD[case]
    jac = transform(lambda x: jacobian(func, x, strategy=strategy))
    torch.testing.assert_close(jac, expected)


def leaves_grad_off(x):
    torch.set_grad_enabled(False)
    return x * 2


def raises_with_grad_off(x):
    torch.set_grad_enabled(False)
    raise KeyError("mine")


@pytest.fixture
def _forward_ad_restored():
    yield
    torch._C._set_fwd_grad_enabled(True)


@pytest.mark.usefixtures("_forward_ad_restored")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("func", [leaves_grad_off, raises_with_grad_off])
@pytest.mark.filterwarnings("ignore::torchjac.errors.IndependenceWarning")
def test_a_function_that_leaves_gradients_switched_off_does_not_leave_them_so(func, strategy):
    x = x3()
    with contextlib.suppress(KeyError):
        jacobian(func, x, strategy=strategy)
    assert torch.is_grad_enabled()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones(3))
        tangent = torch.autograd.forward_ad.unpack_dual(dual * 2).tangent
    assert tangent is not None
    assert tangent.tolist() == [2.0, 2.0, 2.0]


# Values pulled out


def by_item(x):
    return x * x[0].item()


def by_float(x):
    return x * float(x[0])


def by_int(x):
    return x * int(x[0])


def by_tolist(x):
    return x * x.tolist()[0]


def by_math(x):
    return x * math.sqrt(x[0])


def by_complex(x):
    return x * complex(x[0]).real


def by_numpy(x):
    return x * torch.from_numpy(x.numpy(force=True))[0]


def by_new_tensor(x):
    return x * torch.tensor([x[0], x[0], x[0]])


def by_as_tensor(x):
    return x * torch.as_tensor([x[0]] * 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "func",
    [
        by_item,
        by_float,
        by_int,
        by_tolist,
        by_math,
        by_complex,
        by_numpy,
        by_new_tensor,
        by_as_tensor,
    ],
)
def test_a_value_pulled_out_is_warned_of_at_the_line_that_does_it(func, strategy):
    line = inspect.getsourcelines(func)[1] + 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jac = jacobian(func, x3(), strategy=strategy)
    hidden = [w for w in caught if w.category is HiddenValueWarning]
    assert hidden
    assert {(w.filename, w.lineno) for w in hidden} == {(__file__, line)}
    assert torch.equal(jac, torch.eye(3))


@pytest.mark.parametrize("func", [by_item, by_float, by_tolist])
def test_a_value_pulled_out_is_warned_of_where_forward_mode_is_chosen(func):
    with pytest.warns(HiddenValueWarning, match="counts as constant"):
        jac = jacobian(lambda x: wide(func(x)), x3())
    assert torch.equal(jac[:3], torch.eye(3))


@pytest.mark.parametrize(
    "transform",
    [
        lambda call: torch.func.grad(lambda x: call(x).sum())(x3()),
        lambda call: torch.func.jvp(call, (x3(),), (x3(),))[0],
    ],
    ids=["grad", "jvp"],
)
def test_a_value_pulled_out_is_warned_of_inside_a_transform(transform):
    with pytest.warns(HiddenValueWarning):
        transform(lambda x: jacobian(by_item, x))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "func",
    [
        lambda x: x * x.detach()[0].item(),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x[int(x.argmax()) :].expand(3),
        lambda x: x * x.shape[0],
        lambda x: (f"{x[0]:.3f}", repr(x), x)[2],
    ],
    ids=["detached", "comparison", "index", "shape", "printed"],
)
@may_fall_back
def test_values_that_hide_no_dependence_are_not_warned_of(func, strategy):
    assert jacobian(func, x3(), strategy=strategy).shape == (3, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reading_a_parameter_that_the_inputs_do_not_reach_is_not_warned_of(strategy):
    scale = nn.Parameter(torch.tensor(2.0))
    jac = jacobian(lambda x: x * scale.item(), x3(), strategy=strategy)
    assert torch.equal(jac, 2 * torch.eye(3))


def test_all_warnings_point_at_the_call():
    x = x3()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jacobian(lambda y: x * 1, x)
        line = inspect.currentframe().f_lineno - 1
    assert {w.category for w in caught} == {ClosureWarning, IndependenceWarning}
    assert {(w.filename, w.lineno) for w in caught} == {(__file__, line)}


# Outputs without a derivative

LAYER = nn.Linear(3, 2)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.detach() * 2,
        lambda x: torch.ones(2),
        lambda x: x.data**2,
        lambda x: torch.tensor([1.0, 2.0]),
        lambda x: LAYER(x.detach()),
        lambda x: LAYER(POINT),
        torch.no_grad()(lambda x: x * 2),
    ],
    ids=[
        "detach",
        "constant",
        "data",
        "rebuilt",
        "detached before a layer",
        "wrong variable",
        "no_grad",
    ],
)
def test_an_output_that_carries_no_derivative_is_warned_of(func, strategy):
    with pytest.warns(IndependenceWarning, match="output 0"):
        jac = jacobian(func, x3(), strategy=strategy)
    assert not jac.any()


def test_the_output_without_a_derivative_is_named():
    with pytest.warns(IndependenceWarning, match="output 1"):
        jac = jacobian(lambda x: (x**2, x.detach()), x3())
    assert torch.equal(jac[0], torch.diag(2 * x3()))
    assert not jac[1].any()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.argmax(),
        lambda x: x > 1,
        lambda x: x.long(),
        lambda x: x.round().int(),
        lambda x: (x, x.argsort()),
        lambda x: torch.max(x, 0),
    ],
    ids=["argmax", "comparison", "cast", "rounded", "second of two", "max with indices"],
)
def test_outputs_that_are_not_differentiable_are_refused(func, strategy):
    with pytest.raises(ArgumentTypeError, match="which has no derivative"):
        jacobian(func, x3(), strategy=strategy)


def test_indices_may_be_returned_as_aux():
    jac, index = jacobian(lambda x: torch.max(x, 0), x3(), has_aux=True)
    assert jac.tolist() == [0.0, 0.0, 1.0]
    assert index.item() == 2


# In-place writes


def writes(x):
    x.mul_(2)
    return x**2


def writes_to_a_view(x):
    x[0] = x[1].clone() * x[2].clone()
    return x


def writes_to_a_reshaped_view(x):
    x.view(3, 1).t()[0, 1:].add_(x[0].clone())
    return x


# At (1, 2, 3).
WRITES = {
    "input": (writes, torch.diag(8 * x3())),
    "view": (
        writes_to_a_view,
        torch.tensor([[0.0, 3.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    ),
    "reshaped view": (
        writes_to_a_reshaped_view,
        torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]),
    ),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", WRITES)
@may_fall_back
def test_a_function_may_write_to_its_input(case, strategy, requires_grad, chunk_size, create_graph):
    func, expected = WRITES[case]
    x = x3().requires_grad_(requires_grad)
    version = x._version
    jac = jacobian(func, x, create_graph, strategy=strategy, chunk_size=chunk_size)
    assert torch.equal(jac.detach(), expected)
    assert torch.equal(x.detach(), x3())
    assert x._version == version


@pytest.mark.parametrize("strategy", STRATEGIES)
@may_fall_back
def test_a_view_of_the_users_memory_is_not_written_to(strategy):
    whole = torch.arange(6.0)
    jacobian(writes, whole[1:4], strategy=strategy)
    assert torch.equal(whole, torch.arange(6.0))


@pytest.mark.parametrize("spread", [lambda y: y, wide])
@pytest.mark.parametrize("strategy", STRATEGIES)
@may_fall_back
def test_writing_to_an_input_that_is_not_differentiated_spoils_nothing(strategy, spread):
    def func(x, scale):
        scale.mul_(2)
        return spread(x * scale)

    scale = torch.ones(3)
    jac = jacobian(func, (x3(), scale), wrt=0, strategy=strategy)
    assert torch.equal(jac[:3], 2 * torch.eye(3))
    assert torch.equal(scale, torch.ones(3))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (lambda x: x, torch.eye(3)),
        (lambda x: x.view(3), torch.eye(3)),
        (lambda x: x[1:], torch.eye(3)[1:]),
        (lambda x: x.expand(2, 3), torch.eye(3).expand(2, 3, 3)),
        (lambda x: x.unfold(0, 2, 1), torch.stack([torch.eye(3)[:2], torch.eye(3)[1:]])),
    ],
    ids=["input", "view", "slice", "expanded", "overlapping"],
)
@may_fall_back
def test_functions_that_return_the_input_or_a_view_of_it(func, expected, strategy):
    x = x3()
    value, jac = value_and_jacobian(func, x, strategy=strategy)
    assert torch.equal(jac, expected)
    assert torch.equal(value, func(x))
    assert value.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


# Integer and complex numbers


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_inputs_are_refused(dtype, strategy):
    with pytest.raises(ArgumentTypeError, match="only floating-point tensors have a derivative"):
        jacobian(lambda x: x * 2.0, x3().to(dtype), strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_inputs_are_refused_with_the_real_pair_in_the_message(dtype, strategy):
    with pytest.raises(ArgumentTypeError, match=r"real pair.*view_as_real.*view_as_complex"):
        jacobian(lambda z: z.conj(), torch.ones(2).to(dtype), strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_recipe_in_the_message_works(strategy):
    def func(z):
        return z.conj() * 2

    z = torch.tensor([1 + 2j, 3 - 1j])
    with pytest.raises(ArgumentTypeError) as caught:
        jacobian(func, z, strategy=strategy)
    recipe = str(caught.value).split("`")[-2]
    assert recipe.startswith("jacobian(lambda r")
    jac = eval(recipe, {"jacobian": jacobian, "torch": torch, "func": func, "x": z})
    # conj: (re, im) -> (2 re, -2 im), each element for itself.
    expected = torch.einsum("ij,ab->iajb", torch.eye(2), torch.diag(torch.tensor([2.0, -2.0])))
    assert torch.equal(jac, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_complex_outputs_of_real_inputs_are_refused(strategy):
    with pytest.raises(ArgumentTypeError, match=r"view_as_real\(output\)"):
        jacobian(torch.fft.fft, x3(), strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_complex_numbers_inside_a_real_function_are_right(strategy):
    def func(x):
        z = torch.polar(x, x)  # r e^{i r}
        return torch.view_as_real(z)

    x = x3()
    jac = jacobian(func, x, strategy=strategy)
    expected = torch.stack([x.cos() - x * x.sin(), x.sin() + x * x.cos()], -1)
    torch.testing.assert_close(jac, torch.einsum("ia,ij->iaj", expected, torch.eye(3)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_real_output_of_a_holomorphic_call_is_refused(strategy):
    with pytest.raises(ArgumentTypeError, match="not holomorphic unless it is constant"):
        jacobian(torch.abs, torch.ones(2) * 1j, strategy=strategy, holomorphic=True)


# Random functions


def dropped(x):
    return F.dropout(x, 0.5) * x


def one_call(func, x, seed=1):
    """Value of one ordinary call, and where it leaves the generator."""
    torch.manual_seed(seed)
    return func(x.clone()), torch.get_rng_state()


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("vectorize", [None, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_value_and_jacobian_see_the_same_dropout_mask(
    strategy, chunk_size, vectorize, create_graph
):
    x = torch.arange(1.0, 17.0)
    expected, state = one_call(dropped, x)
    torch.manual_seed(1)
    value, jac = value_and_jacobian(
        dropped,
        x,
        create_graph,
        strategy=strategy,
        chunk_size=chunk_size,
        vectorize=vectorize,
    )
    assert torch.equal(value, expected)
    # dropout(x) x = 2 x^2 or 0, whose derivative is 2 value / x.
    torch.testing.assert_close(jac.detach(), torch.diag(2 * expected / x))
    assert torch.equal(torch.get_rng_state(), state)


RANDOM = {
    "dropout": lambda x: F.dropout(x, 0.5) * x,
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "rand_like": lambda x: x**2 * torch.rand_like(x),
    "randn": lambda x: x.sin() + torch.randn(16) * x,
    "randperm": lambda x: x[torch.randperm(16)] ** 2,
    "gumbel": lambda x: F.gumbel_softmax(x / 16),
    "normal_": lambda x: x * torch.empty(16).normal_(),
    "seeds itself": lambda x: (torch.manual_seed(3), x * torch.rand(16))[1],
}


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("strategy", MODES)
@pytest.mark.parametrize("case", RANDOM)
def test_random_numbers_are_drawn_as_by_one_call(case, strategy, chunk_size):
    func, x = RANDOM[case], torch.arange(1.0, 17.0)
    expected, state = one_call(func, x)
    torch.manual_seed(1)
    reference = torch.autograd.functional.jacobian(func, x)
    torch.manual_seed(1)
    value, jac = value_and_jacobian(func, x, strategy=strategy, chunk_size=chunk_size)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(jac, reference)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_dropout_is_right_where_forward_mode_is_chosen(chunk_size):
    x = torch.arange(1.0, 5.0)
    expected, state = one_call(lambda x: dropped(x).repeat(20), x)
    torch.manual_seed(1)
    with torchjac.record() as runs:
        value, jac = value_and_jacobian(lambda x: dropped(x).repeat(20), x, chunk_size=chunk_size)
    assert runs[0].mode == "forward-mode"
    assert torch.equal(value, expected)
    torch.testing.assert_close(jac[:4], torch.diag(2 * expected[:4] / x))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "transform",
    [
        lambda call, x: torch.func.jvp(call, (x,), (torch.zeros_like(x),))[0],
        lambda call, x: [t[0] for t in torch.func.vmap(call, randomness="different")(x[None])],
        lambda call, x: [t[0] for t in torch.func.vmap(call, randomness="same")(x[None])],
    ],
    ids=["jvp", "vmap different", "vmap same"],
)
@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_value_and_jacobian_see_the_same_dropout_mask_inside_a_transform(
    strategy, chunk_size, transform
):
    x = torch.arange(1.0, 17.0)

    def call(x):
        return value_and_jacobian(dropped, x, strategy=strategy, chunk_size=chunk_size)

    value, jac = transform(call, x)
    torch.testing.assert_close(jac, torch.diag(2 * value / x))


@pytest.mark.parametrize("spread", [lambda y: y, wide])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_generator_of_ones_own_is_never_silently_wrong(strategy, spread):
    generator = torch.Generator().manual_seed(0)

    def func(x):
        return spread(x * torch.rand(3, generator=generator))

    first = torch.rand(3, generator=torch.Generator().manual_seed(0))
    assert_never_silently_wrong(
        lambda: value_and_jacobian(func, x3(), strategy=strategy)[1][:3], torch.diag(first)
    )


# Functions that are another function at every call


@pytest.mark.parametrize("strategy", ["auto", "reverse-mode"])
def test_shapes_that_change_are_no_matter_in_reverse_mode(strategy):
    calls = []

    def func(x):
        calls.append(1)
        return x.repeat(len(calls))

    assert torch.equal(jacobian(func, x3(), strategy=strategy), torch.eye(3))


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_shapes_that_change_are_refused_in_forward_mode(chunk_size):
    calls = []

    def func(x):
        calls.append(1)
        return x.repeat(len(calls))

    with pytest.raises(ChangedShapeError, match="evaluated again"):
        jacobian(func, x3(), strategy="forward-mode", chunk_size=chunk_size)


def test_a_number_of_outputs_that_changes_is_refused_in_forward_mode():
    calls = []

    def func(x):
        calls.append(1)
        return (x,) * len(calls)

    with pytest.raises(ChangedShapeError, match="evaluated again"):
        jacobian(func, x3(), strategy="forward-mode")


@pytest.mark.parametrize("spread", [lambda y: y, wide])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_function_that_counts_its_calls_is_never_silently_wrong(strategy, spread):
    calls = []

    def func(x):
        calls.append(1)
        return spread(x * len(calls))

    assert_never_silently_wrong(lambda: jacobian(func, x3(), strategy=strategy)[:3], torch.eye(3))


def test_appending_to_a_list_outside_does_no_harm():
    seen = []

    def func(x):
        seen.append(x.detach().clone())
        return wide(x**2)

    jac = jacobian(func, x3())
    assert torch.equal(jac[:3], torch.diag(2 * x3()))
    assert torch.equal(seen[0], x3())


@pytest.mark.parametrize("strategy", STRATEGIES)
@may_fall_back
def test_a_buffer_outside_may_be_written_to(strategy):
    buffer = torch.zeros(3)

    def func(x):
        scratch = buffer.detach()
        scratch.zero_()
        return (scratch + x) ** 2

    assert torch.equal(jacobian(func, x3(), strategy=strategy), torch.diag(2 * x3()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_errors_of_the_function_are_its_own(strategy):
    def func(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        jacobian(func, x3(), strategy=strategy)


# Custom derivatives


class Once(torch.autograd.Function):
    """x -> x^2 with a backward pass that cannot be differentiated, and no forward rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class Detached(torch.autograd.Function):
    """x -> x^2 with a backward pass that autograd cannot look into."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return 2 * g.detach() * ctx.saved_tensors[0]


class Picky(torch.autograd.Function):
    """x -> 2 x with a backward pass that leaves out small cotangents."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2 if g.sum() > 1.5 else None


def test_modes_that_disagree_are_warned_of_where_forward_mode_is_chosen():
    with pytest.warns(DisagreementWarning, match=r"torchjac\.check"):
        jac = jacobian(lambda x: wide(WrongJvp.apply(x)), x3())
    assert torch.equal(jac[:3], 2 * torch.eye(3))


@pytest.mark.parametrize("vectorize", [None, True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("spread", [lambda y: y, wide])
@pytest.mark.parametrize("function", [Once, Detached])
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@pytest.mark.filterwarnings("ignore::torchjac.errors.DisagreementWarning")
def test_a_backward_that_cannot_be_differentiated_is_not_taken_for_zero(
    function, spread, strategy, vectorize
):
    jac = jacobian(
        lambda x: spread(function.apply(x)), x3(), strategy=strategy, vectorize=vectorize
    )
    assert torch.equal(jac[:3], torch.diag(2 * x3()))


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@may_fall_back
def test_a_backward_that_returns_none_for_some_seeds_spoils_no_other_row(chunk_size):
    weights = torch.tensor([1.0, 2.0, 3.0])

    def func(x):
        return Picky.apply(x) * weights

    jac = jacobian(func, x3(), chunk_size=chunk_size, vectorize=False)
    assert torch.equal(jac, torch.diag(torch.tensor([0.0, 4.0, 6.0])))


@pytest.mark.parametrize("strategy", MODES)
def test_a_second_derivative_that_does_not_exist_is_an_error(strategy):
    x = x3().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchjacWarning)
        jac = jacobian(Once.apply, x, create_graph=True, strategy=strategy)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(jac.sum(), x)


# Nested calls that were not asked for a graph


@pytest.mark.parametrize("spread", [lambda y: y, wide])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_nested_jacobian_without_a_graph_is_never_silently_wrong(strategy, spread):
    def func(x):
        return spread(jacobian(lambda x: x**3, x).diagonal())

    assert_never_silently_wrong(
        lambda: jacobian(func, x3(), strategy=strategy)[:3], torch.diag(6 * x3())
    )


@pytest.mark.parametrize("spread", [lambda y: y, wide])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_nested_value_without_a_graph_is_never_silently_wrong(strategy, spread):
    def func(x):
        value, jac = value_and_jacobian(lambda x: x**3, x)
        return spread(value * jac.diagonal())

    assert_never_silently_wrong(
        lambda: jacobian(func, x3(), strategy=strategy)[:3], torch.diag(15 * x3() ** 4)
    )
