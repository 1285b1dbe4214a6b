"""
A rendezvous that is attacked from 60 addresses while honest peers register, call, are called and restart
their links: twenty on the simulated internet, and twenty at a real process.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from punch.identity import Identity, PeerID
from punch.test.control_client import key_of
from punch.test.internet import Internet
from punch.test.rendezvous_flood import SIXTY, FloodedRendezvous
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    ErrorCode,
    Establish,
    Message,
    Register,
    Reject,
    encode,
    new_call,
)
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.sealed import Envelope
from tests.needs import missing
from tests.processes import JSONProcess, Programs, programs
from tests.test_rendezvous_abuse import client_hello, in_background
from tests.test_rendezvous_process import ControlConnection, listening

PEERS = 20
TIMEOUT = 20.0
"""Seconds; how long things take on a machine that does nothing else is printed."""


def test_simulated_peers() -> None:
    """Each of them, each within a second of simulated time."""
    net = Internet(0)
    net.announce = False
    flooded = FloodedRendezvous(net, SIXTY, period=0.1)
    flooded.flood.start(2)
    for number in range(PEERS):
        flooded.come(f"198.51.{101 + number}.1")
    flooded.restart()
    flooded.check()
    flooded.stop()


LIMITS = {
    "registrations": 100,
    "registrations-per-address": 4,
    "introductions": 120,
    "introductions-per-address": 8,
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JSONProcess]:
    options = [text for name, value in LIMITS.items() for text in (f"--{name}", str(value))]
    with programs(tmp_path) as running:
        yield Programs.rendezvous(
            running, "--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "0", *options
        )


def envelope(to: PeerID) -> Envelope:
    """Something sealed, for a service that can't know better."""
    return Envelope(to, bytes(304), bytes(64))


class RegisteredPeer:
    """A registered peer that answers those whom it knows, and lets eight others ring."""

    def __init__(self, address: RendezvousAddress, directory: Path, source: str) -> None:
        self.identity = Identity.generate()
        self.known: set[PeerID] = set()
        self._client = ControlConnection(address, key_of(self.identity), directory, source)
        self._client.socket.settimeout(TIMEOUT)
        self._client.send(Register("honest", Accept.ASK))
        welcome = self._client.read()
        assert welcome["type"] == "welcome", welcome
        self._client.socket.settimeout(None)
        self._said: dict[str, dict[str, Any]] = {}
        self._ringing: set[str] = set()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, callee: PeerID) -> None:
        """Call a peer, which has to answer."""
        call = new_call()
        self._send(Establish(call, callee, envelope(callee)))
        with self._changed:
            assert self._changed.wait_for(lambda: call in self._said, TIMEOUT)
        assert self._said[call]["type"] == "answered", self._said[call]
        self._send(Cancel(call, callee))

    def close(self) -> None:
        """Go."""
        with contextlib.suppress(OSError):
            self._client.socket.shutdown(socket.SHUT_RDWR)

    def _send(self, message: Message) -> None:
        with self._sending:
            self._client.socket.sendall(encode(message) + b"\n")

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._client.file:
                self._take(json.loads(line))

    def _take(self, reply: dict[str, Any]) -> None:
        call = reply.get("call", "")
        if reply["type"] == "incoming":
            sender = PeerID.parse(reply["from"])
            if sender in self.known:
                self._send(Answer(call, sender, envelope(sender)))
            elif len(self._ringing) >= 8:
                self._send(Reject(call, sender, ErrorCode.BUSY))
            else:
                self._ringing.add(call)
            return
        self._ringing.discard(call)
        with self._changed:
            self._said[call] = reply
            self._changed.notify_all()


class Attacker:
    """One address: an identity that calls peers, and handshakes that are copies."""

    def __init__(self, address: RendezvousAddress, directory: Path, source: str) -> None:
        self._address, self._directory, self._source = address, directory, source
        self._client: ControlConnection | None = None
        self._copies: list[socket.socket] = []
        self.identity = Identity.generate()
        self.refused = 0

    def connect(self) -> None:
        """Register, again if it has to be."""
        with contextlib.suppress(OSError, AssertionError):
            client = ControlConnection(self._address, key_of(self.identity), self._directory, self._source)
            client.socket.settimeout(5.0)
            client.send(Register("flood", Accept.ANYONE))
            if client.read()["type"] == "welcome":
                client.socket.settimeout(0.0)
                self._client = client
            else:
                self.refused += 1

    def call(self, *callees: PeerID) -> None:
        """Call all of these."""
        if self._client is None:
            self.connect()
            return
        lines = [encode(Establish(new_call(), callee, envelope(callee))) + b"\n" for callee in callees]
        try:
            self._client.socket.sendall(b"".join(lines))
            with contextlib.suppress(BlockingIOError, OSError):
                self.refused += self._client.socket.recv(65_536).count(b'"type":"error"')
        except OSError:
            self._client = None

    def copy(self, hello: bytes) -> None:
        """Begin a handshake with what another one began with, and wait."""
        copy = socket.socket()
        copy.setblocking(False)
        copy.bind((self._source, 0))
        with contextlib.suppress(OSError):
            copy.connect((self._address.host, self._address.port))
        with contextlib.suppress(OSError):
            copy.send(hello)
        self._copies.append(copy)
        if len(self._copies) > 4:
            self._copies.pop(0).close()

    def close(self) -> None:
        """Go."""
        for each in (*self._copies, *([self._client.socket] if self._client is not None else [])):
            each.close()


def test_peers_at_a_process(service: JSONProcess, tmp_path: Path) -> None:
    """Each of them; the attackers are at 127.0.1.1 to 127.0.1.30, and at 30 addresses of other networks."""
    if sys.platform != "linux":
        missing("only Linux has all of 127.0.0.0/8 as addresses")
    address = listening(service)
    sources = [f"127.0.1.{number}" for number in range(1, 31)] + [f"127.9.{number}.1" for number in range(30)]
    attackers = [Attacker(address, tmp_path, source) for source in sources]
    bob = RegisteredPeer(address, tmp_path, "127.0.200.1")
    hello = client_hello()

    # Before the time of the attack begins: this takes long where a handshake does.
    for attacker in attackers:
        attacker.connect()

    def attack(over: threading.Event) -> None:
        turn = 0
        while not over.is_set():
            attacker, other = attackers[turn % 60], attackers[(7 * turn + 1) % 60]
            attacker.call(bob.identity.peer_id, *[other.identity.peer_id] * 3)
            attacker.copy(hello)
            turn += 1
            over.wait(0.01)

    times: dict[str, list[float]] = {"registers": [], "calls": [], "is called": [], "restarts": []}
    with in_background(attack):
        began = time.monotonic()
        while not sum(attacker.refused for attacker in attackers) > 50:
            assert time.monotonic() < began + TIMEOUT, "the flood is none"
            time.sleep(0.1)
        for number in range(PEERS):
            marks = [time.monotonic()]
            alice = RegisteredPeer(address, tmp_path, f"127.0.{210 + number}.1")
            alice.known.add(bob.identity.peer_id)
            bob.known.add(alice.identity.peer_id)
            marks.append(time.monotonic())
            for caller, callee in ((alice, bob), (bob, alice), (alice, bob)):
                caller.call(callee.identity.peer_id)
                marks.append(time.monotonic())
            for taken, after, before in zip(times.values(), marks[1:], marks, strict=False):
                taken.append(after - before)
            alice.close()
    for attacker in attackers:
        attacker.close()
    bob.close()
    for what, taken in times.items():
        print(f"{what}: {len(taken)} times, {sorted(taken)[PEERS // 2]:.3f} s, at most {max(taken):.3f} s")
