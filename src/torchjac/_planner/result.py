"""From entries to what the user gets: tensors of a layout, nested as PyTorch nests them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchjac._evaluate.compressed import common_dtype
from torchjac._inputs.signature import Outputs, Signature
from torchjac._layout.arrange import Arrangement
from torchjac._planner.structure import Request, Structure
from torchjac._torch import pytree
from torchjac.errors import PlanMismatchError


def rebuild(structure: Structure, signature: Signature, request: Request, values: Tensor) -> Any:
    """The Jacobian or Hessian.

    Args:
        structure: Where the entries go.
        signature: The function, which knows the trees.
        request: What the user asked for.
        values: The entries, in the order of the pattern.

    Returns:
        A tensor, or the tree of the outputs with the tree of the inputs in each place.
    """
    dtypes = _dtypes(signature, request)
    blocks = [
        [where.assemble(values.to(dtype)) for where, dtype in zip(row, dtypes, strict=True)]
        for row in structure.arrangements
    ]
    if request.flat:
        return blocks[0][0]
    if request.order == 2:
        return signature.nest([signature.nest(row) for row in blocks])
    return signature.rebuild(Outputs(structure.outputs, structure.tree, None), blocks)


def refill(
    structure: Structure, signature: Signature, request: Request, values: Tensor, out: Any
) -> None:
    """Write the entries into an earlier result.

    Args:
        structure: Where the entries go.
        signature: The function.
        request: What the user asked for.
        values: The entries.
        out: The result, of the same tree.

    Raises:
        PlanMismatchError: It is not a result of this plan.
    """
    blocks = pytree.tree_leaves(out)
    places = [where for row in structure.arrangements for where in row]
    dtypes = [d for _ in structure.arrangements for d in _dtypes(signature, request)]
    lines: list[str] = []
    if len(blocks) == len(places):
        for block, where, dtype in zip(blocks, places, dtypes, strict=True):
            lines += _compare(block, where, dtype, values.device)
    if len(blocks) != len(places) or any(line.endswith("DIFFERS") for line in lines):
        lines = lines or [f"  number of tensors: planned {len(places)}, given {len(blocks)}"]
        raise PlanMismatchError(
            f"{request.api}: `out` must be an earlier result of this plan. Leave it out to get a "
            "new one:\n" + "\n".join(lines)
        )
    for block, where, dtype in zip(blocks, places, dtypes, strict=True):
        where.refill(block, values.detach().to(dtype))


def _dtypes(signature: Signature, request: Request) -> list[torch.dtype]:
    """Dtype of each block, that of its input."""
    if request.flat:
        return [common_dtype(signature.leaves)]
    return [leaf.dtype for leaf in signature.leaves]


def _compare(
    block: Any, where: Arrangement, dtype: torch.dtype, device: torch.device
) -> Sequence[str]:
    if not isinstance(block, Tensor):
        return [f"  `out`: planned a Tensor, given {type(block)}, DIFFERS"]
    pairs: list[tuple[str, Any, Any]] = [
        ("shape", tuple(where.shape), tuple(block.shape)),
        ("layout", where.layout, block.layout),
        ("dtype", dtype, block.dtype),
        ("device", device, block.device),
    ]
    lines = [_line(name, planned, given) for name, planned, given in pairs]
    if all(planned == given for _, planned, given in pairs):
        planned, given = where.stored, where.stored_in(block)
        lines.append(_line("stored entries", planned, given))
        if planned == given:
            lines.append(_line("places of the entries", True, where.fits(block)))
    return lines


def _line(name: str, planned: Any, given: Any) -> str:
    if planned is True:
        return f"  {name}: " + ("match" if given else "DIFFERS")
    if planned == given:
        return f"  {name}: {planned}, matches"
    return f"  {name}: planned {planned}, given {given}, DIFFERS"
