"""A function as a plan calls it, and all that it can read besides what is differentiated."""

import copy
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.attention import with_math_attention
from torchjac._evaluate.gradients import gradient_signature
from torchjac._inputs.modules import Buffers, has_buffers
from torchjac._inputs.signature import Signature, Wrt, bind
from torchjac._inputs.state import State, state_of
from torchjac._torch import pytree
from torchjac.errors import ArgumentError


class World(NamedTuple):
    """What the function can read, by itself and as inputs that are not differentiated.

    Of these, tensors of numbers (`beside`) are told from the rest: where they are inputs of the
    program too, they may change.
    """

    function: State
    inputs: State
    beside: State

    @property
    def is_complete(self) -> bool:
        """Whether nothing can change unseen."""
        return all([state.is_complete for state in self])

    def expects_gradients_of(self, tensor: Tensor) -> bool:
        """Whether a tensor required gradients already, so that its zeros were not counted on."""
        return any([state.glance.expects_gradients_of(tensor) for state in self])


class Call(NamedTuple):
    """A function, and how it takes its inputs."""

    func: Callable[..., Any]
    wrt: Wrt
    has_aux: bool
    order: int

    def bind(self, api: str, inputs: Any) -> Signature:
        """The function whose Jacobian is wanted, at these inputs."""
        signature = bind(api, self.func, inputs, wrt=self.wrt, has_aux=self.has_aux)
        return of_order(signature, self.order)

    @property
    def has_buffers(self) -> bool:
        """Whether an evaluation may change buffers of modules; that by weights works on copies."""
        return not isinstance(self.wrt, torch.nn.Module) and has_buffers(self.func)

    def buffers(self) -> Buffers | None:
        """The buffers that an evaluation may change, as they are now."""
        return Buffers(self.func) if self.has_buffers else None

    def world(self, inputs: Any, signature: Signature) -> World:
        """All that the function can read now, besides what is differentiated."""
        function = state_of(self.func, self._apart())
        leaves, beside = signature.leaves, signature.beside
        others = others_of(inputs, (*leaves, *beside))
        return World(function, state_of(others, leaves), state_of(list(beside), leaves))

    def is_in(
        self,
        world: World,
        others: Sequence[Any],
        beside: Sequence[Tensor] | None,
        leaves: Sequence[Tensor],
    ) -> bool:
        """Whether the function can read what it could.

        Args:
            world: What it could read.
            others: Inputs that are neither differentiated nor tensors of numbers.
            beside: Tensors of numbers among the inputs, None if these may change.
            leaves: Tensors that are differentiated.

        Returns:
            Whether nothing of it has changed.
        """
        if (others or world.inputs.value) and not world.inputs.still_holds(others, leaves):
            return False
        if beside and not world.beside.still_holds(list(beside), leaves):
            return False
        return world.function.still_holds(self.func, self._apart())

    def __deepcopy__(self, memo: dict[int, Any]) -> "Call":
        """A copy of the function, and of the module; not of that which a plain function knows."""
        # Such a function stays as it is, and goes on with the module that it uses.
        func = copy.deepcopy(self.func, memo)
        wrt = self.wrt if func is self.func else copy.deepcopy(self.wrt, memo)
        return self._replace(func=func, wrt=wrt)

    def __reduce__(self) -> Any:
        """Refuse to be pickled with a module that the function would not find again."""
        if isinstance(self.wrt, torch.nn.Module) and isinstance(self.func, FunctionType):
            raise ArgumentError(
                "plan: a plan with wrt=module cannot be pickled for the plain function "
                f"{self.func.__qualname__!r}: expected the module itself, or an object that holds "
                "it, for it would come back with another module than the function uses."
            )
        return Call, tuple(self)

    def _apart(self) -> Sequence[Tensor]:
        return list(self.wrt.parameters()) if isinstance(self.wrt, torch.nn.Module) else ()


def others_of(inputs: Any, leaves: Sequence[Tensor]) -> list[Any]:
    """Inputs that are not differentiated."""
    if len(leaves) == 1 and inputs is leaves[0]:
        return []
    chosen = {id(leaf) for leaf in leaves}
    return [part for part in pytree.tree_leaves(inputs) if id(part) not in chosen]


def of_order(signature: Signature, order: int) -> Signature:
    """The function itself, or its gradient."""
    if order == 1:
        return signature
    # Fused attention has no second derivative.
    return gradient_signature(with_math_attention(signature), strict=False)
