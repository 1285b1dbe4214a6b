"""
Sixty addresses that attack a rendezvous in every way at once, as a process in a namespace of its own:

    python rendezvous_flooder.py CONTROL-HOST-4 CONTROL-HOST-6 PORT REFLECTOR-PORT SECRET CALLEE…

Calls of these peers and of each other; registrations; handshakes that are copies, new ones and none;
connections of empty lines; Binding requests; Allocate requests of 65 kB, without credentials and with them;
allocations. It ends when a line comes, or after two minutes. Prints JSON lines: `began`, and
`ended` with how much of each was done. It writes to its working directory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from punch.identity import Identity, PeerID
from punch.test.rendezvous.control_client import key_of
from punch.wire.control import Accept, Establish, Register, new_call
from punch.wire.control_lines import encode
from punch.wire.peers.sealed import Envelope
from punch.wire.rendezvous_address import RendezvousAddress
from tests.relay.turn_probe import ALLOCATE, UDP, TurnProbe
from tests.rendezvous.test_rendezvous_abuse import client_hello
from tests.rendezvous.test_rendezvous_process import ControlConnection

SOURCES = [
    *(f"10.1.1.{number}" for number in range(1, 21)),
    *(f"10.2.{number}.1" for number in range(20)),
    *(f"2001:db8:1:{number:x}::1" for number in range(10)),
    *(f"2001:db8:2:{number:x}00::1" for number in range(10)),
]
"""A /24, addresses in twenty others, a /56, and /56s of a /48."""
TIMEOUT = 5.0
LONGEST = 120.0
"""Seconds that the attack lasts at most."""


class Attack:
    """All attackers. Each method without `_` is a step of one way, from one address, and says what it did."""

    def __init__(
        self, hosts: tuple[str, str], port: int, reflector: int, secret: str, callees: Sequence[PeerID]
    ) -> None:
        self._hosts = hosts
        self._port, self._reflector = port, reflector
        self._secret = secret
        self._callees = callees
        self._over = threading.Event()
        self._clients: dict[str, list[tuple[PeerID, ControlConnection]]] = {each: [] for each in SOURCES}
        self._waiting: dict[str, list[socket.socket]] = {}
        self._hello = client_hello()
        self._sockets = {each: self._datagram_socket(each) for each in SOURCES}
        self._users = itertools.count()
        self.counts: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(step, pause), daemon=True)
            for step, pause in (
                (self.register, 0.05),
                (self.call, 0.02),
                (self.copy_hello, 0.004),
                (self.begin_handshake, 0.02),
                (self.hold, 0.05),
                (self.send_empty_lines, 0.05),
                (self.ask_reflector, 0.005),
                (self.send_large_messages, 0.02),
                (self.allocate, 0.05),
            )
        ]

    def run(self) -> None:
        """Attack until a line comes."""
        for thread in self._threads:
            thread.start()
        select.select([sys.stdin], [], [], LONGEST)
        self._over.set()

    def _run(self, step: Callable[[str], str], pause: float) -> None:
        """Go on with one way at a constant rate, as far as there is time."""
        due = time.monotonic()
        for source in itertools.cycle(SOURCES):
            if self._over.is_set():
                return
            try:
                self.counts[step(source)] += 1
            except (OSError, AssertionError, ValueError, KeyError) as error:
                self.counts[f"{step.__name__} failed: {type(error).__name__}"] += 1
            due = max(due + pause, time.monotonic() - 10 * pause)
            self._over.wait(max(0.0, due - time.monotonic()))

    def _host(self, source: str) -> str:
        return self._hosts[":" in source]

    def _datagram_socket(self, source: str) -> socket.socket:
        opened = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((source, 0))
        opened.connect((self._host(source), self._reflector))
        opened.setblocking(False)
        return opened

    def _send_first(self, source: str, data: bytes, what: str, kept: int = 100) -> str:
        """Open a connection that begins with some bytes; so many of a kind are open at a time."""
        opened = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
        waiting = self._waiting.setdefault(what, [])
        waiting.append(opened)
        if len(waiting) > kept:
            waiting.pop(0).close()
        opened.setblocking(False)
        opened.bind((source, 0))
        with contextlib.suppress(BlockingIOError):
            opened.connect((self._host(source), self._port))
        opened.send(data)
        return what

    # -- the ways --

    def register(self, source: str) -> str:
        """An identity registers; each address has up to four."""
        identity = Identity.generate()
        address = RendezvousAddress(self._host(source), self._port, None)
        client = ControlConnection(address, key_of(identity), Path(), source)
        client.socket.settimeout(TIMEOUT)
        client.send(Register("flood", Accept.ANYONE))
        if client.read()["type"] != "welcome":
            client.close()
            return "registrations refused"
        client.socket.settimeout(0.0)
        clients = self._clients[source]
        clients.append((identity.peer_id, client))
        if len(clients) > 4:
            clients.pop(0)[1].close()
        return "registrations"

    def call(self, source: str) -> str:
        """All at an address call the peer that lets strangers ring, and others of this flood."""
        others = [peer for clients in list(self._clients.values()) for peer, _ in clients[:1]][:3]
        lines = b""
        for callee in (*self._callees, *others):
            lines += encode(Establish(new_call(), callee, Envelope(callee, bytes(304), bytes(64)))) + b"\n"
        for _, client in list(self._clients[source]):
            with contextlib.suppress(OSError):
                client.socket.sendall(lines)
                self.counts["calls refused"] += client.socket.recv(65_536).count(b'"type":"error"')
        return "turns of calls"

    def copy_hello(self, source: str) -> str:
        """The same ClientHello again and again."""
        return self._send_first(source, self._hello, "replayed hellos")

    def begin_handshake(self, source: str) -> str:
        """A ClientHello that was not there before, and no end of the handshake."""
        return self._send_first(source, self._hello[:11] + os.urandom(32) + self._hello[43:], "new hellos")

    def hold(self, source: str) -> str:
        """A part of a ClientHello, or nothing."""
        return self._send_first(source, self._hello[: self.counts["held"] % 2 * 20], "held")

    def send_empty_lines(self, source: str) -> str:
        """A registered peer says nothing, very often."""
        for _, client in self._clients[source][-1:]:
            client.socket.send(b"\n" * 16_384)
            return "bursts of empty lines"
        return "nobody registered"

    def ask_reflector(self, source: str) -> str:
        """Binding requests, ten at a time."""
        opened = self._sockets[source]
        for _ in range(10):
            opened.send(b"\0\1\0\0\x21\x12\xa4\x42" + os.urandom(12))
        with contextlib.suppress(BlockingIOError):
            while True:
                opened.recv(2048)
        return "tens of Binding requests"

    def send_large_messages(self, source: str) -> str:
        """Allocate requests of 65 kB, of many attributes and of one, with an integrity that is none."""
        for body in (b"\x7f\x01\0\0" * 16_000, b"\x80\x22\xfa\x00" + bytes(0xFA00)):
            data = body + b"\x00\x08\x00\x14" + bytes(20)
            head = b"\0\3" + len(data).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + os.urandom(12)
            self._sockets[source].send(head + data)
        return "Allocate requests of 65 kB"

    def allocate(self, source: str) -> str:
        """Allocations with credentials, as many as there may be."""
        user = str(next(self._users))
        probe = TurnProbe(self._host(source), self._reflector, self._secret, user, source)
        try:
            probe.login(1.0)
            answer = probe.exchange(probe.signed(ALLOCATE, [UDP]), 1.0)
            return f"allocations: {answer.code}"
        finally:
            probe.close()


def main() -> None:
    """Attack."""
    four, six, port, reflector, secret, *callees = sys.argv[1:]
    attack = Attack((four, six), int(port), int(reflector), secret, list(map(PeerID.parse, callees)))
    print(json.dumps({"event": "began"}), flush=True)
    attack.run()
    print(json.dumps({"event": "ended", "counts": attack.counts}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
