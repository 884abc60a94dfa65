"""Every error and warning says which argument, what was expected, what came, and what to do."""

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from tests._api.refused import REFUSED as NO_PRODUCT
from tests._coloring.refused import REFUSED as NO_COLORING
from tests._evaluate.chain.refused import REFUSED as NO_CHAIN
from tests._pattern.refused import REFUSED as NO_PATTERN
from tests._planner.refused import NOT_EMITTED, notes_of_programs
from tests._planner.refused import REFUSED as NO_PLAN
from tests.mistaken import WrongJvp, WronglyBatched
from torchjac import errors, functional
from torchjac import func as transforms
from torchjac._evaluate import strict
from torchjac.testing import scenario

ROOT = Path(torchjac.__file__).parent

jacobian, batch_jacobian, jacobian_of = (
    torchjac.jacobian,
    torchjac.batch_jacobian,
    torchjac.jacobian_of,
)
FORWARD = "forward-mode"


class Unbatchable(torch.autograd.Function):
    """x -> x^2 whose backward pass takes one seed at a time, and has no forward rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        g.sum().item()
        return g * 2 * ctx.saved_tensors[0]


class Deaf(torch.autograd.Function):
    """x -> 2 x whose backward pass autograd cannot look into."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g.detach() * 2


class HidingCotangent(torch.autograd.Function):
    """x -> x^2 whose backward pass autograd can follow to x, not to its cotangent."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return g.detach() * 2 * ctx.saved_tensors[0]


class NotLinear(torch.autograd.Function):
    """x -> x^2 whose backward pass has another derivative by its cotangent than itself."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return (2 * g - g.detach()) * 2 * ctx.saved_tensors[0]


WEIGHT = torch.ones(2, requires_grad=True)


def x2() -> torch.Tensor:
    return torch.tensor([1.0, 2.0])


def x23() -> torch.Tensor:
    return torch.arange(1.0, 7.0).reshape(2, 3)


def leaf() -> torch.Tensor:
    return x2().requires_grad_()


def square(x):
    return x**2


def product(x, y):
    return x * y


def cube_sum(x):
    return (x**3).sum()


def first_only(x, y):
    return x**2


def linear_in_y(x, y):
    return (x**3).sum() + (y * WEIGHT).sum()


def holding():
    x = x2()
    return jacobian(lambda y: y * x, x)


def growing() -> Callable[[torch.Tensor], torch.Tensor]:
    calls = []

    def func(x):
        calls.append(1)
        return x.repeat(len(calls))

    return func


def drifting() -> Callable[[torch.Tensor], torch.Tensor]:
    calls = []

    def func(x):
        calls.append(1)
        return x * len(calls)

    return func


def freed_graph():
    x = leaf()
    y = x**2
    y.sum().backward()
    return jacobian_of(y, x)


def unused_input():
    x, z = leaf(), leaf()
    return jacobian_of(x**2, (x, z))


def unbatchable_output():
    x = leaf()
    return jacobian_of(Unbatchable.apply(x), x)


def without_rich():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "rich.progress", None)
        return jacobian(square, x2(), progress=True)


def without_autograd():
    """Autograd switched off below what Python sees of it."""
    with torch._C._AutoDispatchBelowAutograd():
        return jacobian(square, x2())


def strict_inside_grad():
    return torch.func.grad(lambda x: jacobian(square, x, strict=True).sum())(x2())


def fixed_rows(x):
    return Unbatchable.apply(x)[:2]


def hungry():
    x = torch.ones(3_000_000)
    return jacobian(
        lambda x: torch.stack([(k * x).sin().sum() for k in range(6)]), x, memory=73_000_000
    )


class Case(NamedTuple):
    """A call, what it raises or warns of, and words of the message in their order."""

    call: Callable[[], object]
    kind: type[Exception]
    words: tuple[str, ...]


