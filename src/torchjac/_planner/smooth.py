"""Whether the derivative of an emitted program is that of the entries.

A program holds the operations that computed the Jacobian. Autograd can differentiate them, but
does not know what the function hides from it (`detach`, blocks under `no_grad`), nor what came
into the program as a number (weights that require gradients).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchjac._evaluate.compressed import Passes
from torchjac._evaluate.ladder import LOOP
from torchjac._evaluate.tape import record
from torchjac._inputs.warn import warn
from torchjac._planner.certificate import REMEDIES
from torchjac._planner.probe import FORWARD, REVERSE, random_vector, run
from torchjac._planner.structure import Request, Structure
from torchjac._torch import grad_switch
from torchjac.errors import FallbackWarning, PatternError

# What makes a tensor that autograd does not follow out of one that it does.
_HIDING = {
    Tensor.detach: "detach",
    Tensor.detach_: "detach_",
    torch.detach: "detach",
    torch.detach_: "detach_",
    Tensor.data.__get__: ".data",  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.data.__set__: ".data",  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.requires_grad_: "requires_grad_",
    Tensor.requires_grad.__set__: "requires_grad",  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.new_tensor: "new_tensor",
    Tensor.backward: "backward",
    torch.autograd.backward: "backward",
    torch.tensor: "torch.tensor",
    torch.as_tensor: "torch.as_tensor",
    torch.asarray: "torch.asarray",
}
# Two ways to differentiate may differ by the precision to this power, relative to the largest.
ROUNDING_POWER = 0.5


class _Hidden(TorchFunctionMode):
    """Active around one evaluation of a function: what it hides from autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _HIDING:
            self.name = _HIDING[func]
        elif func is grad_switch and not args[0]:
            self.name = "no_grad"
        elif func is torch.autograd.grad and not kwargs.get("create_graph"):
            self.name = "autograd.grad without create_graph"
        return func(*args, **kwargs)


