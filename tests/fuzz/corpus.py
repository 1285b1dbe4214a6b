"""
The corpus: inputs that together reach as much of the code as all that were found. Each target has a file with
an input on each line, as a bytes literal of Python.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

DIRECTORY = Path(__file__).parent / "corpus"
MOST_BYTES = 8192
"""Bytes of a target's inputs in all; those beyond are left out, the largest first."""
_OURS = str(Path(__file__).parent.parent.parent / "punch")


def read(name: str) -> list[bytes]:
    """The inputs of a target."""
    path = DIRECTORY / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines]


def write(name: str, inputs: Iterable[bytes]) -> None:
    """Replace the inputs of a target."""
    DIRECTORY.mkdir(exist_ok=True)
    (DIRECTORY / f"{name}.txt").write_text("".join(f"{data!r}\n" for data in inputs), "ascii")


def minimised(run: Any, known: Iterable[bytes], found: Iterable[bytes]) -> list[bytes]:
    """
    A few of the inputs that reach every step of our code that all of them reach.

    :param known: inputs that are used anyway, and so are left out.
    """
    reached = set[Any]()
    for data in known:
        reached |= _steps(run, data)
    kept: list[bytes] = []
    for data in sorted(found, key=lambda data: (len(data), data)):
        steps = _steps(run, data)
        if not steps <= reached and sum(map(len, kept)) + len(data) <= MOST_BYTES:
            reached |= steps
            kept.append(data)
    return kept


def _steps(run: Any, data: bytes) -> set[Any]:
    """The steps from line to line of our code that an input reaches."""
    steps = set[Any]()
    last: dict[FrameType, int] = {}

    def called(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename.startswith(_OURS) else None

    def line(frame: FrameType, event: str, argument: object) -> Any:
        steps.add((frame.f_code, last.get(frame), frame.f_lineno))
        last[frame] = frame.f_lineno
        return line

    sys.settrace(called)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return steps
