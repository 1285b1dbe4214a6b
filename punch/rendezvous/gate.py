"""
The door of the TCP port: who may come in, and what their first byte asks for.

0x16 is TLS, 0 and 1 are STUN over TCP (RFC 8489, section 6.2.2), anything else is closed. Until the first
byte there is no TLS state, and until the handshake is over a connection is one of few: `Limits.handshakes` in
all, `Limits.handshakes_per_address` from one address, `Limits.handshake_time` seconds each. When all places
are taken, the connection that has been silent longest makes room, so that whoever holds many connections open
and says nothing locks nobody out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from punch.rendezvous.config import Limits
from punch.rendezvous.limits import Counters, address_key

TLS = 0x16
STUN = (0, 1)

Established = Callable[[], None]
Route = Callable[[IAddress, Established], IProtocol]
"""
Makes the protocol for a connection whose first byte chose it. It calls `Established` when the other side has
proved to be more than a half-open connection.
"""


@dataclass
class _Waiting:
    address: str
    since: float


class Gatekeeper:
    """
    Which connections may stay. Pure: connections are numbers, `now` is monotonic seconds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections = Counters(limits.connections_per_address, limits.connections)
        self._handshakes = Counters(limits.handshakes_per_address, limits.handshakes)
        self._addresses: dict[int, str] = {}
        # Both in the order of arrival, which is that of their deadlines.
        self._silent: OrderedDict[int, _Waiting] = OrderedDict()
        self._speaking: OrderedDict[int, _Waiting] = OrderedDict()
        self._next = 0

    @property
    def waiting(self) -> int:
        """Connections that have not finished their handshake."""
        return len(self._silent) + len(self._speaking)

    def __len__(self) -> int:
        """All connections."""
        return len(self._addresses)

    def is_waiting(self, connection: int) -> bool:
        """Whether its handshake is not over."""
        return connection in self._silent or connection in self._speaking

    def admit(self, host: str, now: float) -> tuple[int | None, int | None]:
        """
        A connection from `host` came.

        :return: its number, or None if it is to be closed; and the number of another one to close for it.
        """
        address = address_key(host)
        if (
            self._handshakes[address] >= self._limits.handshakes_per_address
            or self._connections[address] >= self._limits.connections_per_address
        ):
            return None, None
        evicted = None
        if self._handshakes.total >= self._limits.handshakes:
            evicted = next(iter(self._silent or self._speaking))
            self.closed(evicted)
        if not self._connections.enter(address):
            return None, evicted
        self._handshakes.enter(address)
        self._next += 1
        self._addresses[self._next] = address
        self._silent[self._next] = _Waiting(address, now)
        return self._next, evicted

    def spoke(self, connection: int) -> None:
        """Its first byte came."""
        waiting = self._silent.pop(connection, None)
        if waiting is not None:
            self._speaking[connection] = waiting

    def established(self, connection: int) -> None:
        """Its handshake is over."""
        waiting = self._silent.pop(connection, None) or self._speaking.pop(connection, None)
        if waiting is not None:
            self._handshakes.leave(waiting.address)

    def closed(self, connection: int) -> None:
        """It is no more."""
        self.established(connection)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._connections.leave(address)

    def get_timer(self) -> float | None:
        """When `overdue` will have one."""
        first = [next(iter(queue.values())).since for queue in (self._silent, self._speaking) if queue]
        return min(first) + self._limits.handshake_time if first else None

    def overdue(self, now: float) -> list[int]:
        """The connections whose time is up; they count as closed."""
        late = []
        for queue in (self._silent, self._speaking):
            for connection, waiting in queue.items():
                if waiting.since + self._limits.handshake_time > now:
                    break
                late.append(connection)
        for connection in late:
            self.closed(connection)
        return late


