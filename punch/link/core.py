"""
The link between two peers: a sans-I/O core over one or several QUIC connections.

The caller makes one connection. The callee accepts up to four unproved ones, since anybody who can send from
an address that passed a check may try. The first one that proves itself is the link, and the others are
closed. `now` is in monotonic seconds everywhere, and never decreases.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from punch.identity import Identity, PeerID, RandomBytes
from punch.link.connection import Callbacks, Connection, Terms
from punch.link.control_stream import clip_reason
from punch.link.events import (
    CloseCode,
    ConnectionIDAdded,
    ConnectionIDRemoved,
    Event,
    LinkClosed,
    LinkError,
    LinkLimits,
    LinkRole,
    LinkState,
    Proved,
)
from punch.link.multiplexer import NOT_CONNECTED, StreamMultiplexer
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import QuicBackend, QuicError
from punch.link.quic.packet import destination_id, is_client_initial, is_long, is_retry
from punch.link.quic.qh3 import Qh3Backend, stopped
from punch.net.deadlines import earliest

PINGS = 4
"""How many packets `LinkCore.ping` sends at once on a proved link."""
PING_AGAIN = (0.3, 1.0)
"""Seconds after which it sends as many again."""
MAX_EARLY_DATAGRAMS = 2
"""
How many datagrams a caller's Initial may take if it is sent early. An Initial with a post-quantum key takes
as many.
"""
INITIAL_SIZE = 1200
"""The least size in bytes of a datagram with a part of a handshake that is to be acknowledged."""
EARLY_TIME = 1.0
"""
Seconds that a connection of `LinkCore.start_early` has from its first answer before another connection begins
beside it. On a slow line, each packet of a handshake takes long, and those of a second one delay those of the
first.
"""


class LinkCore:
    """
    One link.

    :param remote: the peer that the other side must prove to be.
    :param offer_digest: SHA-256 of the sealed offer of the call, 32 bytes. It identifies the link in the
        offers of ICE restarts.
    :param answer_digest: SHA-256 of the sealed answer, 32 bytes.
    :param certificate: the callee's certificate, whose hash is in its answer; made if None. Callee only.
    :param certificate_sha256: the hash of the callee's certificate, 32 bytes. Caller only.
    :param clock: returns seconds, to measure how long the QUIC library takes for packets.
    :ivar state: the state of the link.
    """

    def __init__(
        self,
        *,
        role: LinkRole,
        identity: Identity,
        remote: PeerID,
        offer_digest: bytes,
        answer_digest: bytes,
        certificate: LinkCertificate | None = None,
        certificate_sha256: bytes | None = None,
        backend: QuicBackend | None = None,
        random: RandomBytes = os.urandom,
        limits: LinkLimits | None = None,
        clock: Callable[[], float] = stopped,
        now: float,
    ) -> None:
        if role is LinkRole.CALLEE and certificate is None:
            certificate = LinkCertificate.generate(random)
        if role is LinkRole.CALLER and (certificate_sha256 is None or len(certificate_sha256) != 32):
            raise ValueError("a caller needs the hash of the callee's certificate")
        self.role = role
        self.local = identity.peer_id
        self.remote = remote
        self.offer_digest = offer_digest
        self.certificate = certificate
        self.limits = LinkLimits() if limits is None else limits
        self._backend: QuicBackend = Qh3Backend(clock=clock) if backend is None else backend
        self._terms = Terms(role, identity, remote, offer_digest, answer_digest, certificate_sha256)
        self._callbacks = Callbacks(self._proved, self._ended, self._connection_id)
        self._connections: list[Connection] = []
        self._early: Connection | None = None
        self._early_answered = False
        self._connect_at: float | None = None
        self._routes: dict[bytes, Connection] = {}
        self._link: Connection | None = None
        self._streams: StreamMultiplexer | None = None
        self._events: deque[Event] = deque()
        self._now = now
        self._deadline: float | None = None
        self._pending: list[Connection] | None = None
        self._pings = 0
        self._ping_at: list[float] = []
        self.state = LinkState.WAITING
        self._closing: LinkClosed | None = None

    def start(self, now: float, wait: float = 0.0) -> None:
        """
        Start when a path exists: the caller sends its Initial. The link must be proved within
        `LinkLimits.prove_seconds`, otherwise it closes.

        :param wait: for how many seconds an answer to `start_early` is awaited before another Initial is
            sent.
        """
        if self._deadline is not None or self._link is not None or self.state is LinkState.CLOSED:
            return  # A caller may have proved itself before the callee selected a path
        self._now = now
        self._deadline = now + self.limits.prove_seconds
        if self.role is LinkRole.CALLER:
            self._connect_at = now + wait
            if self._early is None or self._early.over:
                self._connect(now)
            elif self._early_answered:
                self._connect_at = now + EARLY_TIME
            elif wait <= 0:
                self._connect(now)

    def start_early(self, now: float) -> list[bytes]:
        """
        Return the datagrams of a caller's Initial, to be sent together with its first checks, before a path
        is known to exist.

        They belong to a connection of their own: if nothing answers it, `start` makes another one, whose
        timers and round-trip times know nothing of the first. Whichever is proved first is the link. The list
        is empty if the Initial takes more than `MAX_EARLY_DATAGRAMS`, or the link has begun.
        """
        begun = self._deadline is not None or self._connections or self.state is not LinkState.WAITING
        if self.role is LinkRole.CALLEE or begun:
            return []
        self._now = now
        try:
            connection = Connection(self._backend.client(now), self._terms, self.limits, self._callbacks, now)
        except QuicError:
            return []  # `start` tells, if it fails there too
        # Before it may end, which does not end the link
        self._early = connection
        datagrams = connection.datagrams_to_send(now)
        if not 0 < len(datagrams) <= MAX_EARLY_DATAGRAMS:
            connection.quic.discard()
            self._early = None
            return []
        self._add(connection)
        return datagrams

    def _connect(self, now: float) -> None:
        self._connect_at = None
        try:
            quic = self._backend.client(now)
        except QuicError as error:
            self.fail(CloseCode.INTERNAL, f"The QUIC library failed: {error}.", now)
            return
        self._add(Connection(quic, self._terms, self.limits, self._callbacks, now))

    def close(self, code: CloseCode, reason: str, now: float) -> None:
        """
        End the link in good order. The other side is told, reliably while there is a path, and `LinkClosed`
        follows when it has answered, or after one second. Data that is queued on streams is discarded.
        """
        self._now = now
        closed = LinkClosed(code, clip_reason(reason))
        if self.state is LinkState.WAITING:
            self._finish(closed)
        elif self.state is LinkState.OPEN:
            self.state, self._closing = LinkState.CLOSING, closed
            self.streams.send_close(code, closed.reason)
            self._deadline = now + self.limits.close_seconds

    def fail(self, code: CloseCode, reason: str, now: float) -> None:
        """End the link at once, for example because no path is left."""
        self._now = now
        self._finish(LinkClosed(code, clip_reason(reason)))

    def ping(self, now: float) -> None:
        """
        Make the other side answer now: after a path change or a sleep, or to learn whether it is reachable.
        `PingAnswered` follows on a proved link when it has answered.

        Several packets are sent, since earlier packets count as lost only when three later ones are
        acknowledged (RFC 9002, section 6.1.1). The loss timer would take as long as the disconnection lasted,
        because late acknowledgements raise the estimate of the round-trip time by that much. They are sent
        several times, because the other side may get its path back a moment later, so that its first
        acknowledgements are lost.
        """
        self._now = now
        proved = self._link is not None
        self._pings = PINGS if proved else 1
        self._ping_at = [now + delay for delay in PING_AGAIN] if proved else []
        if self._streams is not None:
            self._streams.path_changed()

    @property
    def connection_count(self) -> int:
        """How many QUIC connections there are, proved or not."""
        return len(self._connections)

    # Datagrams

    @property
    def connection_ids(self) -> set[bytes]:
        """The destination connection IDs of datagrams for this link."""
        return set(self._routes)

    def receive_datagrams(
        self, datagrams: Sequence[bytes], now: float, *, initial_allowed: bool = True
    ) -> None:
        """
        Process datagrams of any content.

        :param initial_allowed: the datagrams came from an address that passed an authenticated check, so a
            caller's Initial among them may start a connection.
        """
        self._now = now
        link, streams = self._link, self._streams
        if streams is not None and not streams.over:
            # The library drops what is not for it; looking at each datagram here would slow bulk transfers.
            streams.receive_datagrams(datagrams, now)
            return
        if link is not None:
            link.receive(datagrams, now)
            return
        for data in datagrams:
            connection = self._route(data, initial_allowed)
            if connection is not None:
                connection.receive([data], now)
                # A shorter one only acknowledges a part of the Initial (RFC 9000, section 14.1), and one that
                # acknowledges nothing may be anybody's
                if connection is self._early and not self._early_answered and len(data) >= INITIAL_SIZE:
                    self._early_answered = connection.quic.flight().rtt is not None
                    if self._early_answered:
                        self._leave_time_to_early(now)

    def datagrams_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        """
        Return the datagrams to send now, at most 1,200 bytes each.

        :param room: how many bytes of streams the path takes now; None for any number.
        """
        self._now = now
        if self._streams is not None:
            self._streams.set_room(room)
        out: list[bytes] = []
        while self._pings:
            before = len(out)
            for connection in self._connections:
                if not connection.over and not self._is_silent(connection):
                    connection.quic.ping()
                    self._collect(connection, now, out)
            # Pings that the library may not send now stay in a queue of limited size
            self._pings = self._pings - 1 if len(out) > before else 0
        for connection in list(self._connections):
            if self._is_silent(connection):
                continue
            self._collect(connection, now, out)
            if connection.over and connection is not self._link:
                # Its CONNECTION_CLOSE was sent; if that is lost, the other side's own timer ends the
                # connection
                self._remove(connection)
        return out

    def _collect(self, connection: Connection, now: float, out: list[bytes]) -> None:
        streams = connection.streams
        if streams is not None and not streams.over:
            streams.collect_datagrams(now, out)
        if streams is None or streams.over:
            out += connection.datagrams_to_send(now)

    def waits_for_room(self) -> bool:
        """Whether data of streams is held back only because the path takes no more now."""
        return self._streams is not None and self._streams.waits_for_room()

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        times = [
            connection.get_timer() for connection in self._connections if not self._is_silent(connection)
        ]
        if self.state is not LinkState.CLOSED:
            times += (self._deadline, self._connect_at)
            times += self._ping_at[:1]
        return earliest(times)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`."""
        self._now = now
        for connection in list(self._connections):
            if not self._is_silent(connection):
                connection.handle_timer(now)
        if self._ping_at and now >= self._ping_at[0]:
            del self._ping_at[0]
            self._pings = PINGS
        if self._connect_at is not None and now >= self._connect_at:
            self._connect(now)
        if self._deadline is not None and now >= self._deadline:
            self._deadline = self._extended_deadline(now)
            if self._deadline is not None:
                return
            self._finish(LinkClosed(CloseCode.TIMEOUT, "The other side did not prove itself in time."))

    def _extended_deadline(self, now: float) -> float | None:
        """
        The time until which a callee waits for the handshakes that are under way; None: it does not wait.
        """
        if self.role is LinkRole.CALLER or self._link is not None:
            return None
        if self._pending is None:
            # Connections that start later get no extra time
            self._pending = list(self._connections)
        times = [connection.deadline for connection in self._pending if not connection.over]
        return max((time for time in times if time > now), default=None)

    def next_event(self) -> Event | None:
        """Remove and return the oldest event; None if there is none."""
        return self._events.popleft() if self._events else None

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds; None if it is not known yet."""
        return None if self._link is None else self._link.quic.rtt

    @property
    def post_quantum(self) -> bool:
        """Whether the link's keys were agreed with X25519MLKEM768; False before the link is proved."""
        return self._link is not None and self._link.quic.post_quantum

    @property
    def awaits_answer(self) -> bool:
        """Whether something was sent that is to be acknowledged, and was not yet."""
        return self._link is not None and self._link.quic.flight().in_flight > 0

    @property
    def losses(self) -> int:
        """Grows when packets are declared lost, or when nothing is acknowledged for a probe timeout."""
        return 0 if self._link is None else self._link.quic.losses

    # What the application uses

    @property
    def streams(self) -> StreamMultiplexer:
        """
        The link's streams, datagrams and control frames.

        :raise LinkError: the link has not been proved.
        """
        if self._streams is None:
            raise LinkError(NOT_CONNECTED)
        return self._streams

    def delivered(self) -> bool:
        """Whether the other side has acknowledged all that was written."""
        return self._streams is None or self._streams.delivered()

    def _route(self, data: bytes, initial_allowed: bool) -> Connection | None:
        if self.role is LinkRole.CALLER and is_long(data) and is_retry(data):
            # A Punch callee never sends Retry; only somebody in between would
            return None
        connection_id = destination_id(data)
        if connection_id is None:
            return None
        connection = self._routes.get(connection_id)
        if connection is not None or self.role is LinkRole.CALLER:
            return connection
        if self.state is LinkState.CLOSED or not initial_allowed or not is_client_initial(data):
            return None
        return self._accept(connection_id)

    def _accept(self, original_destination_id: bytes) -> Connection | None:
        if sum(not connection.over for connection in self._connections) >= self.limits.unproved:
            return None
        assert self.certificate is not None
        try:
            quic = self._backend.server(self.certificate, original_destination_id)
        except QuicError:
            return None  # The client gets no answer; the link fails if no other one proves itself in time
        connection = Connection(quic, self._terms, self.limits, self._callbacks, self._now)
        self._connection_id(connection, original_destination_id, True)
        self._add(connection)
        return connection

    def _is_silent(self, connection: Connection) -> bool:
        """
        Whether a connection sends nothing. This is so for one of `start_early` that has not been answered,
        since it would repeat its Initial on a path on which another connection begins.
        """
        return connection is self._early and not connection.heard and not connection.over

    def _discard_silent(self) -> None:
        """
        Drop the connection of `start_early` without sending anything: to a callee that knows nothing of it,
        any packet would be another Initial.
        """
        connection = self._early
        if connection is not None and self._is_silent(connection):
            self._drop(connection)
            self._early = None

    def _leave_time_to_early(self, now: float) -> None:
        """The connection of `start_early` is answered: drop or delay a second one that is not."""
        if self._deadline is None or self._link is not None or self._early is None or self._early.over:
            return
        for connection in [each for each in self._connections if each is not self._early]:
            if not connection.heard:
                self._drop(connection)
        if len(self._connections) == 1:
            self._connect_at = now + EARLY_TIME

    def _add(self, connection: Connection) -> None:
        self._connections.append(connection)
        self._connection_id(connection, connection.quic.connection_id, True)

    def _drop(self, connection: Connection) -> None:
        """Remove a connection without sending anything."""
        connection.quic.discard()
        self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        self._connections.remove(connection)
        for connection_id in sorted(connection.connection_ids):
            self._connection_id(connection, connection_id, False)

    def _connection_id(self, connection: Connection, connection_id: bytes, added: bool) -> None:
        if added and connection_id not in self._routes:
            self._routes[connection_id] = connection
            connection.connection_ids.add(connection_id)
            self._events.append(ConnectionIDAdded(connection_id))
        elif not added and self._routes.get(connection_id) is connection:
            del self._routes[connection_id]
            connection.connection_ids.discard(connection_id)
            self._events.append(ConnectionIDRemoved(connection_id))

    def _emit(self, event: Event) -> None:
        if self.state is not LinkState.CLOSED:
            self._events.append(event)

    def _proved(self, connection: Connection, now: float) -> StreamMultiplexer:
        self._link = connection
        self._deadline = self._connect_at = None
        self._streams = StreamMultiplexer(
            connection.quic,
            role=self.role,
            limits=self.limits,
            emit=self._emit,
            end=partial(self._ended, connection),
            connection_id=partial(self._connection_id, connection),
            now=now,
        )
        self._discard_silent()
        for other in self._connections:
            if other is not connection and not other.over:
                other.close_quic(CloseCode.REFUSED, "Another connection proved itself first.")
        if self.state is LinkState.WAITING:
            self.state = LinkState.OPEN
            self._emit(Proved(self.remote))
        return self._streams

    def _ended(self, connection: Connection, code: CloseCode, reason: str, by_peer: bool) -> None:
        if connection is not self._link:
            if self.role is LinkRole.CALLEE or self._link is not None or self._deadline is None:
                return
            if self._connect_at is not None:
                self._connect_at = self._now
            if self._connect_at is not None or any(map(self._may_be_proved, self._connections)):
                return
        self._finish(LinkClosed(code, clip_reason(reason), by_peer))

    def _may_be_proved(self, connection: Connection) -> bool:
        return not connection.over and not self._is_silent(connection)

    def _finish(self, closed: LinkClosed) -> None:
        if self.state is LinkState.CLOSED:
            return
        # Whatever ends a link that is closing, most often the answer, the reason is the one that we gave
        closed = self._closing or closed
        self._emit(closed)
        self.state = LinkState.CLOSED
        self._deadline = self._connect_at = None
        self._discard_silent()
        for connection in self._connections:
            if not connection.over:
                connection.close_quic(closed.code, closed.reason)
