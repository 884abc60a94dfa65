"""The one place where PyTorch's private names are touched.

A new PyTorch release that moves one of them breaks this file and no other. Each wrapper says
what it relies on.
"""

import logging
import math
import warnings
from collections.abc import Callable, Generator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from operator import getitem
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.eager_transforms import (
    _jvp_with_argnums,
    _slice_argnums,
    _unwrap_for_grad,  # pyright: ignore[reportPrivateImportUsage]
    _vjp_with_argnums,
    jvp_increment_nesting,
)
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

__all__ = [
    "NO_BATCHING_RULE", "BatchingRulesOnly", "GraphSurvey", "LazyGraphModule",
    "TorchDispatchMode", "batched", "bytes_after", "coarsest_eps", "compile_graph",
    "default_device", "fast_backward", "flops_of", "forward_grad_enabled",
    "forward_grad_is_enabled", "grad_switch", "gradient_bytes", "has_module_hooks",
    "has_numbers", "inside_transform", "is_batched", "is_wrapped", "jvp_with_argnums",
    "lazy_copy", "load_jvp_decompositions", "outside_modes", "push_forward", "pytree",
    "refuse_compiler", "refuse_wrong_batching", "saved_by", "shape_after", "slice_argnums",
    "survey_graph", "vjp_with_argnums",
]  # fmt: skip

_CPU = torch.device("cpu")

# The rule for a backward pass of torch.cdist with one batched argument mixes up its rows.
_BATCHED_WRONGLY = ("CdistBackward",)
# Under vmap, and under any mode that listens, the backward pass of torch.det takes singular values,
# whose derivative has no value where two of them are equal (PyTorch issue 192521).
_TWICE_WRONGLY = ("LinalgDetBackward",)
_forward_lock = RLock()
_engine = torch.autograd.Variable._execution_engine
slice_argnums = _slice_argnums
vjp_with_argnums = _vjp_with_argnums
forward_grad_enabled = forward_ad._set_fwd_grad_enabled
forward_grad_is_enabled = torch._C._is_fwd_grad_enabled
# Modes that record or change operations do not see what is done in this block.
outside_modes = _disable_current_modes
# Whether a tensor is one of a batch, seen from inside of `vmap`.
is_batched = _functorch.is_batchedtensor
# What is behind `torch.no_grad` and `torch.enable_grad`.
grad_switch = torch._C._set_grad_enabled


def jvp_with_argnums(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    tangents: Any,
    argnums: int | tuple[int, ...] | None,
    *,
    has_aux: bool,
) -> Any:
    """`torch.func.jvp` with respect to some arguments, the others wrapped at the same level."""
    if not torch.compiler.is_compiling():
        load_jvp_decompositions()
    return _jvp_with_argnums(func, args, tangents, argnums, has_aux=has_aux)


@cache
def load_jvp_decompositions() -> None:
    # PyTorch scripts these on the first use of forward mode, and warns about its own
    # deprecated compiler while it does. Loading them here keeps that from the user.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")


def is_wrapped(tensor: Tensor) -> bool:
    """Whether `tensor` belongs to a transform of `torch.func`, and has no memory of its own."""
    return _functorch.is_functorch_wrapped_tensor(tensor)


