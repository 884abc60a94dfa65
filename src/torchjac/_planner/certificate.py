"""The verdict on new entries: right, another mode, or a wrong pattern with the rows named."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchjac._evaluate.compressed import Passes
from torchjac._evaluate.ladder import LOOP
from torchjac._planner.apply import Entries, find_suspects
from torchjac._planner.probe import FORWARD, REVERSE, probe, run
from torchjac._planner.structure import Structure
from torchjac.errors import PatternError

# Rows that are computed in full to be sure, and rows and columns that a message names.
CONFIRMED, NAMED = 4, 5
ROUNDING_UNITS, ROUNDING_CAP, FLOOR_UNITS = 1e4, 0.1, 100.0
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

    The first suspicious rows are computed in full by reverse mode and compared entry by entry.

    Args:
        api: Name of the public function, for messages.
        structure: What the entries were computed by.
        passes: The function at one point.
        entries: What was computed.
        suspicious: Rows, and columns, whose products differ.

    Raises:
        PatternError: The entries are wrong.
    """
    rows, columns = suspicious
    pattern = structure.pattern
    if not len(rows):
        rows = _rows_at_fault(structure, passes, entries)
    reasons = []
    confirmable = REVERSE in structure.methods
    for row in rows.tolist()[: CONFIRMED if confirmable else 0]:
        reason = _fault_of_row(structure, entries.values, passes, row)
        if reason:
            reasons.append(f"row {row} {reason}")
    if len(rows) and confirmable and not reasons:
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


def _rows_at_fault(structure: Structure, passes: Passes, entries: Entries) -> Tensor:
    """Rows that contradict a product by forward mode, none where PyTorch has no forward rule."""
    try:
        known = probe(passes, FORWARD)
    except Exception:  # the columns will have to do
        return torch.empty(0, dtype=torch.int64)
    proof = (FORWARD, known.vector, known.product)
    return find_suspects(structure, entries._replace(proofs=(proof,)))[0]


def _fault_of_row(structure: Structure, values: Tensor, passes: Passes, row: int) -> str:
    """What is wrong with a row, empty if it is right."""
    pattern = structure.pattern
    size = pattern.shape[0]

    seed = values.detach().new_zeros(1, size)
    seed[0, row] = 1
    true = run(passes, REVERSE, LOOP, seed)[0].detach().to(values)
    first, last = int(pattern.indptr[row]), int(pattern.indptr[row + 1])
    columns = torch.from_numpy(pattern.indices[first:last]).to(values.device).long()
    ours = torch.zeros_like(true)
    ours[columns] = values.detach()[first:last]
    allowed = min(ROUNDING_UNITS * structure.eps, ROUNDING_CAP)
    noise = FLOOR_UNITS * structure.eps * structure.floor
    wrong = (ours - true).abs() > allowed * true.abs().max() + noise
    outside = wrong.clone()
    outside[columns] = False
    if outside.any():
        places = outside.nonzero().view(-1)
        return f"has nonzeros in columns {_listed(places)}, which the pattern lacks"
    return f"has other values in columns {_listed(wrong.nonzero().view(-1))}" * bool(wrong.any())


def _listed(numbers: Tensor) -> str:
    named = ", ".join(map(str, numbers[:NAMED].tolist()))
    return named + (f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else "")
