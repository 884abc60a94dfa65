"""The verdict on new entries: right, another mode, or a wrong pattern with the rows named."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._evaluate.compressed import Passes
from torchjac._evaluate.ladder import LOOP
from torchjac._planner.apply import Entries, find_suspects
from torchjac._planner.probe import FORWARD, REVERSE, random_vector, run
from torchjac._planner.structure import Structure
from torchjac.errors import PatternError

# Rows that are computed in full to be sure, and rows and columns that a message names.
CONFIRMED, NAMED = 4, 5
ROUNDING_UNITS, ROUNDING_CAP, FLOOR_UNITS = 1e4, 0.1, 100.0
# Seeds whose products show the noise, and how many times the noise is let pass.
MULTIPLES, NOISE = (3.0, 5.0, 7.0), 100.0
# Rounding that two ways to compute may differ by: in units of the precision, but in low precision
# no more than a part of the largest entry, and there in fewer units.
WAY_UNITS, WAY_CAP, WAY_FEW_UNITS = 1e5, 1e-3, 20.0
REMEDIES = {
    "given": "Give a pattern that holds them all, or leave `pattern` out to have it detected.",
    "detected": "The detection is at fault, please report it; until then give `pattern`, or use "
    "layout=torch.strided without a plan.",
    "loaded": "The file was written for another function; make the plan anew.",
}


def confirm(
    api: str,
    structure: Structure,
    passes: Passes,
    entries: Entries,
    suspicious: Sequence[Tensor],
) -> None:
    """Raise an error unless rounding explains what a certificate found suspicious.

    The first suspicious rows are computed in full by reverse mode, columns by forward mode, and
    compared entry by entry.

    Args:
        api: Name of the public function, for messages.
        structure: What the entries were computed by.
        passes: The function at one point.
        entries: What was computed.
        suspicious: Rows, and columns, whose products differ.

    Raises:
        PatternError: The entries are wrong.
    """
    rows, columns = _beyond_noise(structure, passes, entries, suspicious)
    if not len(rows) + len(columns):
        return
    pattern, values = structure.pattern, entries.values
    reasons: list[str] = []
    unsure = 0
    for kind, mode, found, fault_of in (
        ("row", REVERSE, rows, _fault_of_row),
        ("column", FORWARD, columns, _fault_of_column),
    ):
        if reasons:
            break  # a wrong row says it all
        if mode not in structure.methods:
            unsure += len(found)
            continue
        for number in found.tolist()[:CONFIRMED]:
            if fault := fault_of(structure, values, passes, number):
                reasons.append(f"{kind} {number} {fault}")
    if not reasons and not unsure:
        return  # rounding, where large intermediate values cancel
    where = []
    if len(rows):
        where.append(f"rows {_listed(rows)}")
    if len(columns):
        where.append(f"columns {_listed(columns)}")
    raise PatternError(
        f"{api}: the entries of the sparse Jacobian are not those of the function in "
        f"{' and '.join(where)} of {pattern.shape[0]} × {pattern.shape[1]}"
        + (f": {'; '.join(reasons)}. " if reasons else ". ")
        + REMEDIES[structure.found.source]
    )


def agree(found: Tensor, values: Tensor, eps: float = 0.0, floor: float = 0.0) -> bool:
    """Whether two ways to compute the same entries differ by rounding only.

    Args:
        found: The entries.
        values: The same, computed in another way.
        eps: Coarsest precision on the way, if it is coarser than that of the entries.
        floor: A size of entries that rounding may leave where they cancel, in units of it.

    Returns:
        Whether they do, as far as the largest of them tells.

    >>> ones = torch.ones(3, dtype=torch.float64)
    >>> agree(ones + 1e-13, ones), agree(ones + 1e-9, ones)
    (True, False)
    """
    known = values[values.isfinite()]
    scale = float(known.abs().max()) if len(known) else 0.0
    eps = max(eps, torch.finfo(values.dtype).eps)
    allowed = scale * min(WAY_UNITS * eps, max(WAY_CAP, WAY_FEW_UNITS * eps))
    allowed += FLOOR_UNITS * eps * floor
    return torch.allclose(found, values, rtol=0.0, atol=allowed, equal_nan=True)


def floor_of(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> float:
    """A size of entries that rounding may leave where they cancel, in units of the precision.

    Args:
        outputs: What the function returned.
        leaves: For what.

    Returns:
        The size of the outputs over that of the inputs.
    """
    return _size(outputs) / (1.0 + _size(leaves))


def _size(tensors: Sequence[Tensor]) -> float:
    """The largest absolute value that is finite."""
    known = [t.detach().nan_to_num(0.0, 0.0, 0.0).abs().max() for t in tensors if t.numel()]
    return max(map(float, known), default=0.0)


def _beyond_noise(
    structure: Structure, passes: Passes, entries: Entries, suspicious: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Rows and columns that differ by more than rounding, as it shows in products of multiples."""
    # Both modes are asked: where reverse mode alone is in use, forward mode names the rows.
    proofs, slack = [], {}
    for mode, found in zip((FORWARD, REVERSE), suspicious, strict=True):
        vector = random_vector(passes, mode)
        try:
            product, noise = _with_noise(passes, mode, vector[None])
        except Exception:  # PyTorch has no rule for this mode: the other one has to do
            if len(found):
                raise
            continue
        proofs.append((mode, vector, product))
        slack[mode] = NOISE * noise
    return find_suspects(structure, entries._replace(proofs=tuple(proofs)), slack)


