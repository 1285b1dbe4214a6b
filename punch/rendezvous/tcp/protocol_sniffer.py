"""
Chooses the protocol of each connection to the TCP port by its first byte, and bounds what connections cost.

0x16 is TLS, 0 and 1 are STUN over TCP (RFC 8489, section 6.2.2); a connection that begins with anything else
is closed. TLS state is created only when a ClientHello is complete and its turn has come, and connections
that have not finished their handshake share a small number of places (`connection_limiter`). The processor
time that a connection costs is measured; a connection that uses more than its share is not read from for a
while (`punch.net.fairness`), so that TCP's flow control slows it down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from punch.net.driver import Driver, Timer
from punch.net.fairness import FairShares, SourceShares
from punch.net.rate_limits import NoRoom
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.tcp.connection_limiter import (
    ConnectionLimiter,
    HandshakeQueue,
    NotTLS,
    SeenHellos,
    first_record,
    random_of,
)

TLS = 0x16
STUN = (0, 1)

_SLICE = 4096
"""Bytes that are handled between two measurements of the processor time."""
_HANDSHAKE_BURST = 0.005
"""Seconds that handshakes may take without a pause for everything else."""
_HELLOS = 16_384
"""ClientHellos that are remembered at least…"""
_HELLO_TIME = 300.0
"""…and for how many seconds."""
_SOURCES = 16_384
"""Sources whose use of the processor is remembered."""


class Established(Protocol):
    """
    A route calls this when the client has finished its handshake or has authenticated itself.

    :param metered: whether the processor time of what the client sends is still measured.
    :param earlier: whether the client is a peer that was registered before.
    :return: None if the connection may stay, else a sentence that says why not.
    """

    def __call__(self, *, metered: bool = True, earlier: bool = False) -> str | None: ...


Route = Callable[[IAddress, Established], IProtocol]
"""Makes the protocol for a connection whose first byte chose it."""


class _Reading:
    """
    A transport that two parties may pause: the chosen protocol and the sniffer. It reads while neither has
    paused it. Everything else is passed on to the real transport.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._wanted = True
        self._held = False
        directlyProvides(self, providedBy(transport))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def pauseProducing(self) -> None:
        """The protocol pauses reading."""
        self._wanted = False
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The protocol resumes reading."""
        self._wanted = True
        if not self._held:
            self._transport.resumeProducing()

    def hold(self) -> None:
        """The sniffer pauses reading."""
        self._held = True
        self._transport.pauseProducing()

    def release(self) -> None:
        """The sniffer resumes reading."""
        self._held = False
        if self._wanted:
            self._transport.resumeProducing()


class ProtocolSniffer(protocol.Protocol):
    """
    One connection. The protocol that its first byte chooses gets all data.

    :param address: the client's address; None if the transport knows it only when data comes (PROXY
        protocol).
    """

    def __init__(self, factory: ProtocolSnifferFactory, number: int, address: IAddress | None) -> None:
        self._factory = factory
        self.number = number
        self._address = address
        self._inner: IProtocol | None = None
        self._reading: _Reading | None = None
        self._unread = bytearray()
        self._hello_waits = False
        self._metered = True
        self._held = Timer(factory.clock)
        self._unestablished_bytes: int | None = 0
        self._over = False

    @property
    def host(self) -> str:
        """The client's IP address; empty if it is not known yet."""
        return _host(self._address)

    def connectionMade(self) -> None:
        """Register the connection with the factory."""
        assert self.transport is not None
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self._reading = _Reading(self.transport)
        self._factory.came(self)

    def dataReceived(self, data: bytes) -> None:
        """Choose a protocol by the first byte, and pass on what comes."""
        if self._over or not data:
            return
        if self._address is None:
            assert self.transport is not None
            self._address = self.transport.getPeer()
            self._factory.seen_from(self, self._address)
            if self._over:
                return
        if self._unestablished_bytes is not None:
            self._unestablished_bytes += len(data)
            if self._unestablished_bytes > self._factory.limits.handshake_bytes:
                self.abort()
                return
        if self._inner is not None and not self._metered:
            self._inner.dataReceived(data)
            return
        self._unread += data
        if self._inner is None:
            self._choose()
        else:
            self._pass_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the factory and the chosen protocol."""
        self._over = True
        self._held.cancel()
        self._factory.left(self)
        # Protocols refer to this object
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connectionLost(reason)

    def abort(self) -> None:
        """Close at once, without sending anything."""
        self._over = True
        if self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()

    def begin(self) -> None:
        """Make the chosen protocol, and give it the data that has come."""
        assert self._address is not None
        self._hello_waits = False
        self._inner = self._factory.routes[self._unread[0]](self._address, self._established)
        self._inner.makeConnection(cast(Any, self._reading))
        # All at once: the caller measures what it costs.
        data = bytes(self._unread)
        self._unread.clear()
        self._inner.dataReceived(data)

    # -- within --

    def _choose(self) -> None:
        if self._hello_waits:
            return
        if self._unread[0] not in self._factory.routes:
            self.abort()
            return
        self._factory.limiter.spoke(self.number)
        if self._unread[0] != TLS:
            self.begin()
            return
        try:
            length = first_record(self._unread)
        except NotTLS:
            self.abort()
            return
        if length is not None:
            self._hello_waits = True
            self._factory.hello(self, random_of(self._unread[:length]))

    def _pass_on(self) -> None:
        """Pass on what has come in slices, until the connection exceeds its share."""
        assert self._inner is not None
        while self._unread and not self._held.running and not self._over:
            size = _SLICE if self._metered else len(self._unread)
            data = bytes(self._unread[:size])
            del self._unread[:size]
            began = self._factory.cpu()
            self._inner.dataReceived(data)
            if self._metered and not self._over:
                wait = self._factory.used(self.number, self._factory.cpu() - began)
                if wait > 0.0:
                    self._hold(wait)

    def _hold(self, seconds: float) -> None:
        assert self._reading is not None
        self._reading.hold()
        self._held.start(seconds, self._released)

    def _released(self) -> None:
        assert self._reading is not None
        self._pass_on()
        if not self._held.running and not self._over:
            self._reading.release()

    def _established(self, *, metered: bool = True, earlier: bool = False) -> str | None:
        self._unestablished_bytes = None
        self._metered = metered
        return self._factory.established(self.number, self._address, earlier=earlier)


class ProtocolSnifferFactory(ServerFactory):
    """
    Accepts connections within the limits.

    :param routes: the route of each first byte; a connection that begins with another byte is closed.
    :param monotonic: monotonic seconds.
    :param cpu: processor seconds that this thread has used.
    :param limit_hit: called with a host and the name of a limit that it has hit.
    """

    noisy = False

    def __init__(
        self,
        routes: Mapping[int, Route],
        limits: RendezvousLimits,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        cpu: Callable[[], float] = lambda: 0.0,
        limit_hit: Callable[[str, str], None] = lambda host, limit: None,
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.limiter = ConnectionLimiter(limits)
        self.clock = clock
        self._limit_hit = limit_hit
        self.cpu = cpu
        self._monotonic = monotonic
        self._queue = HandshakeQueue(limits.handshake_share, _HANDSHAKE_BURST)
        self._hellos = SeenHellos(_HELLOS, _HELLO_TIME)
        self._use = SourceShares(limits.cpu_share_per_address, limits.cpu_burst_per_address, _SOURCES)
        self._use_of_all = FairShares(limits.cpu_share, limits.cpu_burst, 1)
        self._open: dict[int, ProtocolSniffer] = {}
        self._ended = 0
        self._driver = Driver(clock, monotonic, self._step, lambda: (self.limiter, self._queue))
        self._empty_waiters: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> ProtocolSniffer | None:
        """A protocol for a connection, or None to have it closed at once."""
        return None if addr is None else self._admit(addr)

    def behind_balancer(self) -> ServerFactory:
        """
        A factory for connections whose transport reads the client's address from a header (PROXY protocol).
        """
        return _Proxied(self._admit)

    def _admit(self, addr: IAddress | None) -> ProtocolSniffer | None:
        host = None if addr is None else _host(addr)
        number, evicted = self.limiter.admit(host, self._monotonic())
        if number is None:
            self._limit_hit(host or "", "connections")
        self._make_room(evicted, "handshakes")
        return None if number is None else ProtocolSniffer(self, number, addr)

    # -- called by sniffers --

    def came(self, sniffer: ProtocolSniffer) -> None:
        """A connection is open."""
        self._open[sniffer.number] = sniffer
        self._driver.run()

    def left(self, sniffer: ProtocolSniffer) -> None:
        """A connection is gone."""
        self._ended += self._open.pop(sniffer.number, None) is not None
        self._queue.remove(sniffer.number)
        self.limiter.closed(sniffer.number)
        self._check_empty()

    def seen_from(self, sniffer: ProtocolSniffer, address: IAddress) -> None:
        """The address of a connection is known now."""
        stays, evicted = self.limiter.seen_from(sniffer.number, _host(address))
        self._make_room(evicted, "handshakes")
        if not stays:
            sniffer.abort()

    def hello(self, sniffer: ProtocolSniffer, random: bytes) -> None:
        """The ClientHello of a connection is complete, with these random bytes."""
        if not self._hellos.is_new(random, self._monotonic()):
            self._limit_hit(sniffer.host, "replayed-hello")
            sniffer.abort()
            return
        self._queue.add(sniffer.number, self.limiter.source(sniffer.number))
        self._driver.run()

    def used(self, number: int, seconds: float) -> float:
        """Charge a connection for processor time; return the seconds that it is not to be read from."""
        now = self._monotonic()
        source = self.limiter.source(number)
        own = self._use.charge(source, number, seconds, now)
        wait = max(own, self._use_of_all.charge(None, source[0], seconds, now))
        if wait > 0.0:
            self._limit_hit(self._open[number].host, "processor")
        return wait

    def established(self, number: int, address: IAddress | None, *, earlier: bool = False) -> str | None:
        """
        The handshake of a connection is over. Return None if it may stay, else a sentence that says why not.
        """
        try:
            stays, evicted = self.limiter.established(number, self._monotonic(), earlier=earlier)
        except NoRoom as no_room:
            return self._no_room(no_room, address)
        self._make_room(evicted, "connections")
        return None if stays else "The connection is closed."

    # -- shutting down --

    def close_connections(self, grace: float) -> Deferred[None]:
        """
        Close connections that have not finished their handshake at once, and all others after `grace`
        seconds.

        :return: fires when no connection is left.
        """
        for number, sniffer in list(self._open.items()):
            if self.limiter.is_waiting(number):
                sniffer.abort()
        done: Deferred[None] = Deferred()
        self._empty_waiters.append(done)
        late = Timer(self.clock)
        late.start(grace, self._abort_all)
        done.addCallback(lambda _: late.cancel())
        self._check_empty()
        return done

    def _abort_all(self) -> None:
        for sniffer in list(self._open.values()):
            sniffer.abort()

    def _check_empty(self) -> None:
        if not self._open:
            self._driver.run()
            waiting, self._empty_waiters = self._empty_waiters, []
            for each in waiting:
                each.callback(None)

    @property
    def open_count(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def ended_count(self) -> int:
        """Connections that have ended since the start."""
        return self._ended

    # -- within --

    def _step(self, now: float) -> bool:
        """Close connections whose handshake took too long, and begin the next handshake."""
        while (overdue := self.limiter.next_event()) is not None:
            self._evict(overdue)
        # Not `now`: the handshake before this one has taken time
        number = self._queue.next(self._driver.now())
        if number is None:
            return False
        sniffer = self._open[number]
        stays, evicted = self.limiter.answered(number)
        self._make_room(evicted, "handshakes")
        if stays:
            began, cpu = self._driver.now(), self.cpu()
            sniffer.begin()
            now = self._driver.now()
            self._queue.spent(self.cpu() - cpu, now - began, now)
        else:
            sniffer.abort()
        return True

    def _no_room(self, no_room: NoRoom, address: IAddress | None) -> str:
        """Log the limit that a connection has hit; return a sentence about it for the client."""
        if no_room.shared:
            self._limit_hit(_host(address), "connections")
            return (
                "This rendezvous has as many connections as it takes; try again later. Its operator can "
                "raise --connections, and the number of files that the system allows it to open."
            )
        self._limit_hit(_host(address), "connections-per-address")
        return (
            f"{self.limits.connections_per_address} connections are open from your address "
            f"({_host(address)}), or several times as many from its network, which is all that this "
            "rendezvous takes; try again later. Its operator can raise --connections-per-address, and needs "
            "--control haproxy:tcp:PORT behind a load balancer."
        )

    def _make_room(self, number: int | None, limit: str) -> None:
        """Close a connection that makes room for another one."""
        sniffer = None if number is None else self._open.get(number)
        if sniffer is not None:
            self._limit_hit(sniffer.host, limit)
            self._evict(number)

    def _evict(self, number: int | None) -> None:
        sniffer = None if number is None else self._open.get(number)
        if sniffer is not None:
            self._queue.remove(sniffer.number)
            sniffer.abort()


class _Proxied(ServerFactory):
    """For an endpoint of the PROXY protocol, whose address is that of the load balancer."""

    noisy = False

    def __init__(self, admit: Callable[[None], ProtocolSniffer | None]) -> None:
        self._admit = admit

    def buildProtocol(self, addr: IAddress | None) -> protocol.Protocol:
        """A sniffer that asks its transport for the address when data comes."""
        return self._admit(None) or RefusedConnection()


class RefusedConnection(protocol.Protocol):
    """Closes its connection at once: for clients that ask for a protocol that is not served."""

    def connectionMade(self) -> None:
        """Close it."""
        cast(ITCPTransport, self.transport).abortConnection()


def _host(address: IAddress | None) -> str:
    return str(getattr(address, "host", ""))
