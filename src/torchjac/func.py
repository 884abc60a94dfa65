"""Drop-in for the Jacobian transforms of `torch.func`, with chunks for all three.

They stand on `torch.func.vjp`, `jvp` and `vmap` and nest in these and in each other in any order.
What PyTorch cannot batch is an error here, as in `torch.func`; `torchjac.jacobian` has ways out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.randomness import random_state
from torchjac._evaluate.seeds import joint_basis
from torchjac._torch import jvp_with_argnums, pytree, slice_argnums, vjp_with_argnums

__all__ = ["hessian", "jacfwd", "jacrev"]

Argnums = int | tuple[int, ...]


def jacrev(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:
    """Transform a function into its Jacobian by reverse mode.

    jacrev(f)(x)[i, j] = d f(x)[i] / d x[j]

    Args:
        func: Takes Tensors or pytrees and returns Tensors or pytrees of them.
        argnums: Which argument, or tuple of arguments, to differentiate by.
        has_aux: `func` returns (output, aux) and aux is handed through.
        chunk_size: Rows per pass; None: all in one; 1: no vmap at all.
        _preallocate_and_copy: Write chunks into one result instead of joining them: less memory.

    Returns:
        A function with the arguments of `func` that returns the Jacobian, outputs outside,
        inputs inside; with `has_aux` a pair (Jacobian, aux).

    Raises:
        ValueError: `chunk_size` is not positive.

    >>> import torch
    >>> from torchjac.func import jacrev
    >>> jacrev(torch.sin)(torch.zeros(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    _check_chunk_size("jacrev", chunk_size)

    @wraps(func)
    def wrapped(*args: Any) -> Any:
        _check_real("jacrev", "inputs", args)
        output, pullback, *aux = vjp_with_argnums(func, *args, argnums=argnums, has_aux=has_aux)
        outputs, output_spec = pytree.tree_flatten(output)
        _check_real("jacrev", "outputs", outputs)
        primals, primals_spec = pytree.tree_flatten(slice_argnums(args, argnums))

        def pull(*cotangents: Tensor) -> tuple[Tensor, ...]:
            seeds = pytree.tree_unflatten(list(cotangents), output_spec)
            return tuple(pytree.tree_leaves(pullback(seeds)))

        rows = _sweep(
            pull, outputs, chunk_size, "error", in_place=_preallocate_and_copy, unbatched=True
        )
        cut = [row.split([output.numel() for output in outputs]) for row in rows]
        blocks = [
            [part[i].reshape(output.shape + x.shape) for part, x in zip(cut, primals, strict=True)]
            for i, output in enumerate(outputs)
        ]
        result = _nest(blocks, output_spec, primals_spec, argnums)
        return (result, *aux) if has_aux else result

    return wrapped


def jacfwd(
    func: Callable[..., Any],
    argnums: Argnums | None = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Transform a function into its Jacobian by forward mode.

    jacfwd(f)(x)[i, j] = d f(x)[i] / d x[j]

    Args:
        func: Takes Tensors or pytrees and returns Tensors or pytrees of them.
        argnums: Which argument, or tuple of arguments, to differentiate by; None: all.
        has_aux: `func` returns (output, aux) and aux is handed through.
        randomness: What a random op in `func` does: "error", "same" or "different".
        chunk_size: Columns per pass; None: all in one.

    Returns:
        A function with the arguments of `func` that returns the Jacobian, outputs outside,
        inputs inside; with `has_aux` a pair (Jacobian, aux).

    Raises:
        ValueError: `chunk_size` is not positive.

    >>> import torch
    >>> from torchjac.func import jacfwd
    >>> jacfwd(torch.sin, chunk_size=1)(torch.zeros(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    _check_chunk_size("jacfwd", chunk_size)

    @wraps(func)
    def wrapped(*args: Any) -> Any:
        _check_real("jacfwd", "inputs", args)
        moving = args if argnums is None else slice_argnums(args, argnums)
        primals, primals_spec = pytree.tree_flatten(moving)
        specs: list[Any] = []

        def push(*tangents: Tensor) -> tuple[Tensor, ...]:
            seeds = pytree.tree_unflatten(list(tangents), primals_spec)
            value, moved, *aux = jvp_with_argnums(func, args, seeds, argnums, has_aux=has_aux)
            _check_real("jacfwd", "outputs", value)
            flat, spec = pytree.tree_flatten(moved)
            extra, aux_spec = pytree.tree_flatten(aux)
            specs[:] = [spec, aux_spec, len(flat)]
            return tuple(flat + extra)

        columns = _sweep(push, primals, chunk_size, randomness)
        spec, aux_spec, count = specs
        cut = [c.movedim(0, -1).split([x.numel() for x in primals], -1) for c in columns[:count]]
        blocks = [
            [
                piece.reshape(piece.shape[:-1] + x.shape)
                for piece, x in zip(parts, primals, strict=True)
            ]
            for parts in cut
        ]
        result = _nest(blocks, spec, primals_spec, argnums)
        if not has_aux:
            return result
        return result, pytree.tree_unflatten([c[0] for c in columns[count:]], aux_spec)[0]

    return wrapped


def hessian(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    randomness: str = "error",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Transform a function into its Hessian: forward mode over reverse mode.

    hessian(f)(x)[i, j] = d^2 f(x) / (d x[i] d x[j])

    Args:
        func: Takes Tensors or pytrees and returns Tensors or pytrees of them.
        argnums: Which argument, or tuple of arguments, to differentiate by.
        has_aux: `func` returns (output, aux) and aux is handed through.
        randomness: What a random op in `func` does: "error", "same" or "different".
        chunk_size: Rows and columns per pass; None: all in one.

    Returns:
        A function with the arguments of `func` that returns the Hessian; with `has_aux` a pair
        (Hessian, aux).

    Raises:
        ValueError: `chunk_size` is not positive.

    >>> import torch
    >>> from torchjac.func import hessian
    >>> hessian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    _check_chunk_size("hessian", chunk_size)
    inner = jacrev(func, argnums, has_aux=has_aux, chunk_size=chunk_size)
    return jacfwd(inner, argnums, has_aux, randomness=randomness, chunk_size=chunk_size)


def _check_chunk_size(api: str, chunk_size: int | None) -> None:
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"{api}: `chunk_size` should be greater than 0.")


def _check_real(api: str, what: str, tree: Any) -> None:
    for position, leaf in enumerate(pytree.tree_leaves(tree)):
        if isinstance(leaf, Tensor) and leaf.dtype.is_complex:
            raise RuntimeError(
                f"{api}: Expected all {what} to be real but received complex tensor at flattened "
                f"input idx: {position}"
            )


def _sweep(
    product: Callable[..., tuple[Tensor, ...]],
    seeded: Sequence[Tensor],
    chunk_size: int | None,
    randomness: str,
    *,
    in_place: bool = False,
    unbatched: bool = False,
) -> list[Tensor]:
    """Apply `product` to every row of the identity over `seeded`, chunk by chunk."""
    total = sum(t.numel() for t in seeded)
    size = chunk_size or max(total, 1)
    results: list[Tensor] = []
    pieces: list[tuple[Tensor, ...]] = []
    # One mask for all columns, not one for each chunk.
    replayed = random_state(seeded).replayed if randomness == "same" else nullcontext
    for start in range(0, max(total, 1), size):
        stop = min(start + size, total)
        seeds = joint_basis(seeded, start, stop)
        if unbatched and chunk_size == 1 and total:
            part = tuple(t.unsqueeze(0) for t in product(*(seed[0] for seed in seeds)))
        else:
            with replayed() if start else nullcontext():
                part = torch.vmap(product, randomness=randomness)(*seeds)
        if stop == total and not start:
            return list(part)
        if in_place:
            results = results or [t.new_empty(total, *t.shape[1:]) for t in part]
            for result, piece in zip(results, part, strict=True):
                result[start:stop] = piece
        else:
            pieces.append(part)
    return results or [torch.cat(column) for column in zip(*pieces, strict=True)]


def _nest(
    blocks: list[list[Tensor]], output_spec: Any, primals_spec: Any, argnums: Argnums | None
) -> Any:
    rows: Iterator[Any] = (pytree.tree_unflatten(row, primals_spec) for row in blocks)
    if isinstance(argnums, int):
        rows = (row[0] for row in rows)
    return pytree.tree_unflatten(list(rows), output_spec)
