"""How optional packages are installed, in the words of the way in which Punch was."""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import PurePath


def install_command(extra: str, prefix: str = sys.prefix, python: str = sys.executable) -> str:
    """
    The command that adds an extra of txpunch to this installation.

    :param prefix: the directory of its environment: pipx and uv have places of their own for these.
    """
    package = shlex.quote(f"txpunch[{extra}]")
    parts = PurePath(prefix).parts
    if ("pipx", "venvs") in pairwise(parts):
        return f"pipx install --force {package}"
    if ("uv", "tools") in pairwise(parts):
        return f"uv tool install {package}"
    return f"{shlex.quote(python)} -m pip install {package}"
