"""Jacobians of functions, of samples, and of tensors already computed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._api.solve import handed_out, read_call
from torchjac._api.sparse import differentiate_sparsely
from torchjac._evaluate.differentiate import differentiate
from torchjac._evaluate.existing import differentiate_existing
from torchjac._evaluate.options import Options
from torchjac._evaluate.samples import differentiate_samples
from torchjac._evaluate.seeds import BatchDims
from torchjac._evaluate.tape import Tape, grad_recorded
from torchjac._inputs.checks import Layout, check_layout
from torchjac._inputs.signature import Outputs, Wrt
from torchjac._torch import pytree
from torchjac.errors import ArgumentError, ArgumentTypeError


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool | None = None,
    strategy: str = "auto",
    *,
    wrt: Wrt = None,
    layout: Layout = torch.strided,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    has_aux: bool = False,
    holomorphic: bool = False,
    progress: bool = False,
) -> Any:
    """Jacobian of a function.

    J[i, j] = d func(inputs)[i] / d inputs[j]

    Takes what `torch.autograd.functional.jacobian` takes and returns what it returns. Rows come
    from vector-Jacobian products (reverse mode) or columns from Jacobian-vector products (forward
    mode), many at a time, in chunks that fit the memory. Where PyTorch cannot batch an op or has
    no forward rule for it, a slower way gives the same numbers and a `FallbackWarning` says so;
    `torchjac.record` shows what was done.

    Args:
        func: A function or module that returns a floating-point Tensor or a pytree of them.
        inputs: Where to differentiate: a Tensor; a tuple, which is several arguments; any other
            pytree (dict, list, namedtuple), which is one argument. Floating-point leaves of any
            shape. They are neither changed nor asked to require gradients.
        create_graph: Make the result differentiable.
        strict: Raise an error where an output does not depend on an input, instead of zeros.
        vectorize: None: batched passes, single ones where PyTorch cannot batch; True: batched
            or an error; False: one seed at a time, in the least memory.
        strategy: "auto" (by sizes), "reverse-mode" or "forward-mode".
        wrt: What to differentiate by: argument numbers, names of arguments, paths of leaves
            ("params.weight"), or an `nn.Module`, for its parameters. None: everything.
        layout: Layout of the result. Sparse ones (`torch.sparse_csr`, `sparse_csc`,
            `sparse_coo`, `sparse_bsr`) are matrices over flattened output and flattened input,
            computed from a detected pattern; `torchjac.plan` keeps what was found, and says what
            "blocks" is: [B, m, n], the blocks of samples or tokens that do not mix.
        chunk_size: Seeds per pass. None: as many as `memory` allows.
        memory: Most memory for the result, and for a pass beside it: bytes (int), or a fraction
            of what is free (float). None: a fraction of what the machine has free.
        has_aux: `func` returns (output, aux) and aux is handed through.
        holomorphic: Allow complex inputs and outputs, of a function that is holomorphic.
        progress: Show a progress bar (needs the extra `rich`).

    Returns:
        For one input and output a Tensor of shape (*output, *input). Otherwise the tree of the
        outputs, each leaf replaced by the tree of the inputs (tuple of tuples for tuples; for a
        module a dict by parameter name). With `has_aux` a pair (Jacobian, aux).

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An input or output has a type or dtype without a derivative.
        StrictError: `strict=True` and an output does not depend on an input.
        MemoryBudgetError: The result is larger than the memory budget.
        LayoutError: No such layout, a sparse one inside a transform of torch.func, or "blocks"
            where there are none.
        PatternError: The detected pattern does not hold; nothing is returned then.

    Source: Griewank & Walther (2008), Evaluating Derivatives, chapters 3 and 15.

    >>> import torch, torchjac
    >>> torchjac.jacobian(lambda x: x**2, torch.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    check_layout("jacobian", layout)
    options = Options(create_graph, strict, vectorize, strategy, chunk_size, memory, progress)
    signature = read_call(
        "jacobian", func, inputs, options, wrt=wrt, has_aux=has_aux, holomorphic=holomorphic
    )
    if layout is torch.strided:
        outputs, blocks = differentiate(signature, options)
        result = signature.rebuild(outputs, blocks)
    else:
        outputs, result = differentiate_sparsely(func, signature, options, layout, wrt=wrt)
    return (result, handed_out(outputs.aux, create_graph)) if has_aux else result


def value_and_jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool | None = None,
    strategy: str = "auto",
    *,
    wrt: Wrt = None,
    layout: Layout = torch.strided,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    has_aux: bool = False,
    holomorphic: bool = False,
    progress: bool = False,
) -> Any:
    """Value of a function and its Jacobian, from one evaluation.

    (func(inputs), d func(inputs) / d inputs)

    Args:
        func: As in `jacobian`.
        inputs: As in `jacobian`.
        create_graph: Make value and Jacobian differentiable.
        strict: As in `jacobian`.
        vectorize: As in `jacobian`.
        strategy: As in `jacobian`.
        wrt: As in `jacobian`.
        layout: As in `jacobian`.
        chunk_size: As in `jacobian`.
        memory: As in `jacobian`.
        has_aux: `func` returns (output, aux) and aux is handed through.
        holomorphic: As in `jacobian`.
        progress: As in `jacobian`.

    Returns:
        A pair (value, Jacobian), with `has_aux` a triple (value, Jacobian, aux).

    Raises:
        TorchjacError: As in `jacobian`.

    >>> import torch, torchjac
    >>> value, J = torchjac.value_and_jacobian(lambda x: x.sum() ** 2, torch.ones(2))
    >>> value, J
    (tensor(4.), tensor([4., 4.]))
    """
    api = "value_and_jacobian"
    check_layout(api, layout)
    options = Options(create_graph, strict, vectorize, strategy, chunk_size, memory, progress)
    signature = read_call(
        api, func, inputs, options, wrt=wrt, has_aux=has_aux, holomorphic=holomorphic
    )
    if layout is torch.strided:
        outputs, blocks = differentiate(signature, options)
        result = signature.rebuild(outputs, blocks)
    else:
        outputs, result = differentiate_sparsely(func, signature, options, layout, wrt=wrt)
    value = outputs.unflatten(handed_out(list(outputs.tensors), create_graph))
    if has_aux:
        return value, result, handed_out(outputs.aux, create_graph)
    return value, result


