"""
Writes `punch/unicode_tables.py` from the files of the Unicode Character Database:

    python tools/make_unicode_tables.py confusables.txt DerivedCoreProperties.txt

Both are at https://www.unicode.org/Public/17.0.0/ (`security/` and `ucd/`), under the Unicode License v3
(`LICENSE-UNICODE`). Take both from one version, and the newest; the result says which that was.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

TARGET = Path(__file__).parent.parent / "punch" / "unicode_tables.py"

TEMPLATE = '''\
"""
Parts of the Unicode Character Database {version}. Written by `tools/make_unicode_tables.py`.

Copyright © 1991-2025 Unicode, Inc. Unicode License v3, see LICENSE-UNICODE.
"""

VERSION = "{version}"

#: Default_Ignorable_Code_Point of DerivedCoreProperties.txt: first and last of each range.
DEFAULT_IGNORABLE = (
{ignorable}
)

#: confusables.txt of UTS #39. Each line: a prototype ("+" joins its characters), then what looks like it.
CONFUSABLES = """
{confusables}
"""
'''


def main(confusables: str, properties: str) -> None:
    """Read both files and write the module."""
    looks, version = _confusables(Path(confusables).read_text("utf-8-sig"))
    ranges = _ignorable(Path(properties).read_text("utf-8"))
    TARGET.write_text(
        TEMPLATE.format(
            version=version,
            ignorable="\n".join(f"    (0x{first:04X}, 0x{last:04X})," for first, last in ranges),
            confusables="\n".join(looks),
        ),
        "utf-8",
    )


def _confusables(text: str) -> tuple[list[str], str]:
    version = re.search(r"^# Version: (\S+)", text, re.MULTILINE)
    if version is None:
        raise SystemExit("This is not confusables.txt: it does not say its version.")
    sources = defaultdict(list)
    for line in text.splitlines():
        fields = line.split("#")[0].split(";")
        if len(fields) == 3:
            sources["+".join(fields[1].split())].append(fields[0].strip())
    lines = []
    for prototype in sorted(sources):
        lines += textwrap.wrap(
            " ".join(sorted(sources[prototype])),
            100,
            initial_indent=f"{prototype} ",
            subsequent_indent=f"{prototype} ",
            break_on_hyphens=False,
        )
    return lines, version[1]


def _ignorable(text: str) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    found = re.findall(
        r"^([0-9A-F]+)(?:\.\.([0-9A-F]+))?\s*; Default_Ignorable_Code_Point", text, re.MULTILINE
    )
    for first, last in sorted((int(first, 16), int(last or first, 16)) for first, last in found):
        if ranges and ranges[-1][1] == first - 1:
            ranges[-1] = ranges[-1][0], last
        else:
            ranges.append((first, last))
    return ranges


if __name__ == "__main__":
    main(*sys.argv[1:])
