"""PyTorch as a contender: torch.func, torch.autograd.functional, and what people write by hand."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import functional
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.contender import Contender, Ready, as_it_is, compiled
from benchmarks.model import COMPILED, FUNC, FUNCTIONAL, HAND
from benchmarks.problems import Problem

# Elements of a dense answer above which it is not asked for where a sparse one is wanted.
MOST_DENSE = 2**23
# Rows in a pass of reverse mode where all of them together would not fit.
CHUNK = 512
MIXES = "wrong without a word where samples mix"


def contenders(problem: Problem) -> Iterator[Contender]:
    """Every way of PyTorch's to the answer."""
    return _BY_KIND[problem.kind](problem)


def _transforms(
    ways: Mapping[str, Callable[..., Any]], *inputs: Any, library: str = FUNC, **rest: Any
) -> Iterator[Contender]:
    """Transformed functions, each as it comes and compiled."""
    for way, func in ways.items():
        yield Contender(library, way, as_it_is(lambda f=func: f(*inputs)), **rest)
        yield Contender(library, way + COMPILED, compiled(func, *inputs), **rest)


def _sparse(problem: Problem) -> Iterator[Contender]:
    """Dense answers, which are all that PyTorch has."""
    if problem.x.numel() ** 2 <= MOST_DENSE:
        yield from _hessian(problem) if problem.order == 2 else _whole(problem)


def _whole(problem: Problem) -> Iterator[Contender]:
    """The Jacobian of a function as a whole."""
    func, inputs, given = problem.func, problem.inputs, problem.given
    argnums = 0 if len(inputs) == 1 else tuple(range(len(inputs)))
    if problem.rows is None:
        yield from _transforms({"jacrev": jacrev(func, argnums)}, *inputs)
        yield Contender(FUNCTIONAL, "jacobian", as_it_is(lambda: functional.jacobian(func, given)))
    else:
        yield from _parts_of_rows(problem, problem.rows)
    yield from _transforms({"jacfwd": jacfwd(func, argnums)}, *inputs)
    yield Contender(
        FUNCTIONAL,
        "jacobian, vectorize=True",
        as_it_is(lambda: functional.jacobian(func, given, vectorize=True)),
    )
    yield Contender(
        FUNCTIONAL,
        "jacobian, forward-mode",
        as_it_is(lambda: functional.jacobian(func, given, vectorize=True, strategy="forward-mode")),
    )


def _parts_of_rows(problem: Problem, rows: int) -> Iterator[Contender]:
    """Reverse mode where there are too many rows to compute all of them again and again."""
    func, x = problem.func, problem.x
    total = func(x).numel()

    def part(count: int) -> Callable[[Any], Any]:
        return lambda answer: answer.reshape(total, *x.shape)[:count]

    yield Contender(
        FUNC,
        f"jacrev, chunk_size={CHUNK}",
        as_it_is(lambda: jacrev(_first(func, CHUNK), chunk_size=CHUNK)(x)),
        part=part(CHUNK),
        share=CHUNK / total,
        note=_note(CHUNK, total),
    )
    yield Contender(
        FUNCTIONAL,
        "jacobian",
        as_it_is(lambda: functional.jacobian(_first(func, rows), x)),
        part=part(rows),
        share=rows / total,
        note=_note(rows, total),
    )


def _first(func: Callable[[Tensor], Tensor], rows: int) -> Callable[[Tensor], Tensor]:
    """The function of which only the first rows of the Jacobian are wanted."""
    return lambda x: func(x).flatten()[:rows]


def _note(rows: int, total: int) -> str:
    return f"{rows} of {total:,} rows measured, the time of all extrapolated"


