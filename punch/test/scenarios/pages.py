"""Tables in the documentation, as commands produce them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


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