CASES = {
    # The call
    "func": Case(
        lambda: jacobian(x2(), x2()),
        errors.ArgumentTypeError,
        ("jacobian: `func` must be callable", "function or module", "Tensor", "jacobian_of"),
    ),
    "strategy": Case(
        lambda: jacobian(square, x2(), strategy="sideways"),
        errors.ArgumentError,
        ("jacobian: `strategy`", "'auto', 'reverse-mode', 'forward-mode'", "got 'sideways'"),
    ),
    "vectorize": Case(
        lambda: torchjac.value_and_jacobian(square, x2(), vectorize="yes"),
        errors.ArgumentError,
        ("value_and_jacobian: `vectorize`", "None, True, False", "got 'yes'"),
    ),
    "outer_jacobian_strategy": Case(
        lambda: torchjac.hessian(cube_sum, x2(), outer_jacobian_strategy="sideways"),
        errors.ArgumentError,
        ("hessian: `outer_jacobian_strategy`", "'forward-mode'", "got 'sideways'"),
    ),
    "chunk_size": Case(
        lambda: jacobian(square, x2(), chunk_size=0),
        errors.ArgumentError,
        ("jacobian: `chunk_size`", "positive integer or None", "got 0"),
    ),
    "memory": Case(
        lambda: jacobian(square, x2(), memory=1.5),
        errors.ArgumentError,
        ("jacobian: `memory`", "bytes (positive int)", "fraction", "(0, 1]", "got 1.5"),
    ),
    "layout without an engine": Case(
        lambda: jacobian(square, x2(), layout=torch.sparse_bsc),
        errors.LayoutError,
        ("jacobian: `layout` must be one of torch.strided", "got torch.sparse_bsc"),
    ),
    "layout of another type": Case(
        lambda: jacobian(square, x2(), layout="csr"),
        errors.ArgumentTypeError,
        ("jacobian: `layout`", "torch.layout, one of torch.strided", "got 'csr'"),
    ),
    "progress without rich": Case(
        without_rich,
        errors.MissingExtraError,
        ("progress=True", "`rich`", "pip install 'torchjac[rich]'"),
    ),
    "has_aux": Case(
        lambda: jacobian(square, x2(), has_aux=True),
        errors.ArgumentTypeError,
        ("jacobian: has_aux=True", "`func`", "pair (output, aux)", "got", "Tensor"),
    ),
    # Inputs
    "input that is no tensor": Case(
        lambda: jacobian(product, (x2(), 3.0)),
        errors.ArgumentTypeError,
        ("jacobian: input 1 must be a Tensor", "floating-point", "float", "`wrt=`", "partial"),
    ),
    "input in a tree that is no tensor": Case(
        lambda: jacobian(lambda p: p["a"][0], {"a": [x2(), None]}),
        errors.ArgumentTypeError,
        ("jacobian: input a.1 must be a Tensor", "NoneType", "`wrt=`"),
    ),
    "inputs that are no tensor": Case(
        lambda: jacobian(square, 3.0),
        errors.ArgumentTypeError,
        ("jacobian: `inputs` must be a Tensor", "float"),
    ),
    "integer input": Case(
        lambda: jacobian(product, (x2(), torch.tensor([1, 2]))),
        errors.ArgumentTypeError,
        ("jacobian: input 1 has dtype torch.int64", "floating-point", "`.double()`", "`wrt=`"),
    ),
    "complex input": Case(
        lambda: jacobian(square, x2() * 1j),
        errors.ArgumentTypeError,
        (
            "jacobian: `inputs` is complex (torch.complex64)",
            "holomorphic=True",
            "torch.view_as_real(func(torch.view_as_complex(r)))",
            "torch.view_as_real(x)",
        ),
    ),
    "real input of a holomorphic function": Case(
        lambda: jacobian(square, x2(), holomorphic=True),
        errors.ArgumentTypeError,
        ("jacobian: `inputs` has dtype torch.float32", "holomorphic=True expects complex inputs"),
    ),
    "inputs without leaves": Case(
        lambda: jacobian(square, {}),
        errors.ArgumentError,
        ("jacobian: `inputs` holds no tensor to differentiate", "got {}"),
    ),
    # wrt
    "wrt of another type": Case(
        lambda: jacobian(product, (x2(), x2()), wrt=1.5),
        errors.ArgumentTypeError,
        ("jacobian: `wrt`", "number, a name, a path", "nn.Module", "got 1.5"),
    ),
    "wrt empty": Case(
        lambda: jacobian(product, (x2(), x2()), wrt=()),
        errors.ArgumentError,
        ("jacobian: `wrt`", "at least one input", "got ()"),
    ),
    "wrt twice": Case(
        lambda: jacobian(product, (x2(), x2()), wrt=(0, "x")),
        errors.ArgumentError,
        ("jacobian: `wrt` names 'x' more than once", "(0, 'x')"),
    ),
    "wrt out of range": Case(
        lambda: jacobian(product, (x2(), x2()), wrt=2),
        errors.ArgumentError,
        ("jacobian: `wrt` names argument 2", "but there are 2"),
    ),
    "wrt unknown": Case(
        lambda: jacobian(lambda p, y: p["w"] * y, ({"w": x2()}, x2()), wrt="z"),
        errors.ArgumentError,
        ("jacobian: `wrt` names 'z'", "neither an argument nor a path", "p", "p.w", "y"),
    ),
    "wrt ambiguous": Case(
        lambda: jacobian(
            lambda p: p["a.b"] * p["a"]["b"], {"a.b": x2(), "a": {"b": x2()}}, wrt="a.b"
        ),
        errors.ArgumentError,
        ("jacobian: `wrt` names 'a.b'", "in 2 ways", "brackets", "['a']['b']"),
    ),
    "wrt a module without parameters": Case(
        lambda: jacobian(nn.ReLU(), x2(), wrt=nn.ReLU()),
        errors.ArgumentError,
        ("jacobian: `wrt` is a module without parameters", "ReLU()"),
    ),
    # Outputs
    "output that is no tensor": Case(
        lambda: jacobian(lambda x: 3.0, x2()),
        errors.ArgumentTypeError,
        ("jacobian: output 0 of `func` must be a Tensor", "got", "float", "has_aux=True"),
    ),
    "integer output": Case(
        lambda: jacobian(lambda x: x.argmax(), x2()),
        errors.ArgumentTypeError,
        ("jacobian: the output of `func` has dtype torch.int64", "no derivative", "has_aux=True"),
    ),
    "integer output in a tree": Case(
        lambda: jacobian(lambda x: (x, x.argmax()), x2()),
        errors.ArgumentTypeError,
        ("jacobian: output 1 of `func` has dtype torch.int64", "has_aux=True"),
    ),
    "complex output": Case(
        lambda: jacobian(torch.fft.fft, x2()),
        errors.ArgumentTypeError,
        (
            "jacobian: the output of `func` is complex (torch.complex64)",
            "torch.view_as_real(output)",
            "holomorphic=True",
        ),
    ),
    "real output of a holomorphic function": Case(
        lambda: jacobian(torch.abs, x2() * 1j, holomorphic=True),
        errors.ArgumentTypeError,
        (
            "jacobian: the output of `func` has dtype torch.float32",
            "not holomorphic unless it is constant",
            "real pair",
        ),
    ),
    "shapes that change": Case(
        lambda: jacobian(growing(), x2(), strategy=FORWARD),
        errors.ChangedShapeError,
        (
            "jacobian: `func` returned shapes [(4,)]",
            "evaluated again, after [(2,)]",
            'strategy="reverse-mode"',
        ),
    ),
    "values that change": Case(
        lambda: jacobian(drifting(), x2(), strategy=FORWARD),
        errors.ChangedFunctionError,
        (
            "jacobian: output 0 of `func` had other values when it was evaluated again",
            "random numbers",
            'strategy="reverse-mode"',
        ),
    ),
    "autograd is off": Case(
        without_autograd,
        errors.AutogradOffError,
        ("autograd is off in this thread", "requires none", "torch.compile", "another thread"),
    ),
    # Strict mode
    "strict: no gradients": Case(
        lambda: jacobian(lambda x: (x, x.detach()), x2(), strict=True),
        errors.StrictError,
        ("Output 1 of the user-provided function does not require gradients", "differentiable"),
    ),
    "strict: independent": Case(
        lambda: jacobian(first_only, (x2(), x2()), strict=True),
        errors.StrictError,
        ("Output 0 of the user-provided function is independent of input 1", "strict mode"),
    ),
    "strict: constant": Case(
        lambda: jacobian(lambda x: 2 * x, x2(), create_graph=True, strict=True),
        errors.StrictError,
        ("The jacobian of the user-provided function is independent of input 0", "create_graph"),
    ),
    "strict: no output": Case(
        lambda: functional.vjp(first_only, (x2(), x2()), x2(), strict=True),
        errors.StrictError,
        ("The output of the user-provided function is independent of input 1", "strict mode"),
    ),
    "strict: no gradient of the gradient": Case(
        lambda: torchjac.hessian(lambda x: x.sum(), x2(), strict=True),
        errors.StrictError,
        ("While computing the hessian", "jacobian", "respect to input 0", "twice differentiable"),
    ),
    "strict: no path from the gradient": Case(
        lambda: functional.jvp(Deaf.apply, x2(), x2(), strict=True),
        errors.StrictError,
        ("The gradient with respect to input 0 is independent of the inputs", "strict mode"),
    ),
    "strict: no path to an output": Case(
        lambda: functional.jvp(lambda x: (x**2, WEIGHT * 1), x2(), x2(), strict=True),
        errors.StrictError,
        ("independent of entry 1 in the grad_outputs", "strict mode"),
    ),
    "strict: no path from the jacobian": Case(
        lambda: functional.vhp(linear_in_y, (x2(), x2()), (x2(), x2()), strict=True),
        errors.StrictError,
        ("The jacobian of the user-provided function is independent of input 1", "strict mode"),
    ),
    "strict: no path from the hessian": Case(
        lambda: functional.hvp(linear_in_y, (x2(), x2()), (x2(), x2()), strict=True),
        errors.StrictError,
        ("The hessian", "independent of entry 1 in the grad_jacobian", "strict mode"),
    ),
    "strict in a transform": Case(
        strict_inside_grad,
        errors.ArgumentError,
        ("jacobian: `strict=True`", "torch.func transform", "strict=False"),
    ),
    # Memory
    "result larger than the budget": Case(
        lambda: jacobian(lambda x: x * 2, torch.ones(5000), memory=2**20),
        errors.MemoryBudgetError,
        (
            "jacobian: the Jacobian needs 95.37 MiB",
            "budget of 1.00 MiB",
            "`memory=`",
            "`wrt=`",
            "`batch_jacobian`",
            "jvp",
        ),
    ),
    "one seed larger than the budget": Case(
        hungry,
        errors.MemoryBudgetWarning,
        ("jacobian: one seed needs", "MiB", "`memory=` leaves", "Checkpoint", "raise `memory=`"),
    ),
    # Warnings
    "held input": Case(
        holding,
        errors.ClosureWarning,
        ("jacobian: `func` holds the tensor", "as x", "constant", "x.detach().clone()"),
    ),
    "hidden value": Case(
        lambda: jacobian(lambda x: x * x[0].item(), x2()),
        errors.HiddenValueWarning,
        (
            "jacobian: `.item()`",
            "depends on the inputs",
            "constant",
            "Keep it a tensor",
            "detach()",
        ),
    ),
    "constant output": Case(
        lambda: jacobian(lambda x: x.detach(), x2()),
        errors.IndependenceWarning,
        ("jacobian: output 0 of `func` carries no derivative", "zero", "strict=True", "aux"),
    ),
    "fallback": Case(
        lambda: jacobian(Unbatchable.apply, x2()),
        errors.FallbackWarning,
        ("jacobian: computed by reverse-mode/loop", "reverse-mode/vmap: vmap"),
    ),
    "fallback: a backward pass that hides its cotangent": Case(
        lambda: jacobian(HidingCotangent.apply, x2(), strategy=FORWARD),
        errors.FallbackWarning,
        (
            "jacobian: computed by reverse-mode",
            "double-backward/vmap: the backward pass cannot be differentiated itself",
            "double-backward/loop: the backward pass cannot be differentiated itself",
        ),
    ),
    "fallback: a backward pass that is not linear": Case(
        lambda: jacobian(NotLinear.apply, x2(), strategy=FORWARD),
        errors.FallbackWarning,
        (
            "jacobian: computed by reverse-mode",
            "double-backward/vmap: the derivative of the backward pass is not the Jacobian",
        ),
    ),
    "fallback: a batching rule that is wrong": Case(
        lambda: jacobian(lambda x: torch.cdist(x, x23() + 1), x23(), strategy="reverse-mode"),
        errors.FallbackWarning,
        (
            "jacobian: computed by reverse-mode/loop",
            "reverse-mode/vmap: the batching rule of CdistBackward0 gives wrong numbers",
        ),
    ),
    "fallback: a batched backward pass whose derivative is wrong": Case(
        lambda: jacobian(lambda x: x * torch.det(x.view(1, 2).T @ x.view(1, 2)), x2(), True),
        errors.FallbackWarning,
        (
            "jacobian: computed by reverse-mode/loop",
            "reverse-mode/vmap: the batching rule of LinalgDetBackward0 gives wrong numbers",
        ),
    ),
    "disagreement": Case(
        lambda: jacobian(lambda x: WrongJvp.apply(x).repeat(20), x2()),
        errors.DisagreementWarning,
        ("jacobian: forward and reverse mode disagree", "reverse mode", "`torchjac.check`"),
    ),
    "disagreement of batched passes": Case(
        lambda: jacobian(WronglyBatched.apply, x2()),
        errors.DisagreementWarning,
        ("jacobian: batched backward passes disagree", "single ones", "autograd.Function"),
    ),
    # batch_jacobian
    "batch: module": Case(
        lambda: batch_jacobian(nn.Linear(3, 1), x23(), wrt=nn.Linear(3, 1)),
        errors.ArgumentTypeError,
        ("batch_jacobian: `wrt` cannot be a module", "axis of samples", "torch.func.vmap"),
    ),
    "batch: in_dim": Case(
        lambda: batch_jacobian(square, x23(), in_dim=-1),
        errors.ArgumentError,
        ("batch_jacobian: `in_dim`", "axis number 0, 1, ...", "got -1"),
    ),
    "batch: out_dim": Case(
        lambda: batch_jacobian(square, x23(), out_dim=True),
        errors.ArgumentError,
        ("batch_jacobian: `out_dim`", "axis number 0, 1, ...", "got True"),
    ),
    "batch: axes": Case(
        lambda: batch_jacobian(square, x23(), axes=(0, 0, 1)),
        errors.ArgumentError,
        ("batch_jacobian: `axes`", "permutation of the 3 axes", "(2, 3, 3)", "got (0, 0, 1)"),
    ),
    "batch: no such axis": Case(
        lambda: batch_jacobian(square, x2(), in_dim=1),
        errors.ShapeError,
        ("batch_jacobian: input 0 has no axis in_dim=1", "samples along it", "got shape (2,)"),
    ),
    "batch: another number of samples": Case(
        lambda: batch_jacobian(lambda x: x[:1], x23()),
        errors.ShapeError,
        ("batch_jacobian: output 0 has 1 samples", "axis out_dim=0", "expected 2", "(1, 3)"),
    ),
    "batch: mixed": Case(
        lambda: batch_jacobian(lambda x: x * x.sum(0), x23()),
        errors.MixedSamplesError,
        (
            "batch_jacobian: the samples are not independent",
            "output 0 of sample 0 depends on input 0 of sample 1",
            "reduction",
            "`in_dim` or `out_dim`",
            "`torchjac.jacobian`",
        ),
    ),
    "batch: mixed by batch norm": Case(
        lambda: batch_jacobian(nn.Sequential(nn.BatchNorm1d(3)), x23()),
        errors.MixedSamplesError,
        ("batch_jacobian: the samples", "batch normalisation in training mode (0)", ".eval()"),
    ),
    "batch: mixed by batch norm without statistics": Case(
        lambda: batch_jacobian(
            nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval(), x23()
        ),
        errors.MixedSamplesError,
        ("batch normalisation without running statistics (0)", "track_running_stats=True"),
    ),
    "batch: fixed rows": Case(
        lambda: batch_jacobian(fixed_rows, x23()),
        errors.FallbackWarning,
        (
            "batch_jacobian: computed by reverse-mode/loop",
            "reverse-mode/replicated batch: the function needs a batch of this size",
        ),
    ),
    "batch: copies treated differently": Case(
        lambda: batch_jacobian(lambda x: Unbatchable.apply(x) * len(x), x23()),
        errors.FallbackWarning,
        (
            "batch_jacobian: computed by reverse-mode/loop",
            "reverse-mode/replicated batch: copies of the batch are treated differently",
        ),
    ),
    "batch: in a transform": Case(
        lambda: torch.func.grad(lambda x: batch_jacobian(square, x).sum())(x23()),
        errors.ArgumentError,
        ("batch_jacobian: ", "mixing samples", "torch.func transform", "`torchjac.jacobian`"),
    ),
    # jacobian_of
    "of: nothing": Case(
        lambda: jacobian_of([], leaf()),
        errors.ArgumentError,
        ("jacobian_of: `outputs` holds no tensor",),
    ),
    "of: no tensor": Case(
        lambda: jacobian_of([leaf() * 2, 3.0], leaf()),
        errors.ArgumentTypeError,
        ("jacobian_of: `outputs` 1 must be a floating-point Tensor", "got", "float"),
    ),
    "of: no gradients": Case(
        lambda: jacobian_of(leaf() * 2, x2()),
        errors.ArgumentError,
        ("jacobian_of: input 0 does not require gradients", ".requires_grad_()"),
    ),
    "of: no graph": Case(
        lambda: jacobian_of(x2(), leaf()),
        errors.ArgumentError,
        ("jacobian_of: no output has a graph", "no_grad", "detached", "`torchjac.jacobian`"),
    ),
    "of: freed": Case(
        freed_graph,
        errors.ArgumentError,
        ("jacobian_of: the graph of `outputs` was freed", "retain_graph=True"),
    ),
    "of: unused": Case(
        unused_input,
        errors.IndependenceWarning,
        ("jacobian_of: input 1 is not in the graph", "zero", "very tensor", "strict=True"),
    ),
    "of: fallback": Case(
        unbatchable_output,
        errors.FallbackWarning,
        ("jacobian_of: computed by reverse-mode/loop", "reverse-mode/vmap"),
    ),
    # Scalar functions and calculus
    "hessian of a vector": Case(
        lambda: torchjac.hessian(square, x2()),
        errors.ShapeError,
        ("hessian: `func` must return one tensor with one element", "[(2,)]", ".sum()"),
    ),
    "gradient of several": Case(
        lambda: torchjac.gradient(lambda x: (x[0], x[1]), x2()),
        errors.ShapeError,
        ("gradient: `func` must return one", "[(), ()]", "`torchjac.jacobian`"),
    ),
    "calculus: inputs": Case(
        lambda: torchjac.trace(square, (x2(),)),
        errors.ArgumentTypeError,
        ("trace: `inputs` must be one Tensor", "got", "tuple"),
    ),
    "calculus: batch_dim": Case(
        lambda: torchjac.divergence(square, x23(), batch_dim=-1),
        errors.ArgumentError,
        ("divergence: `batch_dim`", "None or an axis number", "got -1"),
    ),
    "calculus: no such axis": Case(
        lambda: torchjac.divergence(square, x2(), batch_dim=1),
        errors.ShapeError,
        ("divergence: `inputs` has no axis batch_dim=1", "(2,)"),
    ),
    "calculus: mixed": Case(
        lambda: torchjac.divergence(lambda x: x * x.sum(0), x23(), batch_dim=0),
        errors.MixedSamplesError,
        (
            "divergence: the samples are not independent",
            "output 0 of sample 0 depends on input 0 of sample 1",
            "`batch_dim`",
            "`torchjac.jacobian`",
        ),
    ),
    "calculus: in a transform": Case(
        lambda: torch.func.grad(lambda x: torchjac.divergence(square, x, batch_dim=0).sum())(x23()),
        errors.ArgumentError,
        ("divergence: a batch cannot be checked", "torch.func transform", "`batch_dim`"),
    ),
    "diagonal: shape": Case(
        lambda: torchjac.diagonal(lambda x: x[:1], x2()),
        errors.ShapeError,
        ("diagonal: `func` must return one tensor with the shape of its input", "(2,)", "(1,)"),
    ),
    "diagonal: fallback": Case(
        lambda: torchjac.diagonal(Unbatchable.apply, x2()),
        errors.FallbackWarning,
        ("diagonal: computed by reverse-mode/loop",),
    ),
    "curl: point": Case(
        lambda: torchjac.curl(square, torch.ones(4)),
        errors.ShapeError,
        ("curl: a point must have shape (3,) or (2,), got (4,)", "batch_dim=None"),
    ),
    "curl: output": Case(
        lambda: torchjac.curl(lambda x: x[:1], torch.ones(3)),
        errors.ShapeError,
        ("curl: `func` must return one tensor with the shape of its input", "(3,)"),
    ),
    "laplacian: several outputs": Case(
        lambda: torchjac.laplacian(lambda x: (x.sum(), x.prod()), x2()),
        errors.ShapeError,
        ("laplacian: `func` must return one tensor", "got 2"),
    ),
    "laplacian: fallback": Case(
        lambda: torchjac.laplacian(lambda x: Unbatchable.apply(x) ** 2, x2()),
        errors.FallbackWarning,
        ("laplacian: computed by reverse-mode/loop",),
    ),
    # finite_difference
    "difference: method": Case(
        lambda: torchjac.finite_difference(square, x2(), method="backward"),
        errors.ArgumentError,
        ("finite_difference: `method`", "'forward', 'central', 'complex'", "got 'backward'"),
    ),
    "difference: step": Case(
        lambda: torchjac.finite_difference(square, x2(), step=-1.0),
        errors.ArgumentError,
        ("finite_difference: `step`", "positive number or None", "got -1.0"),
    ),
    "difference: step that vanishes": Case(
        lambda: torchjac.finite_difference(square, x2(), step=1e-20),
        errors.ArgumentError,
        (
            "finite_difference: `step` 1e-20 vanishes",
            "large as 2.0",
            "torch.float32",
            "Leave it out",
        ),
    ),
    "difference: output": Case(
        lambda: torchjac.finite_difference(lambda x: "text", np.ones(2)),
        errors.ArgumentTypeError,
        ("finite_difference: output 0 of `func`", "Tensor, array or number", "got", "str"),
    ),
    "difference: shapes": Case(
        lambda: torchjac.finite_difference(growing(), x2()),
        errors.ChangedShapeError,
        ("finite_difference: `func` returned shapes", "neighbouring point", "[(2,)]"),
    ),
    "difference: complex step": Case(
        lambda: torchjac.finite_difference(torch.abs, x2(), method="complex"),
        errors.ArgumentTypeError,
        ('finite_difference: method="complex"', "output 0", "torch.float32", 'method="central"'),
    ),
    "difference: complex step of a complex function": Case(
        lambda: torchjac.finite_difference(lambda x: x * 1j, x2(), method="complex"),
        errors.ArgumentTypeError,
        (
            'finite_difference: method="complex" needs a function that is real at real points',
            "output 0 is torch.complex64",
            "torch.view_as_real",
            'method="central"',
        ),
    ),
    # The drop-ins, in PyTorch's words
    "functional: type": Case(
        lambda: functional.jacobian(square, [x2()]),
        errors.ArgumentTypeError,
        ("The inputs given to jacobian must be either a Tensor or a tuple", "type", "list"),
    ),
    "functional: type in a tuple": Case(
        lambda: functional.jacobian(product, (x2(), 3.0)),
        errors.ArgumentTypeError,
        ("The inputs given to jacobian", "value at index 1 has type", "float"),
    ),
    "functional: v left out": Case(
        lambda: functional.vjp(square, x2()),
        errors.ShapeError,
        ("The vector v can only be None", "single element"),
    ),
    "functional: v a tuple": Case(
        lambda: functional.jvp(square, x2(), (x2(), x2())),
        errors.ShapeError,
        ("The given v should contain a single Tensor",),
    ),
    "functional: v of another length": Case(
        lambda: functional.jvp(product, (x2(), x2()), (x2(),)),
        errors.ShapeError,
        ("v is a tuple of invalid length", "should be 2 but got 1"),
    ),
    "functional: v of another size": Case(
        lambda: functional.jvp(product, (x2(), x2()), (x2(), torch.ones(3))),
        errors.ShapeError,
        ("Entry 1 in v has invalid size", "torch.Size([2])", "torch.Size([3])"),
    ),
    "functional: strategy": Case(
        lambda: functional.jacobian(square, x2(), strategy="sideways"),
        AssertionError,
        ('either "forward-mode" or "reverse-mode"', "Hint", "more outputs than inputs"),
    ),
    "functional: outer strategy": Case(
        lambda: functional.hessian(cube_sum, x2(), outer_jacobian_strategy="sideways"),
        AssertionError,
        ('Expected strategy to be either "forward-mode" or "reverse-mode"',),
    ),
    "functional: forward with create_graph": Case(
        lambda: functional.jacobian(square, x2(), create_graph=True, strategy=FORWARD),
        NotImplementedError,
        ("`create_graph=True`", "not supported together", "`create_graph=False`"),
    ),
    "functional: forward with strict": Case(
        lambda: functional.jacobian(square, x2(), strict=True, strategy=FORWARD),
        RuntimeError,
        ("`strict=True`", "not supported together", "`strict=False`"),
    ),
    "functional: forward without vectorize": Case(
        lambda: functional.jacobian(square, x2(), strategy=FORWARD),
        NotImplementedError,
        ("only implemented for `vectorize=True`",),
    ),
    "functional: vectorize with strict": Case(
        lambda: functional.jacobian(square, x2(), strict=True, vectorize=True),
        RuntimeError,
        ("`strict=True`", "`vectorized=True`", "`vectorize=False`"),
    ),
    "functional: complex output": Case(
        lambda: functional.jacobian(lambda x: x * 1j, x2()),
        errors.ArgumentTypeError,
        ("grad can be implicitly created only for real scalar outputs", "torch.complex64"),
    ),
    "functional: forward of integers": Case(
        lambda: functional.jacobian(square, torch.tensor([1, 2]), strategy=FORWARD, vectorize=True),
        errors.ArgumentError,
        ("Expected primal to be floating point or complex", "torch.int64"),
    ),
    "functional: hessian of a tuple": Case(
        lambda: functional.hessian(lambda x: (x.sum(),), x2()),
        errors.ShapeError,
        ("The function given to hessian should return a single Tensor",),
    ),
    "functional: hessian of a vector": Case(
        lambda: functional.hessian(square, x2()),
        errors.ShapeError,
        ("The Tensor returned by the function given to hessian", "single element"),
    ),
    "testing: scenario": Case(
        lambda: scenario("brusselater", 8),
        errors.ArgumentError,
        ("scenario: no family is called 'brusselater'", "did you mean 'brusselator'"),
    ),
    "func: chunk_size": Case(
        lambda: transforms.jacrev(square, chunk_size=0),
        ValueError,
        ("jacrev: `chunk_size`", "greater than 0"),
    ),
    "func: complex": Case(
        lambda: transforms.jacfwd(square)(x2() * 1j),
        RuntimeError,
        ("jacfwd: Expected all inputs to be real", "complex", "idx: 0"),
    ),
}


