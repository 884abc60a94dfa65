"""A tape: one recorded evaluation of the function, ready for pullbacks.

Two kinds answer the same questions. `Tape` stands on the autograd graph and is what a plain call
uses. `TransformTape` stands on `torch.func.vjp` and is used inside `vmap`, `grad` or `jvp` of
`torch.func`, where a graph of one's own cannot be made.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from torchjac._inputs.signature import Outputs, Signature
from torchjac._torch import (
    GraphSurvey,
    batched,
    fast_backward,
    pytree,
    refuse_wrong_batching,
    survey_graph,
)
from torchjac.errors import AutogradOffError

P = ParamSpec("P")
R = TypeVar("R")


class Linearized(Protocol):
    """What evaluation needs of a recorded function."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors differentiated at."""
        ...

    @property
    def outputs(self) -> Outputs:
        """The value of the function."""
        ...

    def survey(self) -> GraphSurvey:
        """What the graph holds."""
        ...

    def pull(
        self,
        which: Sequence[int],
        cotangents: Sequence[Tensor],
        *,
        stacked: bool,
        create_graph: bool,
    ) -> list[Tensor | None]:
        """Vector-Jacobian products with the outputs `which`.

        u -> (J[i, j]^T u summed over i) for each input j; None where no path exists. With
        `stacked` every cotangent has a leading axis of independent seeds, and so has the answer.
        """
        ...


@dataclass(slots=True, eq=False)
class Tape:
    """The autograd graph of one evaluation."""

    inputs: tuple[Tensor, ...]
    outputs: Outputs
    _survey: GraphSurvey | None = None

    def pull(
        self,
        which: Sequence[int],
        cotangents: Sequence[Tensor],
        *,
        stacked: bool,
        create_graph: bool,
    ) -> list[Tensor | None]:
        """See `Linearized.pull`."""
        tensors = self.outputs.tensors
        live = [k for k, i in enumerate(which) if tensors[i].requires_grad]
        if not live:
            return [None] * len(self.inputs)
        outputs = [tensors[which[k]] for k in live]
        seeds = [cotangents[k] for k in live]

        def run(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
            return fast_backward(outputs, self.inputs, seeds, create_graph=create_graph)

        if not stacked:
            return list(run(seeds))
        self.refuse_batching(create_graph=create_graph)
        return batched(run, seeds)

    def refuse_batching(self, *, create_graph: bool) -> None:
        """See whether products may be taken together, to be differentiated themselves or not.

        Raises:
            NotImplementedError: PyTorch would give wrong numbers.
        """
        refuse_wrong_batching(self.survey().node_names, create_graph=create_graph)

    def survey(self) -> GraphSurvey:
        """See `Linearized.survey`."""
        if self._survey is None:
            self._survey = survey_graph(self.outputs.tensors)
        return self._survey

    def release(self) -> None:
        """Free the buffers of the graph, which only a backward pass can do."""
        outputs = [output for output in self.outputs.tensors if output.requires_grad]
        seeds = [torch.zeros_like(output) for output in outputs]
        fast_backward(outputs, self.inputs, seeds, create_graph=False, retain_graph=False)


class TransformTape(NamedTuple):
    """The pullback of `torch.func.vjp`, for calls from inside a transform."""

    inputs: tuple[Tensor, ...]
    outputs: Outputs
    pullback: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]

    def survey(self) -> GraphSurvey:
        """See `Linearized.survey`; the graph of a transform is not to be seen."""
        return GraphSurvey(0, frozenset(), False)

    def pull(
        self,
        which: Sequence[int],
        cotangents: Sequence[Tensor],
        *,
        stacked: bool,
        create_graph: bool,  # noqa: ARG002 - transforms are always differentiable
    ) -> list[Tensor | None]:
        """See `Linearized.pull`."""
        full = list(map(torch.zeros_like, self.outputs.tensors))
        if not stacked:
            for i, cotangent in zip(which, cotangents, strict=True):
                full[i] = cotangent
            return list(self.pullback(tuple(full)))

        def run(*seeds: Tensor) -> tuple[Tensor, ...]:
            for i, seed in zip(which, seeds, strict=True):
                full[i] = seed
            return self.pullback(tuple(full))

        return list(torch.vmap(run)(*cotangents))


def record(
    signature: Signature, *, create_graph: bool, watch: AbstractContextManager[Any] | None = None
) -> Tape:
    """Evaluate the function once and keep its autograd graph.

    The function gets copies, so that writing to its arguments in place neither fails (as it does
    on leaves of a graph) nor alters the user's tensors.

    Args:
        signature: What to evaluate, and at which tensors.
        create_graph: Keep the connection to the graph that the inputs came from.
        watch: Looks on while the function runs.

    Returns:
        The tape.

    Raises:
        AutogradOffError: Autograd would record nothing.
    """
    with grad_recorded():
        leaves = tuple([leaf_of(t, create_graph) for t in signature.leaves])
        copies = [leaf.clone() for leaf in leaves]
        _refuse_without_autograd(signature.api, copies)
        if watch is None:
            return Tape(leaves, signature.evaluate(copies))
        with watch:
            return Tape(leaves, signature.evaluate(copies))


def _refuse_without_autograd(api: str, copies: Sequence[Tensor]) -> None:
    """Refuse copies of leaves that autograd knows nothing of: all derivatives would be zero."""
    if all([copy.requires_grad for copy in copies]):
        return
    raise AutogradOffError(
        f"{api}: autograd is off in this thread, below `torch.no_grad`: a copy of an input that "
        "requires gradients requires none. A call of `torch.compile` that fails inside of "
        "torch.func leaves that behind, and a TorchDispatchMode is such a place. Go on in another "
        "thread or process, or outside of the mode."
    )


def grad_recorded() -> AbstractContextManager[Any]:
    """A block in which autograd records, whatever the caller has switched off."""
    if not torch.is_inference_mode_enabled():
        return torch.enable_grad()
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    return stack


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function work in normal mode under `torch.inference_mode`, where no graph exists."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return wrapped


def leaf_of(tensor: Tensor, create_graph: bool) -> Tensor:
    """A new tensor with the value of `tensor` that autograd can tell from the original."""
    if tensor.is_inference():  # cannot be recorded by autograd, a copy of it can
        return tensor.clone().requires_grad_()
    if create_graph and tensor.requires_grad:
        return tensor.clone() if tensor.layout is not torch.strided else tensor.view_as(tensor)
    return tensor.detach().requires_grad_()


def record_in_transform(
    evaluate: Callable[[list[Tensor]], Outputs], leaves: tuple[Tensor, ...]
) -> TransformTape:
    """Evaluate a function once inside a `torch.func` transform.

    Args:
        evaluate: The function.
        leaves: Where.

    Returns:
        The tape.
    """
    kept: list[Any] = []

    def flat(*inner: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        outputs = evaluate([leaf.clone() for leaf in inner])
        aux, spec = pytree.tree_flatten(outputs.aux)
        kept[:] = [outputs.spec, aux, spec]
        return outputs.tensors, [t for t in aux if isinstance(t, Tensor)]

    values, pullback, *rest = torch.func.vjp(flat, *leaves, has_aux=True)
    spec, aux, aux_spec = kept
    given = iter(rest[0])  # as the transform hands them out, in place of those inside of it
    aux = [next(given) if isinstance(t, Tensor) else t for t in aux]
    outputs = Outputs(tuple(values), spec, pytree.tree_unflatten(aux, aux_spec))
    return TransformTape(leaves, outputs, pullback)
