"""Who is measured: torchjac, and every way of PyTorch's to the same answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import functional
from torch.func import hessian, jacfwd, jacrev, vmap

import torchjac
from benchmarks.problems import Problem

# Roles, which targets compare: torchjac; Jacobians of torch.func as they come; a loop over rows;
# the same with vectorize=True; and what takes knowing better than to call one function.
OURS, FUNC, LOOP, VECTORIZED, IDIOM = "ours", "func", "loop", "vectorized", "idiom"

# Rows in a pass of reverse mode where all of them together would not fit.
CHUNK = 512


@dataclass(frozen=True)
class Contender:
    """One way to the answer of a problem.

    Attributes:
        name: What is called, for people.
        role: Which of the roles above.
        call: Computes the answer, or part of it.
        form: Brings an answer into the form of the others.
        part: Takes from an answer of the others, in that form, what `call` computes of it.
        share: How much of the answer that is; the time of the rest is extrapolated.
        note: What one should know when reading the time.
    """

    name: str
    role: str
    call: Callable[[], Any]
    form: Callable[[Any], Any] = lambda answer: answer
    part: Callable[[Any], Any] = lambda answer: answer
    share: float = 1.0
    note: str = ""


def contenders(problem: Problem) -> list[Contender]:
    """All who can solve a problem, torchjac first, less those that the problem skips."""
    found = _BY_KIND[problem.kind](problem)
    unknown = problem.skipped.keys() - {contender.name for contender in found}
    if unknown:
        raise ValueError(f"{problem.name} skips contenders that do not exist: {sorted(unknown)}")
    return [contender for contender in found if contender.name not in problem.skipped]


def _whole(problem: Problem) -> list[Contender]:
    """For the Jacobian of a function as a whole."""
    func, inputs = problem.func, problem.inputs
    given = inputs[0] if len(inputs) == 1 else inputs
    argnums = 0 if len(inputs) == 1 else tuple(range(len(inputs)))
    by_rows = [
        Contender("jacrev", FUNC, lambda: jacrev(func, argnums)(*inputs)),
        Contender("functional.jacobian", LOOP, lambda: functional.jacobian(func, given)),
    ]
    return [
        Contender("torchjac.jacobian", OURS, lambda: torchjac.jacobian(func, given)),
        Contender(
            "torchjac.functional.jacobian",
            OURS,
            lambda: torchjac.functional.jacobian(func, given),
        ),
        *(by_rows if problem.rows is None else _parts_of_rows(problem, problem.rows)),
        Contender("jacfwd", FUNC, lambda: jacfwd(func, argnums)(*inputs)),
        Contender(
            "functional.jacobian vectorize=True",
            VECTORIZED,
            lambda: functional.jacobian(func, given, vectorize=True),
        ),
        Contender(
            "functional.jacobian forward-mode",
            IDIOM,
            lambda: functional.jacobian(func, given, vectorize=True, strategy="forward-mode"),
        ),
    ]


def _parts_of_rows(problem: Problem, rows: int) -> list[Contender]:
    """Reverse mode where there are too many rows to compute all of them again and again."""
    func, x = problem.func, problem.x
    total = func(x).numel()

    def part(count: int) -> Callable[[Any], Any]:
        return lambda answer: answer.reshape(total, *x.shape)[:count]

    return [
        Contender(
            f"jacrev chunk_size={CHUNK}",
            FUNC,
            lambda: jacrev(_first(func, CHUNK), chunk_size=CHUNK)(x),
            part=part(CHUNK),
            share=CHUNK / total,
            note=_note(CHUNK, total),
        ),
        Contender(
            "functional.jacobian",
            LOOP,
            lambda: functional.jacobian(_first(func, rows), x),
            part=part(rows),
            share=rows / total,
            note=_note(rows, total),
        ),
    ]


def _first(func: Callable[[Tensor], Tensor], rows: int) -> Callable[[Tensor], Tensor]:
    """The function of which only the first rows of the Jacobian are wanted."""
    return lambda x: func(x).flatten()[:rows]


def _note(rows: int, total: int) -> str:
    return f"{rows} of {total} rows measured, the time of all extrapolated"


def _samples(problem: Problem) -> list[Contender]:
    """For the Jacobian of each sample of a batch."""
    func, sample, x = problem.func, problem.one, problem.x
    return [
        Contender("torchjac.batch_jacobian", OURS, lambda: torchjac.batch_jacobian(func, x)),
        Contender("vmap(jacrev)", FUNC, lambda: vmap(jacrev(sample))(x)),
        Contender("vmap(jacfwd)", FUNC, lambda: vmap(jacfwd(sample))(x)),
        Contender(
            "jacrev of the sum over samples",
            IDIOM,
            lambda: jacrev(lambda x: func(x).sum(0))(x),
            form=lambda answer: answer.movedim(answer.dim() - x.dim(), 0),
            note="wrong without a word where samples mix",
        ),
        _loop_over_batch(problem),
        Contender(
            "functional.jacobian per sample",
            IDIOM,
            lambda: torch.stack([functional.jacobian(sample, one) for one in x]),
            note="a loop over samples around its loop over rows",
        ),
    ]


def _loop_over_batch(problem: Problem) -> Contender:
    """The loop over the rows of all samples, with the zeros between samples."""
    func, x, rows = problem.func, problem.x, problem.rows
    name, note = "functional.jacobian of the batch", "computes the zeros between samples too"
    if rows is None:
        return Contender(
            name,
            LOOP,
            lambda: functional.jacobian(func, x),
            form=lambda answer: _blocks_of_samples(answer, x),
            note=note,
        )
    total = func(x).numel()
    each = total // len(x)
    return Contender(
        name,
        LOOP,
        lambda: functional.jacobian(_first(func, rows), x),
        form=lambda answer: torch.stack([row[r // each] for r, row in enumerate(answer)]),
        part=lambda answer: answer.reshape(total, *x.shape[1:])[:rows],
        share=rows / total,
        note=f"{note}; {_note(rows, total)}",
    )


def _blocks_of_samples(answer: Tensor, x: Tensor) -> Tensor:
    """(B, *out, B, *in) -> (B, *out, *in)."""
    return answer.diagonal(dim1=0, dim2=answer.dim() - x.dim()).movedim(-1, 0)


def _laplacian(problem: Problem) -> list[Contender]:
    func, sample, x = problem.func, problem.one, problem.x

    def nested() -> Tensor:
        grown = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(func(grown).sum(), grown, create_graph=True)
        columns = [
            torch.autograd.grad(grad[:, i].sum(), grown, retain_graph=True)[0][:, i]
            for i in range(x.shape[1])
        ]
        return torch.stack(columns).sum(0)

    return [
        Contender(
            "torchjac.laplacian",
            OURS,
            lambda: torchjac.laplacian(func, x, batch_dim=0),
            form=lambda answer: answer.squeeze(-1),
        ),
        Contender(
            "vmap(trace of hessian)",
            FUNC,
            lambda: vmap(lambda one: hessian(sample)(one).diagonal().sum())(x),
        ),
        Contender(
            "autograd.grad twice, axis by axis",
            IDIOM,
            nested,
            note="wrong without a word where samples mix",
        ),
    ]


def _hessian(problem: Problem) -> list[Contender]:
    func, x = problem.func, problem.x
    return [
        Contender("torchjac.hessian", OURS, lambda: torchjac.hessian(func, x)),
        Contender(
            "torchjac.functional.hessian", OURS, lambda: torchjac.functional.hessian(func, x)
        ),
        Contender("torch.func.hessian", FUNC, lambda: hessian(func)(x)),
        Contender("jacrev(jacrev)", FUNC, lambda: jacrev(jacrev(func))(x)),
        Contender("functional.hessian", LOOP, lambda: functional.hessian(func, x)),
        Contender(
            "functional.hessian vectorize=True",
            VECTORIZED,
            lambda: functional.hessian(func, x, vectorize=True),
        ),
        Contender(
            "functional.hessian forward-mode",
            IDIOM,
            lambda: functional.hessian(
                func, x, vectorize=True, outer_jacobian_strategy="forward-mode"
            ),
        ),
    ]


_BY_KIND: dict[str, Callable[[Problem], list[Contender]]] = {
    "jacobian": _whole,
    "samples": _samples,
    "laplacian": _laplacian,
    "hessian": _hessian,
}
