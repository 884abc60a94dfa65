"""What the public calls share: read the call, look out for closures, evaluate."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from torchjac._evaluate.options import Options
from torchjac._inputs.closure import held_inputs
from torchjac._inputs.signature import Signature, Wrt, bind
from torchjac._inputs.warn import warn
from torchjac._torch import inside_transform, pytree
from torchjac.errors import ClosureWarning


def read_call(
    api: str,
    func: Callable[..., Any],
    inputs: Any,
    options: Options,
    *,
    wrt: Wrt = None,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Signature:
    """Check a call and bind its function to its inputs.

    Args:
        api: Name of the public function, for messages.
        func: The user's function.
        inputs: Its arguments.
        options: How to evaluate; checked here.
        wrt: What to differentiate.
        has_aux: Whether `func` returns (output, aux).
        holomorphic: Whether complex inputs are allowed.

    Returns:
        The signature.
    """
    options.checked(api)
    signature = bind(api, func, inputs, wrt=wrt, has_aux=has_aux, holomorphic=holomorphic)
    held = held_inputs(func, signature.leaves)
    if held:
        warn(
            f"{api}: `func` holds the tensor it is differentiated at, as {', '.join(held)}. There "
            "it counts as constant: only the arguments of `func` are differentiated. If that is "
            "meant, hold a copy (x.detach().clone()).",
            ClosureWarning,
        )
    return signature


def handed_out(tree: Any, create_graph: bool) -> Any:
    """Values without a history that nobody asked for; a transform outside needs it always."""
    if create_graph or inside_transform():
        return tree
    return pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, tree)
