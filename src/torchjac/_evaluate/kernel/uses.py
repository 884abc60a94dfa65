"""Where parameters enter an autograd graph.

The graph is what PyTorch will differentiate, whatever the module was written like: a layer used
twice, tied weights, a weight taken outside of its layer each show as edges that lead to the same
parameter. A use that is not known as one of a layer is seen too, and never taken for one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from torchjac._torch import bytes_after

# Between a parameter and its use: the same numbers, or the same transposed.
_SAME, _TRANSPOSED = frozenset({"CloneBackward0"}), "TBackward0"
# Their gradients are as large as the parameter, whatever the number of samples.
_OF_PARAMETERS = _SAME | {_TRANSPOSED, "torch::autograd::AccumulateGrad"}


class Use(NamedTuple):
    """One operation that a parameter goes into.

    Attributes:
        node: Its node in the graph, None where the parameter is an output itself.
        argument: Which input of the node the parameter is.
        transposed: Whether it is the transposed parameter.
    """

    node: Any
    argument: int
    transposed: bool

    @property
    def name(self) -> str:
        """The kind of the node, for people."""
        return "the output itself" if self.node is None else str(self.node.name())


class Graph(NamedTuple):
    """What a graph says of parameters.

    Attributes:
        uses: Of each parameter its uses, in no order; none where no path leads to it.
        gradient_bytes: Bytes of the gradients of everything that is not a parameter.
        largest_bytes: Bytes of the largest of these.
        leaves: Every leaf, by its identity.
    """

    uses: list[list[Use]]
    gradient_bytes: int
    largest_bytes: int
    leaves: Mapping[int, Any]


def read_graph(output: Tensor, parameters: Sequence[Tensor]) -> Graph:
    """Find every use of each parameter.

    Args:
        output: Where the graph begins.
        parameters: Leaves of the graph.

    Returns:
        The uses, and the size of the rest.
    """
    users: dict[Any, list[tuple[Any, int]]] = {output.grad_fn: [(None, 0)]}
    stack = [node for node in users if node is not None]
    leaves: dict[int, Any] = {}
    seen = set(stack)
    size = largest = 0
    while stack:
        node = stack.pop()
        if node.name() not in _OF_PARAMETERS:
            size += bytes_after(node)
            largest = max(largest, bytes_after(node))
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves[id(variable)] = node
        for argument, (following, _) in enumerate(node.next_functions):
            if following is None:
                continue
            users.setdefault(following, []).append((node, argument))
            if following not in seen:
                seen.add(following)
                stack.append(following)
    found = [leaves.get(id(parameter)) for parameter in parameters]
    uses = [[] if leaf is None else _through(leaf, users, False) for leaf in found]
    return Graph(uses, size, largest, leaves)


def _through(node: Any, users: dict[Any, list[tuple[Any, int]]], transposed: bool) -> list[Use]:
    """Uses of what comes out of a node, those behind a copy or a transposition included."""
    uses: list[Use] = []
    for user, argument in users.get(node, []):
        name = "" if user is None else user.name()
        if name in _SAME or name == _TRANSPOSED:
            uses += _through(user, users, transposed ^ (name == _TRANSPOSED))
        else:
            uses.append(Use(user, argument, transposed))
    return uses
