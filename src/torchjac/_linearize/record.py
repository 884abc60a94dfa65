"""Record every operation that PyTorch carries out, below autograd and its transforms.

There the derivative program is plain to see: what autograd, forward mode, a custom
`autograd.Function`, `detach` or `no_grad` really do, as calls of operators on plain tensors.

Tensors are recognised by an attribute that they carry. A dictionary by identity would keep all of
them alive, or confuse a new tensor with a dead one.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from math import inf
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from torchjac._linearize.program import Node, Ref, Value, dependents, refs_in
from torchjac._torch import TorchDispatchMode, is_wrapped

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
# Elements of a tensor whose memory is counted.
_LARGE = 2**16


class Mark(NamedTuple):
    """Which tensor of which recording."""

    recording: object
    number: int


class Outside:
    """What happens to tensors outside PyTorch, in NumPy say: the result may depend on all.

    Attributes:
        result: As it came back.
    """

    def __init__(self, result: Tensor) -> None:
        self.result = result.detach().clone()

    def __str__(self) -> str:
        return "outside PyTorch"

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The result, with all operands in it for who looks at operations only."""
        total = torch.stack([tensor.sum().real.double() for tensor in tensors]).sum()
        return self.result + (total - total).to(self.result.dtype)


class WrittenToError(Exception):
    """Something was written to a tensor while a lean recorder ran."""


class TooMuchError(Exception):
    """More was recorded, or held, than is wanted."""


