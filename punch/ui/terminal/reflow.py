"""
Where a prompt stands in a terminal that has become narrower since it was drawn.

Most terminals then wrap anew what they show, and the cursor goes along: more rows lie above it than were
drawn. What is to be drawn again has to begin at the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def reflows(environ: Mapping[str, str]) -> bool:
    """Whether the terminal does that: xterm, the Linux console and GNU screen cut lines off instead."""
    if "TMUX" in environ:
        return True
    return "XTERM_VERSION" not in environ and "STY" not in environ and environ.get("TERM") != "linux"


def rows_above(rows: Sequence[Sequence[int]], cursor: int, columns: int) -> int:
    """
    How many rows lie above the cursor now.

    :param rows: of each row that was drawn, down to the cursor's, the widths of its characters.
    :param cursor: how many columns were left of it in its row.
    :param columns: how many the terminal has now.
    """
    *above, last = rows
    return sum(_row_of(sum(row), row, columns) + 1 for row in above) + _row_of(cursor, last, columns)


def _row_of(column: int, row: Sequence[int], columns: int) -> int:
    """Which of the rows that a longer one was wrapped into has what was in that column."""
    number = used = passed = 0
    for width in row:
        if used + width > columns:
            number += 1
            used = 0
        if passed >= column:
            break
        used += width
        passed += width
    return number
