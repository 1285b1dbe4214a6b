"""
The processes of `rendezvous.py`: the service or the bare server, the load, and Redis; and what is measured of
them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

ROOT = Path(__file__).parent.parent
NETWORKS = (0, 240)
"""The numbers of the /24s that the load comes from."""
WINDOW = 1000
"""Registrations of one measurement."""
START_TIME = 30.0
RELAYED = 100
"""Relayed addresses that the service may have."""
_OPENSSL = """openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
Groups = {groups}
"""


class Process:
    """A running program, whose output goes to a file."""

    def __init__(self, command: Sequence[str | Path], directory: Path, cores: set[int], **more: str) -> None:
        self.output = directory / f"output-{os.urandom(4).hex()}"
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [str(each) for each in command],
                stdin=subprocess.PIPE,
                stdout=output,
                cwd=ROOT,
                env=os.environ | more,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        self._read = 0

    @property
    def cpu(self) -> float:
        """Seconds of the processor so far."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    @property
    def memory(self) -> int:
        """Bytes that are resident."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the process has ended")

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def read(self, timeout: float = START_TIME) -> dict[str, Any]:
        """The next line of the output, which is a JSON object."""
        end = time.monotonic() + timeout
        while True:
            with self.output.open("rb") as output:
                output.seek(self._read)
                line = output.readline()
            if line.endswith(b"\n"):
                self._read += len(line)
                found: dict[str, Any] = json.loads(line)
                return found
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no answer: {self._process.args!r}")
            time.sleep(0.01)

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Server:
    """One process of the service, or the bare server. `reflector` is its UDP port."""

    process: Process
    port: int
    reflector: int = 0


@dataclass(frozen=True)
class Lab:
    """Where the parts of the benchmark run."""

    stack: contextlib.ExitStack
    directory: Path
    server_cores: list[int]
    load_cores: set[int]
    groups: str

    def run(self, command: Sequence[str | Path], cores: set[int], **more: str) -> Process:
        process = Process(command, self.directory, cores, **more)
        self.stack.callback(process.end)
        return process

    def punch(self, core: int, peers: int, registry: str | None = None, key: bytes = b"") -> Server:
        """One process of the service."""
        reflector = free_port(socket.SOCK_DGRAM)
        state = self.directory / f"service-{reflector}"
        (state / "rendezvous").mkdir(parents=True, mode=0o700)
        state.chmod(0o700)
        if key:
            (state / "rendezvous" / "identity.key").touch(mode=0o600)
            (state / "rendezvous" / "identity.key").write_bytes(key)
        command: list[str | Path] = [
            *(str(Path(sys.executable).with_name("twistd")), "-n", f"--pidfile={state}/pid"),
            *("punch-rendezvous", "--json", "--state-dir", str(state), "--host", "127.0.0.1"),
            *("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", f"127.0.0.1:{reflector}"),
            *("--second-reflector-port", "none", "--connections", str(connections_for(peers))),
            # Relayed addresses would take descriptors from the connections.
            *("--registrations", str(peers * 8 // 7 + 2000), "--relay-allocations", str(RELAYED)),
        ]
        if registry is not None:
            command += ["--registry", registry]
        process = self.run(command, {core})
        events: dict[str, dict[str, Any]] = {}
        while not {"listening", *(["registry"] if registry else [])} <= events.keys():
            event = process.read()
            events[event["event"]] = event
        port = int(str(events["listening"]["address"]).split("/")[2].rpartition(":")[2])
        return Server(process, port, reflector)

    def bare(self, core: int) -> Server:
        """The server that only passes lines on."""
        process = self.run([sys.executable, "-m", "benchmarks.rendezvous_bare"], {core})
        return Server(process, int(process.read()["port"]))

    def load(self, servers: Sequence[Server], networks: tuple[int, int] = NETWORKS) -> LoadProcess:
        """Peers."""
        ports = [server.port for server in servers]
        command = [sys.executable, "-m", "benchmarks.rendezvous_load", *map(str, (*networks, *ports))]
        settings = self.directory / "openssl.cnf"
        settings.write_text(_OPENSSL.format(groups=self.groups))
        process = self.run(command, self.load_cores, OPENSSL_CONF=str(settings))
        return LoadProcess(process, [server.process for server in servers])

    def redis(self) -> tuple[Process, int]:
        port = free_port()
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning")
        process = self.run(["redis-server", *options], self.load_cores)
        end = time.monotonic() + START_TIME
        while True:
            with contextlib.suppress(OSError):
                redis_commands(port)
                return process, port
            if time.monotonic() > end:
                raise RuntimeError("Redis does not start")
            time.sleep(0.05)


def connections_for(peers: int) -> int:
    """The connections that a service has to take for so many peers: some are kept for others."""
    return peers * 25 // 24 + 1500


def descriptors_for(peers: int) -> int:
    """The files that it may have to have open."""
    return connections_for(peers) + RELAYED + 256


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that is free now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_commands(port: int) -> int:
    """How many commands a Redis has processed."""
    with socket.create_connection(("127.0.0.1", port), 5.0) as connection:
        connection.sendall(b"INFO stats\r\nQUIT\r\n")
        with connection.makefile("rb") as file:
            text = file.read().decode()
    return int(text.partition("total_commands_processed:")[2].split()[0])


@dataclass(frozen=True)
class Rate:
    """
    What was measured in one go.

    :ivar rate: how many a second.
    :ivar cpu: seconds of the service's processor for each.
    :ivar latencies: seconds.
    """

    rate: float
    cpu: float
    latencies: list[float]
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def a_core(self) -> float:
        """How many go in a second of the processor."""
        return 1 / self.cpu

    def percentile(self, number: int) -> float:
        """Of the latencies, in seconds."""
        if len(self.latencies) < 2:
            return float("inf")
        return quantiles(self.latencies, n=100, method="inclusive")[number - 1]


@dataclass(frozen=True)
class LoadProcess:
    """A process with peers, and the processes of the service that it uses."""

    process: Process
    servers: Sequence[Process]

    def do(self, command: str, **fields: Any) -> dict[str, Any]:
        """Have a command carried out."""
        self.process.write(json.dumps({"do": command, **fields}))
        return self.process.read(600.0)

    def measure(self, command: str, count: int, rate: float = 0.0) -> Rate:
        """Have peers registered or introduced, and measure it."""
        # Pings that are due would be counted here.
        self.do("settle")
        before = sum(server.cpu for server in self.servers)
        found = self.do(command, count=count, rate=rate)
        cpu = sum(server.cpu for server in self.servers) - before
        done = max(1, len(found["latencies"]))
        return Rate(
            done / found["elapsed"], cpu / done, found["latencies"], found["failed"], found["reasons"]
        )

    def register(self, count: int) -> None:
        """Register peers, a thousand at a time, so that the others can say that they are there."""
        while count > 0:
            found = self.do("register", count=min(count, WINDOW))
            if found["failed"]:
                raise RuntimeError(f"peers could not register: {found['reasons']}")
            self.do("keep", seconds=0.02)
            count -= WINDOW