def batch_jacobian(
    func: Callable[..., Any],
    inputs: Any,
    *,
    in_dim: int = 0,
    out_dim: int = 0,
    axes: Sequence[int] | None = None,
    create_graph: bool = False,
    vectorize: bool | None = None,
    strategy: str = "auto",
    wrt: Wrt = None,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    has_aux: bool = False,
    progress: bool = False,
) -> Any:
    """Jacobian of each sample of a batch, for a function that takes the batch whole.

    J[b] = d func(inputs)[b] / d inputs[b]

    One seed serves all samples, so that max(out) or max(in) passes over the whole batch do, not
    B times as many, and no block of zeros between samples is ever made. That is right only if
    the samples do not mix: a random product tells, and a function that mixes them is refused.

    Args:
        func: Takes and returns whole batches: an ordinary module or function, not one of a
            single sample.
        inputs: As in `jacobian`; every differentiated leaf has B samples along `in_dim`.
        in_dim: Axis of samples in the inputs.
        out_dim: Axis of samples in the outputs.
        axes: Order of the axes of the result, a permutation as in `torch.permute`: for a
            classifier of images, (0, 2, 3, 4, 1) puts the classes last. None: [B, *out, *in].
        create_graph: Make the result differentiable.
        vectorize: As in `jacobian`.
        strategy: As in `jacobian`.
        wrt: As in `jacobian`, without modules: a parameter belongs to no sample.
        chunk_size: Seeds per pass.
        memory: As in `jacobian`.
        has_aux: `func` returns (output, aux) and aux is handed through.
        progress: Show a progress bar.

    Returns:
        Shape (B, *output of one sample, *input of one sample), nested as in `jacobian`. With
        `has_aux` a pair (Jacobian, aux).

    Raises:
        MixedSamplesError: Samples are not independent; the message names the cause.
        ShapeError: An input or output lacks the axis of samples.
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An input or output is no floating-point Tensor, or `wrt` is a module.

    >>> import torch, torchjac
    >>> torchjac.batch_jacobian(lambda x: x**2, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[[2., 0.],
             [0., 4.]],
    <BLANKLINE>
            [[6., 0.],
             [0., 8.]]])
    """
    api = "batch_jacobian"
    options = Options(create_graph, False, vectorize, strategy, chunk_size, memory, progress)
    if isinstance(wrt, torch.nn.Module):
        raise ArgumentTypeError(
            f"{api}: `wrt` cannot be a module: its parameters have no axis of samples. For "
            "per-sample Jacobians by parameters use torch.func.vmap over `jacobian(..., wrt=...)`."
        )
    for name, dim in (("in_dim", in_dim), ("out_dim", out_dim)):
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 0:
            raise ArgumentError(f"{api}: `{name}` must be an axis number 0, 1, ..., got {dim!r}.")
    signature = read_call(api, func, inputs, options, wrt=wrt, has_aux=has_aux)
    outputs, blocks = differentiate_samples(signature, options, BatchDims(in_dim, out_dim), func)
    if axes is not None:
        blocks = [[_permuted(api, block, axes) for block in row] for row in blocks]
    result = signature.rebuild(outputs, blocks)
    return (result, handed_out(outputs.aux, create_graph)) if has_aux else result


