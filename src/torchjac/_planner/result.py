"""From entries to what the user gets: tensors of a layout, nested as PyTorch nests them."""

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from torchjac._evaluate.direct.runner import Direct
from torchjac._inputs.signature import Outputs, Signature
from torchjac._layout.arrange import Arrangement
from torchjac._planner.apply import tell_direct
from torchjac._planner.core import Ready
from torchjac._planner.structure import Request, Structure
from torchjac._torch import pytree
from torchjac.errors import PlanMismatchError

_MARK = "_torchjac_written"


class Written:
    """That a program wrote the entries of a result, and nobody has written to it since.

    A copy of the result carries a mark that says nothing.
    """

    def __init__(
        self,
        out: Tensor | None = None,
        program: Direct | None = None,
        stored: Tensor | None = None,
    ) -> None:
        if out is not None and program is not None:
            self._parties = ref(out), ref(program)
            self._state = _state(out, _stored(out) if stored is None else stored)
        else:
            self._parties = self._state = None

    def holds(self, out: Tensor, program: Direct) -> bool:
        """Whether `out` is what `program` left, as far as PyTorch knows."""
        if self._parties is None:
            return False
        owner, writer = self._parties
        if owner() is not out or writer() is not program:
            return False
        # Arrays that share memory write to it without a trace.
        stored = _stored(out)
        return self._state == _state(out, stored) and stored.untyped_storage().resizable()

    def __reduce__(self) -> tuple[Any, ...]:
        return Written, ()


def _state(out: Tensor, stored: Tensor) -> tuple[Any, ...]:
    return out._version, stored.data_ptr(), stored.shape, stored.stride()


def _stored(out: Tensor) -> Tensor:
    return out if out.layout is torch.strided else out.values()


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
    blocks = _blocks(structure, values)
    if request.flat:
        return blocks[0][0]
    if request.order == 2:
        return signature.nest([signature.nest(row) for row in blocks])
    return signature.rebuild(Outputs(structure.outputs, structure.tree, None), blocks)


def _blocks(structure: Structure, values: Tensor) -> list[list[Tensor]]:
    """A row of tensors for each output."""
    dtypes, mosaic = structure.dtypes, structure.mosaic
    if mosaic is not None:
        found, width = mosaic.blocks(_as(values, dtypes[0])), len(dtypes)
        return [found[start : start + width] for start in range(0, len(found), width)]
    return [
        [where.assemble(_as(values, dtype)) for where, dtype in zip(row, dtypes, strict=True)]
        for row in structure.arrangements
    ]


def refill(structure: Structure, request: Request, values: Tensor, out: Any) -> None:
    """Write the entries into an earlier result.

    Args:
        structure: Where the entries go.
        request: What the user asked for.
        values: The entries.
        out: The result, of the same tree.

    Raises:
        PlanMismatchError: It is not a result of this plan.
    """
    blocks = pytree.tree_leaves(out)
    places = [where for row in structure.arrangements for where in row]
    dtypes = structure.dtypes * len(structure.arrangements)
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
        where.refill(block, _as(values.detach(), dtype))


def run_direct(ready: Ready, request: Request, out: Any) -> Any:
    """The Jacobian by an emitted program; into an earlier result only what depends on x.

    A result of one tensor that is dense or holds the entries in order (CSR), and that nobody has
    written to since, is known by a mark that it carries: its constant entries and zeros are there.

    Args:
        ready: The program and x.
        request: What the user asked for.
        out: An earlier result, or None.

    Returns:
        The result.
    """
    structure, signature, inputs, program, is_lone = ready
    tell_direct(request.api, program)
    inputs = [x.detach() if x.requires_grad else x for x in inputs]
    where = structure.arrangements[0][0]
    is_dense = where.layout is torch.strided
    markable = (where.keeps_order or is_dense) and len(structure.dtypes) == 1
    is_clean = markable and _is_marked(out, program)
    stored = None
    if out is None:
        values = program.nonzeros(inputs)
        if is_lone and values.dtype == structure.dtypes[0]:  # nothing to nest
            out = where.assemble(values)
            stored = values if where.layout is torch.sparse_csr and where.take is None else None
        else:
            out = rebuild(structure, signature, request, values)
    elif is_clean and where.keeps_order:
        program.refill(where.entries_in(out), inputs)
    elif is_clean:
        where.refill(out, _as(program.nonzeros(inputs), out.dtype), is_clean=True)
    else:
        refill(structure, request, program.nonzeros(inputs), out)
    if markable and isinstance(out, Tensor) and not out.is_inference():
        setattr(out, _MARK, Written(out, program, stored))
    return out


def _as(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype == dtype else values.to(dtype)


def _is_marked(out: Any, program: Direct) -> bool:
    mark = getattr(out, _MARK, None)
    return isinstance(mark, Written) and mark.holds(out, program)


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
