"""
Files of the operator with one entry a line: empty lines and comments (#) are skipped, and errors name the
line and the column. Pure except for `read_text`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from punch.files import read_regular

MAX_BYTES = 16 * 1024 * 1024
"""The largest size of such a file."""


class ListFileError(ValueError):
    """A list cannot be used; `str()` is a sentence that names the place of the error."""

    @classmethod
    def at(cls, line: int, column: int, problem: str) -> ListFileError:
        """The error at a place of the file, whose name is not known here."""
        return cls(f"line {line}, column {column}: {problem}")


def entries(text: str) -> Iterator[tuple[int, int, str]]:
    """
    The entries of a list, each with its line and its column.

    :raise ListFileError: there are two entries in one line.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isascii():
            # Pasted addresses and IDs may contain invisible characters.
            line = "".join(c for c in line if unicodedata.category(c) != "Cf")
        content = line.partition("#")[0]
        entry = content.strip()
        if not entry:
            continue
        column = content.index(entry) + 1
        words = entry.split()
        if len(words) > 1:
            column += entry.index(words[1], len(words[0]))
            raise ListFileError.at(number, column, "there is one entry a line, and comments begin with #")
        yield number, column, entry


def read_text(path: Path, what: str) -> str:
    """
    The text of a file.

    :param what: names the list in errors: "The deny list".
    :raise ListFileError: it cannot be read, or is not UTF-8.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as problem:
        raise ListFileError(f"{what} {path} can't be read ({problem.strerror}).") from problem
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        column = problem.start - (data.rfind(b"\n", 0, problem.start) + 1) + 1
        raise ListFileError(f"{what} {path}, line {line}, column {column}: not UTF-8.") from problem
