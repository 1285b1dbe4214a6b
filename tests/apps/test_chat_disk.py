"""Disks that are full, read-only or damaged, under real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consoles import peer
from tests.local_peers import LocalPeers
from tests.needs import missing
from tests.processes import JSONProcess, Programs
from tests.simulation.seeds import ALL

RENDEZVOUS = (
    *("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0"),
    *("--host", "127.0.0.1"),
)
SIZE = 4 * 2**20
"""Bytes of the small disk."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0:
        missing("mounting a small disk needs root")
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mounted)], check=True, capture_output=True
    )
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True, capture_output=True)


def pair(running: Programs) -> tuple[JSONProcess, JSONProcess, str]:
    """Alice, whose state is on the small disk, connected to bob; and bob's ID."""
    address = running.rendezvous(*RENDEZVOUS).wait("listening")["address"]
    bob = running.peer("bob", "--rendezvous", address, "--accept", "anyone", state="bob")
    other = bob.wait("ready")["id"]
    bob.wait("registered")
    alice = running.peer("alice", "--rendezvous", address, "--accept", "anyone", state="disk")
    alice.wait("registered")
    alice.command("call", peer=other)
    alice.wait("connected")
    bob.wait("connected")
    return alice, bob, other


def fill(disk: Path) -> Path:
    """Use what is left of it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_full(running: Programs, disk: Path) -> None:
    """Nothing is lost silently: what is typed is refused, what comes waits at its sender."""
    alice, bob, other = pair(running)
    me = str(alice.events[0]["id"])
    alice.command("send", peer=other, text="fits", id="a1")
    assert alice.wait("delivered")["id"] == "a1"
    ballast = fill(disk)
    alice.command("send", peer=other, text="no room " * 2000, id="a2")
    error = alice.wait("error")
    assert (error["reason"], error["id"]) == ("state", "a2")
    assert "full" in error["text"]
    bob.command("send", peer=me, text="for alice " * 1000, id="b1")
    bob.wait("sent")
    # A mark that did not fit may have failed, and been tried again, before this message.
    assert "full" in alice.wait("history-failed", where=lambda event: event["text"] is not None)["text"]
    assert not [event for event in bob.settle() if event["event"] == "delivered"]
    ballast.unlink()
    assert alice.wait("message", timeout=30.0)["text"] == "for alice " * 1000
    assert bob.wait("delivered")["id"] == "b1"
    alice.command("send", peer=other, text="room again", id="a3")
    assert alice.wait("delivered")["id"] == "a3"
    alice.command("history", peer=other)
    texts = [message["text"][:10] for message in alice.wait("result")["messages"]]
    assert texts == ["fits", "for alice ", "room again"]


def test_locked(local: LocalPeers) -> None:
    """Another program holds the lock of the history for longer than SQLite waits: it is sent all the same."""
    bob, identity = local.bob()
    assert local.call(identity, b"first\n").returncode == 0
    history = local.directory / "state" / "peers" / "alice" / "history.sqlite"
    with subprocess.Popen(
        peer(local.directory, "alice", "--peer", identity),
        cwd=local.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as alice:
        assert alice.stdin is not None
        bob.wait("connected")
        bob.wait("connected")
        other = sqlite3.connect(history, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        alice.stdin.write(b"only line\n")
        alice.stdin.close()
        # SQLite waits for five seconds of these, and then reports it.
        time.sleep(9.0)
        assert alice.poll() is None
        other.execute("ROLLBACK")
        other.close()
        assert bob.wait("message", where=lambda event: event["text"] == "only line")
        assert alice.wait(20.0) == 0


def test_a_pipe_on_a_full_disk(local: LocalPeers, disk: Path) -> None:
    """
    A line that can't be stored is tried again, for half a minute at most: then the status is 1. A signal ends
    the wait; however it ends, stderr names the line. `PUNCH_SEEDS=all` waits to the end.
    """
    bob, identity = local.bob()
    options = ("--rendezvous", str(local.address), "--state-dir", str(disk), "--peer", identity)
    with subprocess.Popen(
        peer(local.directory, "alice", *options),
        cwd=local.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as alice:
        assert alice.stdin is not None
        assert alice.stdout is not None
        assert alice.stderr is not None
        bob.wait("connected")
        fill(disk)
        alice.stdin.write(b"only line\n")
        alice.stdin.close()
        held = b""
        while b"not sent yet" not in held:
            held = alice.stdout.readline()
            assert held
        if not ALL:
            alice.terminate()
        assert alice.wait(60.0) == (1 if ALL else -signal.SIGTERM)
        sentence = alice.stderr.read().decode().strip()
    assert sentence.startswith('The line "only line" was not stored, and not sent: The history '), sentence
    assert "full" in sentence
    assert not [event for event in bob.settle() if event["event"] == "message"]


def test_read_only(running: Programs, disk: Path) -> None:
    """A peer whose directory can't be written says so, and leaves it as it is."""
    alice, _, _ = pair(running)
    alice.command("quit")
    assert alice.exit() == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
    again = running.peer("alice", "--rendezvous", "punch://127.0.0.1:1", state="disk")
    failed = again.wait("failed")
    assert failed["reason"] == "state"
    assert "read-only" in failed["text"].lower()
    assert again.exit() == 1


