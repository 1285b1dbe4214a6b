"""
The load of `rendezvous.py`: many peers in one process, written from `docs/protocol.md` alone.

It reads commands from stdin and writes results to stdout, one JSON object a line. Each peer has a key of its
own, made before anything is measured, and each connection comes from one of many addresses in 127.0.0.0/8, of
which no two are in one /24.
"""

from __future__ import annotations

import base64
import errno
import gc
import hashlib
import json
import os
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

PING_AFTER = 18.0
"""Seconds after its last line at which a peer sends `ping`. The service asks for 20…"""
PING_LATEST = 35.0
"""…but while the cost of something else is measured, pings wait. The service waits for 50."""
PING_ROUND = 10.0
"""
Seconds in which all peers together send a ping at the quickest. Peers registered at different times, so that
their pings come one by one; those that waited may not come all at once either.
"""
LATE = 10.0
"""Seconds after which what has not succeeded has failed."""
OFFER_SIZE = 816
"""Bytes of a sealed offer or answer with some candidates."""
_IP_BIND_ADDRESS_NO_PORT = 24


def peer_id(key: bytes) -> str:
    """The text of a peer ID (section 1 of the protocol)."""
    checksum = hashlib.sha3_256(b".punch checksum" + key + b"\x01").digest()[:2]
    return base64.b32encode(key + checksum + b"\x01").decode().lower()


