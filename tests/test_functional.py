"""`torchjac.functional` beside `torch.autograd.functional`: same answers, same errors."""

import contextlib
import functools
import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.autograd.functional as theirs
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from tests.dropin import (
    Snapshot,
    assert_same,
    assert_same_outcome,
    outcome,
    tuples_for_lists,
    twice_differentiated,
)
from torchjac import functional as ours

NAMES = ("hessian", "hvp", "jacobian", "jvp", "vhp", "vjp")
FORWARD = {"vectorize": True, "strategy": "forward-mode"}
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
# Which inputs require gradients, and their dtype: what is differentiated again is in float64.
ROLES = {"none": torch.float32, "all": torch.float64, "first": torch.float64}


# --- Functions ---------------------------------------------------------------------------------


class Square(torch.autograd.Function):
    """x², its forward apart from its context."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class OldSquare(torch.autograd.Function):
    """x², in the style without `setup_context`."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


def cubed_in_place(x):
    y = x * x
    y.mul_(x)
    return y


def into_fresh_buffer(x):
    y = torch.zeros_like(x)
    y[0] = x[0] * x[1]
    y[1:] = x[1:].exp()
    return y


def squared_under_no_grad(x):
    with torch.no_grad():
        return x**2


def tall(x):
    """40 times as many outputs as inputs: columns are far cheaper than rows."""
    weights = torch.linspace(0.5, 1.5, 40, dtype=x.dtype)
    return (x[:, None].sin() * weights + x.sum() ** 2).flatten()


class Scenario(NamedTuple):
    """A function, the shapes of its inputs, and whether these are handed over as a tuple.

    `forward` is False where PyTorch's forward mode differs from its own reverse mode.
    """

    func: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = ((3,),)
    as_tuple: bool = False
    forward: bool = True


SCENARIOS = {
    "elementwise": Scenario(lambda x: x**3 * x.cos()),
    "elementwise of a matrix": Scenario(torch.exp, ((2, 3),)),
    "sum": Scenario(lambda x: (x**2).sum(), ((2, 3),)),
    "sum over an axis": Scenario(lambda x: x.exp().sum(dim=1), ((2, 3),)),
    "zero-dim to zero-dim": Scenario(lambda x: x**3, ((),)),
    "zero-dim to vector": Scenario(lambda x: torch.stack([x, x**2]), ((),)),
    "size one": Scenario(lambda x: x**3, ((1,),)),
    "size one, three axes": Scenario(lambda x: x**3, ((1, 1, 1),)),
    "matrix product with itself": Scenario(lambda x: x @ x, ((2, 2),)),
    "transposed": Scenario(lambda x: (x**2).t(), ((2, 3),)),
    "permuted view": Scenario(lambda x: (x**2).permute(2, 0, 1), ((2, 3, 2),)),
    "expanded output": Scenario(lambda x: (x**2).expand(2, 3)),
    "softmax": Scenario(lambda x: x.softmax(0)),
    "cumulative": Scenario(lambda x: x.cumprod(0)),
    "indexing": Scenario(lambda x: x[[2, 0, 0]] ** 2),
    "where": Scenario(lambda x: torch.where(x > 1, x**2, x.sqrt())),
    "stack of parts": Scenario(lambda x: torch.stack([x[0] * x[1], x[2], x.sum()])),
    "linear": Scenario(lambda x: 2 * x),
    "returns its input": Scenario(lambda x: x),
    "returns a view of its input": Scenario(lambda x: x[0]),
    "returns its input in a tuple twice": Scenario(lambda x: (x, x)),
    "returns its inputs swapped": Scenario(lambda x, y: (y, x), ((3,), (2,)), True),
    "tuple of one in": Scenario(lambda x: x**2, ((3,),), True),
    "tuple of one out": Scenario(lambda x: (x**2,)),
    "tuples of one in and out": Scenario(lambda x: (x**2,), ((3,),), True),
    "two in": Scenario(lambda x, y: x.exp() * y.sum(), ((3,), (2, 2)), True),
    "two out": Scenario(lambda x: (x.exp(), (x**2).sum())),
    "two in, two out": Scenario(
        lambda x, y: (x.outer(y), (x**2).sum() * y), ((3,), (2,)), as_tuple=True
    ),
    "zero-dim among others": Scenario(lambda a, x: (a * x, a**2), ((), (3,)), as_tuple=True),
    "sum of its inputs": Scenario(lambda x, y: x + y, ((3,), (3,)), True),
    "independent of an input": Scenario(lambda x, y: x**2, ((3,), (2,)), True),
    "outputs independent of inputs in turn": Scenario(
        lambda x, y: (y**2, x**2), ((3,), (2,)), as_tuple=True
    ),
    "constant output": Scenario(lambda x: torch.ones(2, dtype=x.dtype)),
    "constant output of another dtype": Scenario(lambda x: torch.ones(2, dtype=torch.float16)),
    "constant among outputs": Scenario(lambda x: (x**2, torch.ones(2, dtype=x.dtype))),
    "linear among outputs": Scenario(lambda x: (x**2, 3 * x)),
    "detached": Scenario(lambda x: x.detach() ** 2),
    "partly detached": Scenario(lambda x: x.detach() * x),
    "under no_grad": Scenario(squared_under_no_grad),
    "integer output": Scenario(lambda x: x.long()),
    "integer among outputs": Scenario(lambda x: (x.long(), x**2)),
    "boolean output": Scenario(lambda x: x > 1),
    "maximum and where it is": Scenario(lambda x: torch.max(x, 0), ((2, 3),)),
    "in place on a result": Scenario(cubed_in_place),
    "in place on a fresh buffer": Scenario(into_fresh_buffer),
    "in place on the input": Scenario(lambda x: x.mul_(2), forward=False),
    "in place on a copy": Scenario(lambda x: x.clone().mul_(x)),
    "custom function": Scenario(Square.apply, forward=False),
    "custom function, old style": Scenario(OldSquare.apply, forward=False),
    "twenty scalars": Scenario(lambda x: tuple((x * k).sin().sum() for k in range(20))),
    "twenty scalars, some constant": Scenario(
        lambda x, y: tuple(x[k % 3] ** 2 if k % 4 else y.sum() * 0 + k for k in range(20)),
        ((3,), (2,)),
        as_tuple=True,
    ),
    "eight small tensors": Scenario(lambda x: tuple(x**k for k in range(1, 9)), ((2, 2),)),
    "tall": Scenario(tall, ((2,),)),
    "tall, zero-dim input": Scenario(lambda x: tall(x.reshape(1)), ((),)),
    "tall, two in and out": Scenario(
        lambda x, y: (tall(x) * y, tall(x) + y**2), ((2,), ()), as_tuple=True
    ),
    "tall, linear": Scenario(lambda x: x.repeat(30), ((2,),)),
    "tall, independent of an input": Scenario(lambda x, y: tall(x), ((2,), (2,)), True),
    "tall, in place": Scenario(lambda x: cubed_in_place(x.repeat(30)), ((2,),)),
    "tall, custom function": Scenario(lambda x: Square.apply(x.repeat(30)), ((2,),), False, False),
    "wide": Scenario(lambda x: (x**2).sum(1), ((2, 40),)),
    "float64 from float32 or the reverse": Scenario(
        lambda x: x.to(torch.float32 if x.dtype == torch.float64 else torch.float64) ** 2
    ),
    "outputs of both precisions": Scenario(lambda x: (x.double() ** 2, x.float() ** 3)),
    "list output": Scenario(lambda x: [x, x], forward=False),
    "number output": Scenario(lambda x: 1.0, forward=False),
    "number among outputs": Scenario(lambda x: (x, 1.0), forward=False),
    "no output": Scenario(lambda x: None, forward=False),
    "error of the user's": Scenario(lambda x: x + torch.ones(7)),
}

