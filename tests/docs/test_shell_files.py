"""Completions for shells, and manual pages: made from today's help, and taken by real shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]
SHARE = ROOT / "share"
BASH = SHARE / "bash-completion" / "completions" / "punch"
ZSH = SHARE / "zsh" / "site-functions" / "_punch"
FISH = SHARE / "fish" / "vendor_completions.d" / "punch.fish"


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert done.stderr == ""
    return done.stdout


def test_they_are_up_to_date() -> None:
    run(sys.executable, str(ROOT / "tools" / "make_shell_files.py"), "--check")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("se",), "send"),
        (("send", "--rend"), "--rendezvous"),
        (("peers", "gr"), "grant"),
        (("rendezvous", "sta"), "status"),
        (("rendezvous", "invite", "--us"), "--uses"),
        (("chat", "--port-m"), "--port-mapping"),
    ],
)
def test_bash_and_fish(line: tuple[str, ...], expected: str) -> None:
    need("bash")
    need("fish")
    words = " ".join(line)
    typed = f"COMP_WORDS=(punch {words}); COMP_CWORD={len(line)}"
    script = f'source "{BASH}"; {typed}; _punch; echo "${{COMPREPLY[@]}}"'
    assert run("bash", "--norc", "-c", script).split() == [expected]
    told = run("fish", "--no-config", "-c", f"source {FISH}; complete -C 'punch {words}'")
    assert [each.split("\t")[0] for each in told.splitlines()] == [expected]


def test_zsh_reads_it() -> None:
    need("zsh")
    run("zsh", "-f", "-n", str(ZSH))


def test_manual_pages() -> None:
    """Each command has one, and groff has nothing to say against it."""
    need("groff")
    pages = sorted((SHARE / "man" / "man1").glob("*.1"))
    assert {"punch.1", "punch-send.1", "punch-rendezvous-invite.1"} <= {page.name for page in pages}
    for page in pages:
        text = run("groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(page))
        assert "SYNOPSIS" in text, page
        assert os.environ.get("HOME", "/root") not in text