def has_numbers(tensor: Tensor) -> bool:
    """Whether `tensor` is an ordinary one, not of a subclass (fake ones, proxies) nor on meta."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta


def lazy_copy(tensor: Tensor) -> Tensor:
    """A copy that shares memory until somebody writes to one of the two, or may do so unseen.

    NumPy, DLPack and `data_ptr` get memory of their own. The first copy of a tensor marks its
    memory as shared, and may not be made in several threads at once.

    Args:
        tensor: With memory of its own, not a view.

    Returns:
        The copy.
    """
    return torch._lazy_clone(tensor)  # pyright: ignore[reportPrivateImportUsage]


def refuse_compiler() -> None:
    """Raise inside `torch.compile`, which traces these passes into zeros without a word."""
    if torch.compiler.is_dynamo_compiling():
        raise NotImplementedError(
            "torchjac's batched passes cannot be traced by torch.compile. Call torchjac outside of "
            "compiled code, or mark the function that calls it with torch.compiler.disable; "
            "`torchjac.func` can be compiled."
        )


def default_device() -> torch.device:
    """Where new tensors are made; a mode says so if it is not the CPU."""
    if not torch._C._len_torch_function_stack():
        return _CPU
    return torch.get_default_device()


def flops_of(op: Any, args: Sequence[Any], result: Sequence[int]) -> int | None:
    """Floating-point operations of a product or a convolution, None for anything else.

    Relies on the table behind `torch.utils.flop_counter.FlopCounterMode`.

    Args:
        op: An operator.
        args: Its arguments, with shapes in place of tensors.
        result: Shape of what it returns.

    Returns:
        The number.
    """
    formula = flop_registry.get(getattr(op, "overloadpacket", None))
    return None if formula is None else int(formula(*args, out_val=result))


def has_module_hooks() -> bool:
    """Whether hooks are registered that every module runs."""
    return bool(torch.nn.modules.module._has_any_global_hook())


def inside_transform() -> bool:
    """Whether the caller runs inside `vmap`, `grad`, `vjp` or `jvp` of `torch.func`."""
    return _functorch.peek_interpreter_stack() is not None


def fast_backward(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    create_graph: bool,
    retain_graph: bool = True,
) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad(..., allow_unused=True)` less its per-call checks.

    The checks cost more than a small backward pass; torchjac makes the cotangents itself, so
    that shapes and dtypes are known to fit.

    Args:
        outputs: Where to start, each with a graph.
        inputs: What to differentiate by.
        cotangents: One for each output, with its shape.
        create_graph: Make the result differentiable.
        retain_graph: Keep the graph for further passes.

    Returns:
        One gradient per input, None where there is no path.
    """
    # Subclasses may have a way of their own; a mode that listens goes on listening.
    if not all([type(t) in (Tensor, torch.nn.Parameter) for t in (*outputs, *inputs)]):
        return torch.autograd.grad(
            outputs,
            inputs,
            cotangents,
            retain_graph=retain_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
    return _engine.run_backward(
        tuple(outputs),
        tuple(cotangents),
        retain_graph,
        create_graph,
        tuple(inputs),
        allow_unreachable=True,
        accumulate_grad=False,
    )


def push_forward(
    function: Callable[..., Sequence[Tensor]],
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    observe: Callable[[list[Tensor]], None] | None = None,
) -> list[Tensor | None]:
    """`torch.func.jvp` of flat tensors, less its tree handling.

    Args:
        function: Takes and returns tensors.
        primals: Where to differentiate.
        tangents: One for each, with its shape.
        observe: Is shown the values that `function` returned.

    Returns:
        One tangent per output, None where nothing moves.
    """
    if not torch.compiler.is_compiling():
        load_jvp_decompositions()
    # Inside another jvp its dual level serves; levels of torch.func keep the two apart. PyTorch
    # counts both for all threads together, so that one thread at a time may push.
    refuse_compiler()
    with (
        _forward_lock,
        jvp_increment_nesting() as level,
        forward_grad_enabled(True),
        forward_ad.dual_level() if forward_ad._current_level < 0 else nullcontext(),
    ):
        duals = [forward_ad.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)]
        unpacked = [forward_ad.unpack_dual(output) for output in function(*duals)]
        if observe is not None:
            observe([_unwrap_for_grad(output.primal, level) for output in unpacked])
        moved = [output.tangent for output in unpacked]
        return [None if t is None else _unwrap_for_grad(t, level) for t in moved]


def batched(
    function: Callable[[list[Tensor]], Sequence[Tensor | None]],
    stacked: Sequence[Tensor],
    randomness: str = "error",
) -> list[Tensor | None]:
    """Run `function` once with every tensor of `stacked` batched along its first axis.

    This is `torch.vmap` with `None` let through and without its argument handling, which costs
    more than the backward pass of a small function.

    Args:
        function: Takes tensors without the batch axis, returns tensors or None.
        stacked: Tensors with it.
        randomness: What random ops do: "error" or "same".

    Returns:
        What `function` returned, with the batch axis first.
    """
    refuse_compiler()
    size = stacked[0].shape[0]
    # An op that vmap has to run one by one is slow, not wrong, and the user wrote no vmap.
    _functorch._set_vmap_fallback_warning_enabled(False)
    level = _functorch._vmap_increment_nesting(size, randomness)
    try:
        lifted = [_functorch._add_batch_dim(t, 0, level) for t in stacked]
        return [
            None if r is None else _functorch._remove_batch_dim(r, level, size, 0)
            for r in function(lifted)
        ]
    finally:
        _functorch._vmap_decrement_nesting()
        _functorch._set_vmap_fallback_warning_enabled(True)