@pytest.mark.parametrize("history", [True, False])
def test_damaged(running: Programs, tmp_path: Path, history: bool) -> None:
    """A damaged history is named and left alone; without history it doesn't matter."""
    first = running.peer("alice", "--rendezvous", "punch://127.0.0.1:1")
    first.wait("ready")
    first.kill()
    first.exit()
    path = tmp_path / "state" / "peers" / "alice" / "history.sqlite"
    for beside in path.parent.glob("history.sqlite-*"):
        beside.unlink()
    path.write_bytes(b"damage" * 1000)
    again = running.peer(
        "alice", "--rendezvous", "punch://127.0.0.1:1", *(() if history else ("--no-history",))
    )
    if history:
        failed = again.wait("failed")
        assert failed["reason"] == "state"
        assert str(path) in failed["text"]
        assert again.exit() == 1
    else:
        again.wait("ready")
    assert path.read_bytes() == b"damage" * 1000


def test_a_damaged_entry(running: Programs, tmp_path: Path) -> None:
    """A history that can be opened, but not read, is named, too."""
    first = running.peer("alice", "--rendezvous", "punch://127.0.0.1:1")
    first.wait("ready")
    first.command("quit")
    first.exit()
    path = tmp_path / "state" / "peers" / "alice" / "history.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO conversation (key, peer, epoch) VALUES (1, X'00', X'0102030405060708')")
        database.execute(
            "INSERT INTO message (conversation, id, generation, state, time, text) "
            "VALUES (1, 1, 0, 0, 5.0, 'x')"
        )
    again = running.peer("alice", "--rendezvous", "punch://127.0.0.1:1")
    failed = again.wait("failed")
    assert failed["reason"] == "state"
    assert failed["text"].startswith(f"The history {path} is damaged (")
    assert again.exit() == 1


def test_no_history(running: Programs, tmp_path: Path) -> None:
    """What is said with --no-history is in no file."""
    address = running.rendezvous(*RENDEZVOUS).wait("listening")["address"]
    bob = running.peer("bob", "--rendezvous", address, "--accept", "anyone", "--no-history")
    other = bob.wait("ready")["id"]
    bob.wait("registered")
    alice = running.peer("alice", "--rendezvous", address, "--no-history")
    alice.wait("registered")
    alice.command("send", peer=other, text="whisper-4711")
    alice.wait("delivered")
    bob.wait("message")
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(files) > 4
    assert [path for path in files if b"whisper-4711" in path.read_bytes()] == []