def _with_noise(passes: Passes, mode: str, seed: Tensor) -> tuple[Tensor, Tensor]:
    """A product, and by how much it differs from the same with multiples of the seed."""
    # Products are linear in the seed but for rounding, which is another one for each multiple.
    product = run(passes, mode, LOOP, seed)[0].detach()
    others = [run(passes, mode, LOOP, k * seed)[0].detach() / k for k in MULTIPLES]
    return product, torch.stack([(other - product).abs() for other in others]).amax(0)


def _fault_of_row(structure: Structure, values: Tensor, passes: Passes, row: int) -> str:
    """What is wrong with a row, empty if it is right."""
    pattern = structure.pattern
    span = slice(int(pattern.indptr[row]), int(pattern.indptr[row + 1]))
    seed = values.detach().new_zeros(1, pattern.shape[0])
    seed[0, row] = 1
    places = torch.from_numpy(pattern.indices[span])
    known = _with_noise(passes, REVERSE, seed)
    return _fault(structure, values.detach()[span], places, "columns", known)


def _fault_of_column(structure: Structure, values: Tensor, passes: Passes, column: int) -> str:
    """What is wrong with a column, empty if it is right."""
    pattern, view = structure.pattern, structure.pattern.csc
    span = slice(int(view.indptr[column]), int(view.indptr[column + 1]))
    seed = values.detach().new_zeros(1, pattern.shape[1])
    seed[0, column] = 1
    order = torch.from_numpy(view.order[span]).to(values.device).long()
    places = torch.from_numpy(view.rows[span])
    known = _with_noise(passes, FORWARD, seed)
    return _fault(structure, values.detach()[order], places, "rows", known)


def _fault(
    structure: Structure,
    entries: Tensor,
    places: Tensor,
    across: str,
    known: tuple[Tensor, Tensor],
) -> str:
    """What is wrong with the entries at some places of a row or column that is known in full."""
    true, noise = [part.to(entries) for part in known]
    places = places.to(entries.device).long()
    ours = torch.zeros_like(true)
    ours[places] = entries
    allowed = min(ROUNDING_UNITS * structure.eps, ROUNDING_CAP)
    slack = FLOOR_UNITS * structure.eps * structure.floor + NOISE * noise.max()
    wrong = (ours - true).abs() > allowed * true.abs().max() + slack
    outside = wrong.clone()
    outside[places] = False
    if outside.any():
        found = _listed(outside.nonzero().view(-1))
        return f"has nonzeros in {across} {found}, which the pattern lacks"
    return f"has other values in {across} {_listed(wrong.nonzero().view(-1))}" * bool(wrong.any())


def _listed(numbers: Tensor) -> str:
    named = ", ".join(map(str, numbers[:NAMED].tolist()))
    return named + (f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else "")
