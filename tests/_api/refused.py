"""Products that cannot be had, or not as asked: a call and its message.

`tests/test_messages.py` runs them.
"""

from collections.abc import Callable
from unittest import mock

import torch
from torch import nn

from tests.mistaken import WronglyBatched, WrongProduct
from torchjac import errors, gram, ntk, plan_laplacian
from torchjac._api.operator import JacobianOperator
from torchjac._evaluate.direct import runner

Refusal = tuple[Callable[[], object], type[Exception], str]

X = torch.tensor([1.0, 2.0, 3.0])
BATCH = torch.linspace(-1, 1, 12).reshape(4, 3)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def frozen() -> nn.Module:
    return linear().requires_grad_(False)


class Stray(nn.Module):
    """Holds its parameter a second time, where no module sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.held = [self.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.held[0]


class Doubled(torch.autograd.Function):
    """x^2 with a backward pass that is wrong in a batch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return WrongProduct.apply(ctx.saved_tensors[0], g)


class Batchwise(nn.Module):
    """A parameter behind a backward pass that is another one in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Doubled.apply(self.weight) * x


def times(operand: object, *, left: bool = False) -> object:
    operator = JacobianOperator([torch.ones(2, 3)])
    return operand @ operator if left else operator @ operand  # pyright: ignore


def compiled_laplacian() -> object:
    with mock.patch.object(runner, "compiled", side_effect=RuntimeError("no C++ compiler")):
        return plan_laplacian(torch.sin, X, backend="inductor")


def changing_laplacian() -> object:
    net = linear()
    made = plan_laplacian(net, BATCH)
    with torch.no_grad():
        net.weight.mul_(2)  # pyright: ignore[reportCallIssue]
    return made(BATCH)


REFUSED: list[Refusal] = [
    (
        lambda: plan_laplacian(torch.sin, (X,)),  # pyright: ignore[reportArgumentType]
        errors.ArgumentTypeError,
        "plan_laplacian: `inputs` must be one Tensor, got <class 'tuple'>.",
    ),
    (
        lambda: plan_laplacian(lambda x: (x, x), X),
        errors.ShapeError,
        "plan_laplacian: `func` must return one tensor, got 2.",
    ),
    (
        lambda: torch.vmap(lambda x: plan_laplacian(torch.sin, x)(x))(BATCH),
        errors.ArgumentError,
        "plan_laplacian: a plan cannot be made inside vmap, grad, vjp or jvp of torch.func. Make "
        "it outside, or use `torchjac.laplacian`.",
    ),
    (
        lambda: plan_laplacian(lambda x: x**2 * torch.rand(3), X),
        errors.FallbackWarning,
        "plan_laplacian: there is no program for the Laplacian of this function: it draws random "
        "numbers, or changes buffers. The plan computes it by passes of reverse mode, one axis at "
        "a time.",
    ),
    (
        compiled_laplacian,
        errors.FallbackWarning,
        "plan_laplacian: the program is replayed, not run by 'inductor', which said RuntimeError: "
        "no C++ compiler.",
    ),
    (
        changing_laplacian,
        errors.BranchWarning,
        "plan_laplacian: what the function holds has changed since its program was found. It is "
        "computed by passes now, and gets another program once the same state is met in two calls.",
    ),
    (
        lambda: JacobianOperator([]),
        errors.ArgumentError,
        "JacobianOperator: `factors` expected a matrix at least, got none: give one.",
    ),
    (
        lambda: JacobianOperator([torch.ones(2, 3), torch.ones(2, 2)]),
        errors.ShapeError,
        "JacobianOperator: `factors[1]` expected 3 rows, as many as `factors[0]` has columns, got "
        "shape (2, 2): give them from last to first.",
    ),
    (
        lambda: JacobianOperator([[[1.0]]]),  # pyright: ignore[reportArgumentType]
        errors.ArgumentTypeError,
        "JacobianOperator: `factors[0]` expected a tensor, got <class 'list'>: convert it.",
    ),
    (
        lambda: JacobianOperator([torch.eye(2).to_sparse()]),
        errors.ArgumentTypeError,
        "JacobianOperator: `factors[0]` expected layout torch.strided, torch.sparse_csr or "
        "torch.sparse_csc, got torch.sparse_coo: convert it with `.to_sparse_csr()`.",
    ),
    (
        lambda: JacobianOperator([torch.ones(2, 3), torch.ones(3)]),
        errors.ShapeError,
        "JacobianOperator: `factors[1]` expected two dimensions, got shape (3,): reshape it.",
    ),
    (
        lambda: JacobianOperator([torch.ones(2, 3), torch.ones(3, 1).double()]),
        errors.ArgumentError,
        "JacobianOperator: `factors[1]` expected torch.float32 on cpu as `factors[0]`, got "
        "torch.float64 on cpu: convert it with `.to()`.",
    ),
    (
        lambda: times([1.0, 2.0, 3.0]),
        errors.ArgumentTypeError,
        "JacobianOperator: the right operand of `@` expected a strided tensor, got <class 'list'>: "
        "convert it.",
    ),
    (
        lambda: times(torch.ones(2)),
        errors.ShapeError,
        "JacobianOperator: the right operand of `@` expected shape (3,) or (3, k), got (2,): lay "
        "inputs and outputs out flat, one after the other.",
    ),
    (
        lambda: times(torch.ones(3), left=True),
        errors.ShapeError,
        "JacobianOperator: the left operand of `@` expected shape (2,) or (k, 2), got (3,): lay",
    ),
    (
        lambda: gram(torch.sin, X, over="rows"),
        errors.ArgumentError,
        "gram: `over` must be one of 'inputs', 'outputs'; got 'rows'.",
    ),
    (
        lambda: gram(torch.sin, X, weight=torch.ones(2)),
        errors.ShapeError,
        "gram: `weight` must have shape (3,) for a diagonal or (3, 3) for a matrix, one row for "
        "each of [(3,)]; got (2,).",
    ),
    (
        lambda: gram(torch.sin, X, weight=torch.ones(3, dtype=torch.int64)),
        errors.ArgumentTypeError,
        "gram: `weight` must be a floating-point Tensor, got dtype torch.int64.",
    ),
    (
        lambda: gram(torch.sin, X, weight=2.0),  # pyright: ignore[reportArgumentType]
        errors.ArgumentTypeError,
        "gram: `weight` must be None, a Tensor, or a function V -> weight @ V; got "
        "<class 'float'>.",
    ),
    (
        lambda: gram(torch.sin, X, weight=lambda v: v[:1]),
        errors.ShapeError,
        "gram: `weight` must return the weight times what it is given, of the same shape (3, 3); "
        "got (1, 3).",
    ),
    (
        lambda: gram(torch.sin, X, residual=1.0),
        errors.ArgumentTypeError,
        "gram: `residual` must be a Tensor for each output, or a function of the output that "
        "returns them; got [<class 'float'>].",
    ),
    (
        lambda: gram(torch.sin, X, residual=lambda y: y[:2]),
        errors.ShapeError,
        "gram: `residual` must have the shapes of the output of `func`, [(3,)]; got [(2,)].",
    ),
    (
        lambda: gram(lambda x: x.repeat(400), X, over="outputs", memory=2**20),
        errors.MemoryBudgetError,
        "gram: the matrix needs 5.49 MiB, more than the memory budget of 1.00 MiB. Ways out: raise "
        "`memory=`; differentiate fewer inputs with `wrt=`; or take products with "
        "`torchjac.functional.jvp` and `vjp` in an iterative solver, which never holds it.",
    ),
    (
        lambda: gram(WronglyBatched.apply, X, chunk_size=3),
        errors.DisagreementWarning,
        "gram: batched and single passes disagree for this function. The answer is that of single "
        "passes in reverse mode; `torchjac.check` shows the numbers.",
    ),
    (
        lambda: ntk(torch.sin, BATCH),
        errors.ArgumentTypeError,
        "ntk: `wrt` must be the nn.Module whose parameters count, as `func` is none itself; got "
        "<class 'NoneType'>.",
    ),
    (
        lambda: ntk(frozen(), BATCH),
        errors.ArgumentError,
        "ntk: no parameter of the module requires gradients, so that nothing is trained (2 in "
        "all). Call requires_grad_() on those that count.",
    ),
    (
        lambda: ntk(nn.Bilinear(3, 3, 1), (BATCH, BATCH[:2])),
        errors.ShapeError,
        "ntk: `x1` must hold tensors with the same number of samples along axis 0, got shapes "
        "[(4, 3), (2, 3)]. Bind what belongs to no sample with functools.partial, and name the "
        "module with `wrt=`.",
    ),
    (
        lambda: torch.vmap(lambda x: ntk(NET, x[None]))(BATCH),
        errors.ArgumentError,
        "ntk: cannot look into a graph inside a torch.func transform. Call it outside.",
    ),
    (
        lambda: ntk(nn.Sequential(linear(), nn.Dropout()), BATCH),
        errors.ArgumentError,
        "ntk: `func` draws random numbers, so that its samples belong to different functions. Call "
        ".eval() on the module, or hold the numbers still.",
    ),
    (
        lambda: ntk(nn.Sequential(linear(), nn.Flatten(0)), BATCH),
        errors.ShapeError,
        "ntk: `func` must return one tensor with the samples along axis 0: expected shape "
        "(1, ...), got (2,).",
    ),
    (
        lambda: ntk(Stray(), BATCH),
        errors.ArgumentError,
        "ntk: parameter weight is used from outside of its module, where it is no parameter (a "
        "list, a closure, another object), so that its derivative would be missed. Use it as an "
        "attribute of the module that registers it.",
    ),
    (
        lambda: ntk(nn.Sequential(linear(), nn.BatchNorm1d(2)), BATCH),
        errors.MixedSamplesError,
        "ntk: the samples are not independent: batch normalisation in training mode (1) uses the "
        "mean of the whole batch. Call .eval() on the module first. A kernel of pairs of samples "
        "needs a function of single ones.",
    ),
    (
        lambda: ntk(lambda x: (lambda y: y - y.mean(0))(NET(x)), BATCH, wrt=NET),
        errors.MixedSamplesError,
        "ntk: the samples are not independent: a sample alone has another value or derivative than "
        "among others. Look for a reduction, a normalisation or a reshape over the batch axis. A "
        "kernel of pairs of samples needs a function of single ones.",
    ),
    (
        lambda: ntk(lambda x: NET(x).detach(), BATCH, wrt=NET),
        errors.IndependenceWarning,
        "ntk: the output of `func` carries no derivative by the parameters: it does not depend on "
        "them, was detached, or was computed under no_grad. The kernel is zero.",
    ),
    (
        lambda: ntk(linear(), BATCH, memory=100),
        errors.MemoryBudgetError,
        "ntk: the kernel needs 256 B, more than the memory budget of 100 B. Ways out: raise "
        '`memory=`; ask for compute="trace" or "diagonal", or for fewer samples at a time.',
    ),
    (
        lambda: ntk(linear(), BATCH[:1], memory=100),
        errors.MemoryBudgetWarning,
        "ntk: one sample needs about 128 B, more than the 100 B that `memory=` leaves beside the "
        "result; going on one sample at a time. Raise `memory=`, or ask for fewer parameters with "
        "`wrt=`.",
    ),
    (
        lambda: ntk(Batchwise(), BATCH),
        errors.FallbackWarning,
        "ntk: computed by reverse-mode/loop, since PyTorch cannot take a faster way "
        "(reverse-mode/vmap: samples in a batch have other derivatives than alone).",
    ),
]
NET = linear()