def _samples(problem: Problem) -> Iterator[Contender]:
    """The Jacobian of each sample of a batch: given whole, or by who knows that it is one."""
    func, sample, x = problem.func, problem.one, problem.x
    outputs = func(x).numel()

    def diagonal(answer: Tensor) -> Tensor:
        return answer.diagonal(dim1=0, dim2=answer.dim() - x.dim()).movedim(-1, 0)

    if outputs * x.numel() <= MOST_DENSE:
        note = "given whole: computes the zeros between samples too"
        yield from _transforms(
            {"jacrev": jacrev(func), "jacfwd": jacfwd(func)}, x, form=diagonal, note=note
        )
    if problem.rows is not None or outputs * x.numel() <= MOST_DENSE:
        yield _loop_over_batch(problem, diagonal)
    by_sample = {"vmap(jacrev)": vmap(jacrev(sample)), "vmap(jacfwd)": vmap(jacfwd(sample))}
    yield from _transforms(by_sample, x, library=HAND)
    for way, transformed in by_sample.items():
        name = f"make_fx of {way}{COMPILED}"
        yield Contender(HAND, name, lambda f=transformed: _traced(f, x))
    yield Contender(
        HAND,
        "jacrev of the sum over samples",
        as_it_is(lambda: jacrev(lambda x: func(x).sum(0))(x)),
        form=lambda answer: answer.movedim(answer.dim() - x.dim(), 0),
        note=MIXES,
    )


def _traced(func: Callable[..., Any], x: Tensor) -> Ready:
    """A transformed function traced by hand, so that the compiler sees plain operations."""
    return compiled(make_fx(func)(x), x)()


def _loop_over_batch(problem: Problem, diagonal: Callable[[Tensor], Tensor]) -> Contender:
    """The loop over the rows of all samples, with the zeros between samples."""
    func, x, rows = problem.func, problem.x, problem.rows
    note = "computes the zeros between samples too"
    if rows is None:
        whole = as_it_is(lambda: functional.jacobian(func, x))
        return Contender(FUNCTIONAL, "jacobian", whole, form=diagonal, note=note)
    total = func(x).numel()
    each = total // len(x)
    return Contender(
        FUNCTIONAL,
        "jacobian",
        as_it_is(lambda: functional.jacobian(_first(func, rows), x)),
        form=lambda answer: torch.stack([row[r // each] for r, row in enumerate(answer)]),
        part=lambda answer: answer.reshape(total, *x.shape[1:])[:rows],
        share=rows / total,
        note=f"{note}; {_note(rows, total)}",
    )


def _laplacian(problem: Problem) -> Iterator[Contender]:
    func, sample, x = problem.func, problem.one, problem.x

    def nested() -> Tensor:
        grown = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(func(grown).sum(), grown, create_graph=True)
        columns = [
            torch.autograd.grad(grad[:, i].sum(), grown, retain_graph=True)[0][:, i]
            for i in range(x.shape[1])
        ]
        return torch.stack(columns).sum(0)

    of_all = vmap(lambda one: hessian(sample)(one).diagonal().sum())
    yield from _transforms({"vmap(trace of hessian)": of_all}, x)
    yield Contender(HAND, "autograd.grad twice, axis by axis", as_it_is(nested), note=MIXES)


def _hessian(problem: Problem) -> Iterator[Contender]:
    func, x = problem.func, problem.x
    yield from _transforms({"hessian": hessian(func)}, x)
    yield Contender(FUNC, "jacrev(jacrev)", as_it_is(lambda: jacrev(jacrev(func))(x)))
    for way, options in (
        ("hessian", {}),
        ("hessian, vectorize=True", {"vectorize": True}),
        (
            "hessian, forward-mode",
            {"vectorize": True, "outer_jacobian_strategy": "forward-mode"},
        ),
    ):
        yield Contender(
            FUNCTIONAL, way, as_it_is(lambda o=options: functional.hessian(func, x, **o))
        )


def _ntk(problem: Problem) -> Iterator[Contender]:
    """Jacobians of both batches by all weights, contracted: what PyTorch's tutorial shows."""
    net, x = problem.func, problem.x
    weights = {name: weight.detach() for name, weight in net.named_parameters()}

    def one(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, dict(weights), (x.unsqueeze(0),)).squeeze(0)

    def kernel(x1: Tensor, x2: Tensor) -> Tensor:
        of_all = vmap(jacrev(one), (None, 0))
        first, second = of_all(weights, x1), of_all(weights, x2)
        parts = [
            torch.einsum("Naf,Mbf->NMab", a.flatten(2), b.flatten(2))
            for a, b in zip(first.values(), second.values(), strict=True)
        ]
        return torch.stack(parts).sum(0)

    yield from _transforms({"jacobian contraction": kernel}, x, x)


_BY_KIND: dict[str, Callable[[Problem], Iterator[Contender]]] = {
    "sparse": _sparse,
    "jacobian": _whole,
    "samples": _samples,
    "laplacian": _laplacian,
    "hessian": _hessian,
    "ntk": _ntk,
}
