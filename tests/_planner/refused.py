"""Plans that cannot be made, that do not fit, or that have no program: a call and its message.

`tests/test_messages.py` runs them.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from torch._inductor import config as inductor_config
from torch._inductor import lowering

from tests.mistaken import WrongJvp, WronglyBatched
from torchjac import Plan, errors, jacobian, plan
from torchjac._api import factored
from torchjac._coloring.select import color_pattern
from torchjac._evaluate.direct import emit, runner
from torchjac._local import registry
from torchjac._local.algebra import Move, Term
from torchjac._pattern import detect
from torchjac._pattern.archive import write_archive
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner import programs
from torchjac._planner.archive import FILE_KIND

Refusal = tuple[Callable[[], object], type[Exception], str]

X = torch.tensor([1.0, 2.0, 3.0])
EYE = SparsityPattern.from_dense(np.eye(3))
FULL = SparsityPattern.from_dense(np.ones((3, 3)))
CSR = torch.sparse_csr


def branching(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else x.flip(0)


def growing() -> object:
    size = [2]
    made = plan(lambda x: x[: size[0]], X, strategy="reverse-mode")
    size[0] = 3
    return made(X)


def pickled_with_a_module() -> object:
    net = torch.nn.Linear(3, 2)
    return pickle.dumps(plan(lambda x: net(x), X, wrt=net))


def inside_vmap() -> object:
    return torch.vmap(lambda x: jacobian(torch.sin, x, layout=CSR))(X[None])


def load_nothing() -> object:
    with TemporaryDirectory() as folder:
        write_archive(Path(folder, "plan.npz"), FILE_KIND, 1, {"shape": np.array([1, 1])})
        return Plan.load(Path(folder, "plan.npz"), torch.sin, X)


def load_another() -> object:
    with TemporaryDirectory() as folder:
        plan(torch.sin, X).save(Path(folder, "plan.npz"))
        return Plan.load(Path(folder, "plan.npz"), lambda x: x.cumsum(0) ** 2, X)


def too_many_entries() -> object:
    with mock.patch.object(detect, "MOST_ENTRIES", 2):
        return plan(torch.sin, X)


def without_a_compiler() -> object:
    with mock.patch.object(runner, "compiled", side_effect=RuntimeError("no C++ compiler")):
        return plan(torch.sin, X, backend="inductor")


def with_a_wrong_lowering() -> object:
    def refuse(*args: object) -> None:
        raise NotImplementedError

    # Kept results of earlier compilations would not need it.
    unkept = inductor_config.patch(fx_graph_cache=False)
    with mock.patch.dict(lowering.lowerings, {torch.ops.aten.cos.default: refuse}), unkept:
        return plan(torch.sin, X, backend="inductor")


def hiding() -> object:
    return plan(lambda x: x.detach() * x**2, X, backend="replay")(X, create_graph=True)


def with_a_weight_that_is_zero() -> object:
    weight = torch.tensor([1.0, 0.0, 1.0], requires_grad=True)
    diagonal = np.diag([True, False, True])
    given = SparsityPattern.from_dense(diagonal)
    return plan(lambda x: weight * x, X, pattern=given)(X, create_graph=True)


def drawing(x: torch.Tensor) -> torch.Tensor:
    return x.sin() * torch.rand(3, generator=torch.Generator().manual_seed(0))


def with_other_factors() -> object:
    weight = torch.ones(2, 3)
    made = plan(lambda x: weight.T @ (weight @ x).sin(), X, keep_factors=True)
    weight.mul_(2)
    return made(X)


def with_wrong_factors() -> object:
    with mock.patch.object(factored, "_agrees", return_value=False):
        return plan(torch.sin, X, keep_factors=True)


def with_a_wrong_rule() -> object:
    def wrong(call: registry.Call) -> registry.Terms:
        return [Term(ref, [Move(lambda t: t[:1])]) for ref in call.tangents()]

    with mock.patch.dict(registry._RULES, {torch.ops.aten.flip: wrong}):
        return plan(lambda x: x.flip(0), X)


REFUSED: list[Refusal] = [
    (
        pickled_with_a_module,
        errors.ArgumentError,
        "plan: a plan with wrt=module cannot be pickled for the plain function "
        "'pickled_with_a_module.<locals>.<lambda>': expected the module itself, or an object that "
        "holds it, for it would come back with another module than the function uses.",
    ),
    (
        lambda: plan(torch.sin, X, pattern=torch.eye(3)),
        errors.ArgumentTypeError,
        "plan: `pattern` must be a SparsityPattern or None, got <class 'torch.Tensor'>. Make one "
        "with SparsityPattern.from_dense, from_scipy, from_torch or from_coo.",
    ),
    (
        lambda: plan(torch.sin, X, pattern=SparsityPattern.from_dense(np.eye(2))),
        errors.ShapeError,
        "plan: `pattern` must have a row for each element of the outputs and a column for each of "
        "the inputs: expected shape (3, 3), got (2, 2).",
    ),
    (
        lambda: plan(torch.sin, X, pattern=FULL, coloring=color_pattern(EYE)),
        errors.ArgumentError,
        "plan: `coloring` was made for another pattern, SparsityPattern(shape=(3, 3), nnz=3): "
        "expected one for SparsityPattern(shape=(3, 3), nnz=9). Color that one with "
        "`torchjac.color`.",
    ),
    (
        lambda: plan(torch.sin, X, coloring=color_pattern(EYE, "star")),
        errors.ArgumentError,
        "plan: `coloring` is a star coloring, which reads both triangles from one: it needs a "
        "symmetric matrix, order=2.",
    ),
    (
        lambda: plan(torch.sin, X, coloring="row", strategy="forward-mode"),
        errors.ArgumentError,
        "plan: the coloring needs a mode that this function or `strategy` does not allow; "
        "possible: forward-mode. Leave `coloring` or `strategy` out.",
    ),
    (
        lambda: plan(torch.sin, X, layout=torch.strided, memory=20),
        errors.MemoryBudgetError,
        "plan: the dense Jacobian needs 36 B, more than the memory budget of 20 B. Ways out: raise "
        "`memory=`; or use layout=torch.sparse_csr, which holds the 3 entries alone.",
    ),
    (
        lambda: plan(lambda x: (x, x.cumsum(0) ** 2), X, layout="blocks"),
        errors.LayoutError,
        "plan: layout='blocks' needs axes that never mix, or equal blocks along the diagonal: "
        "expected them in output 1 by input 0, shapes (3,) and (3,), got 6 entries that lie in no "
        "blocks. Use layout=torch.sparse_bsr or torch.sparse_csr, or torch.strided if most of it "
        "is nonzero.",
    ),
    (
        lambda: plan(torch.sin, X, layout=torch.sparse_bsr, blocksize=2),
        errors.ArgumentError,
        "plan: `blocksize` must be a pair of positive integers or None, got 2.",
    ),
    (
        lambda: plan(torch.sin, X, blocksize=(1, 1)),
        errors.ArgumentError,
        "plan: `blocksize` needs layout=torch.sparse_bsr, got torch.sparse_csr.",
    ),
    (
        lambda: plan(torch.sin, X, layout=torch.sparse_bsr, blocksize=(2, 3)),
        errors.ArgumentError,
        "plan: `blocksize` must divide the shape of every block: (2, 3) does not divide (3, 3).",
    ),
    (
        with_a_weight_that_is_zero,
        errors.PatternError,
        "plan: the pattern lacks entries that are zero, but whose derivative by another tensor "
        "that requires gradients is not. Give a pattern that holds them all, or leave `pattern` "
        "out to have it detected.",
    ),
    (
        lambda: plan(torch.sin, X, pattern=FULL - EYE),
        errors.PatternError,
        "plan: the entries of the sparse Jacobian are not those of the function in rows 0, 1, 2 "
        "and columns 0, 1, 2 of 3 × 3: row 0 has nonzeros in columns 0, which the pattern lacks; "
        "row 1 has nonzeros in columns 1, which the pattern lacks; row 2 has nonzeros in columns "
        "2, which the pattern lacks. Give a pattern that holds them all, or leave `pattern` out "
        "to have it detected.",
    ),
    (load_another, errors.PatternError, "written for another function; make the plan anew."),
    (load_nothing, errors.FileContentError, "holds no valid plan: 'options'"),
    (
        lambda: plan(torch.sin, X)(X[:2]),
        errors.PlanMismatchError,
        "plan: `inputs` are not what the plan was made for. Make another plan, or pass inputs of "
        "the same kind:\n  tree of the inputs: tensor, matches\n  input: planned float32 [3] on "
        "cpu, given float32 [2] on cpu, DIFFERS",
    ),
    (
        growing,
        errors.PlanMismatchError,
        "plan: `func` returned shapes [(3,)], and the plan was made for [(2,)]. Make another plan.",
    ),
    (
        lambda: plan(torch.sin, X)(X, out=torch.eye(3)),
        errors.PlanMismatchError,
        "plan: `out` must be an earlier result of this plan. Leave it out to get a new one:\n"
        "  shape: (3, 3), matches\n"
        "  layout: planned torch.sparse_csr, given torch.strided, DIFFERS",
    ),
    (
        lambda: plan(torch.sin, X)(X, out=torch.eye(3).to_sparse_csr(), create_graph=True),
        errors.ArgumentError,
        "plan: `out` cannot take a result that carries a graph: leave out `out` or "
        "create_graph=True.",
    ),
    (
        lambda: plan(branching, X, on_branch="raise")(-X),
        errors.BranchError,
        "plan: the function took another branch than the one that the plan was made for: it read "
        '(False) from tensors, planned were (True). Use on_branch="retrace" to plan each branch.',
    ),
    (
        lambda: plan(branching, X)(-X),
        errors.BranchWarning,
        "plan: the function is not the one that was planned for: it took another branch, or what "
        "it holds has changed. This was planned anew and is kept; if it happens often, make a plan "
        "for each case.",
    ),
    (
        lambda: plan(lambda x: WrongJvp.apply(x) * x, X, strategy="forward-mode"),
        errors.DisagreementWarning,
        "plan: forward and reverse mode disagree for this function, as with an autograd.Function "
        "whose `jvp` and `backward` do not belong together. The plan computes rows by reverse "
        "mode; `torchjac.check` shows the numbers.",
    ),
    (
        lambda: plan(WronglyBatched.apply, X, backend="eager"),
        errors.DisagreementWarning,
        "plan: batched reverse-mode products disagree with single ones for this function, as with "
        "an autograd.Function whose vmap rule is wrong or whose backward looks at the shape of its "
        "gradient. The plan takes single ones.",
    ),
    (
        inside_vmap,
        errors.LayoutError,
        "jacobian: sparse results cannot be computed inside vmap, grad, vjp or jvp of torch.func. "
        "Use layout=torch.strided there, or `torchjac.func`.",
    ),
    (
        lambda: jacobian(torch.square, X.to(torch.complex64), holomorphic=True, layout=CSR),
        errors.LayoutError,
        "jacobian: layout=torch.sparse_csr is for real functions: use layout=torch.strided with "
        "holomorphic=True, or differentiate the real pair.",
    ),
    (
        too_many_entries,
        errors.MemoryBudgetError,
        "plan: the Jacobian, shape (3, 3) or transposed, has 3 entries that can be nonzero, too "
        "many for a pattern. Use layout=torch.strided, or give a pattern that you know.",
    ),
    (
        with_a_wrong_rule,
        RuntimeError,
        "the rule of aten.flip gives shape (1,), the operation (3,)",
    ),
    (
        lambda: plan(torch.sin, X, uses=0),
        errors.ArgumentError,
        "plan: `uses` must be a positive number of evaluations or None, got 0.",
    ),
    (
        lambda: plan(torch.sin, X, uses=5, backend="eager"),
        errors.ArgumentError,
        "plan: `uses` lets the plan choose, and backend='eager' has chosen: leave out one of them.",
    ),
    (
        lambda: plan(torch.sin, X, tune=True, backend="replay"),
        errors.ArgumentError,
        "plan: `tune` lets the plan choose, and backend='replay' has chosen: leave out one of "
        "them.",
    ),
    (
        lambda: plan(torch.sin, X, keep_factors=True, layout=torch.strided),
        errors.ArgumentError,
        "plan: keep_factors=True computes factors by programs and knows no `layout`: leave out one "
        "of them.",
    ),
    (
        lambda: plan(torch.sin, X, keep_factors=True)(X, create_graph=True),
        errors.ArgumentError,
        "plan: factors that are kept cannot be had with `create_graph`: leave it out, or make a "
        "plan without keep_factors=True.",
    ),
    (
        lambda: plan(torch.sin, X, keep_factors=True).save("plan.npz"),
        errors.ArgumentError,
        "plan: a plan with keep_factors=True cannot be saved to plan.npz: make it anew, which "
        "takes no coloring.",
    ),
    (
        lambda: plan(drawing, X, keep_factors=True),
        errors.ArgumentError,
        "plan: keep_factors=True needs a program for every factor, and there is none: aten.rand "
        "draws random numbers. Leave it out.",
    ),
    (
        with_other_factors,
        errors.BranchWarning,
        "plan: the function is not the one that was planned for: it took another branch, or what "
        "it holds has changed. Its factors were found anew and are kept.",
    ),
    (
        with_wrong_factors,
        errors.PatternError,
        "plan: the product of the factors is not the Jacobian: a random product of the function "
        "differs. Please report it; until then leave out keep_factors=True.",
    ),
    (
        lambda: plan(lambda x: x * x if x.sum() > 0 else x, X, backend="replay"),
        errors.FallbackWarning,
        "plan: backend='replay' is not used, the plan computes by passes. Program: none: the "
        "function reads values from tensors.",
    ),
    (
        without_a_compiler,
        errors.FallbackWarning,
        "plan: the program of the Jacobian is replayed, not compiled: torch._inductor said no C++ "
        "compiler. A C++ compiler is needed for backend='inductor'.",
    ),
    (
        lambda: plan(torch.sin, X, backend="cudagraphs"),
        errors.ArgumentError,
        "plan: backend='cudagraphs' needs all inputs on a CUDA device, got one on cpu: move the "
        "inputs there, or use backend='inductor'.",
    ),
    (
        with_a_wrong_lowering,
        errors.FallbackWarning,
        "plan: PyTorch cannot compile `aten.cos.default`, which runs by itself between compiled "
        "parts of the program.",
    ),
    (
        hiding,
        errors.FallbackWarning,
        "plan: results with create_graph=True are computed by passes, not by the program of "
        "backend='replay', whose derivative is not that of the result: the function uses detach.",
    ),
]


class LinearByParts(torch.autograd.Function):
    """x -> x, with a backward pass that is linear, made of operations that are not."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.relu() - (-g).relu()


