"""Products of a Jacobian with itself, without the Jacobian."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from torchjac._api.solve import handed_out, read_call
from torchjac._evaluate.gram import gram_of
from torchjac._evaluate.kernel.block import Subject
from torchjac._evaluate.kernel.kernel import Samples, kernel_of
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.options import Options
from torchjac._inputs.checks import check_callable, check_choice, check_chunk_size, check_memory
from torchjac._inputs.signature import Wrt
from torchjac._torch import inside_transform, pytree
from torchjac.errors import ArgumentError, ArgumentTypeError, ShapeError

KINDS = ("full", "trace", "diagonal")
SIDES = ("inputs", "outputs")


def gram(
    func: Callable[..., Any],
    inputs: Any,
    *,
    over: str = "inputs",
    weight: Tensor | Callable[[Tensor], Tensor] | None = None,
    residual: Any = None,
    wrt: Wrt = None,
    create_graph: bool = False,
    chunk_size: int | None = None,
    memory: int | float | None = None,
    has_aux: bool = False,
    progress: bool = False,
) -> Any:
    """Gram matrix of a Jacobian, weighted if need be, without the Jacobian.

    J^T M J over inputs: Gauss-Newton and Fisher matrices; J S J^T over outputs: covariances
    propagated to first order. J is the Jacobian of all outputs, raveled and one after the other, by
    all inputs, raveled likewise. Beside the result, some of its rows or columns are held at a time,
    as many as `memory` allows.

    Args:
        func: As in `jacobian`.
        inputs: As in `jacobian`.
        over: "inputs" for J^T M J, "outputs" for J S J^T.
        weight: M, with a row for each output element, or S, with a row for each input element: a
            Tensor of that many elements, for a diagonal; a matrix; or a function V -> weight @ V
            of matrices V, for a symmetric one. None: the identity.
        residual: r, to have J^T r from the same passes: a Tensor like the output (a tree for a
            tree), or a function of the output that returns such: `lambda y: y - data`. A weight
            is not applied to it: for weighted least squares give M r.
        wrt: As in `jacobian`.
        create_graph: Make the result differentiable; its graph holds the Jacobian then.
        chunk_size: Seeds per pass. None: as many as `memory` allows.
        memory: As in `jacobian`.
        has_aux: `func` returns (output, aux) and aux is handed through.
        progress: Show a progress bar (needs the extra `rich`).

    Returns:
        The matrix, shape (n, n) for n input elements or (m, m) for m output elements; with
        `residual` a pair of it and J^T r, shape (n,); with `has_aux` a tuple with aux last.

    Raises:
        ArgumentError: An argument is out of range.
        ArgumentTypeError: An input, an output, `weight` or `residual` is of another type.
        ShapeError: `weight` or `residual` does not fit.
        MemoryBudgetError: The result is larger than the memory budget.

    Source: Griewank & Walther (2008), Evaluating Derivatives, chapters 3 and 8; for Gauss-Newton
    matrices Schraudolph (2002), Neural Computation 14(7).

    >>> import torch, torchjac
    >>> x, data = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0, 2.0])
    >>> model = lambda x: torch.stack([x[0], x[1] ** 2, x.prod()])
    >>> G, g = torchjac.gram(model, x, residual=lambda y: y - data)
    >>> G, g
    (tensor([[ 5.,  2.],
            [ 2., 17.]]), tensor([1., 4.]))
    """
    api = "gram"
    check_choice(api, "over", over, SIDES)
    options = Options(create_graph, chunk_size=chunk_size, memory=memory, progress=progress)
    signature = read_call(api, func, inputs, options, wrt=wrt, has_aux=has_aux)
    outputs, matrix, gradient = gram_of(
        signature, options, over_outputs=over == "outputs", weight=weight, residual=residual
    )
    result = [matrix] if gradient is None else [matrix, gradient]
    if has_aux:
        result.append(handed_out(outputs.aux, create_graph))
    return result[0] if len(result) == 1 else tuple(result)


def ntk(
    func: Callable[..., Any],
    x1: Any,
    x2: Any = None,
    *,
    wrt: nn.Module | None = None,
    compute: str = "full",
    chunk_size: int | None = None,
    memory: int | float | None = None,
) -> Tensor:
    """Empirical neural tangent kernel: inner products of Jacobians by the parameters.

    K[a, b, i, j] = sum over parameters p of  d func(x1)[a, i] / d p  *  d func(x2)[b, j] / d p

    The Jacobian by the weight of a layer is a sum of outer products of what went in and of
    cotangents of what came out, so that the kernel is made of small Gram matrices of both. This
    is read from the graph of the function, wherever a parameter is used: linear layers and
    matrix products, convolutions, embeddings, normalisation, elementwise products and sums; tied
    weights and layers used twice are what they are. For other parameters the Jacobian of each
    sample is multiplied out. `torchjac.record` says which parameters went which way. What the
    structure says of one random product is compared with a backward pass before it is used.

    Parameters with `requires_grad=False` are not trained and play no part.

    Args:
        func: A module, or with `wrt` a function that calls one. Takes batches of samples along
            axis 0 and returns one Tensor of shape (B, *output).
        x1: B1 samples: a Tensor; a tuple, which is several arguments; or any other pytree, which
            is one. Every Tensor in it has the samples along axis 0.
        x2: B2 samples like `x1`. None: `x1`.
        wrt: The module whose parameters count. None: `func` itself.
        compute: "full"; "diagonal": only pairs of the same output; "trace": these summed (the
            `trace_axes` of Neural Tangents divide by their number too).
        chunk_size: Samples at a time. None: as many as `memory` allows.
        memory: As in `jacobian`; the result must fit it, and what is computed at a time beside.

    Returns:
        Shape (B1, B2, *output, *output) for "full", (B1, B2, *output) for "diagonal", (B1, B2)
        for "trace". Not differentiable.

    Raises:
        MixedSamplesError: Samples are not independent; the message names the cause.
        ArgumentError: An argument is out of range, there is nothing to train, or `func` draws
            random numbers.
        ArgumentTypeError: `func` is no module and `wrt` names none.
        ShapeError: The samples, or the outputs, are not along axis 0.
        MemoryBudgetError: The result is larger than the memory budget.

    Source: Novak, Sohl-Dickstein & Schoenholz (2022), Fast Finite Width Neural Tangent Kernel,
    ICML.

    >>> import torch, torchjac
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> torchjac.ntk(layer, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), compute="trace")
    tensor([[ 5., 11.],
            [11., 25.]])
    """
    api = "ntk"
    check_callable(api, func)
    check_choice(api, "compute", compute, KINDS)
    check_chunk_size(api, chunk_size)
    check_memory(api, memory)
    if inside_transform():
        raise ArgumentError(
            f"{api}: cannot look into a graph inside a torch.func transform. Call it outside."
        )
    subject = _subject(api, func, wrt)
    first = _samples(api, "x1", x1)
    second = None if x2 is None or x2 is x1 else _samples(api, "x2", x2)
    budget = Budget(
        api,
        memory,
        chunk_size,
        result="the kernel",
        remedies='ask for compute="trace" or "diagonal", or for fewer samples at a time',
    )
    return kernel_of(subject, first, second, compute, budget)


def _subject(api: str, func: Callable[..., Any], wrt: nn.Module | None) -> Subject:
    module = func if wrt is None else wrt
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(
            f"{api}: `wrt` must be the nn.Module whose parameters count, as `func` is none itself; "
            f"got {type(wrt)}."
        )
    named = list(module.named_parameters())
    trained = [k for k, (_, parameter) in enumerate(named) if parameter.requires_grad]
    if not trained:
        raise ArgumentError(
            f"{api}: no parameter of the module requires gradients, so that nothing is trained "
            f"({len(named)} in all). Call requires_grad_() on those that count."
        )
    return Subject(api, func, module, tuple(named[k][0] for k in trained), tuple(trained))


def _samples(api: str, name: str, inputs: Any) -> Samples:
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    counts = {leaf.shape[:1] for leaf in leaves}
    if len(counts) != 1 or not next(iter(counts)):
        raise ShapeError(
            f"{api}: `{name}` must hold tensors with the same number of samples along axis 0, got "
            f"shapes {[tuple(leaf.shape) for leaf in leaves]}. Bind what belongs to no sample with "
            "functools.partial, and name the module with `wrt=`."
        )
    return Samples(inputs, leaves[0].shape[0])