def other_sources(passes: Passes) -> list[Tensor]:
    """Tensors besides the inputs that require gradients of what the function returns.

    Args:
        passes: The function at one point, with a tape.

    Returns:
        Where else its graph ends, each once.
    """
    if passes.tape is None:
        return []
    inputs = passes.tape.inputs
    ends = {id(x) for x in inputs}
    found: dict[int, Tensor] = {}
    seen: set[Any] = {x.grad_fn for x in inputs if x.grad_fn is not None}
    stack = [y.grad_fn for y in passes.tape.outputs.tensors if y.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in ends:
            found[id(variable)] = variable
        stack += [following for following, _ in node.next_functions if following is not None]
    return list(found.values())


def lacks_derivatives(
    request: Request,
    structure: Structure,
    passes: Passes,
    sources: Sequence[Tensor],
    values: Tensor,
) -> bool:
    """Whether entries have another derivative by some tensors than the function.

    A pattern that was found while a tensor required no gradients takes its zeros for granted, and
    entries that are zero now may have a derivative by it. A random product shows that.

    Args:
        request: What the user asked for.
        structure: With the pattern.
        passes: The function at one point, differentiable.
        sources: The tensors.
        values: The entries, differentiable.

    Returns:
        Whether a random product of the derivative is another one.

    Raises:
        PatternError: It is, and the pattern is the user's.
    """
    u, v = random_vector(passes, REVERSE), random_vector(passes, FORWARD)
    product = run(passes, REVERSE, LOOP, u[None])[0]
    places = (structure.pattern.rows, structure.pattern.indices)
    rows, columns = [torch.from_numpy(p).to(values.device).long() for p in places]
    ours = (values * u.to(values)[rows] * v.to(values)[columns]).sum()
    found, true = [_joined(_gradient(s, sources)) for s in (ours, (product * v.to(product)).sum())]
    if _alike(found, true):
        return False
    if structure.found.source == "detected":
        return True
    raise PatternError(
        f"{request.api}: the pattern lacks entries that are zero, but whose derivative by another "
        f"tensor that requires gradients is not. {REMEDIES[structure.found.source]}"
    )


class Verdicts:
    """For each branch of a function whether its program may be differentiated."""

    def __init__(self) -> None:
        self._obstacles: dict[Structure, str] = {}

    def forget(self, structure: Structure) -> None:
        """Let go of a branch."""
        self._obstacles.pop(structure, None)

    def entries(
        self,
        request: Request,
        structure: Structure,
        passes: Passes,
        by_passes: Callable[[], Tensor],
    ) -> Tensor | None:
        """The entries by the emitted program.

        Args:
            request: What the user asked for.
            structure: With a program.
            passes: The function at one point.
            by_passes: The entries by passes.

        Returns:
            The entries, None if they have to be differentiable and those of the program are not.
        """
        direct = structure.direct
        if direct is None:
            return None
        if not passes.options.create_graph or passes.tape is None:
            leaves, beside = passes.signature.leaves, passes.signature.beside
            return direct.nonzeros([x.detach() for x in structure.taken(leaves, beside)])
        if structure not in self._obstacles:
            reason = self._obstacles[structure] = obstacle(structure, passes, by_passes)
            # Who lets torchjac choose has asked for no program.
            if reason and request.backend != "auto":
                warn(
                    f"{request.api}: results with create_graph=True are computed by passes, not by "
                    f"the program of backend={request.backend!r}, whose derivative is not that of "
                    f"the result: {reason}.",
                    FallbackWarning,
                )
        if self._obstacles[structure]:
            return None
        return direct.differentiable(structure.taken(passes.tape.inputs, passes.signature.beside))


def obstacle(structure: Structure, passes: Passes, entries: Callable[[], Tensor]) -> str:
    """Why the derivative of a program must not be taken for that of the entries.

    What the function does is looked at, and random products with the first and the second
    derivative of the entries are held against each other.

    Args:
        structure: With the program.
        passes: The function at one point, with a tape that keeps graphs.
        entries: The entries by passes, differentiable.

    Returns:
        The reason, empty if there is none.
    """
    direct = structure.direct
    if passes.tape is None or direct is None:
        return "the function was not recorded"
    if passes.tape.survey().has_custom_functions:
        return "the function uses an autograd.Function of its own"
    hidden = _Hidden()
    signature = passes.signature
    with passes.state.replayed():
        record(signature._replace(call=signature.recall), create_graph=False, watch=hidden)
    if hidden.name:
        return f"the function uses {hidden.name}"
    inputs = passes.tape.inputs
    try:
        expected = _derivatives(entries(), inputs)
        taken = structure.taken(inputs, signature.beside)
        found = _derivatives(direct.differentiable(taken), inputs)
    except (RuntimeError, NotImplementedError) as error:
        return f"PyTorch cannot differentiate it: {str(error).strip().splitlines()[0]}"
    for one, other, order in zip(expected, found, ("first", "second"), strict=True):
        if not _alike(other, one):
            return f"its {order} derivative is another one"
    return ""


def _alike(found: Tensor, true: Tensor) -> bool:
    size = true.nan_to_num(0.0, 0.0, 0.0).abs().max() if true.numel() else 0.0
    allowed = torch.finfo(true.dtype).eps ** ROUNDING_POWER * float(size)
    return torch.allclose(found, true, rtol=0.0, atol=allowed, equal_nan=True)


def _derivatives(values: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A random product with the first derivative of the entries, and one with the second."""
    generator = torch.Generator().manual_seed(0)

    def random(like: Tensor) -> Tensor:
        made = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        return (made + 0.5).to(like)

    first = _gradient((values * random(values)).sum(), inputs)
    products = [(part * random(part)).sum() for part in first]
    second = _gradient(torch.stack(products).sum(), inputs)
    return _joined(first), _joined(second)


def _gradient(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    graded = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
    found: list[Tensor | None] = list(graded)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])
