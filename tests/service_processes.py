"""Rendezvous processes that are one service, and the Redis that they share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from punch.identity import Identity
from tests.needs import need
from tests.ports import free_port
from tests.processes import JSONProcess, Programs

FREE = (
    *("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0"),
    *("--second-reflector-port", "none"),
)
_OPTIONS = ("--save", "", "--protected-mode", "no")
"""Without a file, and open to the hosts of a network that has no others."""


class Redis:
    """
    Debian's redis-server.

    :param prefix: puts it somewhere (`ip netns exec …`).
    """

    def __init__(
        self, directory: Path, host: str = "127.0.0.1", port: int | None = None, prefix: Sequence[str] = ()
    ) -> None:
        need("redis-server", "redis-cli")
        self.host = host
        self.port = port or free_port()
        self._directory = directory
        self._prefix = prefix
        self.start()

    def start(self) -> None:
        """Start it, with nothing in it."""
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "redis-server", "--port", str(self.port), "--bind", self.host, *_OPTIONS],
                cwd=self._directory,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10.0
        while self.ask("PING") != "PONG":
            assert time.monotonic() < deadline, "Redis does not start"
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def ask(self, *command: str) -> str:
        """The answer to a command."""
        line = [*self._prefix, "redis-cli", "-h", self.host, "-p", str(self.port), *command]
        return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()

    def stop(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


def with_key(state: Path, key: bytes) -> Path:
    """A state directory for a process of the service with this key."""
    directory = state / "rendezvous"
    directory.mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    (directory / "identity.key").touch(mode=0o600)
    (directory / "identity.key").write_bytes(key)
    return state


class RendezvousProcesses:
    """Rendezvous processes with one key, and a Redis."""

    def __init__(
        self, run: Programs, redis: Redis, count: int, login: str = "", options: Sequence[str] = ()
    ) -> None:
        self.redis = redis
        self.processes: list[JSONProcess] = []
        key = Identity.generate().to_pem()
        for number in range(count):
            state = with_key(run.directory / f"service-{number}", key)
            registry = f"redis://{login}127.0.0.1:{self.redis.port}/3"
            given = (*FREE, *options, "--registry", registry)
            self.processes.append(run.rendezvous(*given, state=state.name))
        self.addresses = [str(process.wait("listening", 90.0)["address"]) for process in self.processes]
