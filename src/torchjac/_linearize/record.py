"""Record every operation that PyTorch carries out, below autograd and its transforms.

There the derivative program is plain to see: what autograd, forward mode, a custom
`autograd.Function`, `detach` or `no_grad` really do, as calls of operators on plain tensors.

Tensors are recognised by an attribute that they carry. A dictionary by identity would keep all of
them alive, or confuse a new tensor with a dead one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._linearize.program import Node, Ref, Value, refs_in
from torchjac._torch import TorchDispatchMode

_MARK = "_torchjac_number"
aten = torch.ops.aten
# These look at the shape of their argument only.
_FACTORIES = frozenset(
    {
        aten.zeros_like,
        aten.ones_like,
        aten.empty_like,
        aten.full_like,
        aten.new_zeros,
        aten.new_ones,
        aten.new_empty,
        aten.new_empty_strided,
        aten.new_full,
        aten._new_zeros_with_same_feature_meta,
    }
)
_EMPTY: Mapping[str, Any] = {}


class Mark(NamedTuple):
    """Which tensor of which recording."""

    recording: object
    number: int


class Recorder(TorchDispatchMode):
    """A mode under which everything is recorded.

    Attributes:
        nodes: The operations so far.
        values: What is known of each tensor.
        constants: Tensors that depend on no input, by number.
        integers: Integer tensors that depend on the inputs.
        mutates: Whether an operation wrote to a tensor that was there before.
    """

    # Control flow (torch.cond and its kin) comes as one operation, branches and all.
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.constants: dict[int, Tensor] = {}
        self.integers: dict[int, Tensor] = {}
        self.mutates = False
        self._varying: set[int] = set()
        self._recording = object()

    def __exit__(self, *raised: Any) -> None:
        """Stop recording, and leave no trace on tensors that the user holds."""
        super().__exit__(*raised)
        for tensor in self.constants.values():
            if getattr(tensor, _MARK, None) is not None:
                delattr(tensor, _MARK)

    def enter(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """Register inputs of the program: what comes of them is no constant."""
        numbers = tuple([self._register(t) for t in tensors])
        self._varying.update(numbers)
        return numbers

    def number_of(self, tensor: Tensor | None) -> int | None:
        """Number of a tensor that was recorded, None for one that was not."""
        mark = None if tensor is None else getattr(tensor, _MARK, None)
        return mark.number if isinstance(mark, Mark) and mark.recording is self._recording else None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        mutable = _is_mutable(func)
        self.mutates = self.mutates or mutable
        places = self._refer(args, copy=mutable)
        named = {k: self._refer(v, copy=mutable) for k, v in kwargs.items()} if kwargs else _EMPTY
        inputs = [*refs_in(places), *refs_in(tuple(named.values()))]
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple | list) else (result,)
        varies = not (self._varying.isdisjoint(inputs) or _packet(func) in _FACTORIES)
        varies = varies or _is_random(func)
        numbers = tuple([self._output(out, varies=varies) for out in outputs])
        if any(n is not None for n in numbers) or mutable:
            self.nodes.append(Node(func, places, named, numbers))
        return result

    def _output(self, tensor: Any, *, varies: bool) -> int | None:
        if not isinstance(tensor, Tensor):
            return None
        number = self._register(tensor)
        if not varies:
            self.constants[number] = tensor
            return number
        self._varying.add(number)
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            self.integers[number] = tensor
        return number

    def _refer(self, tree: Any, *, copy: bool) -> Any:
        """`tree` with a `Ref` for each tensor; one never seen before is a constant."""
        if isinstance(tree, Tensor):
            number = self.number_of(tree)
            if number is None:
                number = self._register(tree)
                self.constants[number] = tree.clone() if copy else tree
            return Ref(number)
        if isinstance(tree, list):
            return [self._refer(part, copy=copy) for part in tree]
        if isinstance(tree, tuple):
            return tuple([self._refer(part, copy=copy) for part in tree])
        return tree

    def _register(self, tensor: Tensor) -> int:
        number = len(self.values)
        self.values.append(Value(tuple(tensor.shape), tensor.dtype))
        setattr(tensor, _MARK, Mark(self._recording, number))
        return number


def _is_mutable(func: Any) -> bool:
    schema = getattr(func, "_schema", None)
    return schema is not None and schema.is_mutable


def _packet(func: Any) -> Any:
    return getattr(func, "overloadpacket", func)


def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
