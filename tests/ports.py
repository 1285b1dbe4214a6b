"""Ports for programs that have to be told theirs."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from pathlib import Path

from tests.needs import has_ipv6

GIVEN = range(20_000, 32_000)
"""Below those that Linux gives by itself to whoever asks for any: nobody gets one of these by chance."""
TIMEOUT = 20.0
"""Seconds for a program to open its ports."""

_LISTENS = {"tcp": "0A", "udp": "07"}
"""The state in which a socket of each protocol takes what comes."""


def free_port() -> int:
    """One that nobody has, for UDP and TCP, in both address families."""
    family = socket.AF_INET6 if has_ipv6() else socket.AF_INET
    while True:
        port = random.choice(GIVEN)
        with (
            contextlib.suppress(OSError),
            socket.socket(family, socket.SOCK_STREAM) as stream,
            socket.socket(family, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind(("", port))
            datagram.bind(("", port))
            return port


def wait_until_open(process: subprocess.Popen[bytes], *ports: tuple[str, int]) -> None:
    """Until these ports ("udp" or "tcp" and a number) are open where a process that was just started is."""
    deadline = time.monotonic() + TIMEOUT
    while not all(_is_open(process.pid, protocol, port) for protocol, port in ports):
        assert process.poll() is None, f"{process.args!r} ended"
        assert time.monotonic() < deadline, f"{process.args!r} does not listen at {ports}"
        time.sleep(0.02)


def _is_open(pid: int, protocol: str, port: int) -> bool:
    tables = [Path(f"/proc/{pid}/net/{protocol}{family}") for family in ("", "6")]
    lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    sockets = [line.split() for line in lines]
    return any(
        int(each[1].rpartition(":")[2], 16) == port and each[3] == _LISTENS[protocol] for each in sockets
    )
