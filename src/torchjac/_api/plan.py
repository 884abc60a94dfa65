"""Plans: find the structure of a Jacobian or Hessian once, use it often."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from torchjac._api.solve import handed_out, read_call
from torchjac._api.sparse import refuse_transforms
from torchjac._coloring.coloring import Coloring, Kind
from torchjac._evaluate.options import Options
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._inputs.checks import Layout, check_choice, check_layout
from torchjac._inputs.signature import Wrt
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.archive import read_plan, write_plan
from torchjac._planner.core import Answer, Call, Core, Known, of_order, settled
from torchjac._planner.explain import as_html, as_text
from torchjac._planner.fit import fit_of
from torchjac._planner.prepare import Given, prepare
from torchjac._planner.result import rebuild, refill, run_direct
from torchjac._planner.structure import SYMMETRIC, Candidate, Request
from torchjac.errors import ArgumentError, ArgumentTypeError

KINDS = ("column", "row", "bidirectional")
BACKENDS = ("auto", "eager", "replay", "inductor", "cudagraphs")


class Plan:
    """A Jacobian or Hessian prepared for repeated use; made by `torchjac.plan`.

    `plan(inputs)` computes it at other inputs of the same kind. `print(plan)` says what was found,
    what was chosen and what that cost. Plans may be used from several threads, and can be pickled
    if the function can.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @outside_inference_mode
    def __call__(
        self, inputs: Any, out: Any = None, check: bool = False, create_graph: bool = False
    ) -> Any:
        """Compute the Jacobian or Hessian.

        Args:
            inputs: Where, like the inputs that the plan was made for.
            out: An earlier result, to be filled with the new values. What does not depend on the
                inputs is not written again unless PyTorch or NumPy wrote to it in between; do not
                write to it through `.data` or DLPack, which leave no trace.
            check: Certify the result by a random product of the function, for one more seed.
            create_graph: Make the result differentiable, by rows in reverse mode.

        Returns:
            The result, nested as in `torchjac.jacobian`; `out` itself if it was given. With
            `has_aux` a pair (result, aux).

        Raises:
            PlanMismatchError: The inputs, or `out`, are not what the plan was made for.
            BranchError: The function took another branch, and `on_branch` is "raise".
            PatternError: A certificate failed.
            ArgumentError: `out` and `create_graph` exclude each other.
        """
        self._refuse_graph(out, create_graph)
        core = self._core
        has_aux = core.call.has_aux
        ready = None if create_graph or check or has_aux else core.direct(inputs)
        if ready is not None:
            return run_direct(ready, core.request, out)
        answer = core.answer(inputs, create_graph=create_graph, check=check, with_value=has_aux)
        result = self._result(answer, out)
        return (result, handed_out(answer.outputs.aux, create_graph)) if has_aux else result

    @outside_inference_mode
    def value_and_jacobian(
        self, inputs: Any, out: Any = None, check: bool = False, create_graph: bool = False
    ) -> Any:
        """Compute the value of the function too; for a Hessian, the gradient.

        Args:
            inputs: As in a call of the plan.
            out: Likewise.
            check: Likewise.
            create_graph: Make value and result differentiable.

        Returns:
            A pair (value, result), with `has_aux` a triple (value, result, aux).

        Raises:
            TorchjacError: As in a call of the plan.

        >>> import torch, torchjac
        >>> plan = torchjac.plan(lambda x: x**2, torch.ones(2), layout=torch.strided)
        >>> plan.value_and_jacobian(torch.tensor([1.0, 3.0]))
        (tensor([1., 9.]), tensor([[2., 0.],
                                   [0., 6.]]))
        """
        self._refuse_graph(out, create_graph)
        core = self._core
        answer = core.answer(inputs, create_graph=create_graph, check=check, with_value=True)
        result, outputs = self._result(answer, out), answer.outputs
        values = handed_out(list(outputs.tensors), create_graph)
        if core.request.order == 2:
            value = answer.signature.nest(values)
        else:
            value = outputs.unflatten(values)
        if core.call.has_aux:
            return value, result, handed_out(outputs.aux, create_graph)
        return value, result

    def _refuse_graph(self, out: Any, create_graph: bool) -> None:
        if out is not None and create_graph:
            raise ArgumentError(
                f"{self._core.request.api}: `out` cannot take a result that carries a graph: leave "
                "out `out` or create_graph=True."
            )

    def _result(self, answer: Answer, out: Any) -> Any:
        request = self._core.request
        if out is None:
            return rebuild(answer.structure, answer.signature, request, answer.values)
        refill(answer.structure, request, answer.values, out)
        return out

    @property
    def pattern(self) -> SparsityPattern:
        """Entries that can be nonzero, over all outputs and all inputs raveled."""
        return self._core.main.pattern

    @property
    def coloring(self) -> Coloring | None:
        """The coloring in use, None for a matrix without rows or columns."""
        scheme = self._core.main.scheme
        return None if scheme is None else scheme.coloring

    @property
    def method(self) -> str:
        """What the plan does, in words."""
        if self._core.main.constant is not None:
            return "constant"
        chosen = [c for c in self.candidates if c.is_chosen]
        return chosen[0].name if chosen else "nothing to compute"

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What there was to choose from, with predicted costs."""
        return self._core.main.candidates

    def save(self, path: str | PathLike[str]) -> None:
        """Write pattern and coloring to a file (npz without pickles).

        Args:
            path: The file, replaced if there is one.
        """
        write_plan(path, self._core)

    @classmethod
    def load(
        cls, path: str | PathLike[str], func: Callable[..., Any], inputs: Any, *, wrt: Wrt = None
    ) -> "Plan":
        """Read what `save` wrote, and hold it against the function by random products.

        Args:
            path: The file.
            func: The function, which files do not hold.
            inputs: Inputs of the kind that the plan was made for.
            wrt: As it was in `plan`.

        Returns:
            The plan.

        Raises:
            FileContentError: The file is damaged, something else, or of a newer format.
            ShapeError: The function has other sizes.
            PatternError: The pattern is not that of the function.
        """
        request, has_aux, given = read_plan(path)
        return make(func, inputs, wrt, has_aux, request, given)

    def __repr__(self) -> str:
        m, n = self.pattern.shape
        return f"Plan({m} × {n}, nnz={self.pattern.nnz}, method={self.method!r})"

    def __str__(self) -> str:
        return as_text(self._core)

    def _repr_html_(self) -> str:
        return as_html(self._core)


def plan(
    func: Callable[..., Any],
    inputs: Any,
    *,
    wrt: Wrt = None,
    order: int = 1,
    layout: Layout = torch.sparse_csr,
    blocksize: tuple[int, int] | None = None,
    flat: bool = False,
    pattern: SparsityPattern | None = None,
    coloring: Coloring | Kind | None = None,
    scope: str = "global",
    strategy: str = "auto",
    vectorize: bool | None = None,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    has_aux: bool = False,
    on_branch: str = "retrace",
    backend: str = "auto",
    uses: int | None = None,
    tune: bool = False,
) -> Plan:
    """Find the structure of a Jacobian or Hessian, and the cheapest way to compute it.

    The derivative of `func` is traced and read for the entries that can be nonzero; columns or
    rows that share no entry are grouped by a coloring, and one product computes a whole group.
    Forward mode on columns, reverse mode on rows and both together are held against each other by
    measured costs. The result is certified by random products of the function.

    Args:
        func: As in `jacobian`; for order 2 a function that returns one element.
        inputs: As in `jacobian`. Their shapes, dtypes and devices become part of the plan, their
            values do not.
        wrt: As in `jacobian`.
        order: 1 for the Jacobian, 2 for the Hessian.
        layout: Layout of the results: `torch.sparse_csr`, `sparse_csc`, `sparse_coo`,
            `sparse_bsr` or `strided`. Sparse ones are matrices over flattened output and
            flattened input. "blocks" stacks the blocks along the diagonal in a dense tensor
            [B, m, n]: B is the product of the axes of output and input that never mix (samples,
            tokens), which `print(plan)` tells, m and n the rest of output and input, raveled.
            Without such axes it stacks the most equal blocks along the diagonal.
        blocksize: Of blocks of the BSR layout. None: what takes the least memory.
        flat: One matrix over all outputs and all inputs raveled, instead of nested blocks.
        pattern: Entries that can be nonzero, if known, over all outputs and inputs raveled. None:
            they are detected.
        coloring: A coloring of the pattern, or a kind of it: "column", "row" or "bidirectional",
            for order 2 "star" or "acyclic". None: the cheapest.
        scope: For which inputs a detected pattern shall hold: "global", for all that take the
            same branches, or "local", with indices computed by `func` as they are here.
        strategy: "auto", "reverse-mode" or "forward-mode".
        vectorize: As in `jacobian`.
        chunk_size: Seeds per pass. None: as many as `memory` allows.
        memory: As in `jacobian`.
        has_aux: `func` returns (output, aux) and aux is handed through.
        on_branch: What to do where `func` takes another branch than it did here: "retrace", or
            "raise" an error.
        backend: How the entries are computed: "eager", by passes through `func`; "replay", by one
            program from x to the entries that is emitted once, operation by operation;
            "inductor", by that program compiled (seconds at first); "cudagraphs", by that program
            recorded as one CUDA graph; "auto", the cheapest: see `uses` and `tune`. A program is
            emitted for functions that neither read values nor draw random numbers. "auto" does so
            only if all that `func` can read besides its arguments is understood, so that a change
            of it is noticed; the others trust that what cannot be seen (state of compiled code, of
            files, of other libraries) stays as it is. `print(plan)` tells which it was.
        uses: How many evaluations there will be, about. "auto" then emits a program only if that
            pays back in so many, and compiles it if that pays too; speeds of the machine are
            measured once and kept in the user's cache folder. None: unknown; a program is
            emitted, not compiled.
        tune: With "auto", emit and compile (seconds), time the finalists, and keep the fastest;
            with `uses`, the one that is cheapest over all.

    Returns:
        The plan.

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An argument has the wrong type.
        ShapeError: `pattern` does not have the shape of the Jacobian.
        PatternError: `pattern` lacks entries.
        LayoutError: No such layout, or "blocks" where there are none.
        MemoryBudgetError: The result is larger than the memory budget.

    Source: Curtis, Powell & Reid (1974), J. Inst. Maths Applics 13; Gebremedhin, Manne & Pothen
    (2005), SIAM Review 47(4).

    >>> import torch, torchjac
    >>> plan = torchjac.plan(lambda x: x[1:] * x[:-1], torch.ones(4))
    >>> plan.pattern.nnz, plan.coloring.num_colors
    (6, 2)
    >>> plan(torch.tensor([1.0, 2.0, 3.0, 4.0])).to_dense()
    tensor([[2., 1., 0., 0.],
            [0., 3., 2., 0.],
            [0., 0., 4., 3.]])

    The Jacobian of a batch, one block a sample:

    >>> net, batch = torch.nn.Linear(4, 2), torch.ones(8, 4)
    >>> torchjac.plan(net, batch, layout="blocks")(batch).shape
    torch.Size([8, 2, 4])
    """
    request = Request(
        "plan",
        order,
        layout,
        blocksize,
        flat,
        scope,
        strategy,
        chunk_size,
        memory,
        on_branch,
        vectorize,
        backend=backend,
        uses=uses,
        tune=tune,
    )
    check_request(request)
    return make(func, inputs, wrt, has_aux, request, given_of("plan", order, pattern, coloring))


@outside_inference_mode
def make(
    func: Callable[..., Any],
    inputs: Any,
    wrt: Wrt,
    has_aux: bool,
    request: Request,
    given: Given,
) -> Plan:
    """A plan of arguments that were checked."""
    refuse_transforms(request.api)
    options = options_of(request)
    signature = read_call(request.api, func, inputs, options, wrt=wrt, has_aux=has_aux)
    call = Call(func, wrt, has_aux, request.order)
    leaves = signature.leaves
    check_device(request, leaves)
    world = call.world(inputs, leaves)
    request = settled(request, given, world)
    made = prepare(
        of_order(signature, request.order),
        request,
        options,
        given,
        moves_buffers=call.moves_buffers,
    )
    fit = fit_of(inputs, leaves)
    return Plan(Core(call, request, given, fit, Known(made.structure, world)))


def options_of(request: Request, *, create_graph: bool = False, strict: bool = False) -> Options:
    """How the function is evaluated while its structure is looked for."""
    return Options(
        create_graph,
        strict,
        request.vectorize,
        request.strategy,
        request.chunk_size,
        request.memory,
        allow_constant=request.order == 2,
    )


def check_request(request: Request) -> None:
    """Refuse arguments that are out of range."""
    api = request.api
    check_layout(api, request.layout)
    check_choice(api, "order", request.order, (1, 2))
    check_choice(api, "scope", request.scope, ("global", "local"))
    check_choice(api, "on_branch", request.on_branch, ("retrace", "raise"))
    check_choice(api, "backend", request.backend, BACKENDS)
    _check_uses(request)
    size = request.blocksize
    if size is None:
        return
    is_pair = isinstance(size, tuple) and len(size) == 2
    if not is_pair or any(not isinstance(s, int) or isinstance(s, bool) or s < 1 for s in size):
        raise ArgumentError(
            f"{api}: `blocksize` must be a pair of positive integers or None, got {size!r}."
        )
    if request.layout is not torch.sparse_bsr:
        raise ArgumentError(
            f"{api}: `blocksize` needs layout=torch.sparse_bsr, got {request.layout}."
        )


def _check_uses(request: Request) -> None:
    api, uses = request.api, request.uses
    if uses is not None and (not isinstance(uses, int) or isinstance(uses, bool) or uses < 1):
        raise ArgumentError(
            f"{api}: `uses` must be a positive number of evaluations or None, got {uses!r}."
        )
    if request.backend != "auto" and (uses is not None or request.tune):
        named = "uses" if uses is not None else "tune"
        raise ArgumentError(
            f"{api}: `{named}` lets the plan choose, and backend={request.backend!r} has chosen: "
            "leave out one of them."
        )


def check_device(request: Request, leaves: Sequence[Tensor]) -> None:
    """Refuse a backend that inputs elsewhere would need."""
    if request.backend == "cudagraphs" and not all([leaf.is_cuda for leaf in leaves]):
        device = next(leaf.device for leaf in leaves if not leaf.is_cuda)
        raise ArgumentError(
            f"{request.api}: backend='cudagraphs' needs all inputs on a CUDA device, got one on "
            f"{device}: move the inputs there, or use backend='inductor'."
        )


def given_of(
    api: str, order: int, pattern: SparsityPattern | None, coloring: Coloring | Kind | None
) -> Given:
    """A pattern and a coloring that the user brought, checked."""
    if pattern is not None and not isinstance(pattern, SparsityPattern):
        raise ArgumentTypeError(
            f"{api}: `pattern` must be a SparsityPattern or None, got {type(pattern)}. Make one "
            "with SparsityPattern.from_dense, from_scipy, from_torch or from_coo."
        )
    if isinstance(coloring, Coloring):
        if coloring.kind in SYMMETRIC and order == 1:
            raise ArgumentError(
                f"{api}: `coloring` is a {coloring.kind} coloring, which reads both triangles from "
                "one: it needs a symmetric matrix, order=2."
            )
        pattern = coloring.pattern if pattern is None else pattern
    elif coloring is not None:
        check_choice(api, "coloring", coloring, SYMMETRIC if order == 2 else KINDS)
    return Given(pattern, coloring)