class BatchingRulesOnly:
    """A block in which an op without a batching rule is an error, not run one by one.

    The switch is one for all threads: another thread's `vmap` of such an op fails meanwhile. The
    last to leave puts it back.
    """

    _inside = 0
    _before = True
    _lock = RLock()

    def __enter__(self) -> None:
        """Switch off what would run ops one by one."""
        with self._lock:
            if not BatchingRulesOnly._inside:
                BatchingRulesOnly._before = _functorch._is_vmap_fallback_enabled()
                _functorch._set_vmap_fallback_enabled(False)
            BatchingRulesOnly._inside += 1

    def __exit__(self, *raised: Any) -> None:
        """Leave the switch as it was."""
        with self._lock:
            BatchingRulesOnly._inside -= 1
            if not BatchingRulesOnly._inside:
                _functorch._set_vmap_fallback_enabled(self._before)


# What PyTorch says of an op without a batching rule in such a block.
NO_BATCHING_RULE = "hit the vmap fallback"


def unrecorded() -> AbstractContextManager[None]:
    """A block in which dispatch modes see nothing."""
    return torch._C._DisableTorchDispatch()


def gradient_bytes(outputs: Sequence[Tensor], inputs: Sequence[Tensor], limit: int) -> int:
    """Bytes of every gradient between `outputs` and `inputs`, counted until they exceed `limit`.

    The engine frees gradients as it goes, so that the sum bounds what one seed needs from above
    (temporaries inside one node apart).

    Args:
        outputs: Where the graph begins.
        inputs: Where it ends; branches that lead elsewhere are never computed.
        limit: Where to stop counting.

    Returns:
        The number of bytes, exact up to `limit`.
    """
    leaves = {id(x) for x in inputs}
    ends = {x.grad_fn for x in inputs if x.grad_fn is not None}
    stack: list[Any] = [y.grad_fn for y in outputs if y.grad_fn is not None]
    leads: dict[Any, bool] = {}  # whether a node leads to an input, once those after it are known
    total = 0
    while stack and total <= limit:
        node = stack[-1]
        if node in leads:
            stack.pop()
            continue
        following = [n for n, _ in node.next_functions if n is not None]
        unknown = [n for n in following if n not in leads]
        if unknown and node not in ends:
            stack += unknown
            continue
        stack.pop()
        leads[node] = (
            node in ends
            or id(getattr(node, "variable", None)) in leaves
            or any([leads[n] for n in following])
        )
        if leads[node]:
            for meta in node._input_metadata:
                total += math.prod(meta.shape) * meta.dtype.itemsize
    return total


class GraphSurvey(NamedTuple):
    """What a graph holds: bytes of all gradients in it, kinds of nodes, users' own Functions."""

    gradient_bytes: int
    node_names: frozenset[str]
    has_custom_functions: bool


def survey_graph(outputs: Sequence[Tensor]) -> GraphSurvey:
    """Walk the graph behind `outputs` once."""
    total = 0
    kinds: set[type] = set()
    for node in _nodes(outputs):
        kinds.add(type(node))
        for meta in node._input_metadata:
            total += math.prod(meta.shape) * meta.dtype.itemsize
    names = frozenset([kind.__name__ for kind in kinds])
    return GraphSurvey(total, names, any([issubclass(kind, BackwardCFunction) for kind in kinds]))


def coarsest_eps(outputs: Sequence[Tensor]) -> float:
    """Precision of the coarsest floating-point dtype in the graph behind `outputs`."""
    dtypes = {y.dtype for y in outputs}
    for node in _nodes(outputs):
        dtypes.update(meta.dtype for meta in node._input_metadata)
    known = [torch.finfo(d).eps for d in dtypes if d.is_floating_point or d.is_complex]
    return max(known, default=0.0)


def refuse_wrong_batching(node_names: Set[str], *, create_graph: bool = False) -> None:
    """Refuse to batch a graph with a node whose batching rule is wrong, in PyTorch 2.13.

    Args:
        node_names: Kinds of nodes in the graph.
        create_graph: Whether its products are to be differentiated themselves.

    Raises:
        NotImplementedError: There is one.
    """
    wrong = _BATCHED_WRONGLY + _TWICE_WRONGLY * create_graph
    for name in node_names:
        if name.startswith(wrong):
            raise NotImplementedError(f"the batching rule of {name} gives wrong numbers")


def saved_by(node: Any, name: str) -> Any:
    """What a node of an autograd graph keeps under `name` for its backward pass."""
    value = getattr(node, f"_saved_{name}")
    return value.detach() if isinstance(value, Tensor) else value


