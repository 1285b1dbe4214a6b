"""The programs in docs/examples, as real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .local_peers import LocalPeers

DOCS = Path(__file__).parent.parent / "docs"
ECHO = DOCS / "examples" / "echo.py"


def test_the_page_has_the_program() -> None:
    program = ECHO.read_text(encoding="utf-8")
    assert f"```python\n{program}```\n" in (DOCS / "api.md").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 40


def test_echo(local: LocalPeers) -> None:
    command = [sys.executable, str(ECHO), local.address]
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
