"""A rendezvous and peers as processes of one user."""

from __future__ import annotations

import subprocess

from tests.consoles import peer, run
from tests.processes import PUNCH, JSONProcess, Programs


class LocalPeers:
    """A running rendezvous, and the command lines of peers of the same user, which find it by themselves."""

    def __init__(self, running: Programs, *options: str) -> None:
        self.running = running
        self.directory = running.directory
        self.rendezvous = running.rendezvous(
            *("--control", "tcp:0:interface=127.0.0.1"),
            *("--reflector-port", "127.0.0.1:0"),
            *("--host", "127.0.0.1"),
            *options,
        )
        self.address = self.rendezvous.wait("listening")["address"]

    def peer(self, name: str, *options: str) -> list[str]:
        """The command line of a peer that finds the rendezvous by itself."""
        return peer(self.directory, name, *options)

    def bob(self, *options: str) -> tuple[JSONProcess, str]:
        """A waiting peer that a script drives, and its ID."""
        bob = self.running.peer("bob", *(options or ("--accept", "anyone")))
        identity = bob.wait("ready")["id"]
        bob.wait("registered")
        return bob, identity

    def stranger(self, name: str) -> str:
        """The ID of a peer that does not run."""
        process = self.running.peer(name)
        found: str = process.wait("ready")["id"]
        process.command("quit")
        process.exit()
        return found

    def id_of(self, name: str) -> str:
        done = run(
            [PUNCH, "id", "--name", name, "--state-dir", str(self.directory / "state")], self.directory
        )
        return done.stdout.decode().strip()

    def call(
        self, who: str, text: bytes | None, *options: str, redirect: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run Alice's peer, which calls `who` with `text` on its stdin, until it ends."""
        arguments = peer(self.directory, "alice", "--peer", who, *options)
        return run(arguments, self.directory, text, redirect=redirect)


def one_sentence(done: subprocess.CompletedProcess[bytes], *parts: str) -> None:
    """It failed, and said why in one line on stderr, without a traceback."""
    text = done.stderr.decode()
    assert done.returncode == 1, (done.returncode, done.stdout, text)
    assert len(text.strip().splitlines()) == 1, text
    assert "Traceback" not in text + done.stdout.decode()
    assert text.strip().endswith("."), text
    for part in parts:
        assert part in text, text
