"""
Which of the connections that wait to be accepted are, and in which order.

In a flood thousands of connections wait, and most are over when their turn comes. Each one that is accepted
gets a protocol, a place and a TLS handshake, a hundred times the work of accepting it, during which honest
clients wait. So connections are taken from the system first, which is quick, and wait here: those that are
over are dropped, sources take turns (`SourceTurns`), and only some are passed on at a time.
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
from punch.net.rate_limits import NoRoom, Shares, Source, SourceTable, source_of

PASSED_ON = 64
"""Connections that are passed on in succession, before what has come on others is read."""
_MOST_WAITING = 256
"""Connections that wait; beyond, the oldest one of the source that has most is closed."""
_SHARE = _MOST_WAITING // 2
"""Of these, those of one address."""
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
        """How many wait."""
        return len(self._turns)

    def add(self, source: Source, connection: K) -> K | None:
        """One more waits. Return the one that is to be closed for it, which may be this one."""
        table = self._table
        try:
            leaving = table.room(source)
            if leaving is not None:
                # The table names the newest of a source, which may be the honest one in a flood.
                leaving = table.oldest(table.source(leaving))
        except NoRoom:
            leaving = table.oldest(source)
            if leaving is None:
                return connection
        if leaving is not None:
            table.leave(leaving)
            self._turns.remove(leaving)
        table.enter(source, connection)
        self._turns.add(source, connection)
        return leaving

    def pop(self) -> K:
        """
        Remove and return the one whose turn it is.

        :raise KeyError: none waits.
        """
        connection = self._turns.pop()
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

    def __init__(self, listening: AcceptingSocket, first_bytes: Set[int]) -> None:
        self._listening = listening
        self._first_bytes = first_bytes
        self._waiting: WaitingConnections[Any] = WaitingConnections()
        self._addresses: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)

    def __len__(self) -> int:
        """How many connections wait here."""
        return len(self._waiting)

    def take(self) -> None:
        """Take the connections that the system has."""
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except OSError:
                return  # If it is more than that there are no more, `accept` comes upon it, too.
            if not self._is_of_use(connection):
                connection.close()
                continue
            host = address[0] if isinstance(address, tuple) else ""
            self._addresses[connection] = address
            leaving = self._waiting.add(source_of(host), connection)
            if leaving is not None:
                del self._addresses[leaving]
                leaving.close()

    def accept(self) -> tuple[Any, Any]:
        """
        Return a connection and its address.

        :raise OSError: there is none, or many in succession were dropped.
        """
        while len(self._waiting):
            connection = self._waiting.pop()
            address = self._addresses.pop(connection)
            if self._is_of_use(connection):
                return connection, address
            connection.close()
        for _ in range(_AT_ONCE):
            connection, address = self._listening.accept()
            if self._is_of_use(connection):
                return connection, address
            connection.close()
        # Twisted's port looks at the number.
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))

    def close(self) -> None:
        """Close the socket and what waits."""
        while len(self._waiting):
            self._waiting.pop().close()
        self._addresses.clear()
        self._listening.close()

    def _is_of_use(self, connection: Any) -> bool:
        try:
            first = connection.recv(1, _PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(first) and first[0] in self._first_bytes


class _Port(Protocol):
    """A port of Twisted's reactors, as far as it is used here."""

    socket: Any
    reactor: Any
    numberAccepts: int
    """How many connections it accepts in succession. It makes that more and more in a flood."""
    doRead: Callable[[], object]


def accept_in_turn(port: IListeningPort, first_bytes: Set[int]) -> None:
    """Use `AcceptsInTurn` for a port of Twisted's reactors. Other ports stay as they are."""
    listening = getattr(port, "socket", None)
    if not isinstance(listening, socket.socket) or not hasattr(socket, "MSG_DONTWAIT"):
        return
    accepting = cast(_Port, port)
    waiting = accepting.socket = AcceptsInTurn(listening, first_bytes)
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
