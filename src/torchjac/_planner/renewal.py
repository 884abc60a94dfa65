"""When a program that has become another function's is worth making anew.

A plan whose function has changed (a weight, a coefficient, another mode) goes on by passes, which
are right for any function of its pattern. Whether the new state will last, nobody knows: the cost
of a program is spent once passes have cost as much in the same state. That is at most twice what
is best in hindsight, as for who rents or buys skis.

Source of the rule: Karlin, Manasse, Rudolph & Sleator (1988), Algorithmica 3, competitive snoopy
caching.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchjac._inputs.signature import Signature
from torchjac._planner.call import Call, World, others_of
from torchjac._planner.structure import Structure


class Renewal:
    """What a function has held since it changed, and what passes have cost since then."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._spent_s = 0.0

    def world_if_due(
        self, call: Call, structure: Structure, inputs: Any, signature: Signature, seconds: float
    ) -> World | None:
        """The state of the function, if it has lasted for so long that another plan pays.

        Args:
            call: The function, which has just been evaluated: a state that no evaluation leaves
                as it was never lasts.
            structure: What was planned for another state.
            inputs: Of this call.
            signature: Of this call.
            seconds: What this call took.

        Returns:
            All that the function can read, None if it is too early.
        """
        if self._world is None or not is_same_world(
            call, structure, self._world, inputs, signature
        ):
            self._world, self._spent_s = call.world(inputs, signature), 0.0
            return None
        self._spent_s += seconds
        if not self._world.is_complete or self._spent_s < structure.prepared_s:
            return None
        world, self._world = self._world, None
        return world


def is_same_world(
    call: Call, structure: Structure, world: World, inputs: Any, signature: Signature
) -> bool:
    """Whether a function can read what it could, and what it may read has not changed.

    Args:
        call: The function.
        structure: Says which inputs may change.
        world: What it could read.
        inputs: Of this call.
        signature: Of this call.

    Returns:
        Whether nothing else has changed.
    """
    leaves: Sequence[Tensor] = signature.leaves
    others = others_of(inputs, (*leaves, *signature.beside))
    beside = None if structure.is_live else signature.beside
    return call.is_in(world, others, beside, leaves)
