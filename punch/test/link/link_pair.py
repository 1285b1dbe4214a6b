"""Two link cores that are joined in virtual time, and peers that break the rules of a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from random import Random
from typing import Any, cast

from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.link.control_stream import APPLICATION_CODES, ControlFrameReader, ControlFrameType, decode_close
from punch.link.core import LinkCore
from punch.link.events import (
    ConnectionIDAdded,
    ConnectionIDRemoved,
    Event,
    LinkClosed,
    LinkLimits,
    LinkRole,
    Proved,
    StreamData,
)
from punch.link.link import Link
from punch.link.proof import PROOF_LENGTH, LinkCertificate, make_proof
from punch.link.quic.interface import QuicBackend, QuicConnection
from punch.link.quic.qh3 import Qh3Backend
from punch.link.transport import StreamTransport

DELAY = 0.02
"""Seconds one way."""
LEAST_STEP = 1e-4
OFFER = sha256(b"the offer").digest()
ANSWER = sha256(b"the answer").digest()
CALLER = Identity.generate(lambda size: b"\x11" * size)
CALLEE = Identity.generate(lambda size: b"\x22" * size)
STRANGER = Identity.generate(lambda size: b"\x33" * size)


def aioquic_backend() -> QuicBackend | None:
    """The second library, if it is installed."""
    if find_spec("aioquic") is None:
        return None
    from punch.link.quic.aioquic import AioquicBackend

    return AioquicBackend()


class KeepingBackend:
    """
    A backend that keeps the connections it has made.

    :ivar connections: in the order in which they began: the caller's, then the callee's.
    """

    def __init__(self, inner: QuicBackend) -> None:
        self.name = inner.name
        self.connections: list[Any] = []
        self._inner = inner

    def client(self, now: float) -> QuicConnection:
        return self._keep(self._inner.client(now))

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        return self._keep(self._inner.server(certificate, original_destination_connection_id))

    def _keep(self, connection: QuicConnection) -> QuicConnection:
        self.connections.append(connection)
        return connection


class PipeEnd(ABC):
    """Whatever takes datagrams and gives some, in virtual time."""

    @abstractmethod
    def receive(self, datagrams: list[bytes], now: float) -> None: ...

    @abstractmethod
    def send(self, now: float) -> list[bytes]: ...

    @abstractmethod
    def next_timer(self) -> float | None: ...

    @abstractmethod
    def timer(self, now: float) -> None: ...


class CoreEnd(PipeEnd):
    """A `LinkCore`, its events, and an application that reads everything unless it is told not to."""

    def __init__(self, core: LinkCore) -> None:
        self.core = core
        self.events: list[Event] = []
        self.reading = True
        self.on_event: Callable[[Event], None] | None = None
        self.received: dict[int, bytearray] = {}
        self.closed: LinkClosed | None = None

    def receive(self, datagrams: list[bytes], now: float) -> None:
        self.core.receive_datagrams(datagrams, now)
        self.take()

    def send(self, now: float) -> list[bytes]:
        datagrams = self.core.datagrams_to_send(now)
        self.take()
        return datagrams

    def next_timer(self) -> float | None:
        return self.core.get_timer()

    def timer(self, now: float) -> None:
        self.core.handle_timer(now)
        self.take()

    def take(self) -> None:
        while (event := self.core.next_event()) is not None:
            if isinstance(event, (ConnectionIDAdded, ConnectionIDRemoved)):
                continue
            self.events.append(event)
            if isinstance(event, LinkClosed):
                assert self.closed is None
                self.closed = event
            if isinstance(event, StreamData):
                self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
                if self.reading:
                    self.core.streams.consumed(event.stream_id, len(event.data))
            if self.on_event is not None:
                self.on_event(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def proved(self) -> bool:
        return bool(self.of(Proved))


class Rogue(PipeEnd):
    """A QUIC connection without a link: it obeys only those rules of a link that a test makes it obey."""

    def __init__(self, quic: QuicConnection) -> None:
        self.quic = quic
        self.handshake = False
        self.alpn: str | None = None
        self.resumed = False
        self.streams: dict[int, bytearray] = {}
        self.ended: tuple[int, str] | None = None
        self.on_handshake_done: Callable[[], None] | None = None
        self._frames = ControlFrameReader()
        self.frames: list[tuple[int, bytes]] = []

    def receive(self, datagrams: list[bytes], now: float) -> None:
        self.quic.receive(datagrams, now)
        self.quic.deliver(self)

    def send(self, now: float) -> list[bytes]:
        return self.quic.datagrams_to_send(now)

    def next_timer(self) -> float | None:
        return self.quic.get_timer()

    def timer(self, now: float) -> None:
        self.quic.handle_timer(now)
        self.quic.deliver(self)

    @property
    def refused(self) -> tuple[int, str] | None:
        """The code and reason with which the other side ended the link, by frame or by CONNECTION_CLOSE."""
        for frame_type, payload in self.frames:
            if frame_type == ControlFrameType.CLOSE:
                return decode_close(payload)
        return None if self.ended is None else (self.ended[0] - APPLICATION_CODES, self.ended[1])

    # The sink

    def on_handshake(self, alpn: str | None, resumed: bool) -> None:
        self.handshake, self.alpn, self.resumed = True, alpn, resumed
        if self.on_handshake_done is not None:
            self.on_handshake_done()

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.streams.setdefault(stream_id, bytearray()).extend(data)

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        self.streams.setdefault(stream_id, bytearray())

    def on_datagram(self, data: bytes) -> None:
        self.streams.setdefault(-1, bytearray()).extend(data)

    def on_ping_answered(self) -> None:
        return

    def on_connection_id(self, connection_id: bytes, added: bool) -> None:
        return

    def on_terminated(self, code: int, application: bool, reason: str) -> None:
        self.ended = (code, reason)


class RogueCallee(Rogue):
    """
    Somebody who is called: its connection begins with the first datagram. The first 65 bytes it hears are a
    proof.
    """

    def __init__(self, backend: QuicBackend, certificate: LinkCertificate) -> None:
        self._make = lambda first: backend.server(certificate, first[6 : 6 + first[5]])
        self._begun = False
        super().__init__(backend.server(certificate, b""))

    def receive(self, datagrams: list[bytes], now: float) -> None:
        if not self._begun:
            self._begun = True
            self.quic = self._make(datagrams[0])
        super().receive(datagrams, now)

    def send(self, now: float) -> list[bytes]:
        return super().send(now) if self._begun else []

    def next_timer(self) -> float | None:
        return super().next_timer() if self._begun else None

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        before = len(self.streams.get(0, b""))
        super().on_stream_data(stream_id, data, fin)
        if stream_id == 0:
            start = max(0, PROOF_LENGTH - before)
            self.frames += self._frames.feed(data[start:])


class RogueCaller(Rogue):
    """Somebody who calls. `prove` sends the proof that the rightful caller would send on this connection."""

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        super().on_stream_data(stream_id, data, fin)
        if stream_id == 0:
            self.frames += self._frames.feed(data)

    def open_stream_zero(self, data: bytes) -> None:
        assert self.quic.open_stream() == 0
        self.quic.send(0, data, False)

    def proof(self, identity: Identity = CALLER) -> bytes:
        return make_proof(identity, CALLEE.peer_id, OFFER, ANSWER, self.quic.binding())

    def prove(self) -> None:
        self.open_stream_zero(self.proof())


class Pipe:
    """Joins two nodes. `now` is the virtual time; everything takes `DELAY` to arrive, or is lost."""

    def __init__(self, left: PipeEnd, right: PipeEnd) -> None:
        self.now = 0.0
        self.nodes = (left, right)
        self.in_flight: list[tuple[float, int, list[bytes]]] = []
        self.lose: Callable[[bytes, int], bool] = lambda data, target: False
        self.sent: list[tuple[int, bytes]] = []
        """Every datagram with the index of the node that it is for."""
        self.delay = DELAY

    def turn(self) -> None:
        for index, node in enumerate(self.nodes):
            datagrams = node.send(self.now)
            self.sent += [(1 - index, data) for data in datagrams]
            kept = [data for data in datagrams if not self.lose(data, 1 - index)]
            if kept:
                self.in_flight.append((self.now + self.delay, 1 - index, kept))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; return True as soon as `until` holds, False if it never does."""
        end = self.now + seconds
        while True:
            self.turn()
            if until is not None and until():
                return True
            if self.now >= end:
                return False
            times = [flight[0] for flight in self.in_flight] + [node.next_timer() for node in self.nodes]
            # A timer that is due and stays so must not stop time.
            self.now = min(
                end,
                max(self.now + LEAST_STEP, min((time for time in times if time is not None), default=end)),
            )
            arrived = [flight for flight in self.in_flight if flight[0] <= self.now]
            self.in_flight = [flight for flight in self.in_flight if flight[0] > self.now]
            for _, target, datagrams in arrived:
                self.nodes[target].receive(datagrams, self.now)
            for node in self.nodes:
                due = node.next_timer()
                if due is not None and due <= self.now:
                    node.timer(self.now)


