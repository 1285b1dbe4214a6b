"""Peers that join their pipes, or use each other's ports, as processes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.local_peers import LocalPeers
from tests.processes import PUNCH, JSONProcess, Programs


class ForwardPeers:
    """Alice and bob, who know each other."""

    def __init__(self, service: LocalPeers, running: Programs) -> None:
        self.running = running
        self.state = service.directory / "state"
        self.directory = running.directory
        self.ids = {name: service.id_of(name) for name in ("alice", "bob")}

    def know(self) -> None:
        """Put each into the other's address book."""
        for name, other in (("alice", "bob"), ("bob", "alice")):
            self.run("peers", "add", self.ids[other], other, name=name)

    def words(self, command: str, *words: str, name: str) -> list[str]:
        """A command line."""
        return [PUNCH, command, "--state-dir", str(self.state), "--name", name, *words]

    def run(
        self, command: str, *words: str, name: str, text: bytes = b"", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        done = subprocess.run(
            self.words(command, *words, name=name),
            input=text,
            cwd=self.directory,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr
        return done

    def start(self, command: str, *words: str, name: str) -> JSONProcess:
        """Start a command that tells events on stdout."""
        return self.running.start(self.words(command, "--json", *words, name=name))

    def chat(self, name: str) -> JSONProcess:
        """A chat that is registered, whose node the commands use."""
        chat = self.running.peer(name, "--accept", "anyone", "--state-dir", str(self.state))
        chat.wait("registered", 60.0)
        return chat

    @contextlib.contextmanager
    def pipe(
        self, name: str, *words: str, input: Path | int = subprocess.PIPE, output: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A `punch pipe`, whose stderr goes to a file."""
        with contextlib.ExitStack() as files:
            source = files.enter_context(input.open("rb")) if isinstance(input, Path) else input
            target = subprocess.PIPE if output is None else files.enter_context(output.open("wb"))
            errors = files.enter_context((self.directory / f"{name}.err").open("ab"))
            process = subprocess.Popen(
                self.words("pipe", *words, name=name),
                cwd=self.directory,
                stdin=source,
                stdout=target,
                stderr=errors,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()

    def said(self, name: str) -> str:
        """What the pipes of a peer have said on stderr."""
        return (self.directory / f"{name}.err").read_text()
