"""Tables in the documentation, as commands produce them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SentBySide = Mapping[str, tuple[int, int]]
"""The packets that one side of a call has sent, and their bytes, by what they were sent for."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_section(path: Path, section: str, text: str) -> None:
    """
    Put `text` between `<!-- begin section -->` and `<!-- end section -->` of a page.

    :raise ValueError: the page has no such place, or several.
    """
    page = path.read_text()
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"{path} has no place for {section!r}")
    path.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page))


def sent_table(calls: Iterable[Sequence[SentBySide]]) -> str:
    """
    What calls have sent, by technique, as a markdown table: the median and the most of what both sides of a
    call have sent together, and the most that one side has sent.

    :param calls: what each side of a call has sent.
    """
    both: dict[str, list[tuple[int, int]]] = {}
    most: dict[str, list[tuple[int, int]]] = {}
    for sides in calls:
        for name in dict.fromkeys(name for side in sides for name in side):
            sent = [side[name] for side in sides if name in side]
            both.setdefault(name, []).append((sum(each[0] for each in sent), sum(each[1] for each in sent)))
            most.setdefault(name, []).extend(sent)
    rows = []
    for name, sums in both.items():
        packets, sizes = zip(*sums, strict=True)
        of_one = zip(*most[name], strict=True)
        numbers = statistics.median(packets), max(packets), statistics.median(sizes), max(sizes)
        rows.append([name, str(len(sums)), *(f"{number:,.0f}" for number in (*numbers, *map(max, of_one)))])
    head = ["sent by", "calls", "packets, median", "most", "bytes, median", "most"]
    return table([*head, "packets of one side, most", "bytes of one side, most"], rows)