SCALAR_SCENARIOS = {
    "cubic": Scenario(lambda x: (x**3).sum()),
    "cubic of a matrix": Scenario(lambda x: (x**3).sum(), ((2, 2),)),
    "zero-dim": Scenario(lambda x: x**4, ((),)),
    "size one": Scenario(lambda x: x**4, ((1,),)),
    "one element, two axes": Scenario(lambda x: (x**3).sum().reshape(1, 1)),
    "product": Scenario(lambda x: x.prod()),
    "logarithm of a sum": Scenario(lambda x: x.exp().logsumexp(0)),
    "two in": Scenario(lambda x, y: (x**2).sum() * (y**3).sum(), ((3,), (2,)), True),
    "two in, apart": Scenario(lambda x, y: (x**3).sum() + (y**3).sum(), ((3,), (2,)), True),
    "bilinear": Scenario(lambda x, y: (x * y).sum(), ((3,), (3,)), True),
    "tuple of one in": Scenario(lambda x: (x**3).sum(), ((3,),), True),
    "zero-dim among others": Scenario(lambda a, x: a**2 * (x**2).sum(), ((), (3,)), True),
    "linear": Scenario(lambda x: (2 * x).sum()),
    "quadratic": Scenario(lambda x: (x**2).sum()),
    "product with itself": Scenario(lambda x: (x * x).sum()),
    "linear in one": Scenario(lambda x, y: x.sum() + (y**3).sum(), ((3,), (2,)), True),
    "quadratic in one": Scenario(lambda x, y: (x**2).sum() + (y**3).sum(), ((3,), (2,)), True),
    "independent of an input": Scenario(lambda x, y: (x**3).sum(), ((3,), (2,)), True),
    "constant": Scenario(lambda x: torch.ones((), dtype=x.dtype)),
    "detached": Scenario(lambda x: (x.detach() ** 2).sum()),
    "partly detached": Scenario(lambda x: (x.detach() * x).sum()),
    "returns its input": Scenario(lambda x: x, ((),)),
    "under no_grad": Scenario(lambda x: squared_under_no_grad(x).sum(), forward=False),
    "in place on a result": Scenario(lambda x: cubed_in_place(x).sum()),
    "in place on the input": Scenario(lambda x: x.mul_(2).sum(), forward=False),
    "custom function": Scenario(lambda x: (Square.apply(x) * x).sum(), forward=False),
    "custom function, old style": Scenario(lambda x: (OldSquare.apply(x) * x).sum(), forward=False),
    "float64 from float32 or the reverse": Scenario(
        lambda x: (x.to(torch.float32 if x.dtype == torch.float64 else torch.float64) ** 3).sum()
    ),
    "three numbers": Scenario(lambda x: x**2, forward=False),
    "tuple": Scenario(lambda x: ((x**2).sum(),), forward=False),
    "tuple of two": Scenario(lambda x: ((x**2).sum(), x.sum()), forward=False),
    "list": Scenario(lambda x: [x.sum()], forward=False),
    "number": Scenario(lambda x: 1.0, forward=False),
    "integer": Scenario(lambda x: x.sum().long()),
    "error of the user's": Scenario(lambda x: (x + torch.ones(7)).sum()),
}

MODIFIERS = {
    "plain": {},
    "graph": {"create_graph": True},
    "strict": {"strict": True},
    "strict graph": {"strict": True, "create_graph": True},
    "vectorized": {"vectorize": True},
    "vectorized graph": {"vectorize": True, "create_graph": True},
}
UNDER_NO_GRAD = {name: MODIFIERS[name] for name in ("plain", "graph", "vectorized")}
# What PyTorch refuses, at one stage or another.
REFUSED_MODIFIERS = {
    "vectorized strict": {"vectorize": True, "strict": True},
    "vectorized strict graph": {"vectorize": True, "strict": True, "create_graph": True},
    "forward, not vectorized": {"strategy": "forward-mode"},
    "forward graph": {**FORWARD, "create_graph": True},
    "forward strict": {**FORWARD, "strict": True},
    "forward strict graph, not vectorized": {
        "strategy": "forward-mode",
        "strict": True,
        "create_graph": True,
    },
}

REFUSED_SCENARIOS = {
    name: SCENARIOS[name]
    for name in ("elementwise", "two in, two out", "constant output", "list output")
}
REFUSED_SCENARIOS["error of the user's"] = Scenario(lambda x: x + torch.ones(7))


def make_inputs(scenario: Scenario, role: str) -> tuple[Tensor, ...]:
    """Positive numbers, none of them alike."""
    tensors = []
    for k, shape in enumerate(scenario.shapes):
        count = int(np.prod(shape))
        values = torch.linspace(0.4 + 0.1 * k, 1.9, count, dtype=ROLES[role]).reshape(shape)
        wanted = role == "all" or (role == "first" and k == 0)
        tensors.append(values.requires_grad_(wanted))
    return tuple(tensors)


def handed_over(scenario: Scenario, tensors: tuple[Tensor, ...]) -> Any:
    return tensors if scenario.as_tuple else tensors[0]


def cases(scenarios, modifiers, roles=tuple(ROLES), *, forward_only=False):
    return [
        pytest.param(scenario, modifier, role, id=f"{name}-{label}-{role}")
        for name, scenario in scenarios.items()
        for label, modifier in modifiers.items()
        for role in roles
        if scenario.forward or not forward_only
        if role != "first" or len(scenario.shapes) > 1
    ]


def assert_dropin(
    call: Callable[[Any, Any], Any],
    scenario: Scenario,
    role: str,
    **options: Any,
) -> None:
    """`call(library, inputs)` is the same for both libraries, differentiated twice too."""
    outcomes = []
    for library, warn in ((ours, "error"), (theirs, "ignore")):
        tensors = make_inputs(scenario, role)
        before = Snapshot(tensors)
        found = outcome(lambda: call(library, handed_over(scenario, tensors)), warn=warn)  # noqa: B023
        before.assert_untouched()
        if found.error is None:
            wanted = [t for t in tensors if t.requires_grad]
            again = twice_differentiated(found.value, wanted)
            found = found._replace(value=(found.value, again))
        outcomes.append(found)
    assert_same_outcome(*outcomes, **options)


# --- Signatures --------------------------------------------------------------------------------


def test_exports_the_six_functions_of_pytorch():
    assert sorted(ours.__all__) == sorted(theirs.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_that_of_pytorch(name):
    def parameters(library):
        signature = inspect.signature(getattr(library, name))
        return [(p.name, p.default, p.kind) for p in signature.parameters.values()]

    assert parameters(ours) == parameters(theirs)


# --- Jacobian ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scenario", "modifier", "role"), cases(SCENARIOS, MODIFIERS))
def test_jacobian_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        return library.jacobian(scenario.func, inputs, **modifier)

    assert_dropin(
        call, scenario, role, same_requires_grad=modifier != MODIFIERS["vectorized graph"]
    )


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"), cases(SCENARIOS, {"forward": FORWARD}, forward_only=True)
)
def test_jacobian_by_forward_mode_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        return library.jacobian(scenario.func, inputs, **modifier)

    # PyTorch documents tuples, and in forward mode returns lists.
    assert_dropin(call, scenario, role, lists_are_tuples=True)


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"),
    cases(SCENARIOS, {**UNDER_NO_GRAD, "forward": FORWARD}, ["all"], forward_only=True),
)
def test_jacobian_under_no_grad_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        with torch.no_grad():
            return library.jacobian(scenario.func, inputs, **modifier)

    assert_dropin(call, scenario, role, lists_are_tuples=True)


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"), cases(REFUSED_SCENARIOS, REFUSED_MODIFIERS, ["none"])
)
def test_what_pytorch_refuses_is_refused_at_the_same_stage(scenario, modifier, role):
    def call(library, inputs):
        return library.jacobian(scenario.func, inputs, **modifier)

    assert outcome(lambda: call(theirs, handed_over(scenario, make_inputs(scenario, role)))).error
    assert_dropin(call, scenario, role)


def test_forward_mode_nests_in_tuples_as_pytorch_documents():
    x, y = torch.ones(2), torch.ones(3)
    J = ours.jacobian(lambda x, y: (x, y), (x, y), **FORWARD)
    assert isinstance(J, tuple)
    assert all(isinstance(row, tuple) for row in J)


@pytest.mark.parametrize(
    ("value", "words"),
    [([1.0], "list"), (1.0, "float"), (None, "NoneType"), ("text", "str")],
)
def test_forward_mode_refuses_outputs_that_are_no_tensors(value, words):
    with pytest.raises(TypeError, match=f"must be either a Tensor or a tuple.*{words}"):
        ours.jacobian(lambda x: value, torch.ones(2), **FORWARD)


@pytest.mark.parametrize("strategy", ["forward", "reverse", "auto", "", None, 1])
def test_unknown_strategy_is_refused_as_by_pytorch(strategy):
    def call(library):
        return lambda: library.jacobian(torch.sin, torch.ones(2), strategy=strategy)

    theirs_say = outcome(call(theirs))
    assert isinstance(theirs_say.error, AssertionError)
    assert_same_outcome(outcome(call(ours)), theirs_say)


BAD_INPUTS = {
    "list": [torch.ones(2)],
    "array": np.ones(2),
    "number": 1.0,
    "nothing": None,
    "number in a tuple": (torch.ones(2), 1.0),
    "tuple in a tuple": ((torch.ones(2),),),
    "integers": torch.tensor([1, 2]),
    "truth values": torch.tensor([True, False]),
}


@pytest.mark.parametrize("modifier", MODIFIERS.values(), ids=MODIFIERS)
@pytest.mark.parametrize("inputs", BAD_INPUTS.values(), ids=BAD_INPUTS)
@pytest.mark.parametrize("name", ["jacobian", "hessian"])
def test_inputs_that_cannot_be_differentiated_are_refused_as_by_pytorch(name, inputs, modifier):
    def call(library):
        return lambda: getattr(library, name)(lambda *xs: xs[0].sum(), inputs, **modifier)

    theirs_say = outcome(call(theirs))
    assert theirs_say.error is not None
    assert_same_outcome(outcome(call(ours)), theirs_say)