def _permuted(api: str, block: Tensor, axes: Sequence[int]) -> Tensor:
    if not isinstance(axes, list | tuple) or set(axes) != set(range(block.dim())):
        raise ArgumentError(
            f"{api}: `axes` must be a permutation of the {block.dim()} axes of a result of shape "
            f"{tuple(block.shape)}, got {axes!r}."
        )
    return block.permute(*axes)


def jacobian_of(
    outputs: Any,
    inputs: Any,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    strict: bool = False,
    vectorize: bool | None = None,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    progress: bool = False,
) -> Any:
    """Jacobian of tensors that are computed already, through their graph.

    J[i, j] = d outputs[i] / d inputs[j]

    For code where there is no function to call: the outputs of a training step, say. Rows come
    from reverse mode, as there is nothing to evaluate again.

    Args:
        outputs: A Tensor with a graph, or a pytree of them.
        inputs: A Tensor of that graph that requires gradients, or a pytree of them.
        create_graph: Make the result differentiable.
        retain_graph: Keep the graph for further backward passes. None: as `create_graph`.
        strict: Raise an error where an output does not depend on an input, instead of zeros.
        vectorize: As in `jacobian`.
        chunk_size: Seeds per pass.
        memory: As in `jacobian`.
        progress: Show a progress bar.

    Returns:
        As `jacobian`: shape (*output, *input), nested outputs outside, inputs inside.

    Raises:
        ArgumentError: The graph was freed, no output has one, or an input requires no gradients.
        ArgumentTypeError: Something is not a floating-point Tensor.
        StrictError: `strict=True` and an output does not depend on an input.

    >>> import torch, torchjac
    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> torchjac.jacobian_of(x.prod() * x, x)
    tensor([[4., 1.],
            [4., 4.]])
    """
    api = "jacobian_of"
    options = Options(create_graph, strict, vectorize, "auto", chunk_size, memory, progress)
    options.checked(api)
    flat_outputs, spec = pytree.tree_flatten(outputs)
    flat_inputs, inner = pytree.tree_flatten(inputs)
    _check_graph(api, flat_outputs, flat_inputs)
    tape = Tape(tuple(flat_inputs), Outputs(tuple(flat_outputs), spec, None))
    with grad_recorded():
        blocks = differentiate_existing(api, tape, options)
        if not (create_graph if retain_graph is None else retain_graph):
            tape.release()
    return pytree.tree_unflatten([pytree.tree_unflatten(row, inner) for row in blocks], spec)


def _check_graph(api: str, outputs: Sequence[Any], inputs: Sequence[Any]) -> None:
    for name, tensors in (("outputs", outputs), ("inputs", inputs)):
        if not tensors:
            raise ArgumentError(f"{api}: `{name}` holds no tensor.")
        for k, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor)
                raise ArgumentTypeError(
                    f"{api}: `{name}` {k} must be a floating-point Tensor, got {kind}."
                )
    for k, tensor in enumerate(inputs):
        if not tensor.requires_grad:
            raise ArgumentError(
                f"{api}: input {k} does not require gradients, so that the outputs cannot know "
                "it. Call .requires_grad_() on it before computing them."
            )
    if not any(tensor.requires_grad for tensor in outputs):
        raise ArgumentError(
            f"{api}: no output has a graph: they were computed under no_grad or inference_mode, "
            "or detached. Compute them with gradients enabled, or use `torchjac.jacobian`."
        )
