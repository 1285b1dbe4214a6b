"""What one address can do to its neighbours and to the processor, by a rendezvous that is a real process."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from punch.identity import Identity
from punch.test.rendezvous.control_client import key_of
from punch.wire.control import Accept, Ping, Register
from punch.wire.control_lines import encode
from punch.wire.rendezvous_address import RendezvousAddress
from tests.processes import JSONProcess, Programs, cpu_seconds, programs
from tests.rendezvous.test_rendezvous_process import ControlConnection, listening, register

CONTROL = ("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "0")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JSONProcess]:
    with programs(tmp_path) as running:
        yield Programs.rendezvous(running, *CONTROL)


def client_hello() -> bytes:
    """What a client of ours says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["punch/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do some work in a thread; it ends when its event is set, or after 30 seconds."""
    over = threading.Event()
    late = threading.Timer(30.0, over.set)
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    late.start()
    thread.start()
    try:
        yield
    finally:
        over.set()
        late.cancel()
        thread.join(20.0)


@contextlib.contextmanager
def hellos(address: RendezvousAddress, rate: float, make: Callable[[], bytes]) -> Iterator[None]:
    """So many connections a second from one address, each of which begins with a ClientHello."""

    def attack(over: threading.Event) -> None:
        connections: list[socket.socket] = []
        began, sent = time.monotonic(), 0
        while not over.is_set():
            while sent < rate * (time.monotonic() - began) and not over.is_set():
                sent += 1
                connection = socket.socket()
                connection.setblocking(False)
                connections.append(connection)
                with contextlib.suppress(BlockingIOError):
                    connection.connect((address.host, address.port))
                with contextlib.suppress(OSError):
                    connection.send(make())
            while len(connections) > 200:
                connections.pop(0).close()
            over.wait(0.005)
        for connection in connections:
            connection.close()

    with in_background(attack):
        time.sleep(1.0)
        yield


def test_replayed_hellos_leave_a_neighbour_in(service: JSONProcess, tmp_path: Path) -> None:
    address, hello = listening(service), client_hello()
    with hellos(address, 1600, lambda: hello):
        for _ in range(5):
            register(address, tmp_path, 20.0).close()


def test_a_neighbour_tries_again_if_each_hello_is_new(service: JSONProcess, tmp_path: Path) -> None:
    """It has the chance of any other ClientHello from this address, and `register` tries again."""
    address, hello = listening(service), client_hello()
    with hellos(address, 1600, lambda: hello[:11] + os.urandom(32) + hello[43:]):
        for _ in range(2):
            register(address, tmp_path, 20.0).close()


ENDLESS = {
    "empty lines": b"\n" * 16_384,
    "pings": (encode(Ping()) + b"\n") * 1_000,
}
"""What is closed at once. The sender goes on sending, and comes back when it is gone."""

STEADY = {
    "numbers": b'{"type":"ping","x":[' + b",".join([b"1e5"] * 4_000) + b"]}\n",
}
"""What is allowed, 20 times a second from each of 12 peers."""


def flood(
    address: RendezvousAddress, directory: Path, data: bytes, pause: float, over: threading.Event
) -> None:
    """Send, over one connection after the other."""
    while not over.is_set():
        with contextlib.suppress(OSError, AssertionError):
            client = ControlConnection(address, key_of(Identity.generate()), directory)
            try:
                client.socket.settimeout(1.0)
                client.send(Register("x", Accept.ASK))
                client.read()
                while not over.is_set():
                    client.socket.sendall(data)
                    over.wait(pause)
            finally:
                client.socket.close()
        over.wait(0.05)


@pytest.mark.parametrize("kind", [*ENDLESS, *STEADY])
def test_one_address_has_a_share_of_the_processor(service: JSONProcess, tmp_path: Path, kind: str) -> None:
    address = listening(service)
    data, pause = (ENDLESS[kind], 0.0) if kind in ENDLESS else (STEADY[kind], 0.06)
    with contextlib.ExitStack() as stack:
        for _ in range(4 if kind in ENDLESS else 12):
            stack.enter_context(in_background(lambda over: flood(address, tmp_path, data, pause, over)))
        time.sleep(1.0)
        before, began = cpu_seconds(service.process.pid), time.monotonic()
        neighbour = register(address, tmp_path, 20.0)
        neighbour.send(Ping())
        assert neighbour.read() == {"type": "pong"}
        time.sleep(2.0)
        used = (cpu_seconds(service.process.pid) - before) / (time.monotonic() - began)
        neighbour.close()
        # What an address may use at once may fall into the first seconds, not into all.
        for _ in range(2):
            if used >= 0.5:
                before, began = cpu_seconds(service.process.pid), time.monotonic()
                time.sleep(2.0)
                used = (cpu_seconds(service.process.pid) - before) / (time.monotonic() - began)
    if sys.platform == "linux" and os.path.exists("/proc/self/stat"):
        assert used < 0.5
