"""
Which of the connections that wait are passed on, and in which order.

In a flood thousands of connections wait, and most are over when their turn comes. Each one that is passed
on gets a protocol, a place and a TLS handshake, a hundred times the work of accepting it, during which honest
clients wait. So connections are taken from the system first, which is quick, and wait here: those that are
over are dropped, sources take turns (`SourceTurns`), and only some are passed on at a time.

When all places are taken by different networks, connections from networks that had a turn lately are closed
for others, so a flood from more networks than there are places keeps out nobody from elsewhere. If no network
had a turn lately, as after a restart of the service, the rest waits in the system's queue, and nothing is
closed.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Hashable, Set
from typing import Any, Generic, Protocol, TypeVar, cast

from twisted.internet.interfaces import IListeningPort

from punch.net.driver import Timer
from punch.net.fairness import SourceTurns
from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.sources import Shares, Source, source_of

PASSED_ON = 16
"""Connections that are passed on in succession, before what has come on others is read."""
_MOST_WAITING = 256
"""Connections that wait; beyond, the oldest one of the source that has most is closed."""
_SHARE = _MOST_WAITING // 2
"""Of these, those of one address."""
_LATELY = 10.0
"""Seconds for which it counts that a network had a turn."""
_AT_ONCE = 512
"""Connections that are taken from the system in succession."""
_PEEK = getattr(socket, "MSG_PEEK", 0) | getattr(socket, "MSG_DONTWAIT", 0)

K = TypeVar("K", bound=Hashable)


class WaitingConnections(Generic[K]):
    """Connections that have been accepted and wait to be passed on. Pure."""

    def __init__(self) -> None:
        self._table: SourceTable[K] = SourceTable(_MOST_WAITING, Shares.growing(_SHARE))
        self._turns: SourceTurns[K] = SourceTurns()

    def __len__(self) -> int:
        """The number of connections that wait."""
        return len(self._turns)

    def add(self, source: Source, connection: K, now: float) -> K | None:
        """
        Add a connection that waits.

        :param now: monotonic seconds.
        :return: the one that is to be closed for it, which may be this one.
        :raise NoRoom: it is to be added later: all places are taken, by networks of which none had a turn
            lately.
        """
        table = self._table
        if len(table) >= table.capacity and table.has_most(source):
            # In a flood, this is what happens most of the time.
            leaving = table.oldest(source)
            assert leaving is not None
            self._turns.add(source, connection)
            self._turns.remove(leaving)
            table.replace(leaving, connection)
            return leaving
        try:
            leaving = table.room(source)
            if leaving is not None:
                # The table names the newest of a source, which may be the honest one in a flood.
                leaving = table.oldest(table.source(leaving))
        except NoRoom:
            leaving = table.oldest(source)
            if leaving is None:
                leaving = self._turns.latest()
                latest = self._turns.last_turn(table.source(leaving))
                if latest <= now - _LATELY:
                    raise
                if latest <= self._turns.last_turn(source):
                    return connection
        if leaving is not None:
            self._turns.remove(leaving)
            table.leave(leaving)
        table.enter(source, connection)
        self._turns.add(source, connection)
        return leaving

    def pop(self, now: float) -> K:
        """
        Remove and return the one whose turn it is.

        :param now: monotonic seconds.
        :raise IndexError: none waits.
        """
        connection = self._turns.pop(now)
        self._table.leave(connection)
        return connection


class AcceptingSocket(Protocol):
    """A listening socket, as far as it is used here."""

    def accept(self) -> tuple[Any, Any]:
        """Return a connection and its address."""

    def close(self) -> None:
        """Listen no more."""


class AcceptsInTurn:
    """
    A listening socket whose `accept` returns no connection that is over, or has sent something that does not
    begin with one of `first_bytes`, and others in turn. A connection that has sent nothing yet is returned.
    """

    def __init__(
        self,
        listening: AcceptingSocket,
        first_bytes: Set[int],
        monotonic: Callable[[], float],
        limit_hit: Callable[[str, str], None],
    ) -> None:
        self._listening = listening
        self._first_bytes = first_bytes
        self._monotonic = monotonic
        self._limit_hit = limit_hit
        self._waiting: WaitingConnections[Any] = WaitingConnections()
        self._addresses: dict[Any, Any] = {}
        self._kept: tuple[Any, Any] | None = None
        """A connection for which there was no place, and its address."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)

    def __len__(self) -> int:
        """The number of connections that have been taken and not returned yet."""
        return len(self._waiting) + (self._kept is not None)

    def take(self) -> None:
        """Take the connections that the system has, as long as there are places for them."""
        now = self._monotonic()
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._next()
            except OSError:
                # None is left. Any other error comes again in Twisted's own call of `accept`,
                # which handles it.
                return
            if not self._is_of_use(connection):
                connection.close()
                continue
            try:
                leaving = self._waiting.add(source_of(_host(address)), connection, now)
            except NoRoom:
                self._kept = connection, address
                return
            self._addresses[connection] = address
            if leaving is not None:
                self._limit_hit(_host(self._addresses.pop(leaving)), "connections-waiting")
                leaving.close()

    def accept(self) -> tuple[Any, Any]:
        """
        Return a connection and its address.

        :raise OSError: there is none, or many in succession were dropped.
        """
        now = self._monotonic()
        while len(self._waiting):
            connection = self._waiting.pop(now)
            address = self._addresses.pop(connection)
            if self._is_of_use(connection):
                return connection, address
            connection.close()
        for _ in range(_AT_ONCE):
            connection, address = self._next()
            if self._is_of_use(connection):
                return connection, address
            connection.close()
        # Twisted's port looks at the number.
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))

    def close(self) -> None:
        """Close the socket and what waits."""
        waiting = [*self._addresses, *([] if self._kept is None else [self._kept[0]])]
        self._waiting, self._addresses, self._kept = WaitingConnections(), {}, None
        for connection in waiting:
            connection.close()
        self._listening.close()

    def _next(self) -> tuple[Any, Any]:
        """:raise OSError: there is none."""
        if self._kept is None:
            return self._listening.accept()
        kept, self._kept = self._kept, None
        return kept

    def _is_of_use(self, connection: Any) -> bool:
        try:
            first = connection.recv(1, _PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(first) and first[0] in self._first_bytes


def _host(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else ""


class _Port(Protocol):
    """A port of Twisted's reactors, as far as it is used here."""

    socket: Any
    reactor: Any
    numberAccepts: int
    """How many connections it accepts in succession. In a flood, it accepts more and more."""
    doRead: Callable[[], object]


def accept_in_turn(
    port: IListeningPort,
    first_bytes: Set[int],
    monotonic: Callable[[], float],
    limit_hit: Callable[[str, str], None],
) -> None:
    """
    Use `AcceptsInTurn` for a port of Twisted's reactors. Other ports stay as they are.

    :param monotonic: monotonic seconds.
    :param limit_hit: called with the host of a connection that was closed before its turn came, and the name
        of the limit.
    """
    listening = getattr(port, "socket", None)
    if not isinstance(listening, socket.socket) or not hasattr(socket, "MSG_DONTWAIT"):
        return
    accepting = cast(_Port, port)
    waiting = accepting.socket = AcceptsInTurn(listening, first_bytes, monotonic, limit_hit)
    accept_some = accepting.doRead
    again = Timer(accepting.reactor)

    def do_read() -> object:
        if again.running:
            return None
        waiting.take()
        accepting.numberAccepts = PASSED_ON
        result = accept_some()
        if len(waiting):
            # The system may not say again that the port is readable
            again.start(0.0, do_read_again)
        return result

    def do_read_again() -> None:
        # Nothing waits when the port is closed.
        if len(waiting):
            do_read()

    accepting.doRead = do_read