class LinkTestCase(SynchronousTestCase):
    """Tests that run on a QUIC library; subclasses say on which."""

    backend: QuicBackend = Qh3Backend()

    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Make both ends anew; nothing was sent yet."""
        self.random = Random(1)
        self.certificate = LinkCertificate.generate(self.random.randbytes)

    def make_caller(self, **changes: Any) -> CoreEnd:
        settings: dict[str, Any] = {
            "role": LinkRole.CALLER,
            "identity": CALLER,
            "remote": CALLEE.peer_id,
            "offer_digest": OFFER,
            "answer_digest": ANSWER,
            "certificate_sha256": self.certificate.sha256,
            "backend": self.backend,
            "now": 0.0,
        }
        return CoreEnd(LinkCore(**{**settings, **changes}))

    def make_callee(self, **changes: Any) -> CoreEnd:
        settings: dict[str, Any] = {
            "role": LinkRole.CALLEE,
            "identity": CALLEE,
            "remote": CALLER.peer_id,
            "offer_digest": OFFER,
            "answer_digest": ANSWER,
            "certificate": self.certificate,
            "backend": self.backend,
            "now": 0.0,
        }
        return CoreEnd(LinkCore(**{**settings, **changes}))

    def connect(self, limits: LinkLimits | None = None) -> tuple[CoreEnd, CoreEnd, Pipe]:
        """Caller and callee, proved to each other."""
        caller, callee = self.make_caller(limits=limits), self.make_callee(limits=limits)
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        callee.core.start(0.0)
        self.assertTrue(pipe.run(2.0, lambda: caller.proved and callee.proved))
        return caller, callee, pipe

    def rogue(self, callee: CoreEnd, prove: bool = False) -> tuple[RogueCaller, Pipe]:
        """
        A rogue caller with a finished handshake; with `prove`, one that has also proved to be the caller.
        """
        rogue = RogueCaller(self.backend.client(0.0))
        pipe = Pipe(rogue, callee)
        if prove:
            rogue.on_handshake_done = rogue.prove
        self.assertTrue(pipe.run(2.0, lambda: callee.proved if prove else rogue.handshake))
        return rogue, pipe


class AioquicMixin(LinkTestCase):
    """The same tests over aioquic."""

    __test__ = False
    _found = aioquic_backend()
    if _found is None:
        skip = "aioquic (the extra `aioquic`) is not installed"
    else:
        backend = _found


def open_stream(link: Link, name: str, protocol: Protocol) -> StreamTransport:
    """
    Open a stream for a protocol that notes itself how the stream ends.

    :return: the protocol's transport.
    :raise LinkError: it can't be opened now.
    """
    failures: list[Failure] = []
    link.connect(name, Factory.forProtocol(lambda: protocol)).addErrback(failures.append)
    if protocol.transport is None:
        failures[0].raiseException()
    return cast(StreamTransport, protocol.transport)
