"""Real terminals when something is wrong: ends of all kinds, held output, disks and histories that fail."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time

import pytest

from tests.consoles import environment, peer, terminal
from tests.local_peers import LocalPeers
from tests.needs import need_namespaces
from tests.terminal.tmux import screen

MODES = re.compile(r"(?<![-\w])(icanon|echo|isig|ixon|icrnl|opost)\b")


@pytest.mark.parametrize("end", ["C-c", "C-d", "/quit", "TERM", "HUP"])
def test_the_terminal_is_given_back(local: LocalPeers, end: str) -> None:
    """However the chat ends, the terminal has its modes back."""
    with screen(["bash", "--norc", "--noprofile", "-i"], local.directory, extra={"PS1": "$ "}) as shell:
        shell.line(" ".join(local.peer("bob")))
        shell.wait("Waiting for a call")
        if end != "/quit":
            shell.type("half")
            shell.wait("^> half$")
        if end.startswith("C-"):
            shell.press("C-u", end)
        elif end == "/quit":
            shell.line(end)
        else:
            subprocess.run(
                ["pkill", f"-{end}", "-f", f"state-dir {local.directory}/state --name bob"], check=True
            )
        shell.wait(r"\$\Z")
        shell.line("echo status $?; stty -a; echo done")
        shell.wait("^done$")
        status = {"C-c": 130, "TERM": 143, "HUP": 129}.get(end, 0)
        shell.wait(rf"^status {status}$")
        modes = shell.text.rpartition("status")[2]
        assert set(MODES.findall(modes)) == {"icanon", "echo", "isig", "ixon", "icrnl", "opost"}
        shell.line("exit")


def test_stopped_and_continued(local: LocalPeers) -> None:
    with screen(["bash", "--norc", "--noprofile", "-i"], local.directory, extra={"PS1": "$ "}) as shell:
        shell.line(" ".join(local.peer("bob")))
        shell.wait("Waiting for a call")
        shell.type("half")
        shell.wait("^> half$")
        shell.press("C-z")
        shell.wait("Stopped")
        shell.line("stty -a")
        shell.wait("(?<!-)icanon")
        shell.line("fg")
        shell.wait("^> half$", timeout=10)
        time.sleep(0.5)
        shell.type(" a line")
        shell.wait("^> half a line$")
        shell.press("C-c")
        shell.line("/quit")
        shell.wait(r"\$\Z")


def test_a_terminal_that_holds_its_output_holds_nobody(local: LocalPeers) -> None:
    """Nobody reads what it shows: no mark comes for it, but calls are answered, and a signal ends it."""
    with terminal(local.peer("bob", "--accept", "anyone"), local.directory) as bob:
        bob_id = bob.wait(r"Your ID: (\w{56})")[1]
        bob.wait("Waiting for a call")
        alice, carol = local.running.peer("alice"), local.running.peer("carol")
        for one in (alice, carol):
            one.wait("registered")
        alice.command("call", peer=bob_id)
        alice.wait("connected")
        for number in range(50):
            alice.command("send", text="x" * 4000, id=number)
        time.sleep(2.0)
        assert sum(event["event"] == "delivered" for event in alice.settle()) < 25
        carol.command("call", peer=bob_id)
        carol.wait("connected")
        os.kill(bob.pid, signal.SIGTERM)
        end = time.monotonic() + 10
        while not bob.ended():
            assert time.monotonic() < end
            time.sleep(0.1)
        assert bob.status == -signal.SIGTERM


def test_a_disk_that_is_full_loses_nothing(local: LocalPeers) -> None:
    """While the disk is full, messages are held and tried again; when there is room, they are sent."""
    need_namespaces()
    small = local.directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        with screen(peer(small, "bob", "--rendezvous", local.address), local.directory) as bob:
            bob.wait("Waiting for a call")
            bob.line(f"/to {local.stranger('carol')}")
            bob.line("before")
            bob.wait("^[0-9:]{5} you: before  · waiting$")
            filling = small / "filling"
            with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
            bob.line("in between " + "y" * 9000)
            bob.wait("(?i)disk|full|space")
            bob.wait("is tried again")
            assert "you: in between" not in bob.text
            filling.unlink()
            bob.wait("^[0-9:]{5} you: in between y+")
            bob.wait("2 waiting$", timeout=30)
            bob.line("/quit")
            assert bob.exit() == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


@pytest.mark.parametrize("kind", ["damaged", "newer", "directory"])
def test_a_history_that_cannot_be_used(local: LocalPeers, kind: str) -> None:
    """One sentence, and the file stays as it was; with --no-history it is not touched."""
    mine = local.directory / "state/peers/bob"
    mine.mkdir(parents=True)
    path = mine / "history.sqlite"
    if kind == "damaged":
        path.write_bytes(b"not a database, and long enough to be seen as one " * 100)
    elif kind == "newer":
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 9999")
    else:
        path.mkdir()
    before = path.read_bytes() if path.is_file() else b""
    done = subprocess.run(
        local.peer("bob"), cwd=local.directory, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.strip().endswith(".")
    assert str(path) in done.stderr
    assert (path.read_bytes() if path.is_file() else b"") == before
    with screen(local.peer("bob", "--no-history"), local.directory) as bob:
        bob.wait("Waiting for a call")
        bob.line("/quit")
        assert bob.exit() == 0
