"""Completions for shells, and manual pages: made from today's help, and taken by real shells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from punch.cli.commands.node_command import ExitStatus
from punch.node.control.replacements import EXIT_STATUS
from tests.consoles import terminal
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
        (("send", "--spray", "n"), "never"),
        (("rendezvous", "--admit", "li"), "listed"),
        (("rendezvous", "--relay", "of"), "off"),
        (("identity", "re"), "revoke"),
        (("identity", "revoke", "--y"), "--yes"),
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


def test_each_command_has_its_own_options() -> None:
    """Also where the first word of one is the second of another: punch invite and punch rendezvous invite."""
    need("fish")
    for words, there in (("invite", False), ("rendezvous invite", True), ("rendezvous --json invite", False)):
        told = run("fish", "--no-config", "-c", f"source {FISH}; complete -C 'punch {words} --'")
        options = {each.split("\t")[0] for each in told.splitlines()}
        assert ("--uses" in options) is there, words
        assert ("--as" in options) is (words == "invite"), words
    told = run("fish", "--no-config", "-c", f"source {FISH}; complete -C 'punch peers block '")
    assert "unblock" not in told


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_at_a_prompt(shell: str, tmp_path: Path) -> None:
    """Names of files are one word each, whatever is in them, and also if they are typed in part."""
    need(shell)
    (tmp_path / "My photo (1).jpg").touch()
    (tmp_path / "send").mkdir()
    show = "punch() { printf '<%s>' \"$@\"; echo; }"
    if shell == "bash":
        begin = f"source '{BASH}'; {show}"
        words = ["bash", "--norc", "--noprofile", "-i"]
    else:
        begin = f"fpath=('{ZSH.parent}' $fpath); autoload -U compinit; compinit -D -u; {show}"
        words = ["zsh", "-f", "-i"]
    with terminal(["/usr/bin/env", *words], tmp_path, extra={"PS1": "$ ", "LC_ALL": "C.UTF-8"}) as screen:
        screen.type(f"{begin}; echo rea''dy\n")
        screen.wait("^ready", 30.0)
        for typed, expected in (
            ("punch send My\t", "<send><My photo (1).jpg>"),
            ("punch send --as x My\\ ph\t", "<send><--as><x><My photo (1).jpg>"),
            ("punch sen\t", "<send>"),
            ("punch rendezvous sta\t", "<rendezvous><status>"),
            ("punch receive --spray ne\t", "<receive><--spray><never>"),
        ):
            screen.type(f"{typed}\n")
            screen.wait(f"^{re.escape(expected)}$", 30.0)


def test_bash_of_macos() -> None:
    """Its version 3.2 has no such commands, tables or expansions."""
    newer = re.compile(
        r"\b(mapfile|readarray|coproc|declare -[gAn]|local -[An])\b|\$\{\w+(,|\^|@)|\|&|&>>|;;?&"
    )
    assert newer.findall(BASH.read_text()) == []


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


def rows(heading: str) -> list[list[str]]:
    """The rows of a table of docs/commands.md."""
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    table = text.partition(f"| {heading} | meaning | commands |\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


def test_exit_statuses_and_environment() -> None:
    """Of all commands, on one page, and of each in its manual page."""
    statuses = {int(status): commands for status, _, commands in rows("status")}
    assert statuses.keys() == {*map(int, ExitStatus), EXIT_STATUS}
    pages = {path.stem: path.read_text("utf-8") for path in (SHARE / "man" / "man1").glob("punch-*.1")}
    names = {name.replace("-", " ").removeprefix("punch ") for name in pages}
    for _, _, commands in (*rows("status"), *rows("variable")):
        assert commands == "all" or set(commands.split(", ")) <= names, commands
    for name, text in pages.items():
        assert "EXIT STATUS" in text, name
        assert "XDG_STATE_HOME" in text, name
    for name, text in pages.items():
        # Twisted's programs end with 1 if their command line is wrong
        of_twisted = name.removeprefix("punch-") in ("peer", "chat", "web", "rendezvous")
        assert ("\\fB2\\fR" in text) is not of_twisted, name
    for name, status, variable in (("send", 8, "PUNCH_RENDEZVOUS"), ("chat", 3, "NO_COLOR")):
        assert f"\\fB{status}\\fR" in pages[f"punch-{name}"]
        assert f"\\fB{variable}\\fR" in pages[f"punch-{name}"]
    assert "NO_COLOR" not in pages["punch-pipe"]
    assert "WHO SERVICE" in pages["punch-peers"]