def with_little_room() -> Plan:
    scan = torch.linspace(0, 1, 40)
    with mock.patch.multiple(emit, FEW_DERIVATIVES=0, MOST_TIMES=0):
        return plan(lambda x: (x * x).cumsum(0), scan)


def with_few_operations() -> Plan:
    with mock.patch.object(emit, "MOST_OPERATIONS", 0):
        return plan(torch.sin, X)


def with_little_memory() -> Plan:
    with mock.patch.multiple(programs, MOST_WASTED=2**20, MOST_TIMES=0):
        return plan(lambda x: x.sin() * x.cos(), torch.rand(2**18))


def with_sparse_tangents() -> Plan:
    return plan(lambda x: torch.diag(x).to_sparse().to_dense() ** 2, X)


def in_chunks() -> Plan:
    with mock.patch.object(emit, "MOST_OPERATIONS", 0):
        return plan(torch.sin, X, chunk_size=1, backend="replay")


def recurrent() -> Plan:
    return plan(torch.nn.LSTM(2, 3), torch.rand(4, 2), backend="replay")


# Plans that compute by passes, and a pattern of what is said of the program that they lack.
NOT_EMITTED: list[tuple[Callable[[], Plan], str]] = [
    (with_little_room, r"too large: \d+ derivatives at aten\.\w+"),
    (with_little_memory, r"too large: [\d,]+ bytes at one time"),
    (with_few_operations, r"too large: more than \d+ operations"),
    (lambda: plan(drawing, X), r"not possible: aten\.rand draws random numbers"),
    (
        lambda: plan(lambda x: LinearByParts.apply(x.sin()), X),
        r"not possible: aten\.relu is not linear in the tangent",
    ),
    (
        lambda: plan(lambda x: x.cumprod(0), torch.tensor([1.0, 0.0, 2.0])),
        r"not possible: aten\.where takes tangents here, numbers there",
    ),
    (with_sparse_tangents, r"not possible: aten\.\w+ works with sparse tensors"),
    (in_chunks, r"not possible: passes from both sides, or in chunks"),
    (recurrent, r"not possible: aten\.mkldnn_rnn_layer gives less without autograd"),
]


def notes_of_programs(made: Plan) -> list[str]:
    """Why a plan lacks each program that was tried."""
    return [c.note for c in made.candidates if not c.seeds]
