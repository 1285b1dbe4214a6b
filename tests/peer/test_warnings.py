"""Python's warnings are errors, and its development mode is on: nothing is left open, nothing is outdated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.consoles import environment
from tests.processes import JSONProcess, Programs, programs

STRICT = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}


def test_the_demonstration(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "punch", "demo"],
        cwd=tmp_path,
        env=environment(**STRICT, TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    assert done.stdout.count("✓ delivered".encode()) == 2


def test_rendezvous_and_peers(tmp_path: Path) -> None:
    """From start to end, with a call between them; stderr and logs know of no warning."""
    with programs(tmp_path) as running:
        rendezvous = start(running, "rendezvous", "--control", "tcp:0:interface=127.0.0.1")
        address = rendezvous.wait("listening", 60.0)["address"]
        bob = start(running, "peer", "--name", "bob", "--accept", "anyone", "--rendezvous", address)
        identity = bob.wait("ready", 60.0)["id"]
        bob.wait("registered")
        alice = start(running, "peer", "--name", "alice", "--rendezvous", address)
        alice.wait("registered", 60.0)
        alice.command("send", peer=identity, text="hello")
        assert bob.wait("message", 60.0)["text"] == "hello"
        alice.wait("delivered")
        for peer in (alice, bob):
            peer.command("quit")
            assert peer.exit() == 0
        rendezvous.close()
        for process in (alice, bob, rendezvous):
            assert process.stderr == ""
    logs = list((tmp_path / "state").rglob("*.log"))
    assert len(logs) == 3
    for log in logs:
        assert "Warning" not in log.read_text(), log


def start(running: Programs, command: str, *options: str) -> JSONProcess:
    state = ["--json", "--state-dir", str(running.directory / "state")]
    if command == "rendezvous":
        state += ["--reflector-port", "127.0.0.1:0", "--host", "127.0.0.1"]
    return running.start([sys.executable, "-m", "punch", command, *options, *state], env=STRICT)
