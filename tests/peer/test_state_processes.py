"""Key files and locks between real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from punch.identity import Identity
from punch.state import StateDirectory
from punch.state_files import IdentityInUse

MAKE_IDENTITY = """
import sys
from pathlib import Path
from punch.state import StateDirectory
peer = StateDirectory(Path(sys.argv[1])).peer("alice")
print("ready", flush=True)
sys.stdin.readline()
print(peer.identity().peer_id)
"""

NAME_PEER = """
import sys
from punch.cli.commands.peers import main
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(["--state-dir", sys.argv[1], "--name", "alice", "name", *sys.argv[2:]]))
"""

HOLD_LOCK = """
import os, sys
from pathlib import Path
from punch.state import StateDirectory
lock = StateDirectory(Path(sys.argv[1])).peer("alice").lock()
if sys.argv[2] == "fork":
    if os.fork():
        os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.readline()
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that says a line when it is ready and waits for one."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def first_line(process: subprocess.Popen[str]) -> str:
    """What it says when it is ready."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go(processes: list[subprocess.Popen[str]]) -> None:
    """At the same moment, when all are ready."""
    for process in processes:
        assert first_line(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_started_at_once(tmp_path: Path) -> None:
    """However many make the key at the same moment, all have the same one afterwards."""
    for attempt in range(3):
        root = tmp_path / str(attempt)
        processes = [start(MAKE_IDENTITY, str(root)) for _ in range(6)]
        let_go(processes)
        identities = {process.communicate(timeout=30)[0] for process in processes}
        assert [process.returncode for process in processes] == [0] * 6
        assert len(identities) == 1
        assert [path.name for path in (root / "peers" / "alice").iterdir()] == ["identity.key"]


def test_names_given_at_once(tmp_path: Path) -> None:
    """However many change the address book at the same moment, it has all of their changes."""
    peers = {f"peer-{number}": Identity.generate().peer_id for number in range(4)}
    processes = [start(NAME_PEER, str(tmp_path), str(peer), name) for name, peer in peers.items()]
    let_go(processes)
    for process in processes:
        process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0] * 4
    book = StateDirectory(tmp_path).peer("alice").book
    assert {name: book.find(name) for name in peers} == peers


def test_killed_holder(tmp_path: Path) -> None:
    """A running process keeps the identity; killed without warning, it leaves a file that blocks nobody."""
    process = start(HOLD_LOCK, str(tmp_path), "stay")
    first_line(process)
    with pytest.raises(IdentityInUse):
        StateDirectory(tmp_path).peer("alice").lock()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert (tmp_path / "peers" / "alice" / ".lock").exists()
    StateDirectory(tmp_path).peer("alice").lock().release()


def test_daemonized_holder(tmp_path: Path) -> None:
    """A process that goes into the background, as twistd does, keeps the identity."""
    process = start(HOLD_LOCK, str(tmp_path), "fork")
    first_line(process)
    assert process.wait(timeout=30) == 0
    with pytest.raises(IdentityInUse):
        StateDirectory(tmp_path).peer("alice").lock()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while True:  # it closes its standard output a moment before its lock
        try:
            StateDirectory(tmp_path).peer("alice").lock().release()
            break
        except IdentityInUse:
            assert time.monotonic() < deadline
            time.sleep(0.01)
