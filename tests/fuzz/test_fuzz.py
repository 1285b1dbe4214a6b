"""The targets of fuzzing: their corpus and random changes of it, and that atheris can fuzz them."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.needs import missing

RUN = Path(__file__).with_name("run.py")
SMOKE = "0.4"
"""Processor seconds for each target, beside its corpus."""


def run(*arguments: str, directory: Path) -> str:
    """The output of the command, which must succeed."""
    done = subprocess.run(
        [sys.executable, RUN, *arguments], cwd=directory, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
    return done.stdout


def test_every_target(tmp_path: Path) -> None:
    """What was found once is not found again, and nothing is that random changes of it find soon."""
    names = run("--list", directory=tmp_path).split()
    lines = run("--smoke", SMOKE, "--seed", "1", directory=tmp_path).splitlines()
    assert [line.partition(":")[0] for line in lines] == names
    assert len(names) >= 40


def test_coverage_guided(tmp_path: Path) -> None:
    """Atheris finds its way to valid candidates from less than one."""
    if find_spec("atheris") is None:
        if sys.version_info < (3, 11) or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            pytest.skip("atheris has no wheel for this Python")
        missing("atheris is not installed: pip install -e '.[dev]'")
    text = run("wire-candidate-text", "--runs", "20000", "--seed", "1", directory=tmp_path)
    (line,) = text.splitlines()
    assert line.startswith("wire-candidate-text: ok, "), text
    assert "20000 inputs" in line, text
    assert list(tmp_path.iterdir()) == []


def test_one_input(tmp_path: Path) -> None:
    """An input of a finding is run again by itself, and what is not there is said."""
    (tmp_path / "input").write_bytes(b"1 1 udp 1 192.0.2.1 9 typ host")
    run("wire-candidate-text", "--input", "input", directory=tmp_path)
    for arguments, said in (
        (["wire-stun", "--input", "missing"], "FileNotFoundError"),
        (["wire-nothing"], "there is no target 'wire-nothing'"),
        (["nothing"], "there are no targets that begin with 'nothing'"),
    ):
        done = subprocess.run(
            [sys.executable, RUN, *arguments, "--smoke", "1"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert said in done.stderr
