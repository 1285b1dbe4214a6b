"""
A rendezvous that is attacked from 60 addresses while honest peers register, call, are called and restart
their links: twenty on the simulated internet, and twenty at a real process (`rendezvous_flooder.py`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from punch.identity import Identity, PeerID
from punch.node.calls.calls import MAX_RINGING
from punch.test.internet import Internet
from punch.test.rendezvous.control_client import key_of
from punch.test.rendezvous.rendezvous_flood import SIXTY, FloodedRendezvous
from punch.wire.control import (
    Accept,
    Answer,
    Cancel,
    ErrorCode,
    Establish,
    Message,
    Register,
    Reject,
    new_call,
)
from punch.wire.control_lines import encode
from punch.wire.peers.sealed import Envelope
from punch.wire.rendezvous_address import RendezvousAddress
from tests.needs import need_namespaces
from tests.netns import Namespaces, entered
from tests.processes import Programs, cpu_seconds, programs
from tests.rendezvous.test_rendezvous_process import ControlConnection, listening

ROOT = Path(__file__).parents[2]
PEERS = 20
TIMEOUT = 20.0
"""Seconds; how long things take on a machine that does nothing else is printed."""


def test_simulated_peers() -> None:
    """Each of them, each within a second of simulated time."""
    net = Internet(0)
    net.announce = False
    flooded = FloodedRendezvous(net, SIXTY, period=0.1)
    flooded.flood.start(2)
    flooded.ring()
    for number in range(PEERS):
        flooded.come(f"198.51.{101 + number}.1")
    flooded.restart()
    flooded.check()
    flooded.stop()


LIMITS = {
    "connections": 400,
    "connections-per-address": 8,
    "handshakes": 64,
    "handshakes-per-address": 8,
    "registrations": 100,
    "registrations-per-address": 4,
    "introductions": 120,
    "introductions-per-address": 8,
    "relay-allocations": 64,
    "relay-allocations-per-address": 4,
}
"""Small tables, so that few packets fill them."""
LEAST = {
    "registrations": 40,
    "turns of calls": 100,
    "replayed hellos": 200,
    "new hellos": 50,
    "held": 50,
    "bursts of empty lines": 50,
    "tens of Binding requests": 200,
    "Allocate requests of 65 kB": 100,
    "allocations: 0": 4,
}
"""What the flooder does at least, of what it counts."""
HOSTS = "198.51.100.1", "2001:db8:ffff::1"
REFLECTOR = 3478
SECRET = "known to the flooder"
FILLED = 4.0
"""Seconds that the flooder needs to fill the tables."""
PAUSE = 0.5
"""Seconds between two honest peers."""
MOST = 5.0
"""Seconds that anything takes at most, on a machine that others use as well."""


def envelope(to: PeerID) -> Envelope:
    """Something sealed, for a service that can't know better."""
    return Envelope(to, bytes(304), bytes(64))