@pytest.mark.parametrize("inputs", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_forward_mode_refuses_inputs_as_pytorch_does(inputs):
    def call(library):
        return lambda: library.jacobian(lambda *xs: xs[0].sum(), inputs, **FORWARD)

    theirs_say = outcome(call(theirs))
    assert theirs_say.error is not None
    assert_same_outcome(outcome(call(ours)), theirs_say)


@pytest.mark.parametrize("inputs", BAD_INPUTS.values(), ids=BAD_INPUTS)
@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
def test_products_refuse_inputs_as_pytorch_does(name, inputs):
    def call(library):
        return lambda: getattr(library, name)(lambda *xs: xs[0].sum(), inputs, torch.ones(2))

    theirs_say = outcome(call(theirs))
    assert theirs_say.error is not None
    assert_same_outcome(outcome(call(ours)), theirs_say)


COMPLEX_SCENARIOS = {
    "complex to complex": lambda z: z * z,
    "complex to real": lambda z: z.abs(),
    "complex to real, twice": lambda z: (z.real**2, z.imag),
    "complex to a number": lambda z: (z.abs() ** 2).sum(),
    "real to complex": lambda z: z.real * 1j,
    "real and complex": lambda z: (z.real, z * z),
}
COMPLEX_MODIFIERS = {
    name: MODIFIERS[name] for name in ("plain", "graph", "strict", "vectorized", "vectorized graph")
} | {"forward": FORWARD}


@pytest.mark.parametrize("modifier", COMPLEX_MODIFIERS.values(), ids=COMPLEX_MODIFIERS)
@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64], ids=["complex", "real"])
@pytest.mark.parametrize("func", COMPLEX_SCENARIOS.values(), ids=COMPLEX_SCENARIOS)
def test_complex_numbers_are_treated_as_by_pytorch(func, dtype, modifier):
    z = torch.tensor([1 + 2j, 0.5 - 1j], dtype=torch.complex128)
    z = z if dtype.is_complex else z.real.clone()
    if not dtype.is_complex:
        real, func = func, lambda x: real(torch.complex(x, x**2))

    def call(library):
        return lambda: library.jacobian(func, z, **modifier)

    assert_same_outcome(
        outcome(call(ours)),
        outcome(call(theirs), warn="ignore"),
        lists_are_tuples=True,
        same_requires_grad=modifier != MODIFIERS["vectorized graph"],
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("modifier", [{}, {"vectorize": True}, FORWARD], ids=str)
@pytest.mark.parametrize("func", [lambda x: x**2, tall], ids=["square", "tall"])
def test_half_precision_stays_half_precision(func, modifier, dtype):
    x = torch.tensor([1.0, 2.0], dtype=dtype)
    J = ours.jacobian(func, x, **modifier)
    assert J.dtype == dtype
    torch.testing.assert_close(J, theirs.jacobian(func, x, **modifier), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("out", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("into", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("func", [tall, torch.sin], ids=["tall", "square"])
@pytest.mark.parametrize("modifier", [{}, {"create_graph": True}, {"vectorize": True}], ids=str)
def test_reverse_mode_gives_the_dtype_of_the_input(func, into, out, modifier):
    x = torch.tensor([1.0, 2.0], dtype=into)
    J = ours.jacobian(lambda x: func(x.to(out)), x, **modifier)
    assert J.dtype == into


@pytest.mark.parametrize("func", [tall, torch.sin, lambda x: x[:0]], ids=["tall", "sine", "empty"])
def test_forward_mode_gives_the_dtype_of_the_output(func):
    x = torch.tensor([1.0, 2.0], dtype=torch.float32)
    J = ours.jacobian(lambda x: func(x.double()), x, **FORWARD)
    assert J.dtype == torch.float64


def test_autocast_gives_the_dtype_and_values_of_pytorch():
    weights = torch.linspace(-1, 1, 80).reshape(2, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours_say, theirs_say = (
            library.jacobian(lambda x: x @ weights, torch.tensor([1.0, 2.0]))
            for library in (ours, theirs)
        )
    assert_same(ours_say, theirs_say)


def test_every_block_is_on_the_device_of_its_input():
    x, y = torch.ones(3), torch.ones(2, device="meta")
    J = ours.jacobian(lambda x, y: (x**2, y**2), (x, y))
    assert [[block.device.type for block in row] for row in J] == [["cpu", "meta"]] * 2
    assert [[block.shape for block in row] for row in J] == [[(3, 3), (3, 2)], [(2, 3), (2, 2)]]
    assert J[0][0].equal(2 * torch.eye(3))
    assert not J[1][0].any()


def test_many_small_outputs_on_two_devices_have_blocks_on_the_device_of_their_input():
    x, y = torch.ones(3), torch.ones(2, device="meta")
    J = ours.jacobian(lambda x, y: tuple(k * (y if k % 2 else x) for k in range(8)), (x, y))
    assert [[block.device.type for block in row] for row in J] == [["cpu", "meta"]] * 8
    assert all(J[k][0].equal(k * torch.eye(3)) for k in (0, 2, 4, 6))
    assert not any(J[k][0].any() for k in (1, 3, 5, 7))


# --- Empty tensors: PyTorch fails on some, here each has its empty Jacobian -----------------------

EMPTY_MODIFIERS = {"plain": {}, "graph": {"create_graph": True}, "vectorized": {"vectorize": True}}


@pytest.mark.parametrize("modifier", EMPTY_MODIFIERS.values(), ids=EMPTY_MODIFIERS)
@pytest.mark.parametrize(
    ("func", "shape", "expected"),
    [
        (lambda x: x.sum(), (0,), (0,)),
        (lambda x: x.sum(), (0, 3), (0, 3)),
        (lambda x: x.sum(0), (0, 3), (3, 0, 3)),
        (lambda x: x * 2, (0,), (0, 0)),
        (lambda x: x * 2, (2, 0), (2, 0, 2, 0)),
        (lambda x: x[:0] ** 2, (3,), (0, 3)),
        (lambda x: x[:0], (3, 2), (0, 2, 3, 2)),
        (lambda x: torch.ones(0), (3,), (0, 3)),
        (lambda x: torch.ones(40, 0) * x.sum(), (1,), (40, 0, 1)),
    ],
)
def test_empty_tensors_have_empty_jacobians(func, shape, expected, modifier):
    J = ours.jacobian(func, torch.ones(shape), **modifier)
    assert J.shape == expected
    assert J.dtype == torch.float32


def test_forward_mode_of_an_empty_input_has_its_empty_jacobian():
    J = ours.jacobian(lambda x: x.sum(0), torch.ones(0, 3), **FORWARD)
    assert J.shape == (3, 0, 3)


def test_empty_beside_full_leaves_the_full_blocks_right():
    x = torch.tensor([1.0, 2.0])
    J = ours.jacobian(lambda x, e: (x**2, e, x[:0]), (x, torch.ones(0)))
    assert [[tuple(block.shape) for block in row] for row in J] == [
        [(2, 2), (2, 0)],
        [(0, 2), (0, 0)],
        [(0, 2), (0, 0)],
    ]
    assert J[0][0].tolist() == [[2.0, 0.0], [0.0, 4.0]]


def test_hessian_of_an_empty_input_is_empty():
    H = ours.hessian(lambda x: (x**2).sum(), torch.ones(0))
    assert H.shape == (0, 0)


@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
def test_products_with_an_empty_input_are_those_of_pytorch(name):
    def call(library):
        x = torch.ones(0)
        v = torch.ones(()) if name == "vjp" else x
        return lambda: getattr(library, name)(lambda x: (x**2).sum(), x, v)

    assert_same_outcome(outcome(call(ours)), outcome(call(theirs)))


# --- Every error of strict mode -------------------------------------------------------------------


class WrongProduct(torch.autograd.Function):
    """x y, with y as its derivative by both: no derivative of it depends on x."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(y)
        return x * y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return y * g, y * g


class Unfollowed(torch.autograd.Function):
    """x, with a backward pass that autograd cannot follow."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return g.detach() * 1


HELD = torch.tensor([1.0, 2.0], requires_grad=True)
X, Y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
NOT_ALLOWED = "This is not allowed in strict mode"
STRICT_ERRORS = {
    "jacobian, no graph": (
        "jacobian",
        (lambda x: (x, X), X),
        {},
        "Output 1 of the user-provided function does not require gradients. The outputs must be "
        "computed in a differentiable manner from the input when running in strict mode.",
    ),
    "jacobian, independent": (
        "jacobian",
        (lambda x, y: (x * y, x), (X, Y)),
        {},
        f"Output 1 of the user-provided function is independent of input 1. {NOT_ALLOWED}.",
    ),
    "jacobian, constant": (
        "jacobian",
        (lambda x: (x**2, 2 * x), X),
        {"create_graph": True},
        "The jacobian of the user-provided function is independent of input 1. "
        f"{NOT_ALLOWED} when create_graph=True.",
    ),
    "vjp, independent": (
        "vjp",
        (lambda x, y: x**2, (X, Y), X),
        {},
        f"The output of the user-provided function is independent of input 1. {NOT_ALLOWED}.",
    ),
    "vjp, constant by one": (
        "vjp",
        (lambda x, y: x**2 + y, (X, Y), X),
        {"create_graph": True},
        "The jacobian of the user-provided function is independent of input 1. "
        f"{NOT_ALLOWED} when create_graph=True.",
    ),
    "jvp, independent": (
        "jvp",
        (lambda x, y: x**2, (X, Y), (X, Y)),
        {},
        f"The output of the user-provided function is independent of input 1. {NOT_ALLOWED}.",
    ),
    "jvp, unfollowed": (
        "jvp",
        (Unfollowed.apply, X, X),
        {},
        "The gradient with respect to input 0 is independent of the inputs of the user-provided "
        f"function. {NOT_ALLOWED}.",
    ),
    "jvp, one unfollowed": (
        "jvp",
        (lambda x: (x**2, Unfollowed.apply(x)), X, X),
        {},
        "The gradient with respect to the input is independent of entry 1 in the grad_outputs "
        f"when using the double backward trick to compute forward mode gradients. {NOT_ALLOWED}.",
    ),
    "jvp, constant": (
        "jvp",
        (lambda x: 2 * x, X, X),
        {"create_graph": True},
        "The jacobian of the user-provided function is independent of input 0. "
        f"{NOT_ALLOWED} when create_graph=True.",
    ),
    "vhp, independent": (
        "vhp",
        (lambda x, y: (x**3).sum(), (X, Y), (X, Y)),
        {},
        f"The output of the user-provided function is independent of input 1. {NOT_ALLOWED}.",
    ),
    "vhp, linear": (
        "vhp",
        (lambda x, y: (x**3).sum() + y.sum(), (X, Y), (X, Y)),
        {},
        "While computing the hessian, found that the jacobian of the user-provided function with "
        f"respect to input 1 is independent of the input. {NOT_ALLOWED}. You should ensure that "
        "your function is twice differentiable and that the jacobian depends on the inputs (this "
        "would be violated by a linear function for example).",
    ),
    "vhp, second derivative missing": (
        "vhp",
        (lambda x, y: WrongProduct.apply(x, y).sum(), (X, Y), (X, Y)),
        {},
        f"The jacobian of the user-provided function is independent of input 0. {NOT_ALLOWED}.",
    ),
    "vhp, quadratic": (
        "vhp",
        (lambda x: (x * x).sum(), X, X),
        {"create_graph": True},
        "The hessian of the user-provided function is independent of input 0. "
        f"{NOT_ALLOWED} when create_graph=True.",
    ),
    "hvp, linear with a held weight": (
        "hvp",
        (lambda x: (HELD * x).sum(), X, X),
        {},
        "The hessian of the user-provided function is independent of entry 0 in the grad_jacobian. "
        f"{NOT_ALLOWED} as it prevents from using the double backward trick to replace forward "
        "mode AD.",
    ),
    "hvp, quadratic": (
        "hvp",
        (lambda x: (x * x).sum(), X, X),
        {"create_graph": True},
        "The hessian of the user-provided function is independent of input 0. "
        f"{NOT_ALLOWED} when create_graph=True.",
    ),
    "hessian, no graph": (
        "hessian",
        (lambda x: X.sum(), X),
        {},
        "Output 0 of the user-provided function does not require gradients. The outputs must be "
        "computed in a differentiable manner from the input when running in strict mode.",
    ),
    "hessian, linear": (
        "hessian",
        (lambda x: x.sum(), X),
        {},
        "While computing the hessian, found that the jacobian of the user-provided function with "
        f"respect to input 0 is independent of the input. {NOT_ALLOWED}. You should ensure that "
        "your function is twice differentiable and that the jacobian depends on the inputs (this "
        "would be violated by a linear function for example).",
    ),
    "hessian, block missing": (
        "hessian",
        (lambda x, y: (x**3).sum() + (y**3).sum(), (X, Y)),
        {},
        f"Output 0 of the user-provided function is independent of input 1. {NOT_ALLOWED}.",
    ),
    "hessian, quadratic": (
        "hessian",
        (lambda x: (x * x).sum(), X),
        {"create_graph": True},
        "The jacobian of the user-provided function is independent of input 0. "
        f"{NOT_ALLOWED} when create_graph=True.",
    ),
}


@pytest.mark.parametrize(
    ("name", "args", "modifier", "message"), STRICT_ERRORS.values(), ids=STRICT_ERRORS
)
def test_strict_mode_says_what_pytorch_says(name, args, modifier, message):
    ours_say, theirs_say = (
        outcome(lambda: getattr(library, name)(*args, strict=True, **modifier))  # noqa: B023
        for library in (ours, theirs)
    )
    assert (theirs_say.error and str(theirs_say.error)) == message
    assert_same_outcome(ours_say, theirs_say)


# --- Hessian -----------------------------------------------------------------------------------

OUTER_FORWARD = {"vectorize": True, "outer_jacobian_strategy": "forward-mode"}
REFUSED_HESSIAN_MODIFIERS = {
    "vectorized strict": {"vectorize": True, "strict": True},
    "forward, not vectorized": {"outer_jacobian_strategy": "forward-mode"},
    "forward graph": {**OUTER_FORWARD, "create_graph": True},
    "forward strict": {**OUTER_FORWARD, "strict": True},
}
REFUSED_HESSIAN_SCENARIOS = {
    name: SCALAR_SCENARIOS[name] for name in ("cubic", "two in", "linear", "three numbers", "list")
}


@pytest.mark.parametrize(("scenario", "modifier", "role"), cases(SCALAR_SCENARIOS, MODIFIERS))
def test_hessian_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        return library.hessian(scenario.func, inputs, **modifier)

    assert_dropin(
        call, scenario, role, same_requires_grad=modifier != MODIFIERS["vectorized graph"]
    )


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"),
    cases(SCALAR_SCENARIOS, {"forward": OUTER_FORWARD}, forward_only=True),
)
def test_hessian_with_forward_mode_outside_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        H = library.hessian(scenario.func, inputs, **modifier)
        # Whether PyTorch leaves a graph on it is up to its inner copies: only the values count.
        return torch.utils._pytree.tree_map(torch.Tensor.detach, H)

    assert_dropin(call, scenario, role, lists_are_tuples=True)


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"), cases(SCALAR_SCENARIOS, UNDER_NO_GRAD, ["all"])
)
def test_hessian_under_no_grad_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        with torch.no_grad():
            return library.hessian(scenario.func, inputs, **modifier)

    assert_dropin(call, scenario, role)


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"),
    cases(REFUSED_HESSIAN_SCENARIOS, REFUSED_HESSIAN_MODIFIERS, ["none"]),
)
def test_hessian_that_pytorch_refuses_is_refused_at_the_same_stage(scenario, modifier, role):
    def call(library, inputs):
        return library.hessian(scenario.func, inputs, **modifier)

    assert outcome(lambda: call(theirs, handed_over(scenario, make_inputs(scenario, role)))).error
    assert_dropin(call, scenario, role)


@pytest.mark.parametrize("strategy", ["forward", "auto", None])
def test_hessian_refuses_an_unknown_strategy_as_pytorch_does(strategy):
    def call(library):
        return lambda: library.hessian(torch.sum, torch.ones(2), outer_jacobian_strategy=strategy)

    theirs_say = outcome(call(theirs))
    assert isinstance(theirs_say.error, AssertionError)
    assert_same_outcome(outcome(call(ours)), theirs_say)


def test_hessian_of_many_variables_is_symmetric_and_right():
    # f = sum of x[k]^2 x[k+1]: H[k][k] = 2 x[k+1], H[k][k+1] = 2 x[k]
    x = torch.linspace(1, 2, 30, dtype=torch.float64)
    H = ours.hessian(lambda x: (x[:-1] ** 2 * x[1:]).sum(), x)
    expected = torch.diag(torch.cat([2 * x[1:], torch.zeros(1)]))
    expected += torch.diag(2 * x[:-1], 1) + torch.diag(2 * x[:-1], -1)
    torch.testing.assert_close(H, expected)


# --- Products ----------------------------------------------------------------------------------

PRODUCT_MODIFIERS = {name: MODIFIERS[name] for name in ("plain", "graph", "strict", "strict graph")}


def vectors_like(tensors: Any, *, requires_grad: bool = False) -> Any:
    """Numbers with the shapes and dtypes of a tensor or tuple of tensors, or None for others."""
    if isinstance(tensors, tuple):
        return tuple(vectors_like(t, requires_grad=requires_grad) for t in tensors)
    if not isinstance(tensors, Tensor):
        return None
    v = torch.linspace(-1.0, 0.7, tensors.numel(), dtype=torch.float64).reshape(tensors.shape)
    v = v.to(tensors.dtype)
    return v.requires_grad_(requires_grad and v.is_floating_point())


def value_of(scenario: Scenario, inputs: Any) -> Any:
    copies = [t.detach().clone() for t in (inputs if isinstance(inputs, tuple) else (inputs,))]
    return outcome(lambda: scenario.func(*copies)).value


@pytest.mark.parametrize(("scenario", "modifier", "role"), cases(SCENARIOS, PRODUCT_MODIFIERS))
def test_vjp_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        v = vectors_like(value_of(scenario, inputs))
        return library.vjp(scenario.func, inputs, v, **modifier)

    assert_dropin(call, scenario, role)


@pytest.mark.parametrize(("scenario", "modifier", "role"), cases(SCENARIOS, PRODUCT_MODIFIERS))
def test_jvp_is_that_of_pytorch(scenario, modifier, role):
    def call(library, inputs):
        return library.jvp(scenario.func, inputs, vectors_like(inputs), **modifier)

    assert_dropin(call, scenario, role)


@pytest.mark.parametrize(
    ("scenario", "modifier", "role"), cases(SCALAR_SCENARIOS, PRODUCT_MODIFIERS)
)
@pytest.mark.parametrize("name", ["vhp", "hvp"])
def test_hessian_products_are_those_of_pytorch(name, scenario, modifier, role):
    def call(library, inputs):
        product = getattr(library, name)
        return product(scenario.func, inputs, vectors_like(inputs), **modifier)

    assert_dropin(call, scenario, role)


@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
@pytest.mark.parametrize(
    ("scenario", "modifier", "role"),
    cases(SCALAR_SCENARIOS, {"plain": {}, "graph": {"create_graph": True}}, ["all"]),
)
def test_products_under_no_grad_are_those_of_pytorch(name, scenario, modifier, role):
    def call(library, inputs):
        v = vectors_like(value_of(scenario, inputs) if name == "vjp" else inputs)
        with torch.no_grad():
            return getattr(library, name)(scenario.func, inputs, v, **modifier)

    assert_dropin(call, scenario, role)


@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
def test_products_are_differentiable_by_their_vector(name):
    def gradients(library):
        x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
        v = torch.tensor([0.3, -0.1, 2.0], dtype=torch.float64, requires_grad=True)
        func = torch.sin if name in ("vjp", "jvp") else lambda x: x.prod() ** 2
        product = getattr(library, name)(func, x, v, create_graph=True)[1]
        return torch.autograd.grad((product**2).sum(), (x, v))

    assert_same(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
def test_products_detach_their_vector_without_create_graph(name):
    x = torch.tensor([1.0, 2.0])
    v = torch.ones(() if name == "vjp" else 2, requires_grad=True)
    value, product = getattr(ours, name)(lambda x: (x**2).sum(), x, v)
    assert not value.requires_grad
    assert not product.requires_grad
    assert v.grad is None


VECTORS = {
    "missing": None,
    "too long": torch.ones(5),
    "too short": torch.ones(1),
    "other number of axes": torch.ones(3, 1),
    "zero-dim": torch.ones(()),
    "empty tuple": (),
    "tuple of one": (torch.ones(3),),
    "tuple of two": (torch.ones(3), torch.ones(3)),
    "tuple of two, second wrong": (torch.ones(3), torch.ones(4)),
    "tuple of three": (torch.ones(3), torch.ones(3), torch.ones(3)),
    "list": [torch.ones(3)],
    "number": 1.0,
    "array": np.ones(3),
    "number in a tuple": (torch.ones(3), 1.0),
    "integers": torch.ones(3, dtype=torch.int64),
    "other precision": torch.ones(3, dtype=torch.float64),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("v", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
def test_vectors_that_do_not_fit_are_treated_as_by_pytorch(name, count, v, create_graph):
    x = torch.tensor([1.0, 2.0, 3.0])
    inputs = x if count == 1 else (x, x + 1)
    if name == "vjp":  # its vector goes with the outputs
        func = (lambda *xs: xs[0] ** 2) if count == 1 else (lambda *xs: (xs[0] ** 2, xs[1]))
    elif name == "jvp":
        func = lambda *xs: xs[0] ** 2  # noqa: E731
    else:
        func = lambda *xs: sum((x**3).sum() for x in xs)  # noqa: E731

    def call(library):
        return lambda: getattr(library, name)(func, inputs, v, create_graph)

    assert_same_outcome(outcome(call(ours)), outcome(call(theirs), warn="ignore"))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["vjp", "jvp", "vhp", "hvp"])
def test_the_vector_may_be_left_out_for_one_element(name, shape):
    x = torch.full(shape, 1.5)

    def call(library):
        return lambda: getattr(library, name)(lambda x: x**3, x)

    theirs_say = outcome(call(theirs))
    assert theirs_say.error is None
    assert_same_outcome(outcome(call(ours)), theirs_say)


# --- Functions that cannot be batched: the loop of PyTorch is the reference -----------------------


def custom(backward: Callable[[Any, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """x -> 1 x, with a derivative of one's own."""

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 1

    Custom.backward = staticmethod(backward)
    return Custom.apply


def _reads_items(ctx, g):
    return torch.tensor([2 * value.item() for value in g], dtype=g.dtype)


def _through_list(ctx, g):
    return torch.tensor(g.tolist(), dtype=g.dtype) * 3


def _through_numpy(ctx, g):
    return torch.from_numpy(g.numpy() * 3)


def _branches(ctx, g):
    return g * 2 if g.sum() > 0 else g * 3


def _writes_in_place(ctx, g):
    out = torch.zeros(g.shape, dtype=g.dtype)
    for k in range(len(g)):
        out[k] = (k + 1) * g[k]
    return out


def _writes_in_place_like(ctx, g):
    out = torch.zeros_like(g)
    out[0] = 5 * g[0]
    return out


def _copies_into_empty(ctx, g):
    return torch.empty(g.shape, dtype=g.dtype).copy_(g) * 2


def _looks_for_nonzeros(ctx, g):
    out = torch.zeros(g.shape, dtype=g.dtype)
    for k in g.nonzero().flatten():
        out[k] = 2 * g[k]
    return out


def _compares(ctx, g):
    return g * 2 if torch.equal(g, g.abs()) else g * 3


def _ignores_the_gradient(ctx, g):
    (x,) = ctx.saved_tensors
    return x * 7


def _uses_saved(ctx, g):
    (x,) = ctx.saved_tensors
    return g * x.cos()


def _draws_random_numbers(ctx, g):
    return g * (2 + (torch.rand(g.shape) > 2).to(g.dtype))


def _in_double(ctx, g):
    return (g.double() * 2).to(g.dtype)


def _norm_clipped(ctx, g):
    return g / g.norm().clamp(min=0.5)


UNBATCHABLE = {
    f.__name__[1:]: f
    for f in (
        _reads_items,
        _through_list,
        _through_numpy,
        _branches,
        _writes_in_place,
        _writes_in_place_like,
        _copies_into_empty,
        _looks_for_nonzeros,
        _compares,
        _ignores_the_gradient,
        _uses_saved,
        _draws_random_numbers,
        _in_double,
        _norm_clipped,
    )
}


@dtypes
@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("backward", UNBATCHABLE.values(), ids=UNBATCHABLE)
def test_backward_passes_of_all_kinds_give_what_the_loop_gives(backward, vectorize, dtype):
    x = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)

    def func(x):
        return (custom(backward)(x) ** 2, custom(backward)(x.sin()).sum())

    ours_say = outcome(lambda: ours.jacobian(func, x, vectorize=vectorize))
    assert_same_outcome(ours_say, outcome(lambda: theirs.jacobian(func, x), warn="ignore"))


@pytest.mark.parametrize("backward", UNBATCHABLE.values(), ids=UNBATCHABLE)
def test_backward_passes_of_all_kinds_are_right_for_tall_functions(backward):
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def func(x):
        return (custom(backward)(x)[:, None] * torch.linspace(-1, 2, 30)).flatten()

    ours_say = outcome(lambda: ours.jacobian(func, x))
    assert_same_outcome(ours_say, outcome(lambda: theirs.jacobian(func, x), warn="ignore"))


def test_error_of_a_backward_pass_reaches_the_user():
    def fails(ctx, g):
        raise ValueError("no derivative today")

    with pytest.raises(ValueError, match="no derivative today"):
        ours.jacobian(custom(fails), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_recurrent_network_gives_what_the_loop_gives(create_graph, dtype):
    torch.manual_seed(0)
    network = nn.LSTM(3, 4, batch_first=True, dtype=dtype)
    x = torch.randn(2, 5, 3, dtype=dtype, requires_grad=True)

    def call(library):
        return library.jacobian(lambda x: network(x)[0][:, -1], x, create_graph=create_graph)

    assert_same(call(ours), call(theirs))


# --- Tall functions, whose columns are cheaper than their rows ------------------------------------


def test_tall_function_with_a_detached_part_of_small_slope_keeps_it():
    # The part with a backward pass that cannot be differentiated is small beside the other.
    detached = custom(lambda ctx, g: g.detach() * 1)

    def func(x):
        ones = torch.ones(20)
        return torch.cat([1e4 * x[:1] * ones, detached(x[1:]) * ones])

    J = ours.jacobian(func, torch.tensor([1.0, 1.0]))
    assert J[:, 0].tolist() == [1e4] * 20 + [0.0] * 20
    assert J[:, 1].tolist() == [0.0] * 20 + [1.0] * 20


def test_tall_function_with_a_clipped_gradient_is_clipped_row_by_row():
    # Clipping is not linear: the derivative of the backward pass is not the Jacobian.
    for row in range(40):
        weights = torch.full((40, 2), 0.1)
        weights[row, 0] = 100.0

        def func(x, weights=weights):
            x = x * 1
            x.register_hook(lambda g: g.clamp(-10, 10))
            return weights @ x

        J = ours.jacobian(func, torch.tensor([1.0, 1.0]))
        assert J.equal(weights.clamp(max=10)), row


def test_tall_function_with_an_infinite_slope_has_its_values_where_pytorch_has_them():
    weights = torch.linspace(1, 2, 40)

    def func(x):
        return torch.cat([(x[0] * weights).sqrt(), x[1] * weights])

    x = torch.tensor([0.0, 1.0])
    assert_same(ours.jacobian(func, x), theirs.jacobian(func, x))


def test_tall_function_with_rows_that_are_masked_out_has_zeros_there_like_pytorch():
    mask = torch.tensor([[False, False], [True, True]])
    weights = torch.linspace(1, 2, 40)

    def func(x):
        probabilities = torch.masked.softmax(x.expand(2, 2), 1, mask=mask)
        return (probabilities.flatten()[:, None] * weights).flatten()

    x = torch.tensor([0.5, 1.0])
    assert_same(ours.jacobian(func, x), theirs.jacobian(func, x))


def test_tall_function_is_traced_by_make_fx():
    x = torch.tensor([1.0, 2.0])
    traced = make_fx(lambda x: ours.jacobian(tall, x))(x)
    torch.testing.assert_close(traced(2 * x), theirs.jacobian(tall, 2 * x))


def test_function_is_traced_by_make_fx():
    x = torch.tensor([1.0, 2.0])
    traced = make_fx(lambda x: ours.jacobian(lambda x: x**3, x))(x)
    assert traced(2 * x).tolist() == [[12.0, 0.0], [0.0, 48.0]]


def test_many_small_outputs_do_not_spoil_each_other_with_an_infinite_slope():
    def func(x):
        return (x[0].sqrt(), *(k * x[1] for k in range(1, 10)))

    x = torch.tensor([0.0, 1.0])
    J = ours.jacobian(func, x)
    assert J[0].tolist() == [torch.inf, 0.0]
    assert [row.tolist() for row in J[1:]] == [[0.0, float(k)] for k in range(1, 10)]


@pytest.mark.parametrize("device_context", [False, True])
def test_tall_function_on_the_meta_device_has_its_shape(device_context):
    x = torch.ones(2, device="meta")
    with torch.device("meta") if device_context else contextlib.nullcontext():
        J = ours.jacobian(lambda x: (x[:, None] * torch.ones(30, device="meta")).flatten(), x)
    assert J.shape == (60, 2)
    assert J.device.type == "meta"


def test_function_on_the_meta_device_has_its_shape():
    J = ours.jacobian(lambda x: x**2, torch.ones(2, device="meta"))
    assert J.shape == (2, 2)
    assert J.device.type == "meta"


@pytest.mark.parametrize("count", [1, 30])
def test_fake_tensors_give_fake_jacobians(count):
    from torch._subclasses import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        x = torch.ones(2)
        J = ours.jacobian(lambda x: (x[:, None] ** 2 * torch.ones(count)).flatten(), x)
    assert isinstance(J, FakeTensor)
    assert J.shape == (2 * count, 2)


def test_default_device_of_the_caller_does_not_reach_the_seeds():
    x = torch.tensor([1.0, 2.0])
    with torch.device("meta"):
        J = ours.jacobian(lambda x: x**2, x)
    assert J.tolist() == [[2.0, 0.0], [0.0, 4.0]]


# --- Larger than what is done at once ------------------------------------------------------------

LARGE = 3000


@pytest.mark.parametrize("modifier", [{}, {"create_graph": True}, FORWARD], ids=str)
def test_large_jacobian_is_right(modifier):
    x = torch.linspace(0.5, 1.5, LARGE)
    J = ours.jacobian(lambda x: x**2 + x.flip(0), x, **modifier).detach()
    expected = torch.diag(2 * x) + torch.eye(LARGE).flip(0)
    assert J.is_contiguous() or modifier is FORWARD
    torch.testing.assert_close(J, expected)


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 25])
def test_product_with_a_number_in_forward_mode_does_not_crash_the_interpreter(count):
    """PyTorch multiplies its zero tensors endlessly where somebody watches the dispatcher."""
    code = (
        "import torch\n"
        "from torchjac.functional import jacobian\n"
        f"x = torch.ones({count})\n"
        "J = jacobian(lambda x: torch.addcmul(x, x.detach(), x.detach(), value=3.5), x,\n"
        "             vectorize=True, strategy='forward-mode')\n"
        f"assert J.equal(torch.eye({count})), J\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


# --- The tensors that come back ------------------------------------------------------------------

LAYOUTS = {
    "square": (lambda x: x**2, (3,)),
    "transposed": (lambda x: (x**2).t(), (3, 4)),
    "permuted and flattened": (lambda x: x.permute(2, 0, 1).reshape(-1) ** 2, (3, 4, 2)),
    "matrix product": (lambda x: x.t() @ x, (3, 4)),
    "tall": (tall, (2,)),
    "tall matrix": (lambda x: tall(x.flatten()).reshape(-1, 5), (2, 2)),
    "sum of a transpose": (lambda x: (x.t() ** 2).sum(0), (3, 4)),
    "convolution": (
        lambda x: torch.conv2d(x, torch.ones(2, 1, 2, 2, dtype=x.dtype)),
        (1, 1, 3, 4),
    ),
    "scalar of a transpose": (lambda x: (x.t() @ torch.ones(3, 1)).sum(), (3, 4)),
    "expanded": (lambda x: x.expand(4, 3), (3,)),
}


@pytest.mark.parametrize("modifier", [{}, {"create_graph": True}], ids=["plain", "graph"])
@pytest.mark.parametrize(("func", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_jacobian_can_be_viewed_as_a_matrix(func, shape, modifier):
    x = torch.rand(shape)
    J = ours.jacobian(func, x, **modifier)
    assert J.view(-1, x.numel()).shape == (func(x).numel(), x.numel())
    assert J.stride() == theirs.jacobian(func, x, **modifier).stride()


def test_jacobian_of_inputs_in_another_memory_order_is_that_of_pytorch():
    x = torch.arange(1.0, 13.0).reshape(3, 4).t()
    y = torch.ones(3, 1).expand(3, 4)
    z = torch.arange(24.0)[::2]

    def func(x, y, z):
        return x @ y * z.sum(), (y**2).sum() + z**2

    assert_same(ours.jacobian(func, (x, y, z)), theirs.jacobian(func, (x, y, z)))


SHARING = {
    "sum of two": lambda x, y: x + y,
    "sum of two to a number": lambda x, y: (x + y).sum(),
    "both returned twice": lambda x, y: (x + y, x + y),
    "seven outputs": lambda x, y: tuple(x + y for _ in range(7)),
    "product with a constant": lambda x, y: (x * 3 + y * 3)[0],
}


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
@pytest.mark.parametrize("func", SHARING.values(), ids=SHARING)
def test_writing_to_one_block_leaves_the_others_alone(func, shape, vectorize):
    if not shape and func is SHARING["product with a constant"]:
        shape = (1,)
    inputs = (torch.rand(shape), torch.rand(shape))
    blocks = torch.utils._pytree.tree_leaves(ours.jacobian(func, inputs, vectorize=vectorize))
    before = [block.clone() for block in blocks]
    blocks[0].fill_(7.0)
    for block, value in zip(blocks[1:], before[1:], strict=True):
        assert block.equal(value)


def test_writing_to_the_jacobian_leaves_constants_of_a_backward_pass_alone():
    held = torch.tensor([1.0, 2.0, 3.0])

    class Constant(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, g):
            return held

    ours.jacobian(Constant.apply, torch.ones(3)).zero_()
    assert held.tolist() == [1.0, 2.0, 3.0]


def test_each_entry_of_the_jacobian_can_be_written_alone():
    J = ours.jacobian(lambda x: x.sum(), torch.ones(3))
    J[0] = 5.0
    assert J.tolist() == [5.0, 1.0, 1.0]


@pytest.mark.parametrize("modifier", [{}, {"vectorize": True}, FORWARD], ids=str)
def test_jacobian_becomes_an_array_without_detaching(modifier):
    with torch.no_grad():
        J = ours.jacobian(torch.sin, torch.zeros(2, requires_grad=True), **modifier)
    assert J.numpy().tolist() == [[1.0, 0.0], [0.0, 1.0]]


class Marked(torch.Tensor):
    """A tensor that keeps its type through every operation."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.xfail(
                name == "hessian",
                strict=True,
                reason="our Hessian of a subclass is an ordinary tensor",
            ),
        )
        for name in NAMES
    ],
)
def test_subclass_of_tensor_keeps_its_type_as_in_pytorch(name):
    def types(library):
        x = torch.tensor([1.0, 2.0]).as_subclass(Marked)
        v = () if name in ("jacobian", "hessian") else (x,)
        if name == "vjp":
            v = (torch.ones(()),)
        result = getattr(library, name)(lambda x: (x**3).sum(), x, *v)
        return [type(t) for t in (result if isinstance(result, tuple) else (result,))]

    assert types(ours) == types(theirs)


@pytest.mark.parametrize("create_graph", [False, True])
def test_parameter_gives_an_ordinary_tensor(create_graph):
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    J = ours.jacobian(lambda x: x**2, x, create_graph=create_graph)
    assert type(J) is Tensor
    assert J.requires_grad == create_graph


# --- What the call leaves alone -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_tensors_that_the_function_holds_stay_untouched(name):
    network = nn.Linear(3, 1)
    x = torch.ones(3, requires_grad=True)
    v = {"jvp": (torch.ones(3),), "vhp": (torch.ones(3),), "hvp": (torch.ones(3),)}.get(name, ())
    getattr(ours, name)(lambda x: network(x).sin(), x, *v)
    assert network.weight.grad is None
    assert network.bias.grad is None
    assert x.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_grad_mode_of_the_caller_is_restored(name):
    x = torch.ones(3)
    v = {"jvp": (x,), "vhp": (x,), "hvp": (x,)}.get(name, ())
    modes = []
    with torch.no_grad():
        getattr(ours, name)(lambda x: (x**2).sum(), x, *v)
        modes.append(torch.is_grad_enabled())
        with contextlib.suppress(ZeroDivisionError):
            getattr(ours, name)(lambda x: 1 / 0, x, *v)
        modes.append(torch.is_grad_enabled())
    assert modes == [False, False]


@pytest.mark.parametrize("name", NAMES)
def test_pytorchs_own_functions_are_not_called(name, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("torch.autograd.functional was called")

    for attribute, value in vars(theirs).items():
        if inspect.isfunction(value):
            monkeypatch.setattr(theirs, attribute, forbidden)
    x = torch.tensor([1.0, 2.0])
    v = {"jvp": (x,), "vhp": (x,), "hvp": (x,)}.get(name, ())
    result = getattr(ours, name)(lambda x: (x**3).sum(), x, *v)
    expected = {
        "jacobian": [3.0, 12.0],
        "hessian": [[6.0, 0.0], [0.0, 12.0]],
        "vjp": [3.0, 12.0],
        "jvp": 27.0,
        "vhp": [6.0, 24.0],
        "hvp": [6.0, 24.0],
    }
    got = result[1] if isinstance(result, tuple) else result
    assert got.tolist() == expected[name]


@pytest.mark.parametrize("modifier", MODIFIERS.values(), ids=MODIFIERS)
def test_reverse_mode_evaluates_the_function_once(modifier):
    calls = []

    def func(x):
        calls.append(1)
        return tall(x)

    with contextlib.suppress(RuntimeError):  # vectorize and strict: after the evaluation
        ours.jacobian(func, torch.ones(2, requires_grad=True), **modifier)
    assert len(calls) == 1


@pytest.mark.parametrize("func", [torch.sin, tall], ids=["sine", "tall"])
def test_random_numbers_are_drawn_as_by_pytorch(func):
    drawn = []
    for library in (ours, theirs):
        torch.manual_seed(0)
        J = library.jacobian(lambda x: nn.functional.dropout(func(x)), torch.ones(2))
        drawn.append((J, torch.rand(3)))
    assert_same(*drawn)


def test_forward_mode_uses_one_dropout_mask():
    x = torch.ones(6, dtype=torch.float64)
    torch.manual_seed(0)
    # Every column of the Jacobian is the mask.
    J = ours.jacobian(lambda x: nn.functional.dropout(x.sum().expand(40)), x, **FORWARD)
    assert set(J.flatten().tolist()) == {0.0, 2.0}
    assert all(J[:, k].equal(J[:, 0]) for k in range(6))


# --- Hooks -------------------------------------------------------------------------------------


def hooked(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def func(x):
        y = x**2
        y.register_hook(hook)
        return y * x.sum()

    return func


HOOKS = {
    "doubles": lambda g: 2 * g,
    "clips": lambda g: g.clamp(-1, 1),
    "clips the norm": lambda g: g / g.norm().clamp(min=1.0),
    "returns nothing": lambda g: None,
    "reads a number": lambda g: g * (2 if g.sum().item() > 0 else 1),
    "goes through numpy": lambda g: torch.from_numpy(g.detach().numpy() * 2),
    "writes in place": lambda g: g.mul_(2),
    "returns a constant": lambda g: torch.full((3,), 3.0),
    "prints": lambda g: repr(g) and None,
}


@pytest.mark.parametrize("modifier", [{}, {"create_graph": True}, {"vectorize": True}], ids=str)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hooks_act_on_every_row(hook, modifier):
    x = torch.tensor([1.0, 2.0, 3.0])
    expected = theirs.jacobian(hooked(hook), x)
    J = ours.jacobian(hooked(hook), x, **modifier)
    torch.testing.assert_close(J.detach(), expected)


def test_module_hooks_act():
    network = nn.Linear(2, 3)
    network.register_full_backward_hook(lambda module, into, out: (into[0] * 2,))
    J = ours.jacobian(network, torch.ones(2))
    torch.testing.assert_close(J, 2 * network.weight.detach())


def test_hook_on_the_users_tensor_is_not_called():
    called = []
    x = torch.ones(3, requires_grad=True)
    x.register_hook(called.append)
    ours.jacobian(torch.sin, x)
    ours.jacobian(torch.sin, x, create_graph=True)
    assert called == []


# --- Warnings ----------------------------------------------------------------------------------

QUIET = {
    "constant": lambda x: torch.ones(2),
    "input unused": lambda x: (x.detach() * 2, x),
    "value read": lambda x: x * x.sum().item(),
    "tall": tall,
    "fallback": custom(_reads_items),
    "no rule for batching": lambda x: torch.ops.aten.trace(x.outer(x)) * x,
    "squared error": lambda x: nn.functional.mse_loss(x, 2 * X, reduction="none"),
    "smooth absolute error": lambda x: nn.functional.smooth_l1_loss(x, 2 * X, reduction="none"),
    "negative log-likelihood": lambda x: nn.functional.nll_loss(
        x.repeat(2, 1), torch.tensor([0, 1]), reduction="none"
    ),
    "bilinear": lambda x: nn.functional.bilinear(x, 2 * x, torch.ones(2, 2, 2)),
    "gated": lambda x: nn.functional.glu(x.repeat(2)),
    "put": lambda x: x.put(torch.tensor([0]), x[1:] ** 2),
    "fractional pooling": lambda x: nn.functional.fractional_max_pool2d(
        x.repeat(8).reshape(1, 4, -1),
        2,
        output_size=2,
        _random_samples=torch.full((1, 1, 2), 0.3),
    ),
}


@pytest.mark.parametrize("modifier", [{}, {"vectorize": True}, FORWARD], ids=str)
@pytest.mark.parametrize("func", QUIET.values(), ids=QUIET)
def test_no_warning_leaks(func, modifier):
    x = torch.tensor([1.0, 2.0])
    expected = theirs.jacobian(func, x)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        J = ours.jacobian(func, x, **modifier)
    assert [str(warning.message) for warning in heard] == []
    assert_same(J, expected)


# --- Grad modes, nesting, other parts of PyTorch -------------------------------------------------


@pytest.mark.parametrize("made_inside", [True, False])
@pytest.mark.parametrize("modifier", [{}, {"vectorize": True}, FORWARD], ids=str)
@pytest.mark.parametrize("func", [lambda x: x**2, lambda x: (x[:, None] ** 2).repeat(1, 30)])
def test_inference_mode_gives_the_true_derivative(func, modifier, made_inside):
    x = torch.tensor([1.0, 2.0])
    expected = theirs.jacobian(func, x)
    with torch.inference_mode():
        J = ours.jacobian(func, torch.tensor([1.0, 2.0]) if made_inside else x, **modifier)
    assert J.equal(expected)
    assert not J.requires_grad


def test_inference_tensor_gives_the_true_derivative_outside():
    with torch.inference_mode():
        x = torch.tensor([1.0, 2.0])
    assert ours.jacobian(lambda x: x**2, x).tolist() == [[2.0, 0.0], [0.0, 4.0]]


@pytest.mark.parametrize("name", ["hessian", "hvp", "jvp", "vhp", "vjp"])
def test_inference_mode_gives_the_true_derivative_of_every_function(name):
    def func(x):
        return (x**3).sum()

    x = torch.tensor([1.0, 2.0])
    v = {"jvp": (x,), "vhp": (x,), "hvp": (x,)}.get(name, ())
    expected = getattr(theirs, name)(func, x, *v)
    with torch.inference_mode():
        result = getattr(ours, name)(func, x, *v)
    assert_same(result, expected)


def test_inference_mode_gives_the_true_hessian_by_forward_mode():
    with torch.inference_mode():
        x = torch.tensor([1.0, 2.0])
        H = ours.hessian(lambda x: (x**3).sum(), x, **OUTER_FORWARD)
    assert H.tolist() == [[6.0, 0.0], [0.0, 12.0]]


REVERSE_NESTINGS = [{"create_graph": True}, {"create_graph": True, "vectorize": True}]


@pytest.mark.parametrize("inner", [*REVERSE_NESTINGS, FORWARD], ids=str)
@pytest.mark.parametrize("outer", [{}, *REVERSE_NESTINGS, FORWARD], ids=str)
def test_jacobian_of_a_jacobian_is_the_second_derivative(inner, outer):
    # f = x^3 elementwise: d^2 f[i] / dx[j] dx[k] = 6 x[i] where i = j = k
    x = torch.tensor([1.0, 2.0])
    second = ours.jacobian(lambda x: ours.jacobian(lambda x: x**3, x, **inner), x, **outer)
    expected = torch.zeros(2, 2, 2)
    expected[0, 0, 0], expected[1, 1, 1] = 6.0, 12.0
    torch.testing.assert_close(second.detach(), expected)


def test_inner_jacobian_without_create_graph_is_constant_as_in_pytorch():
    x = torch.tensor([1.0, 2.0])

    def call(library):
        return library.jacobian(lambda x: library.jacobian(lambda x: x**3, x), x)

    assert_same(call(ours), call(theirs))


def test_three_jacobians_deep_is_the_third_derivative():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def call(library):
        def first(x):
            return library.jacobian(lambda x: x**4 * x.sum(), x, create_graph=True)

        def second(x):
            return library.jacobian(first, x, create_graph=True)

        return library.jacobian(second, x)

    assert_same(call(ours), call(theirs))


def test_hessian_of_a_hessian_is_that_of_pytorch():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def call(library):
        def inner(x):
            return library.hessian(lambda x: x.prod() ** 3, x, create_graph=True).sum()

        return library.hessian(inner, x)

    assert_same(call(ours), call(theirs))


@pytest.mark.parametrize("create_graph", [False, True])
def test_tensor_that_the_function_holds_is_a_constant(create_graph):
    """The function may hold the very tensor: only its argument is differentiated."""

    def call(library):
        x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        J = library.jacobian(lambda y: y**2 * x, x, create_graph=create_graph)
        return J, twice_differentiated(J, [x])

    assert_same(call(ours), call(theirs))


def test_graph_of_the_inputs_is_followed_with_create_graph():
    def call(library):
        w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        J = library.jacobian(lambda x, y: (x * y, (x**2).sum()), (w**2, 3 * w), create_graph=True)
        return J, twice_differentiated(J, [w])

    assert_same(call(ours), call(theirs))


@pytest.mark.parametrize("create_graph", [False, True])
def test_function_that_writes_to_its_input_does_as_under_pytorch(create_graph):
    def call(library):
        w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        x = w * 1  # no leaf, so that with create_graph it may be written to
        found = outcome(
            lambda: library.jacobian(lambda x: x.mul_(2) * x, x, create_graph=create_graph)
        )
        return found, x

    (ours_say, our_x), (theirs_say, their_x) = call(ours), call(theirs)
    assert_same_outcome(ours_say, theirs_say)
    assert_same(our_x, their_x)


def test_one_tensor_may_stand_for_two_inputs():
    x = torch.tensor([1.0, 2.0])
    J = ours.jacobian(lambda x, y: x**2 * y, (x, x))
    assert J[0].tolist() == [[2.0, 0.0], [0.0, 8.0]]
    assert J[1].tolist() == [[1.0, 0.0], [0.0, 4.0]]


def test_named_tuple_counts_as_a_tuple():
    class Point(NamedTuple):
        x: Tensor
        y: Tensor

    def call(library):
        return library.jacobian(lambda x, y: Point(x * y, x), Point(X, Y))

    assert_same(call(ours), call(theirs))


def test_module_and_partial_are_functions():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    assert_same(ours.jacobian(network, X), theirs.jacobian(network, X))
    bound = functools.partial(torch.mul, other=Y)
    assert_same(ours.jacobian(bound, X), theirs.jacobian(bound, X))


def test_two_libraries_nest_in_each_other():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    expected = theirs.jacobian(lambda x: theirs.jacobian(torch.sin, x, create_graph=True), x)
    for outer, inner in ((ours, theirs), (theirs, ours)):
        got = outer.jacobian(lambda x: inner.jacobian(torch.sin, x, create_graph=True), x)  # noqa: B023
        assert_same(got, expected)


@pytest.mark.parametrize("modifier", [{}, {"vectorize": True}, FORWARD], ids=str)
def test_vmap_of_jacobian_is_the_jacobian_of_each_sample(modifier):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    J = torch.func.vmap(lambda x: ours.jacobian(lambda x: x**2, x, **modifier))(x)
    assert J.tolist() == [[[2.0, 0.0], [0.0, 4.0]], [[6.0, 0.0], [0.0, 8.0]]]


@pytest.mark.parametrize("modifier", [{"create_graph": True}, FORWARD], ids=str)
@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobian_is_differentiable_by_transforms(transform, modifier):
    x = torch.tensor([1.0, 2.0])
    second = transform(lambda x: ours.jacobian(lambda x: x**3, x, **modifier))(x)
    assert second.tolist() == [[[6.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 12.0]]]


def test_dual_numbers_of_the_caller_give_the_same_as_pytorch():
    x = torch.tensor([1.0, 2.0])

    def call(library):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones(2))
            return forward_ad.unpack_dual(library.jacobian(lambda x: x**3, dual)).primal

    assert_same(call(ours), call(theirs))


@pytest.mark.parametrize("func", [lambda x: x.sin() ** 2, tall], ids=["square", "tall"])
@pytest.mark.parametrize("modifier", [{}, {"create_graph": True}, {"vectorize": True}], ids=str)
def test_checkpointed_function_gives_the_same(func, modifier):
    x = torch.tensor([1.0, 2.0])
    J = ours.jacobian(lambda x: checkpoint(func, x, use_reentrant=False) * 2, x, **modifier)
    torch.testing.assert_close(J.detach(), 2 * theirs.jacobian(func, x))


def test_reentrant_checkpoint_is_refused_as_by_pytorch():
    def call(library):
        return lambda: library.jacobian(
            lambda x: checkpoint(torch.sin, x, use_reentrant=True), torch.ones(2)
        )

    theirs_say = outcome(call(theirs))
    assert theirs_say.error is not None
    assert_same_outcome(outcome(call(ours)), theirs_say)


def test_anomaly_mode_reports_the_first_bad_backward_pass():
    def call(library):
        with torch.autograd.set_detect_anomaly(True):
            return library.jacobian(torch.sqrt, torch.tensor([0.0, 1.0]))

    theirs_say = outcome(lambda: call(theirs), warn="ignore")
    assert "returned nan values" in str(theirs_say.error)
    assert_same_outcome(outcome(lambda: call(ours), warn="ignore"), theirs_say)


def test_results_feed_an_optimiser_through_create_graph():
    """A gradient penalty, as in training code: one step equals one with PyTorch's function."""

    def stepped(library):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        x = torch.linspace(-1, 1, 3, dtype=torch.float64)
        J = library.jacobian(network, x, create_graph=True)
        (J**2).sum().backward()
        return [p.grad for p in network.parameters()]

    assert_same(stepped(ours), stepped(theirs))


def test_nested_lists_of_pytorch_in_forward_mode_hold_the_same_blocks():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor(3.0)

    def call(library):
        return library.jacobian(lambda x, y: (x * y, x.sum() + y), (x, y), **FORWARD)

    assert_same(call(ours), tuples_for_lists(call(theirs)))


COMPILED = {
    "jacobian": ("jacobian", lambda x: x.sin() * x.sum(), {}),
    "tall jacobian": ("jacobian", tall, {}),
    "vectorized jacobian": ("jacobian", lambda x: x.sin() * x.sum(), {"vectorize": True}),
    "forward jacobian": ("jacobian", lambda x: x.sin() * x.sum(), FORWARD),
    "hessian": ("hessian", lambda x: (x**3).sum() * x.sum(), {}),
    "vjp": ("vjp", lambda x: (x**3).sum(), {}),
}


class Untraceable(Exception):
    """The compiler gave up; wrong numbers are another matter."""


untraceable = pytest.mark.xfail(
    strict=True,
    raises=Untraceable,
    reason="torch.compile cannot trace the batched passes yet",
)
COMPILED_CALLS = {(call, backend): () for call in COMPILED for backend in ("eager", "aot_eager")}
for refused in (
    ("jacobian", "aot_eager"),
    ("tall jacobian", "aot_eager"),
    ("vectorized jacobian", "aot_eager"),
    ("hessian", "eager"),
):
    COMPILED_CALLS[refused] = untraceable


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "backend"),
    [pytest.param(*case, marks=marks, id="-".join(case)) for case, marks in COMPILED_CALLS.items()],
)
def test_call_inside_of_compiled_code_gives_the_same(call, backend):
    name, func, modifier = COMPILED[call]
    torch._dynamo.reset()
    x = torch.tensor([1.0, 2.0])
    compiled = torch.compile(lambda x: getattr(ours, name)(func, x, **modifier), backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, on what it breaks its graph at
        try:
            got = compiled(x)
        except Exception as error:
            raise Untraceable from error
    assert_same(got, getattr(theirs, name)(func, x, **modifier))
