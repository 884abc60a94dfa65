"""Make a plan of a Laplacian: one program that differentiates twice along all axes at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from math import prod
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._api.plan import check_request
from torchjac._api.prepared import check_device
from torchjac._api.solve import read_call
from torchjac._evaluate.options import Options
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._inputs.warn import warn
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.apply import tell_direct
from torchjac._planner.call import Call, World
from torchjac._planner.explain import time_in_words
from torchjac._planner.fit import Fit, fit_of
from torchjac._planner.laplacian import Laplacian, find_laplacian
from torchjac._planner.structure import Request
from torchjac._torch import inside_transform
from torchjac.errors import ArgumentError, ArgumentTypeError, BranchWarning

API = "plan_laplacian"


class _Made(NamedTuple):
    """A Laplacian, and what it was found in."""

    found: Laplacian
    world: World


class LaplacianPlan:
    """A Laplacian prepared for repeated use; made by `torchjac.plan_laplacian`.

    `plan(inputs)` computes it at other inputs of the same kind. `print(plan)` says how, and what
    finding that cost. Plans may be used from several threads, and can be pickled if the function
    can; a program belongs to its process and is found anew in another one.
    """

    def __init__(self, call: Call, request: Request, fit: Fit, made: _Made) -> None:
        self._call, self._request, self._fit = call, request, fit
        self._made: _Made | None = made
        # What the function holds since it has changed, and whether that was told.
        self._next: World | None = None
        self._has_told = False
        self._lock: Any = RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Without the program: it holds numbers of what the function reads."""
        return dict(self.__dict__, _made=None, _next=None, _lock=None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.__dict__.update(state, _lock=RLock())

    @outside_inference_mode
    def __call__(self, inputs: Tensor, create_graph: bool = False) -> Tensor:
        """Compute the Laplacian.

        Args:
            inputs: Where, like the input that the plan was made for.
            create_graph: Make the result differentiable, by passes of reverse mode.

        Returns:
            Shape of the output of the function.

        Raises:
            ArgumentTypeError: `inputs` is not one Tensor.
            PlanMismatchError: It is not what the plan was made for.
        """
        plain = None if create_graph or inside_transform() else self._fit.plain(inputs)
        if plain is None:
            check_tensor(inputs)
            leaves = self._call.bind(API, inputs).leaves
            self._fit.refuse(API, inputs, leaves)
        else:
            leaves, _ = plain
        found = self._current(inputs, leaves)
        direct = found.direct
        if direct is None or create_graph or inside_transform():
            options = Options(create_graph, memory=self._request.memory, allow_constant=True)
            return found.by_passes(self._call.bind(API, inputs), options, self._call.func)
        tell_direct(API, direct)
        with torch.no_grad():
            return direct.nonzeros([leaf.detach() for leaf in leaves])

    def _current(self, inputs: Tensor, leaves: Sequence[Tensor]) -> Laplacian:
        """What is known, without a program if the function is another one now."""
        made = self._made
        if made is not None and (made.found.direct is None or self._is_in(made.world, leaves)):
            return made.found
        with self._lock:
            if made is None or (self._next is not None and self._is_in(self._next, leaves)):
                self._made = made = _made(self._call, self._request, inputs)
                self._next = None
                return made.found
            # Whether the new state will last, the next call shows: in training it does not.
            if not self._has_told:
                self._has_told = True
                warn(
                    f"{API}: what the function holds has changed since its program was found. It "
                    "is computed by passes now, and gets another program once the same state is "
                    "met in two calls.",
                    BranchWarning,
                )
            self._next = self._call.world(inputs, self._call.bind(API, inputs))
            return replace(made.found, direct=None)

    def _is_in(self, world: World, leaves: Sequence[Tensor]) -> bool:
        return self._call.is_in(world, (), (), leaves)

    @property
    def pattern(self) -> SparsityPattern | None:
        """Second derivatives of the outputs that can be nonzero; None without a program."""
        return None if self._made is None else self._made.found.hessian

    @property
    def seeds(self) -> int:
        """Along how many vectors the program differentiates twice; 0 without one."""
        return 0 if self._made is None else self._made.found.seeds

    @property
    def method(self) -> str:
        """What the plan does, in words."""
        direct = None if self._made is None else self._made.found.direct
        return "passes" if direct is None else f"collapsed forward mode, {direct.backend}"

    def __repr__(self) -> str:
        (shape, _, _) = self._fit.leaves[0]
        return f"LaplacianPlan({list(shape)}, method={self.method!r})"

    def __str__(self) -> str:
        lines = ["Plan of a Laplacian", *map("  {0[0]:<14}{0[1]}".format, self._facts())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Label and text of each line."""
        yield "method", self.method
        if self._made is None:
            yield "program", "none: found in another process, and anew at the next call"
            return
        found = self._made.found
        if found.direct is None:
            yield "program", f"none: {found.why}" if found.why else "none: passes were asked for"
        else:
            form, size = found.direct.form, prod(self._fit.leaves[0][0])
            known = "no pattern was found" if found.hessian is None else f"{found.hessian!r}"
            yield "Hessian", known
            yield "seeds", f"{found.seeds:,} for {size:,} axes"
            without = "".join([f"; without {step}" for step in form.left_out])
            yield "program", f"{form.operations:,} operations{without}"
            yield "certified", "by double backward, and by other signs of the seeds"
        for timed in found.candidates:
            yield "timed", f"{timed.name}: {time_in_words(timed.seconds)}"
        if found.batch is not None:
            a, b = found.batch.outputs, found.batch.inputs
            yield "axes", f"output axis {a} and input axis {b} never mix"
        times = ("trace", found.trace_s), ("pattern", found.pattern_s), ("program", found.program_s)
        yield "prepared in", ", ".join([f"{name} {time_in_words(s)}" for name, s in times])


def plan_laplacian(
    func: Callable[..., Any],
    inputs: Tensor,
    *,
    backend: str = "auto",
    tune: bool = False,
    memory: int | float | None = None,
) -> LaplacianPlan:
    """Prepare the Laplacian of every output: the trace of its Hessian.

    l[o] = sum_i d^2 func(x)[o] / d x[i]^2

    The second derivative is emitted as one program that moves through the function once: what is
    linear in a direction for all directions together, what is quadratic in it as their sum. Axes
    that no output mixes share a direction: those of the samples of a batch, or of the distant
    points of a stencil. So there is no `batch_dim`. The program is certified by products of second
    order by reverse mode. Where there is none, the plan says so and computes by passes.

    Args:
        func: A scalar or vector field: takes a Tensor, returns a Tensor of any shape.
        inputs: As in `laplacian`. Shape, dtype and device become part of the plan, values do not.
        backend: As in `plan`: "eager" computes by passes; "replay" and "inductor" run the program
            operation by operation or compiled, "cudagraphs" as one CUDA graph; "auto" replays it.
        tune: With "auto", compile the program too (seconds), and keep what is faster.
        memory: As in `jacobian`.

    Returns:
        The plan.

    Raises:
        ArgumentError: An argument is out of range, or the call is inside a transform.
        ArgumentTypeError: An argument has the wrong type.
        ShapeError: There are several outputs.

    Sources: Li et al. (2024), Nature Machine Intelligence 6 (forward Laplacian); Dangel et al.
    (2025), "Collapsing Taylor mode automatic differentiation".

    >>> import torch, torchjac
    >>> points = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> plan = torchjac.plan_laplacian(lambda x: (x**3).sum(-1), points)
    >>> plan(points), plan.seeds
    (tensor([18., 42.]), 1)
    """
    request = Request(API, order=2, backend=backend, tune=tune, memory=memory)
    check_request(request)
    if inside_transform():
        raise ArgumentError(
            f"{API}: a plan cannot be made inside vmap, grad, vjp or jvp of torch.func. Make it "
            "outside, or use `torchjac.laplacian`."
        )
    check_tensor(inputs)
    call = Call(func, None, False, 1)
    options = Options(memory=memory)
    signature = read_call(API, func, inputs, options)
    check_device(request, signature.leaves)
    fit = fit_of(inputs, signature.leaves, signature.positions)
    return LaplacianPlan(call, request, fit, _made(call, request, inputs))


@outside_inference_mode
def _made(call: Call, request: Request, inputs: Tensor) -> _Made:
    signature = call.bind(API, inputs)
    world = call.world(inputs, signature)
    found = find_laplacian(signature, request, call.buffers(), is_watched=world.is_complete)
    return _Made(found, world)


def check_tensor(inputs: Any) -> None:
    """Refuse anything but one tensor."""
    if not isinstance(inputs, Tensor):
        raise ArgumentTypeError(f"{API}: `inputs` must be one Tensor, got {type(inputs)}.")