def shape_after(node: Any) -> tuple[int, ...]:
    """Shape of the first output of the operation behind a node."""
    return tuple(node._input_metadata[0].shape)


def bytes_after(node: Any) -> int:
    """Bytes of everything that the operation behind a node returned."""
    return sum([math.prod(m.shape) * m.dtype.itemsize for m in node._input_metadata])


def _nodes(outputs: Sequence[Tensor]) -> list[Any]:
    nodes: list[Any] = list({t.grad_fn: None for t in outputs if t.grad_fn is not None})
    seen = set(nodes)
    for node in nodes:  # which grows meanwhile
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return nodes


# A value used twice is written out twice by the compiler if it takes no more operations than this,
# and so are those that it is made of: programs of 80 scalar operations took minutes to compile.
MOST_WRITTEN_OUT = 8


# What PyTorch's compiler says of operations that compiled code cannot call.
_NO_WAY = "missing a c-shim"


def compile_graph(
    graph: torch.fx.GraphModule, examples: Sequence[Tensor], parallel_from: int, *, in_cpp: bool
) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """A graph of operators compiled for tensors like `examples`, with nothing around it.

    What PyTorch puts around compiled code (guards, trees, views, the grad mode) takes longer than
    a small program does. A graph of operators that writes to nothing needs none of it.

    Args:
        graph: Takes tensors, returns a list of them, and holds none; changed by this.
        examples: What it will be called with: shapes, strides, dtypes and devices.
        parallel_from: Loops of fewer steps run in one thread.
        in_cpp: Compile what calls the loops one after the other too; on a CPU.

    Returns:
        What runs it: takes the inputs as a list, which it empties, and returns the outputs. The
        inputs have to lie as the examples do, which is not looked at.

    Raises:
        Exception: The compiler failed, or there is none. With `in_cpp` `lacks_a_way_from_cpp` tells
            that this is for want of an operation.
    """
    inductor = import_module("torch._inductor.compile_fx")
    lowering = import_module("torch._inductor.lowering")
    # What is compiled without an environment of sizes is not kept on disk.
    shapes = import_module("torch.fx.experimental.symbolic_shapes").ShapeEnv()
    fake = import_module("torch._subclasses").FakeTensorMode(shape_env=shapes, static_shapes=True)
    steps = max(1, parallel_from // torch.get_num_threads())
    made = []

    def innermost(graph: torch.fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        # Only what is called in other libraries may lie elsewhere than the compiler believes.
        known = [_is_generated(n, lowering) for n in graph.graph.nodes if n.op == "call_function"]
        with import_module("torch._inductor.config").patch(size_asserts=not all(known)):
            made.append(inductor.compile_fx_inner(graph, *args, **kwargs))
        return made[-1]

    # What is kept of whole compilations comes with all that is around them.
    whole = import_module("torch._functorch.config").patch(enable_autograd_cache=False)
    lock = import_module("torch._dynamo.convert_frame").compile_lock
    guards = import_module("torch._guards")
    tracing = guards.tracing(guards.TracingContext(fake))
    detours = _refused_detours() if in_cpp else nullcontext()
    with lock, whole, tracing, detours, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inductor.compile_fx(
            graph,
            [example.detach() for example in examples],
            inner_compile=innermost,
            config_patches={
                "cpp.min_chunk_size": steps,
                "realize_opcount_threshold": MOST_WRITTEN_OUT,
                "cpp_wrapper": in_cpp,
            },
        )
    return made[-1].current_callable


def lacks_a_way_from_cpp(error: Exception) -> bool:
    """Whether `compile_graph` failed because C++ can reach an operation only through Python."""
    return _NO_WAY in str(error)


@contextmanager
def _refused_detours() -> Generator[None]:
    """Meanwhile what C++ can only reach through Python, with a word of the log, is an error."""

    def refuse(record: logging.LogRecord) -> bool:
        if _NO_WAY in record.getMessage():
            raise NotImplementedError(record.getMessage())
        return True

    log = logging.getLogger("torch._inductor.ir")
    log.addFilter(refuse)
    try:
        yield
    finally:
        log.removeFilter(refuse)


def _is_generated(node: torch.fx.Node, lowering: Any) -> bool:
    """Whether the compiler itself writes the loops of an operation, and lays out its result."""
    target = node.target
    if target is getitem:
        return True
    return (
        target in lowering.lowerings
        and target not in lowering.fallbacks
        and "convolution" not in str(target)
    )
