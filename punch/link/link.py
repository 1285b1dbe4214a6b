"""
The link as Twisted programs use it: the shell around `LinkCore` that owns its timers and delivers its events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from punch.identity import PeerID
from punch.link.core import LinkCore
from punch.link.events import (
    CloseCode,
    ConnectionIDAdded,
    ConnectionIDRemoved,
    ControlFrame,
    Datagram,
    Event,
    LinkClosed,
    LinkClosedError,
    LinkError,
    LinkRole,
    LinkStatus,
    PingAnswered,
    Proved,
    RefusalCode,
    StreamAccepted,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamSendable,
)
from punch.link.multiplexer import StreamMultiplexer
from punch.link.services import LEASE, Lease, Services
from punch.link.transport import LinkAddress, StreamTransport
from punch.net.driver import Driver, Timer

IDLE_TIME = 10.0
"""Seconds after which a link without streams and leases is closed."""
SERVICE_WAIT = 0.5
"""
Seconds from the proof of a link for which streams wait for a service that is not there yet: a program may
begin to serve it when it hears of the link. Later such streams are refused at once.
"""


class Link:
    """
    A link to one peer. It is closed when for `IDLE_TIME` neither side has a stream or a lease on it.

    :param services: what answers the streams that the other side opens.
    :param guest: whether the other side may open only services that take calls (`Services.answer`).
    :param clock: for timers; `monotonic` for the time, in seconds.
    :param status: returns the state that the node told last; None until the link has been connected.
    :param send: sends datagrams to the other side, on whatever path is best now. An error is a lost datagram.
    :param room: returns how many bytes of streams the path takes now; None for any number.
    :param wait_for_room: called when the path takes no more; `room_made` is to be called when it takes some
        again.
    :param on_control: takes the type and payload of each control frame for a layer above.
    :param on_connection_id: called when a connection ID is in use from now on (True) or no longer (False), so
        that a socket can route by it.
    """

    _log = Logger()

    def __init__(
        self,
        core: LinkCore,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        send: Callable[[Sequence[bytes]], None],
        room: Callable[[], int | None] = lambda: None,
        wait_for_room: Callable[[], None] = lambda: None,
        services: Services | None = None,
        guest: bool = False,
        status: Callable[[], LinkStatus | None] = lambda: None,
        on_control: Callable[[int, bytes], object] = lambda frame_type, payload: None,
        on_connection_id: Callable[[bytes, bool], object] = lambda connection_id, added: None,
    ) -> None:
        self.core = core
        self.remote: PeerID = core.remote
        self.local: PeerID = core.local
        self.role: LinkRole = core.role
        self.closed: LinkClosed | None = None
        self.on_datagram: Callable[[bytes], None] | None = None
        """Called with every unreliable message."""
        self._clock = clock
        self._driver = Driver(clock, monotonic, self._step, lambda: (core,))
        self._send = send
        self._room = room
        self._wait_for_room = wait_for_room
        self._streams: dict[int, StreamTransport] = {}
        self._services = Services() if services is None else services
        self._guest = guest
        self._status = status
        self._on_control = on_control
        self._on_connection_id = on_connection_id
        self._proved = False
        self._service_wait = Timer(clock)
        self._leases: set[Lease] = set()
        self._lease_stream: Protocol | None = None
        self._idle = Timer(clock)
        self._proved_waiters: list[Deferred[None]] = []
        self._closed_waiters: list[Deferred[LinkClosed]] = []
        self._answer_waiters: list[Deferred[bool]] = []
        self._delivery_waiters: list[Deferred[bool]] = []
        self._flush_scheduled = False
        self._soon: list[Callable[[], None]] = []

    # What the layer above does

    def start(self, wait: float = 0.0) -> None:
        """Begin to secure the link, once a path exists; for `wait` see `LinkCore.start`."""
        self.core.start(self._driver.now(), wait)
        self.schedule_flush()

    def start_early(self) -> list[bytes]:
        """Return what to send before a path exists (`LinkCore.start_early`)."""
        datagrams = self.core.start_early(self._driver.now())
        self.schedule_flush()
        return datagrams

    def when_proved(self) -> Deferred[None]:
        """
        Fires when the other side has proved who it is; fails with `LinkClosedError` if the link ends before.
        """
        if self._proved:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        if self.closed is not None:
            waiter.errback(LinkClosedError(self.closed))
        else:
            self._proved_waiters.append(waiter)
        return waiter

    def when_closed(self) -> Deferred[LinkClosed]:
        """Fires when the link is over. It never fails."""
        if self.closed is not None:
            return succeed(self.closed)
        waiter: Deferred[LinkClosed] = Deferred()
        self._closed_waiters.append(waiter)
        return waiter

    def receive(self, datagrams: Sequence[bytes], initial_allowed: bool = True) -> None:
        """
        Take all datagrams that were read in this turn; `initial_allowed` as in `LinkCore.receive_datagrams`.
        """
        self.core.receive_datagrams(datagrams, self._driver.now(), initial_allowed=initial_allowed)
        self._driver.run()

    def room_made(self) -> None:
        """The path takes data of streams again: send what waits."""
        self._driver.run()

    def path_changed(self) -> None:
        """The link takes another path, or has a path again: ask the other side for an answer at once."""
        self.core.ping(self._driver.now())
        self.schedule_flush()

    def answers(self, seconds: float) -> Deferred[bool]:
        """
        Ask the other side whether it is still there.

        :param seconds: how long it has to answer.
        :return: fires with whether it did; with False at once when the link is over.
        """
        if self.closed is not None:
            return succeed(False)
        answered = self._wait(self._answer_waiters, seconds)
        self.path_changed()
        return answered

    def when_delivered(self, seconds: float) -> Deferred[bool]:
        """
        Wait until the other side has acknowledged all that was written on streams.

        :return: fires with True then, with False when the link is over or after so many seconds. It never
            fails.
        """
        if self.closed is not None:
            return succeed(False)
        delivered = self._wait(self._delivery_waiters, seconds)
        self.schedule_flush()
        return delivered

    def connect(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Open a stream to a service of the other side.

        The protocol is connected at once, so that what it writes first costs no round trip. The result is
        known one round trip later.

        :param factory: builds the protocol; its `buildProtocol` is given a `LinkAddress`, a `PunchAddress`.
        :return: fires with the protocol when the service has accepted the stream. It fails with
            `ServiceRefused` if it was refused, with `LinkError` if the link is not proved, is over, or has
            too many streams, and else with the reason that the protocol's `connectionLost` is given. If it is
            cancelled, the stream is given up.
        :raise ValueError: the name is empty or longer than 255 bytes.
        """
        try:
            stream_id = self.carrier.open_stream(service)
        except LinkError as error:
            return fail(error)
        stream = self._streams[stream_id] = StreamTransport(self, stream_id, service)
        try:
            protocol = factory.buildProtocol(stream.getPeer())
            if protocol is None:
                raise LinkError("The factory built no protocol.")
        except Exception:  # of any kind, as the factory is the application's; the caller is given it
            stream.abortConnection()
            return fail()
        self._check_idle()
        self.schedule_flush()
        return stream.open(protocol)

    def hold(self) -> Lease:
        """
        Keep the link open until the lease is released, also while no stream is open.

        The other side learns of it from a stream to the service `LEASE`, which is open while there are
        leases.
        """
        lease = Lease(self._release)
        self._leases.add(lease)
        self._check_leases()
        return lease

    def send_datagram(self, data: bytes) -> None:
        """
        Send an unreliable message of at most `MAX_DATAGRAM` bytes.

        :raise LinkError: the link is not proved, or over.
        :raise ValueError: it is too long.
        """
        self.carrier.send_datagram(data)
        self.schedule_flush()

    def send_control(self, frame_type: int, payload: bytes) -> None:
        """Send a control frame of a layer above; see `StreamMultiplexer.send_control`."""
        self.carrier.send_control(frame_type, payload)
        self.schedule_flush()

    def try_send_control(self, frame_type: int, payload: bytes) -> None:
        """
        The same, but do nothing if the link is over: for frames that are of no use then. `when_closed` tells
        when that is.
        """
        with suppress(LinkError):
            self.send_control(frame_type, payload)

    def close(self, code: CloseCode = CloseCode.OK, reason: str = "") -> None:
        """End the link in good order; `when_closed` fires within a second."""
        self.core.close(code, reason, self._driver.now())
        self.schedule_flush()

    def fail(self, code: CloseCode, reason: str) -> None:
        """End the link at once, for example because no path is left."""
        self.core.fail(code, reason, self._driver.now())
        self.schedule_flush()

    @property
    def post_quantum(self) -> bool:
        """
        Whether the keys were agreed with X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem): what is recorded today
        can't be read with a quantum computer later. False before the link is proved.
        """
        return self.core.post_quantum

    @property
    def status(self) -> LinkStatus | None:
        """
        Its path, and whether it has one, as the events of the node told last; None until it is connected.
        """
        status, rtt = self._status(), self.rtt
        if status is None or rtt is None:
            return status
        return replace(status, path=replace(status.path, rtt=rtt))

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds, once known."""
        return self.core.rtt

    @property
    def stream_count(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def awaits_answer(self) -> bool:
        """Whether something was sent that is to be acknowledged, and was not yet; False before the proof."""
        return self.core.awaits_answer

    @property
    def losses(self) -> int:
        """Grows when packets are declared lost, or when nothing is acknowledged for a probe timeout."""
        return self.core.losses

    @property
    def proved(self) -> bool:
        """The other side has proved who it is."""
        return self._proved

    # What its streams do

    @property
    def carrier(self) -> StreamMultiplexer:
        """
        What carries the bytes of streams.

        :raise LinkError: the link has not been proved.
        """
        return self.core.streams

    def address(self, peer: PeerID, service: str) -> LinkAddress:
        """Return the address of one end of a stream."""
        return LinkAddress(peer, service, self)

    def schedule_flush(self) -> None:
        """
        Deliver events and send at the end of this turn: all that is written until then goes out together.
        """
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._clock.callLater(0, self._turn)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call a function at the end of this turn, before sending."""
        self._soon.append(call)
        self.schedule_flush()

    def stream_over(self, stream_id: int) -> None:
        """A stream has ended, and its protocol is told so."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._services.forget(stream)
            self._check_idle()

    # Inside

    def _turn(self) -> None:
        self._flush_scheduled = False
        self._driver.run()

    def _step(self, now: float) -> bool:
        """Deliver events and send."""
        self._deliver()
        self._transmit(now)
        if self._delivery_waiters and self.core.delivered():
            self._tell(self._delivery_waiters, True)
        # Sending makes room: producers that were paused go on, and what they write goes out in the next turn
        self._deliver()
        return False

    def _transmit(self, now: float) -> None:
        datagrams = self.core.datagrams_to_send(now, self._room())
        if datagrams:
            self._send(datagrams)
        if self.core.waits_for_room():
            self._wait_for_room()

    def _deliver(self) -> None:
        while True:
            while (event := self.core.next_event()) is not None:
                self._handle(event)
            if not self._soon:
                break
            soon, self._soon = self._soon, []
            for call in soon:
                call()

    def _handle(self, event: Event) -> None:
        if isinstance(event, StreamData):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.data_received(event.data, event.fin)
            else:
                self.carrier.consumed(event.stream_id, len(event.data))
        elif isinstance(event, StreamSendable):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.sendable()
        elif isinstance(event, StreamOpened):
            self._stream_opened(event.stream_id, event.name)
        elif isinstance(event, StreamReset):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.stream_reset(event.code)
        elif isinstance(event, StreamAccepted):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.accepted()
        elif isinstance(event, Datagram):
            if self.on_datagram is not None:
                self._guard(self.on_datagram, event.data)
        elif isinstance(event, ControlFrame):
            self._guard(self._on_control, event.frame_type, event.payload)
        elif isinstance(event, PingAnswered):
            self._tell(self._answer_waiters, True)
        elif isinstance(event, (ConnectionIDAdded, ConnectionIDRemoved)):
            self._on_connection_id(event.connection_id, isinstance(event, ConnectionIDAdded))
        elif isinstance(event, Proved):
            self._proved = True
            self._service_wait.start(SERVICE_WAIT, self._refuse_waiting)
            self._check_leases()
            waiters, self._proved_waiters = self._proved_waiters, []
            for waiter in waiters:
                waiter.callback(None)
        else:
            self._link_closed(event)

    def _stream_opened(self, stream_id: int, name: str) -> None:
        stream = self._streams[stream_id] = StreamTransport(self, stream_id, name)
        self._check_idle()
        if self._services.answer(stream, self._guest):
            return
        if self._service_wait.running:
            self._services.wait(stream, self._guest)
        else:
            stream.refuse(RefusalCode.NO_SERVICE)

    def _release(self, lease: Lease) -> None:
        self._leases.discard(lease)
        self._check_leases()

    def _check_leases(self) -> None:
        if self._leases and self._lease_stream is None and self._proved and self.closed is None:
            stream = self._lease_stream = Protocol()
            # Older peers refuse it, but they do not close idle links either
            self.connect(LEASE, Factory.forProtocol(lambda: stream)).addErrback(lambda _: None)
        elif not self._leases and self._lease_stream is not None:
            stream, self._lease_stream = self._lease_stream, None
            if stream.transport is not None:
                stream.transport.loseConnection()
        self._check_idle()

    def _check_idle(self) -> None:
        idle = self._proved and self.closed is None and not self._streams and not self._leases
        if not idle:
            self._idle.cancel()
        elif not self._idle.running:
            self._idle.start(IDLE_TIME, self.close, CloseCode.OK, "Nothing uses this link.")

    def _refuse_waiting(self) -> None:
        for stream in list(self._streams.values()):
            if stream.protocol is None:
                stream.refuse(RefusalCode.NO_SERVICE)

    def _wait(self, waiters: list[Deferred[bool]], seconds: float) -> Deferred[bool]:
        """Keep a waiter in a list until it fires; return it. It fires with False after so many seconds."""
        waiter: Deferred[bool] = Deferred()
        waiters.append(waiter)
        waiter.addTimeout(seconds, self._clock, onTimeoutCancel=lambda result, timeout: False)

        def leave(result: bool) -> bool:
            if waiter in waiters:
                waiters.remove(waiter)
            return result

        return waiter.addBoth(leave)

    def _tell(self, waiters: list[Deferred[bool]], result: bool) -> None:
        for waiter in list(waiters):
            # The callback of one may have cancelled others
            if not waiter.called:
                waiter.callback(result)

    def _guard(self, call: Callable[..., object], *args: object) -> None:
        """Call the application's code. Exceptions of any kind are logged, and the link goes on."""
        try:
            call(*args)
        except Exception:
            self._log.failure("The application of the link to {peer} failed.", peer=self.remote)

    def _link_closed(self, closed: LinkClosed) -> None:
        self.closed = closed
        # The other side is told first, because the callbacks take the path away
        self._transmit(self._driver.now())
        self._service_wait.cancel()
        self._check_idle()
        for stream in list(self._streams.values()):
            stream.link_closed(closed)
        proved, self._proved_waiters = self._proved_waiters, []
        for waiter in proved:
            waiter.errback(LinkClosedError(closed))
        done, self._closed_waiters = self._closed_waiters, []
        for waiting in done:
            waiting.callback(closed)
        self._tell(self._answer_waiters, False)
        self._tell(self._delivery_waiters, False)