def text(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def source_address(network: int) -> str:
    """An address in a /24 of its own."""
    return f"127.{1 + network // 250}.{1 + network % 250}.1"


@dataclass(slots=True, eq=False)
class Peer:
    """One peer. `since` is when its connection, or its call, was to begin."""

    id: str
    key: Ed25519PrivateKey
    certificate: x509.Certificate
    address: str
    server: int = 0
    socket: socket.socket | None = None
    tls: SSL.Connection | None = None
    shaken: bool = False
    registered: bool = False
    since: float = 0.0
    spoke: float = 0.0
    pinged: float = 0.0
    unread: bytes = b""
    unsent: bytearray = field(default_factory=bytearray)
    call: str = ""
    callee: Peer | None = None


@dataclass
class Outcome:
    """The latencies in seconds of what has succeeded, and how many have failed."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    elapsed: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Count one that has failed."""
        self.failed += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


def make_certificate(key: Ed25519PrivateKey) -> x509.Certificate:
    """A self-signed certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "punch")])
    start = datetime.now(timezone.utc) - timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    return builder.not_valid_after(start + timedelta(days=3650)).sign(key, None)


class Load:
    """
    The peers of this process.

    :param ports: the TCP ports of the servers, on 127.0.0.1; peers are spread over them.
    :param networks: numbers of the first /24 to connect from and of the one after the last.
    """

    def __init__(self, ports: list[int], networks: tuple[int, int]) -> None:
        self.ports = ports
        self.networks = range(*networks)
        self.peers: list[Peer] = []
        self.fresh: deque[Peer] = deque()
        self.open: dict[int, Peer] = {}
        self.poll = select.epoll()
        self.made = self.calls = 0
        self.context = SSL.Context(SSL.TLS_METHOD)
        self.context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self.context.set_alpn_protos([b"punch/1"])
        self.context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.outcome = Outcome()
        self.under_way: dict[Peer, float] = {}
        """What has begun and is not over, with its time, the oldest first."""
        self.ping_order: deque[Peer] = deque()
        self.next_ping = 0.0
        self.lost = 0
        self.earlier: set[Peer] = set()
        self.lost_earlier = 0
        self.envelope = f'"body":"{text(os.urandom(OFFER_SIZE))}","sig":"{text(os.urandom(64))}"'

    # -- commands --

    def keys(self, count: int) -> dict[str, Any]:
        """Make peers."""
        for _ in range(count):
            key = Ed25519PrivateKey.generate()
            public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            network = self.networks[self.made % len(self.networks)]
            peer = Peer(peer_id(public), key, make_certificate(key), source_address(network))
            # At random, so that half of the calls are between two servers
            peer.server = public[0] % len(self.ports)
            self.made += 1
            self.fresh.append(peer)
        return {"keys": len(self.fresh)}

    def register(self, count: int, rate: float = 0.0, together: int = 32) -> dict[str, Any]:
        """
        Register peers that are not yet.

        :param rate: how many a second; 0: as many as go, of which `together` are under way at a time.
        """
        return self._measure(self._connect_one, count, rate, together)

    def introduce(self, count: int, rate: float = 0.0, together: int = 32) -> dict[str, Any]:
        """Introduce peers to each other, each time others."""
        return self._measure(self._call_one, count, rate, together)

    def keep(self, seconds: float) -> dict[str, Any]:
        """Do nothing but keep the peers registered."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self._ping(now, PING_AFTER)
            self.turn(min(end, now + 0.01))
        return {"lost": self.lost, "lost_earlier": self.lost_earlier, "registered": len(self.peers)}

    def mark(self) -> dict[str, Any]:
        """Count those of the peers that are lost from now on which are registered now."""
        self.earlier = set(self.peers)
        self.lost_earlier = 0
        return {"earlier": len(self.earlier)}

    def settle(self) -> dict[str, Any]:
        """Wait until no peer has been silent for so long that it should send a ping."""
        while self.ping_order and self.ping_order[0].pinged <= time.monotonic() - PING_AFTER:
            self.keep(0.05)
        return self.keep(0.05)

    def drop(self, count: int) -> dict[str, Any]:
        """End the connections of peers, and forget the peers."""
        for peer in [self.peers.pop() for _ in range(min(count, len(self.peers)))]:
            self._close(peer)
        return {"registered": len(self.peers)}

    # -- within --

    def _measure(
        self, begin: Callable[[float], bool], count: int, rate: float, together: int
    ) -> dict[str, Any]:
        self.outcome = Outcome()
        self.under_way.clear()
        start = time.monotonic()
        begun = 0
        while begun < count or self.under_way:
            now = time.monotonic()
            while begun < count and (
                len(self.under_way) < together if not rate else now >= start + begun / rate
            ):
                # With a rate, a latency counts from when it was to begin: what waits for the client counts.
                if begin(start + begun / rate if rate else now):
                    begun += 1
                elif not rate:
                    break
                else:
                    begun += 1
                    self.outcome.fail("all peers are busy")
            due = now + 0.01
            if rate and begun < count:
                due = min(due, start + begun / rate)
            self.turn(due)
            self._ping(now, PING_AFTER if rate else PING_LATEST)
            while self.under_way:
                peer = next(iter(self.under_way))
                if self.under_way[peer] > now - LATE:
                    break
                self._fail(peer, "late")
        self.outcome.elapsed = time.monotonic() - start
        return self.outcome.__dict__

    def _ping(self, now: float, silence: float) -> None:
        """Send `ping` for peers that have sent nothing for so long, as many as may be sent until now."""
        self.next_ping = max(self.next_ping, now - 0.05)
        while self.next_ping <= now and self.ping_order and self.ping_order[0].pinged <= now - silence:
            peer = self.ping_order.popleft()
            if peer.registered:
                if peer.spoke <= now - silence:
                    self.send(peer, b'{"type":"ping"}\n', now)
                    self.next_ping += PING_ROUND / len(self.peers)
                peer.pinged = peer.spoke
                self.ping_order.append(peer)

    def _connect_one(self, since: float) -> bool:
        if not self.fresh:
            return False
        peer = self.fresh.popleft()
        peer.since = since
        sock = peer.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        self.under_way[peer] = since
        sock.bind((peer.address, 0))
        problem = sock.connect_ex(("127.0.0.1", self.ports[peer.server]))
        if problem not in (0, errno.EINPROGRESS):
            self._fail(peer, os.strerror(problem))
            return True
        self.open[sock.fileno()] = peer
        self.poll.register(sock.fileno(), select.EPOLLOUT)
        return True

    def _call_one(self, since: float) -> bool:
        """A call of the peer that has not called for longest to a peer that changes from time to time."""
        peers = self.peers
        for _ in range(50):
            number = self.calls
            self.calls += 1
            caller = peers[number % len(peers)]
            callee = peers[(number + 1 + number // len(peers) * 7) % len(peers)]
            if caller is callee or caller.call or not (caller.registered and callee.registered):
                continue
            caller.call, caller.callee, caller.since = os.urandom(16).hex(), callee, since
            self.under_way[caller] = since
            self.send(caller, self._message("establish", caller.call, callee.id, "offer"), time.monotonic())
            return True
        return False

    def _message(self, kind: str, call: str, to: str, part: str) -> bytes:
        return (
            f'{{"type":"{kind}","call":"{call}","to":"{to}","{part}":{{"to":"{to}",{self.envelope}}}}}\n'
        ).encode()

    def turn(self, until: float) -> None:
        """Handle what happens until a time, or what happens first."""
        for number, events in self.poll.poll(max(0.0, until - time.monotonic())):
            peer = self.open.get(number)
            if peer is None:
                continue
            try:
                if peer.tls is None:
                    self._connected(peer)
                elif events & select.EPOLLOUT:
                    self.poll.modify(number, select.EPOLLIN)
                    self._flush(peer)
                self._read(peer)
            except (SSL.WantReadError, SSL.WantWriteError):
                continue
            except (SSL.Error, OSError) as problem:
                self._ended(peer, type(problem).__name__)

    def _connected(self, peer: Peer) -> None:
        assert peer.socket is not None
        problem = peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))
        tls = peer.tls = SSL.Connection(self.context, peer.socket)
        tls.use_certificate(peer.certificate)
        tls.use_privatekey(peer.key)
        tls.set_connect_state()
        self.poll.modify(peer.socket.fileno(), select.EPOLLIN)

    def _read(self, peer: Peer) -> None:
        tls = peer.tls
        assert tls is not None
        if not peer.shaken:
            tls.do_handshake()
            peer.shaken = True
            first = f'{{"type":"register","version":1,"name":"p{peer.id[:8]}","accept":"anyone"}}\n'
            self.send(peer, first.encode(), time.monotonic())
        while True:
            data = tls.recv(65536)
            *lines, peer.unread = (peer.unread + data).split(b"\n")
            for line in lines:
                self._line(peer, json.loads(line))

    def _line(self, peer: Peer, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "welcome":
            peer.registered = True
            self.peers.append(peer)
            peer.pinged = peer.spoke
            self.ping_order.append(peer)
            self._succeed(peer)
        elif kind == "incoming":
            now = time.monotonic()
            self.send(peer, self._message("answer", message["call"], message["from"], "answer"), now)
        elif kind == "answered" and message["call"] == peer.call:
            assert peer.callee is not None
            line = f'{{"type":"cancel","call":"{peer.call}","to":"{peer.callee.id}"}}\n'
            self.send(peer, line.encode(), time.monotonic())
            peer.call = ""
            self._succeed(peer)
        elif kind == "error" or (kind == "ended" and message["call"] == peer.call):
            if message.get("call") == peer.call and peer.call:
                self._fail(peer, message["code"])
            elif "call" not in message:
                self._ended(peer, message["code"])

    def send(self, peer: Peer, line: bytes, now: float) -> None:
        """Send a line, or several."""
        peer.spoke = now
        peer.unsent += line
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        assert peer.tls is not None
        assert peer.socket is not None
        try:
            while peer.unsent:
                sent = peer.tls.send(bytes(peer.unsent))
                del peer.unsent[:sent]
        except (SSL.WantWriteError, SSL.WantReadError):
            self.poll.modify(peer.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except (SSL.Error, OSError):
            return  # Reading says why.

    def _succeed(self, peer: Peer) -> None:
        if self.under_way.pop(peer, None) is not None:
            self.outcome.latencies.append(time.monotonic() - peer.since)

    def _fail(self, peer: Peer, reason: str) -> None:
        if self.under_way.pop(peer, None) is not None:
            self.outcome.fail(reason)
        peer.call = ""
        if not peer.registered:
            self._close(peer)

    def _ended(self, peer: Peer, reason: str) -> None:
        was = peer.registered
        self._fail(peer, reason)
        if was:
            self.lost += 1
            self.lost_earlier += peer in self.earlier
            self._close(peer)
            if peer in self.peers:
                self.peers.remove(peer)

    def _close(self, peer: Peer) -> None:
        peer.registered = False
        if peer.socket is not None:
            self.open.pop(peer.socket.fileno(), None)
            peer.socket.close()
        peer.socket = peer.tls = None


def main() -> None:
    """Carry out commands until stdin ends."""
    first, after, *ports = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = Load(ports, (first, after))
    # Its pauses would be taken for the service's. What is left to it here are a few cycles.
    gc.disable()
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "keys": load.keys,
        "register": load.register,
        "introduce": load.introduce,
        "keep": load.keep,
        "settle": load.settle,
        "mark": load.mark,
        "drop": load.drop,
    }
    unread = b""
    os.set_blocking(0, False)
    while True:
        try:
            data = os.read(0, 65536)
            if not data:
                return
            unread += data
        except BlockingIOError:
            load.keep(0.01)
            continue
        *lines, unread = unread.split(b"\n")
        for line in lines:
            command = json.loads(line)
            print(json.dumps(commands[command.pop("do")](**command)), flush=True)


if __name__ == "__main__":
    main()
