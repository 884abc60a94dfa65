"""Slices of several tensors put side by side, to be moved into one tensor together."""

from collections.abc import Callable, Mapping
from itertools import zip_longest

import numpy as np
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block

# A block with more slices stays whole; and one with more than the fewest, if it is alone.
_FEW, _FEWEST = 32, 8


def joined(
    sources: Mapping[int, list[Block]], is_constant: Callable[[Tensor], bool]
) -> list[dict[int, Block]]:
    """Rows of blocks with equally many slices, at most one of each tensor.

    In a stack or concatenation, what comes of a row fills one slice instead of several that are
    zero nearly everywhere. Constants meet constants, and slices of the same place in the order of
    the inputs each other, so that the result is as regular as the arguments.

    Args:
        sources: The blocks of each tensor, by its number.
        is_constant: Whether the values of a block are the same at every x.

    Returns:
        The rows.
    """
    rows: list[dict[int, Block]] = []
    for constant in (True, False):
        alike = {
            number: [block for block in blocks if is_constant(block.values) is constant]
            for number, blocks in sources.items()
        }
        most = _most_apart(alike)
        single: dict[int, list[Block]] = {}
        for number, blocks in alike.items():
            apart = [s for b in blocks if b.slices <= most for s in _slices(b)]
            single[number] = sorted(apart, key=_offset)
            rows += [{number: b} for b in blocks if b.slices > most]
        for parts in zip_longest(*single.values()):
            pairs = zip(single, parts, strict=True)
            rows.append({number: part for number, part in pairs if part is not None})
    return _paired(rows)


def _most_apart(alike: Mapping[int, list[Block]]) -> int:
    """Blocks with more slices stay whole: nearly all, if there is no other tensor to meet."""
    meeting = [
        number for number, blocks in alike.items() if any([b.slices <= _FEW for b in blocks])
    ]
    return _FEW if len(meeting) > 1 else _FEWEST


def _slices(block: Block) -> list[Block]:
    if block.slices == 1:
        return [block]
    return [
        Block(block.index[s : s + 1], block.values[s : s + 1])
        for s in range(block.slices)
        if block.index[s].any()
    ]


def _offset(block: Block) -> float:
    """How far the inputs lie behind the elements, for most of them."""
    flat = block.index.ravel()
    live = np.flatnonzero(flat)
    return float(np.median(flat[live] - live)) if len(live) else 0.0


def _paired(rows: list[dict[int, Block]]) -> list[dict[int, Block]]:
    """Rows of one large block each, those of as many slices together."""
    result: list[dict[int, Block]] = []
    for row in rows:
        (number, block), *more = row.items()
        if not more and block.slices > _FEW:
            for other in result:
                alone = next(iter(other.values()))
                if number not in other and alone.slices == block.slices:
                    other[number] = block
                    break
            else:
                result.append(row)
        else:
            result.append(row)
    return result
