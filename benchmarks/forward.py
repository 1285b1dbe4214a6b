"""
How fast a forwarded port is over loopback, and what it adds to a request: `punch forward` beside `ssh -L`.

    python -m benchmarks.forward [--rounds 3] [--seconds 3] [--requests 200]

Both forward a port of 127.0.0.1 to another one of this machine, with a process on each side. Throughput is
what iperf3 receives through one connection, to the exposed side and back. The latency is the median of how
long a request and its answer of 64 bytes take on a connection that is open, and of how long a new connection
with its first request takes; both minus the same without a forward. Rounds are interleaved, and the median is
reported. The status is 1 if an aim is missed: at least 0.7 of the throughput of `ssh -L` each way, and less
than 1 ms for a request. Without iperf3 or OpenSSH there is nothing to compare with, and the status is 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.files import PUNCH, NotInstalled, OpenSSH, Punch, free_port, running, versions

AIM_OF_SSH = 0.7
AIM_LATENCY = 0.001
SIZE = 64
PAUSE = 1.0
"""Seconds between two tests of iperf3."""


@dataclass(frozen=True)
class Sample:
    """One round: megabits a second to the exposed side and back, and seconds of requests."""

    there: float
    back: float
    request: float
    connection: float


class Forward(OpenSSH):
    """`ssh -L`."""

    title = "ssh -L"
    program = "ssh"

    @contextlib.contextmanager
    def port(self, target: int, directory: Path) -> Iterator[int]:
        """A local port that leads to a port of loopback on the other side."""
        local = free_port()
        words = ["ssh", "-N", *self.options, "-L", f"127.0.0.1:{local}:127.0.0.1:{target}", self.host]
        with running(words, local, directory):
            yield local


class PunchForward(Punch):
    """`punch expose` and `punch forward`."""

    title = "punch forward"

    @contextlib.contextmanager
    def port(self, target: int, directory: Path) -> Iterator[int]:
        """As that of `Forward`."""
        local, address = free_port(), f"127.0.0.1:{target}"
        expose = [PUNCH, "expose", "--json", address, "--to", "alice", *self.options("bob")]
        forward = [PUNCH, "forward", "--json", str(local), f"bob:{address}", *self.options("alice")]
        with when_ready(expose, directory), when_ready(forward, directory):
            yield local


@contextlib.contextmanager
def when_ready(words: list[str], directory: Path) -> Iterator[None]:
    """A command that has said that it is ready, for as long as the context lasts."""
    with subprocess.Popen(words, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not any('"exposed"' in line or '"listening"' in line for line in process.stdout):
                raise SystemExit(f"{' '.join(words)} has ended.")
            yield
        finally:
            process.terminate()


def echo(listener: socket.socket) -> None:
    """Answer each request with itself, for as long as there are connections."""

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(SIZE):
                connection.sendall(data)

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def request(connection: socket.socket) -> None:
    connection.sendall(b"x" * SIZE)
    left = SIZE
    while left:
        data = connection.recv(left)
        if not data:
            raise SystemExit("A connection through a forward has ended.")
        left -= len(data)


def latencies(port: int, count: int) -> tuple[float, float]:
    """Seconds of a request, and of a new connection with one."""
    requests, connections = [], []
    with socket.create_connection(("127.0.0.1", port), 10.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request(connection)
        for _ in range(count):
            began = time.perf_counter()
            request(connection)
            requests.append(time.perf_counter() - began)
    for _ in range(count // 4):
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 10.0) as connection:
            request(connection)
            connections.append(time.perf_counter() - began)
    return median(requests), median(connections)


def iperf(port: int, seconds: float, *options: str) -> float:
    """Megabits a second that the receiving side has got."""
    words = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", f"{seconds:g}", "-J", *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 60.0)
    report = json.loads(done.stdout)
    if "error" in report:
        raise SystemExit(f"iperf3: {report['error']}")
    # Its server takes one client at a time, and refuses the next one while it ends a test.
    time.sleep(PAUSE)
    received: float = report["end"]["sum_received"]["bits_per_second"]
    return received / 1e6


def measure(
    forward: Forward | PunchForward,
    echo_port: int,
    iperf_port: int,
    arguments: argparse.Namespace,
    place: Path,
) -> Sample:
    with forward.port(echo_port, place) as port:
        requests, connections = latencies(port, arguments.requests)
    with forward.port(iperf_port, place) as port:
        there, back = iperf(port, arguments.seconds), iperf(port, arguments.seconds, "-R")
    return Sample(there, back, requests, connections)


def run(arguments: argparse.Namespace, directory: Path, stack: contextlib.ExitStack) -> bool:
    """Measure and print; return whether all aims are met."""
    forwards: list[Forward | PunchForward] = []
    for kind in (PunchForward, Forward):
        place = directory / kind.__name__
        place.mkdir()
        forwards.append(kind(place, stack))
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    iperf_port = free_port()
    stack.enter_context(
        running(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(iperf_port)], iperf_port, directory)
    )
    samples: dict[str, list[Sample]] = {forward.title: [] for forward in forwards}
    bare = []
    for _ in range(arguments.rounds):
        bare.append(latencies(listener.getsockname()[1], arguments.requests))
        for forward in forwards:
            sample = measure(forward, listener.getsockname()[1], iperf_port, arguments, directory)
            samples[forward.title].append(sample)
    print("\n| | Mbit/s there | back | a request, ms | a new connection, ms |\n|---|--:|--:|--:|--:|")
    bare_request, bare_connection = (median(each) for each in zip(*bare, strict=True))
    found = {}
    for title, each in samples.items():
        found[title] = sample = Sample(
            median(one.there for one in each),
            median(one.back for one in each),
            median(one.request for one in each) - bare_request,
            median(one.connection for one in each) - bare_connection,
        )
        added = f"{sample.request * 1e3:+.2f} | {sample.connection * 1e3:+.2f}"
        print(f"| {title} | {sample.there:.0f} | {sample.back:.0f} | {added} |")
    punch, ssh = found[PunchForward.title], found[Forward.title]
    print(f"\npunch of ssh: there {punch.there / ssh.there:.2f}, back {punch.back / ssh.back:.2f}")
    fast = min(punch.there / ssh.there, punch.back / ssh.back) >= AIM_OF_SSH
    return fast and punch.request < AIM_LATENCY


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    if shutil.which("iperf3") is None:
        print("iperf3 is not installed.")
        return 2
    print(f"{platform.platform()}, {os.cpu_count()} processors; {versions()}")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        try:
            return 0 if run(arguments, Path(name), stack) else 1
        except NotInstalled as error:
            print(f"{error} is not installed.")
            return 2


if __name__ == "__main__":
    sys.exit(main())
