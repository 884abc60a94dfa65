"""Numbers as people read them, and tables of text."""

import math
from collections.abc import Sequence

MS = 1e3
MIB = 2**20


def milliseconds(seconds: float) -> str:
    """Seconds in milliseconds, three digits that mean something.

    >>> milliseconds(0.0000123456), milliseconds(1.5)
    ('0.0123', '1,500')
    """
    ms = seconds * MS
    digits = max(0, 2 - math.floor(math.log10(ms))) if ms > 0 else 0
    return f"{ms:,.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best, two digits.

    >>> duration(0.0123), duration(2.34), duration(75)
    ('12 ms', '2.3 s', '75 s')
    """
    if seconds < 0.0995:
        return f"{seconds * MS:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"


def factor(value: float) -> str:
    """A ratio of two times, two or three digits.

    >>> factor(0.123), factor(12.3), factor(1234)
    ('0.12', '12', '1,234')
    """
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def mebibytes(count: int) -> str:
    """Bytes in MiB, without decimals from ten on.

    >>> mebibytes(2**19), mebibytes(300 * 2**20), mebibytes(100)
    ('0.5', '300', '<0.1')
    """
    mib = count / MIB
    if mib < 0.05:
        return "<0.1"
    return f"{mib:.1f}" if mib < 10 else f"{mib:,.0f}"


def aligned(cells: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[str]:
    """Lines of a table with columns of equal width.

    Args:
        cells: Rows of cells.
        numbers: Columns set flush right.

    Returns:
        One line per row.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k in numbers else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def markdown(cells: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[str]:
    """Lines of a Markdown table, the first row its head.

    Args:
        cells: Rows of cells.
        numbers: Columns set flush right.

    Returns:
        One line per row, and one below the head.
    """
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    rule = ["---:" if k in numbers else "---" for k in range(len(head))]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
