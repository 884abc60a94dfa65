"""Replay an emitted program: one line of Python for each operation, and nothing else."""

from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from torchjac._evaluate.direct.strides import laid_out, strides_of

Run = Callable[[Sequence[Tensor]], Tensor]
# They do what the operators of their names do, and take a third of the time to call.
_QUICK = {
    function.__name__: function
    for function in (
        torch.abs,
        torch.add,
        torch.bmm,
        torch.cat,
        torch.clone,
        torch.cos,
        torch.cosh,
        torch.cumsum,
        torch.div,
        torch.eq,
        torch.exp,
        torch.expm1,
        torch.flip,
        torch.ge,
        torch.gt,
        torch.le,
        torch.log,
        torch.log1p,
        torch.lt,
        torch.maximum,
        torch.minimum,
        torch.mm,
        torch.mul,
        torch.ne,
        torch.neg,
        torch.permute,
        torch.pow,
        torch.reciprocal,
        torch.relu,
        torch.reshape,
        torch.rsqrt,
        torch.select,
        torch.sigmoid,
        torch.sign,
        torch.sin,
        torch.sinh,
        torch.sqrt,
        torch.square,
        torch.stack,
        torch.sub,
        torch.sum,
        torch.tan,
        torch.tanh,
        torch.transpose,
        torch.unbind,
        torch.unsqueeze,
        torch.where,
    )
}


def replayed(program: fx.GraphModule, examples: Sequence[Tensor]) -> Run:
    """A program as a Python function, which lets go of each tensor after its last use.

    Args:
        program: Takes tensors, returns one.
        examples: Tensors that lie in memory as those did that it was recorded with.

    Returns:
        What runs it. Inputs that lie otherwise are copied.
    """
    lines: list[str] = []
    names: dict[str, Any] = {"laid_out": laid_out, "strides": strides_of(examples)}
    last = _last_uses(program.graph)

    def known(value: Any) -> str:
        if value is None or isinstance(value, bool | int | slice):
            return repr(value)
        name = f"_{len(names)}"
        names[name] = value
        return name

    def shown(value: Any) -> str:
        if isinstance(value, fx.Node):
            return value.name
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(shown, value))}]"
        return known(value)

    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            inputs.append(node.name)
        elif node.op == "get_attr":
            names[node.name] = getattr(program, str(node.target))
        elif node.op == "call_function":
            arguments = [shown(value) for value in node.args]
            arguments += [f"{key}={shown(value)}" for key, value in node.kwargs.items()]
            call = f"{known(quick(node.target))}({', '.join(arguments)})"
            if node.target is getitem:
                call = f"{arguments[0]}[{arguments[1]}]"
            lines.append(f"{node.name} = {call}")
        else:
            lines.append(f"return {shown(node.args[0])}")
        if dead := [n.name for n in last.get(node, ()) if n.op != "get_attr"]:
            lines.append(f"del {', '.join(dead)}")
    check = "if [x.stride() for x in leaves] != strides: leaves = laid_out(leaves, strides)"
    body = "\n    ".join([check, f"[{', '.join(inputs)}] = leaves", *lines])
    exec(f"def run(leaves):\n    {body}", names)
    return names["run"]


def quick(target: Any) -> Callable[..., Any]:
    """The fastest function that does what an operator does.

    Args:
        target: An operator.

    Returns:
        The function.

    >>> quick(torch.ops.aten.mul.Tensor) is torch.mul
    True
    """
    packet = getattr(target, "overloadpacket", None)
    name = getattr(packet, "__name__", "")
    is_own = name in _QUICK and packet is getattr(torch.ops.aten, name)
    return _QUICK[name] if is_own else target


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """After each node, the values that nobody uses any more."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for value, node in last.items():
        if node.op != "output":
            found.setdefault(node, []).append(value)
    return found
