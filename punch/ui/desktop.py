"""The desktop of this machine, if there is one: finds the user's download folder, and shows folders."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.protocol import ProcessProtocol


def download_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's download folder: that of the desktop's settings (xdg-user-dirs), or `~/Downloads`."""
    home = Path(environ.get("HOME") or Path.home())
    settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "user-dirs.dirs"
    try:
        text = settings.read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r'^XDG_DOWNLOAD_DIR="(\$HOME/|/)([^"\n]*)"', text, re.MULTILINE)
    if found is None:
        return home / "Downloads"
    return (home if found[1].startswith("$") else Path("/")) / found[2]


def folder_opener(
    reactor: Any, environ: Mapping[str, str], platform: str = sys.platform
) -> Callable[[Path], object] | None:
    """
    Return a function that shows a folder in the file manager.

    :return: None if there is no desktop, or no program that opens folders.
    """
    if platform == "darwin":
        program = shutil.which("open")
    elif environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"):
        program = shutil.which("xdg-open")
    else:
        program = None
    if program is None:
        return None

    def open_folder(folder: Path) -> object:
        # No shell reads the path, and as an absolute path it can't be taken for an option.
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            return reactor.spawnProcess(
                ProcessProtocol(),
                program,
                [program, str(folder.absolute())],
                env=None,
                childFDs={0: nothing, 1: nothing, 2: nothing},
            )
        finally:
            os.close(nothing)

    return open_folder
