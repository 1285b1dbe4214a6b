"""The programs in docs/examples, as real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .places import Place

ECHO = Path(__file__).parent.parent / "docs" / "examples" / "echo.py"


def test_echo(place: Place) -> None:
    command = [sys.executable, str(ECHO), place.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            identity = server.stdout.readline().strip()
            for text in ("hello", "again"):
                done = subprocess.run(
                    [*command, identity, text], capture_output=True, text=True, timeout=60, check=False
                )
                assert (done.returncode, done.stdout, done.stderr) == (0, f"{text}\n", "")
        finally:
            server.terminate()