class RegisteredPeer:
    """
    A registered peer.

    One that accepts anyone answers every call. One that asks answers those whom it knows, and its user
    answers those who are expected; eight others ring, and when they do, everybody else hears that it is busy.
    """

    def __init__(
        self, address: RendezvousAddress, directory: Path, source: str, accept: Accept = Accept.ASK
    ) -> None:
        self.identity = Identity.generate()
        self.known: set[PeerID] = set()
        self.expected: set[PeerID] = set()
        self._accept = accept
        self._client = self._connect(address, directory, source)
        self._client.socket.settimeout(TIMEOUT)
        self._client.send(Register("honest", accept))
        welcome = self._client.read()
        assert welcome["type"] == "welcome", welcome
        self._client.socket.settimeout(None)
        self._said: dict[str, dict[str, Any]] = {}
        self._ringing: set[str] = set()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _connect(self, address: RendezvousAddress, directory: Path, source: str) -> ControlConnection:
        """
        Connect. Like a peer, it tries again if it is put off: on a machine that others use as well, its
        handshake may take so long that it makes room for those of the flood.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return ControlConnection(address, key_of(self.identity), directory, source)
            except ConnectionResetError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

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
            if sender in self.known or self._accept is Accept.ANYONE:
                self._send(Answer(call, sender, envelope(sender)))
            elif len(self._ringing) >= MAX_RINGING:
                self._send(Reject(call, sender, ErrorCode.BUSY))
            elif sender in self.expected:
                self._send(Answer(call, sender, envelope(sender)))
            else:
                self._ringing.add(call)
            return
        self._ringing.discard(call)
        with self._changed:
            self._said[call] = reply
            self._changed.notify_all()


def test_peers_at_a_process(tmp_path: Path) -> None:
    """
    Twenty of them, over IPv4 and IPv6, each with four things to do, and twenty strangers that call and are
    called, while everything that the flooder knows goes on at once.
    """
    need_namespaces()
    with Namespaces() as namespaces, programs(tmp_path) as running:
        host = namespaces.host("flood")
        for family, address, network in (("-4", HOSTS[0], "10.0.0.0/8"), ("-6", HOSTS[1], "2001:db8::/32")):
            host.run("ip", family, "address", "add", address, "dev", "lo")
            host.run("ip", family, "route", "add", "local", network, "dev", "lo")
        host.sysctl("net.ipv6.ip_nonlocal_bind=1")
        with entered(host):
            attack_process(running, tmp_path)


def attack_process(running: Programs, directory: Path) -> None:
    """Start a rendezvous and the flooder here, and let the honest peers do what they have to."""
    (directory / "secret").write_text(SECRET + "\n")
    service = running.rendezvous(
        *(text for name, value in LIMITS.items() for text in (f"--{name}", str(value))),
        *("--host", HOSTS[0], "--reflector-port", str(REFLECTOR)),
        *("--turn-secret-file", str(directory / "secret")),
    )
    pinned = listening(service)
    addresses = [RendezvousAddress(each, pinned.port, pinned.pin) for each in HOSTS]
    bob, *asking = (RegisteredPeer(addresses[0], directory, f"10.200.{number}.1") for number in range(4))
    open_to_all = RegisteredPeer(addresses[1], directory, "2001:db8:d::1", Accept.ANYONE)
    callees = [str(each.identity.peer_id) for each in (bob, *asking, open_to_all)]
    arguments = (*HOSTS, str(pinned.port), str(REFLECTOR), SECRET, *callees)
    flooder = running.start(
        [sys.executable, "-m", "tests.rendezvous.rendezvous_flooder", *arguments],
        env={"PYTHONPATH": str(ROOT)},
    )
    flooder.wait("began")
    time.sleep(FILLED)
    times: dict[str, list[float]] = {"registers": [], "calls": [], "is called": [], "restarts": []}
    cpu, since = cpu_seconds(service.process.pid), time.monotonic()
    for number in range(PEERS):
        # They come over several seconds, so that each meets another moment of the attack
        time.sleep(PAUSE)
        source = f"2001:db8:f{number:03x}::1" if number % 2 else f"10.{201 + number}.0.1"
        marks = [time.monotonic()]
        alice = RegisteredPeer(addresses[number % 2], directory, source)
        alice.known.add(bob.identity.peer_id)
        bob.known.add(alice.identity.peer_id)
        marks.append(time.monotonic())
        for caller, callee in ((alice, bob), (bob, alice), (alice, bob)):
            caller.call(callee.identity.peer_id)
            marks.append(time.monotonic())
        for taken, after, before in zip(times.values(), marks[1:], marks, strict=False):
            taken.append(after - before)
        print(f"{source}: {', '.join(f'{what} {taken[-1]:.3f} s' for what, taken in times.items())}")
        alice.close()
    erin = RegisteredPeer(addresses[0], directory, "10.199.0.1")
    for number in range(PEERS):
        source = f"2001:db8:e{number:03x}::1" if number % 2 else f"10.{101 + number}.0.1"
        accept = (Accept.ASK, Accept.ANYONE)[number % 4 // 2]
        stranger = RegisteredPeer(addresses[number % 2], directory, source, accept)
        stranger.expected.add(erin.identity.peer_id)
        asked = asking[number % len(asking)]
        asked.expected.add(stranger.identity.peer_id)
        for what, caller, callee in (
            ("calls a stranger who asks", stranger, asked),
            ("calls a stranger who accepts anyone", stranger, open_to_all),
            (f"is called by a stranger, accepting {accept.value}", erin, stranger),
        ):
            began = time.monotonic()
            caller.call(callee.identity.peer_id)
            times.setdefault(what, []).append(time.monotonic() - began)
        stranger.close()
    used = (cpu_seconds(service.process.pid) - cpu) / (time.monotonic() - since)
    flooder.command("stop")
    for what, taken in times.items():
        print(
            f"{what}: {len(taken)} times, {sorted(taken)[len(taken) // 2]:.3f} s, at most {max(taken):.3f} s"
        )
    counts = flooder.wait("ended")["counts"]
    print(f"the service used {used:.2f} of a core; {counts}")
    for peer in (bob, *asking, open_to_all, erin):
        peer.close()
    # It was one: each of its ways was gone, and those that can be refused were.
    assert counts["calls refused"] > 50, counts
    for what, least in LEAST.items():
        assert counts[what] > least, counts
    assert max(map(max, times.values())) < MOST
    assert "Traceback" not in service.stderr, service.stderr
