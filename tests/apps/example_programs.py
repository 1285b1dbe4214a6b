"""The programs in docs/examples: the command lines that their docstrings give, and running them."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

_COMMAND = re.compile(r"^    (\S.*)$|`(python [^`]*)`", re.MULTILINE)


def command_lines(example: Path) -> list[list[str]]:
    """The words of each command line in the docstring of an example: of indented lines, or in backquotes."""
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")), clean=False) or ""
    return [shlex.split(indented or quoted, comments=True) for indented, quoted in _COMMAND.findall(text)]


class Served:
    """A program that serves; the endpoints of all of them with one identity share its node."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


def run_to_end(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What a program prints, which ends without an error."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout
