"""Make a plan: find the structure of a Jacobian or Hessian once, use it often."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from torchjac._api.factored import make_factored
from torchjac._api.prepared import Plan, make
from torchjac._coloring.coloring import Coloring, Kind
from torchjac._inputs.checks import Layout, check_choice, check_layout
from torchjac._inputs.signature import Wrt
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.call import Call
from torchjac._planner.prepare import Given
from torchjac._planner.structure import SYMMETRIC, Request
from torchjac.errors import ArgumentError, ArgumentTypeError

KINDS = ("column", "row", "bidirectional")
BACKENDS = ("auto", "eager", "replay", "inductor", "cudagraphs")


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
    keep_factors: bool = False,
) -> Plan:
    """Find the structure of a Jacobian or Hessian, and the cheapest way to compute it.

    The derivative of `func` is traced and read for the entries that can be nonzero; columns or
    rows that share no entry are grouped by a coloring, and one product computes a whole group.
    Forward mode on columns, reverse mode on rows and both together are held against each other by
    measured costs. The result is certified by random products of the function.

    Args:
        func: As in `jacobian`; for order 2 a function that returns one element.
        inputs: As in `jacobian`. Their shapes, dtypes and devices become part of the plan, their
            values do not; those that are not differentiated may change likewise.
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
        keep_factors: Cut the function where it is narrow and keep the factors of J: the plan
            gives a `JacobianOperator` over everything raveled, whose products never form J.
            Functions that are narrow nowhere have one factor. There is no `layout`, no coloring
            and no pattern of J then; answers are certified as ever.

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
        "plan", order, layout, blocksize, flat, scope, strategy, chunk_size, memory, on_branch,
        vectorize, backend=backend, uses=uses, tune=tune,
    )  # fmt: skip
    check_request(request)
    given = given_of("plan", order, pattern, coloring)
    if keep_factors:
        _check_factors(request, given, has_aux=has_aux)
        return make_factored(Call(func, wrt, has_aux, order), inputs, request)
    return make(func, inputs, wrt, has_aux, request, given)


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


def _check_factors(request: Request, given: Given, *, has_aux: bool) -> None:
    """Refuse what says how to have entries, where there are none."""
    plain = Request("plan", on_branch=request.on_branch, backend=request.backend, flat=request.flat)
    differing = [
        f.name for f in fields(Request) if getattr(request, f.name) != getattr(plain, f.name)
    ]
    named = [
        *differing,
        *(["has_aux"] if has_aux else []),
        *[name for name in ("pattern", "coloring") if getattr(given, name) is not None],
        *(["backend"] if request.backend == "eager" else []),
    ]
    if named:
        raise ArgumentError(
            f"{request.api}: keep_factors=True computes factors by programs and knows no "
            f"`{named[0]}`: leave out one of them."
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