class Recorder(TorchDispatchMode):
    """A mode under which everything is recorded.

    Args:
        is_lean: Whether constants are let go of that nothing which varies uses, and operations on
            constants are not written down. A `WrittenToError` ends it at the first write.
        most: At more operations a `TooMuchError` ends it.
        most_bytes: So it does when its large tensors take more than this at one time.

    Attributes:
        nodes: The operations so far.
        values: What is known of each tensor.
        constants: Tensors that depend on no input, by number.
        integers: Integer tensors that depend on the inputs.
        mutates: Whether an operation wrote to a tensor that was there before.
        tangents: Numbers of the vectors that the program is linear in.
        graded: Numbers of constants that came from outside and require gradients.
    """

    # Control flow (torch.cond and its kin) comes as one operation, branches and all.
    supports_higher_order_operators = True

    def __init__(
        self, *, is_lean: bool = False, most: float = inf, most_bytes: float = inf
    ) -> None:
        super().__init__()
        self._is_lean = is_lean
        self._most = most
        self._most_bytes = most_bytes
        # Large tensors that were made, and their sizes.
        self._large: list[tuple[StorageWeakRef, int]] = []
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.constants: dict[int, Tensor] = {}
        self.integers: dict[int, Tensor] = {}
        self.mutates = False
        self.tangents: set[int] = set()
        self.graded: set[int] = set()
        self._varying: set[int] = set()
        # Memory that something which varies was written to: earlier views of it vary too.
        self._touched: set[int] = set()
        self._recording = object()
        self._foreign: MutableMapping[int, Tensor] = WeakValueDictionary() if is_lean else {}
        # Foreign tensors by their memory, those of `_unsorted` not yet among them.
        self._by_memory: dict[int, list[int]] = {}
        self._unsorted: list[int] = []
        self._originals: list[tuple[Tensor, Tensor]] = []
        self._exposed: set[int] = set()
        self._escaped: dict[int, None] = {}

    def __exit__(self, *raised: Any) -> None:
        """Stop recording, and leave no trace on tensors that the user holds."""
        super().__exit__(*raised)
        for tensor in (*self._foreign.values(), *self.constants.values()):
            if getattr(tensor, _MARK, None) is not None:
                delattr(tensor, _MARK)
        with torch.no_grad():
            for tensor, original in self._originals:
                if tensor.grad_fn is not None and not tensor._is_view():
                    tensor.detach_()
                tensor.copy_(original)

    def enter(
        self, primals: Sequence[Tensor] = (), tangents: Sequence[Tensor] = ()
    ) -> tuple[int, ...]:
        """Register inputs of the program: what comes of them is no constant."""
        numbers = tuple([self._register(t) for t in (*primals, *tangents)])
        self._varying.update(numbers)
        self.tangents.update(numbers[len(primals) :])
        return numbers

    def leave(self, tensors: Iterable[Tensor | None]) -> tuple[int | None, ...]:
        """Numbers of the results of the program, None for those that are zero."""
        tensors = list(tensors)
        self._keep(tensors)
        return tuple([None if t is None else self._refer(t).number for t in tensors])

    def number_of(self, tensor: Tensor | None) -> int | None:
        """Number of a tensor that was recorded, None for one that was not."""
        mark = None if tensor is None else getattr(tensor, _MARK, None)
        return mark.number if isinstance(mark, Mark) and mark.recording is self._recording else None

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on no input; those of transforms are taken to."""
        if is_wrapped(tensor) or self.number_of(tensor) in self._varying or self._escaped:
            return False
        return not self._touched or _memory(tensor) not in self._touched

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.mul.Scalar and args[0]._is_zerotensor() and type(args[1]) is not complex:
            return args[0]  # multiples of zeros without memory crash inside of a dispatch mode
        mutable = _is_mutable(func)
        places = self._refer(args)
        named = {k: self._refer(v) for k, v in kwargs.items()} if kwargs else _EMPTY
        if mutable:
            if self._is_lean:
                raise WrittenToError
            self.mutates = True
            self._keep_originals(_written(func, args, kwargs))
        inputs = [*refs_in(places), *refs_in(tuple(named.values()))]
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple | list) else (result,)
        varies = not (self._varying.isdisjoint(inputs) or _forgets(func, args))
        varies = varies or is_random(func, args, kwargs)
        if mutable and varies:
            self._touched.update(map(_memory, _written(func, args, kwargs)))
        numbers = tuple([self._output(out, varies=varies) for out in outputs])
        if varies:
            self._keep((args, tuple(kwargs.values())))
        is_told = varies or not self._is_lean
        if len(self.nodes) > self._most:
            raise TooMuchError(f"more than {self._most:,} operations")
        if (is_told and any([n is not None for n in numbers])) or mutable:
            self.nodes.append(Node(func, places, named, numbers))
        if self._escaped and _has_number((args, tuple(kwargs.values()))):
            for tensor, number in zip(outputs, numbers, strict=True):
                if number is not None:
                    self._from_outside(tensor, number)
        return result

    def _keep(self, tree: Any) -> None:
        """Keep the constants among the tensors that something which varies uses."""
        if not self._is_lean:
            return
        if isinstance(tree, tuple | list):
            for part in tree:
                self._keep(part)
        elif isinstance(tree, Tensor):
            number = self._refer(tree).number
            if number not in self._varying:
                self.constants[number] = tree

    def _output(self, tensor: Any, *, varies: bool) -> int | None:
        if not isinstance(tensor, Tensor):
            return None
        number = self._register(tensor)
        if self._most_bytes < inf and tensor.numel() >= _LARGE:
            self._weigh(tensor)
        if not varies:
            if not self._is_lean:
                self.constants[number] = tensor
            return number
        self._varying.add(number)
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            self.integers[number] = tensor
        return number

    def _weigh(self, tensor: Tensor) -> None:
        """Hold what large tensors take against what they may take."""
        if tensor.layout is not torch.strided:
            return  # large in shape only: it has no memory but that of its parts
        storage = tensor.untyped_storage()
        if any([known.cdata == storage._cdata for known, _ in self._large]):
            return  # a view
        self._large.append((StorageWeakRef(storage), storage.nbytes()))
        if sum([size for _, size in self._large]) > self._most_bytes:
            self._large = [known for known in self._large if not known[0].expired()]
            total = sum([size for _, size in self._large])
            if total > self._most_bytes:
                raise TooMuchError(f"{total:,} bytes at one time")

    def _refer(self, tree: Any) -> Any:
        """`tree` with a `Ref` for each tensor; one never seen before is a constant."""
        if isinstance(tree, Tensor):
            number = self.number_of(tree)
            if number is None or number in self._exposed:
                number = self._enter_foreign(tree, number)
            return Ref(number)
        if isinstance(tree, list):
            return [self._refer(part) for part in tree]
        if isinstance(tree, tuple):
            return tuple([self._refer(part) for part in tree])
        return tree

    def _enter_foreign(self, tensor: Tensor, number: int | None) -> int:
        """A tensor from outside; once tensors have escaped there, they may be in it."""
        if self._escaped:
            return self._from_outside(tensor)
        if number is None:
            number = self._register(tensor)
            self._foreign[number] = tensor
            if not self._is_lean:
                self.constants[number] = tensor
            if tensor.requires_grad:
                self.graded.add(number)
            self._unsorted.append(number)
        return number

    def _from_outside(self, tensor: Tensor, *others: int) -> int:
        number = self._register(tensor)
        self._foreign[number] = tensor
        made_of = tuple([Ref(n) for n in (*self._escaped, *others)])
        self.nodes.append(Node(Outside(tensor), made_of, _EMPTY, (number,)))
        self._varying.add(number)
        return number

    def expose(self, tensor: Any, writable: bool) -> bool:
        """Note that the numbers of a tensor are seen outside PyTorch.

        Args:
            tensor: What is read; tensors of transforms, and what is no tensor, are ignored.
            writable: Whether they may be changed there.

        Returns:
            Whether they depend on the tangents.
        """
        number = self.number_of(tensor) if isinstance(tensor, Tensor) else None
        if number is None:
            return False
        if writable:
            self._exposed.add(number)
        if number in self._varying and number in dependents(self.nodes, self.tangents):
            self._escaped[number] = None
            return True
        return False

    def _keep_originals(self, written: Iterable[Tensor]) -> None:
        """Copy what was there before, of tensors that came from outside and are now written to."""
        for number in self._unsorted:
            self._by_memory.setdefault(_memory(self._foreign[number]), []).append(number)
        self._unsorted.clear()
        for tensor in written:
            for number in self._by_memory.pop(_memory(tensor), ()):
                original = self._foreign[number].detach().clone()
                self.constants[number] = original
                self._originals.append((self._foreign[number], original))

    def _register(self, tensor: Tensor) -> int:
        number = len(self.values)
        self.values.append(_value(tensor))
        setattr(tensor, _MARK, Mark(self._recording, number))
        return number


def _value(tensor: Tensor) -> Value:
    strides = tensor.stride() if tensor.layout is torch.strided else ()
    return Value(tuple(tensor.shape), tensor.dtype, tuple(strides))


def _has_number(tree: Any) -> bool:
    """Whether there is a number among the arguments that may have been read from a tensor."""
    if isinstance(tree, tuple | list):
        return any([_has_number(part) for part in tree])
    return isinstance(tree, float | complex)


def _memory(tensor: Tensor) -> int:
    """Where the numbers of a tensor lie, the same for all its views; sparse ones have no views."""
    if tensor.layout is not torch.strided or tensor._is_zerotensor():
        return id(tensor)
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes to."""
    for k, argument in enumerate(func._schema.arguments):
        if argument.is_write:
            value = args[k] if k < len(args) else kwargs.get(argument.name)
            for part in value if isinstance(value, tuple | list) else (value,):
                if isinstance(part, Tensor):
                    yield part


def _is_mutable(func: Any) -> bool:
    schema = getattr(func, "_schema", None)
    return schema is not None and schema.is_mutable


def _forgets(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the result is the same for all arguments of this shape."""
    packet = _packet(func)
    # The second derivative of a square holds a power of zero: one, even of NaN.
    return packet in _FACTORIES or (
        packet is aten.pow and isinstance(args[1], int | float) and args[1] == 0
    )


def _packet(func: Any) -> Any:
    return getattr(func, "overloadpacket", func)


def is_random(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation draws random numbers.

    Args:
        func: An operator.
        args: Its arguments.
        kwargs: Those by name.

    Returns:
        Whether it does; one that drops out nothing does not.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return False
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return "dropout_p" not in names or {**defaults, **given}["dropout_p"] != 0
