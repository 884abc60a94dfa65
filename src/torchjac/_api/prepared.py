"""A Jacobian or Hessian prepared for repeated use."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from torch import Tensor

from torchjac._api.solve import handed_out, read_call
from torchjac._api.sparse import refuse_transforms
from torchjac._coloring.coloring import Coloring
from torchjac._evaluate.options import Options
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._inputs.signature import Wrt
from torchjac._inputs.warn import warn
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.archive import read_plan, write_plan
from torchjac._planner.call import Call, of_order
from torchjac._planner.core import Answer, Core, Known, settled
from torchjac._planner.explain import as_html, as_text, why_no_program
from torchjac._planner.fit import fit_of
from torchjac._planner.prepare import Given, prepare
from torchjac._planner.result import rebuild, refill, run_direct
from torchjac._planner.structure import Candidate, Request
from torchjac.errors import ArgumentError, FallbackWarning


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
    world = call.world(inputs, signature)
    request = settled(request, given, world)
    made = prepare(of_order(signature, request.order), request, options, given, call.buffers())
    fit = fit_of(inputs, leaves, signature.positions)
    core = Core(call, request, given, fit, Known(made.structure, world))
    if request.backend not in ("auto", "eager") and made.structure.needs_passes:
        warn(
            f"{request.api}: backend={request.backend!r} is not used, the plan computes by passes. "
            f"Program: {why_no_program(core)}.",
            FallbackWarning,
        )
    return Plan(core)


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


def check_device(request: Request, leaves: Sequence[Tensor]) -> None:
    """Refuse a backend that inputs elsewhere would need."""
    if request.backend == "cudagraphs" and not all([leaf.is_cuda for leaf in leaves]):
        device = next(leaf.device for leaf in leaves if not leaf.is_cuda)
        raise ArgumentError(
            f"{request.api}: backend='cudagraphs' needs all inputs on a CUDA device, got one on "
            f"{device}: move the inputs there, or use backend='inductor'."
        )