class Gate(Protocol):
    """One connection at the door; past it, the protocol that its first byte chose gets everything."""

    def __init__(self, factory: GateFactory, number: int, address: IAddress) -> None:
        self._gate_factory = factory
        self.number = number
        self._address = address
        self._inner: IProtocol | None = None
        self._unestablished_bytes: int | None = 0
        self._aborted = False

    def connectionMade(self) -> None:
        """A connection that was let in."""
        if ITCPTransport.providedBy(self.transport):
            assert self.transport is not None
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self._gate_factory.came(self)

    def dataReceived(self, data: bytes) -> None:
        """The first byte decides."""
        if self._aborted:
            return
        if self._unestablished_bytes is not None:
            self._unestablished_bytes += len(data)
            if self._unestablished_bytes > self._gate_factory.limits.handshake_bytes:
                self.abort()
                return
        if self._inner is None:
            route = self._gate_factory.routes.get(data[0])
            if route is None:
                self.abort()
                return
            self._gate_factory.keeper.spoke(self.number)
            self._inner = route(self._address, self._established)
            assert self.transport is not None
            self._inner.makeConnection(self.transport)
        self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whoever is behind the door learns it too."""
        self._gate_factory.left(self)
        if self._inner is not None:
            self._inner.connectionLost(reason)

    def abort(self) -> None:
        """Close at once, without a word."""
        self._aborted = True
        if self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()

    def _established(self) -> None:
        self._unestablished_bytes = None
        self._gate_factory.keeper.established(self.number)


class GateFactory(ServerFactory):
    """
    Lets connections in, or not.

    :param routes: what a first byte leads to; bytes without a route are closed.
    :param monotonic: seconds, for the time a handshake may take.
    """

    noisy = False

    def __init__(
        self,
        routes: Mapping[int, Route],
        limits: Limits,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.keeper = Gatekeeper(limits)
        self._clock = clock
        self._monotonic = monotonic
        self._open: dict[int, Gate] = {}
        self._timer: IDelayedCall | None = None
        self._emptied: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> Gate | None:
        """A gate, or None: the transport closes such a connection at once."""
        number, evicted = self.keeper.admit(str(getattr(addr, "host", "")), self._monotonic())
        if evicted is not None:
            self._abort(evicted)
        return None if number is None or addr is None else Gate(self, number, addr)

    def came(self, gate: Gate) -> None:
        """A gate has its transport."""
        self._open[gate.number] = gate
        self._schedule()

    def left(self, gate: Gate) -> None:
        """A gate lost its transport."""
        self._open.pop(gate.number, None)
        self.keeper.closed(gate.number)
        self._check_empty()

    def emptied(self, grace: float) -> Deferred[None]:
        """
        For the end: connections without a handshake are closed at once, those left after `grace` seconds too.

        :return: fires when no connection is left.
        """
        for number, gate in list(self._open.items()):
            if self.keeper.is_waiting(number):
                gate.abort()
        done: Deferred[None] = Deferred()
        self._emptied.append(done)
        late = self._clock.callLater(grace, self._abort_all)

        def in_time(_: None) -> None:
            if late.active():
                late.cancel()

        done.addCallback(in_time)
        self._check_empty()
        return done

    def _abort_all(self) -> None:
        for gate in list(self._open.values()):
            gate.abort()

    def _check_empty(self) -> None:
        if not self._open:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            waiting, self._emptied = self._emptied, []
            for each in waiting:
                each.callback(None)

    @property
    def open_count(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def _schedule(self) -> None:
        # One timer for all. It may come early: the connection it was for may be gone.
        deadline = self.keeper.get_timer()
        if self._timer is None and deadline is not None:
            delay = max(0.0, deadline - self._monotonic())
            self._timer = self._clock.callLater(delay, self._end_overdue)

    def _end_overdue(self) -> None:
        self._timer = None
        for number in self.keeper.overdue(self._monotonic()):
            self._abort(number)
        self._schedule()

    def _abort(self, number: int) -> None:
        gate = self._open.get(number)
        if gate is not None:
            gate.abort()