def pattern(words: tuple[str, ...]) -> str:
    """The words in their order, with anything between them."""
    return "(?s)" + ".*".join(re.escape(word) for word in words)


CASES |= {
    f"no pattern: {message}": Case(call, kind, (message,)) for call, kind, message in NO_PATTERN
}
CASES |= {
    f"no coloring: {message}": Case(call, kind, (message,)) for call, kind, message in NO_COLORING
}
CASES |= {f"no chain: {message}": Case(call, kind, (message,)) for call, kind, message in NO_CHAIN}
CASES |= {f"no plan: {message}": Case(call, kind, (message,)) for call, kind, message in NO_PLAN}
CASES |= {
    f"no product: {message}": Case(call, kind, (message,)) for call, kind, message in NO_PRODUCT
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::torchjac.errors.TorchjacWarning")
def test_the_message_names_the_argument_the_expected_the_given_and_the_remedy(name):
    case = CASES[name]
    if issubclass(case.kind, Warning):
        with pytest.warns(case.kind, match=pattern(case.words)):
            case.call()
    else:
        with pytest.raises(case.kind, match=pattern(case.words)) as caught:
            case.call()
        assert type(caught.value) is case.kind


@pytest.mark.parametrize(("make", "words"), NOT_EMITTED)
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_a_plan_says_why_it_has_no_program(make, words):
    assert any(re.fullmatch(words, note) for note in notes_of_programs(make()))


# Every place that raises or warns


class Template(NamedTuple):
    """A message as the source writes it."""

    place: str
    pattern: str


# What these raise reaches the caller; the engine's own NotImplementedError is what one way to
# compute says to the ladder, which tells it in a FallbackWarning, or to a plan, which prints it.
DROP_INS = ("functional.py", "func.py")
TRANSPOSED = ("transpose.py",)
PROGRAMS = ("record.py", "seeded.py")
# Messages that no call can show, and why.
INTERNAL = {
    "cannot be traced by torch.compile": "raised while tracing: slow tests of compiled calls",
    "the function was evaluated without its graph": "torchjac itself would be wrong",
    "no forward rules for columns": "needs modes that agree once, and once do not",
    "a batch is repeated along an axis": "torchjac itself would be wrong",
    "copies of the batch, expected": "the ladder hears it, and says it in words of its own",
}


def text_of(node: ast.expr) -> str:
    """A pattern of the text of an expression: literal parts, anything for the rest."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return ".*"


def messages_in_source() -> Iterator[Template]:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = ast.unparse(call.func)
            if not (isinstance(node, ast.Raise) or name == "warn"):
                continue
            text = text_of(call.args[0])
            if text.replace(".*", ""):
                is_program = path.parent.name == "direct" or path.name in PROGRAMS
                if is_program and name != "warn":
                    text = rf"(?:not possible|too large): {text}"  # a plan prints it
                elif path.name == "rerun.py":
                    text = f"no transposed program: {text}"  # a plan prints it
                elif name == "NotImplementedError" and path.name not in (*DROP_INS, *TRANSPOSED):
                    text = rf".*: computed by .*: {text}[;)].*"  # the ladder passes it on
                yield Template(f"{path.relative_to(ROOT)}:{node.lineno}", text)
    for words in (*strict.MISSING.values(), strict.CONSTANT, *strict.NO_GRADIENT.values()):
        yield Template("_evaluate/strict.py", re.sub(r"\\\{\w+\\\}", ".*", re.escape(words)))


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """Everything that the calls above say."""
    said = []
    for case in CASES.values():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                case.call()
            except Exception as error:
                said.append(str(error))
        said += [str(w.message) for w in caught]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return said + [note for make, _ in NOT_EMITTED for note in notes_of_programs(make())]


TEMPLATES = list(messages_in_source())


@pytest.mark.parametrize("place", sorted({template.place for template in TEMPLATES}))
def test_every_message_in_the_source_has_a_case(place, messages):
    here = [template.pattern for template in TEMPLATES if template.place == place]
    missing = [
        words
        for words in here
        if not any(re.fullmatch(f"(?s){words}", message) for message in messages)
        and not any(re.escape(internal) in words for internal in INTERNAL)
    ]
    assert missing == []


# The tree of classes

CLASSES = {
    errors.ArgumentError: (ValueError,),
    errors.ArgumentTypeError: (TypeError, RuntimeError),
    errors.ShapeError: (errors.ArgumentError, ValueError, RuntimeError),
    errors.ChangedFunctionError: (errors.ArgumentError, ValueError, RuntimeError),
    errors.ChangedShapeError: (
        errors.ShapeError,
        errors.ChangedFunctionError,
        ValueError,
        RuntimeError,
    ),
    errors.MixedSamplesError: (errors.ArgumentError, ValueError),
    errors.StrictError: (RuntimeError,),
    errors.AutogradOffError: (RuntimeError,),
    errors.PatternError: (RuntimeError,),
    errors.PlanMismatchError: (errors.ArgumentError, ValueError, RuntimeError),
    errors.BranchError: (RuntimeError,),
    errors.MemoryBudgetError: (MemoryError,),
    errors.LayoutError: (NotImplementedError, RuntimeError),
    errors.MissingExtraError: (ImportError,),
    errors.FileContentError: (ValueError,),
    errors.FallbackWarning: (errors.TorchjacWarning,),
    errors.MemoryBudgetWarning: (errors.TorchjacWarning,),
    errors.IndependenceWarning: (errors.TorchjacWarning,),
    errors.ClosureWarning: (errors.TorchjacWarning,),
    errors.HiddenValueWarning: (errors.TorchjacWarning,),
    errors.DisagreementWarning: (errors.TorchjacWarning,),
    errors.BranchWarning: (errors.TorchjacWarning,),
}


@pytest.mark.parametrize(("kind", "bases"), CLASSES.items())
def test_every_error_is_also_the_builtin_that_fits(kind, bases):
    for base in bases:
        assert issubclass(kind, base)


def test_every_class_of_the_tree_is_in_the_table():
    roots = {errors.TorchjacError, errors.TorchjacWarning}
    public = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert public == set(CLASSES) | roots


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_has_one_of_the_two_roots(kind):
    root = errors.TorchjacWarning if issubclass(kind, Warning) else errors.TorchjacError
    assert issubclass(kind, root)
    assert issubclass(errors.TorchjacWarning, UserWarning)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ValueError, "chunk_size"),
        (TypeError, "func"),
        (RuntimeError, "integer input"),
        (RuntimeError, "shapes that change"),
        (ValueError, "values that change"),
        (RuntimeError, "values that change"),
        (RuntimeError, "strict: independent"),
        (MemoryError, "result larger than the budget"),
        (NotImplementedError, "layout without an engine"),
        (ImportError, "progress without rich"),
    ],
)
def test_code_that_catches_the_builtin_catches_the_error(kind, name):
    with pytest.raises(kind, match=pattern(CASES[name].words)):
        CASES[name].call()
