"""
Drops TCP connections as soon as they are accepted, if they are over or begin with something that is not
served.

In a flood thousands of connections wait to be accepted, and most are over when their turn comes. Without this
check each of them would get a protocol, a place and a TLS handshake: ten times the work, during which honest
clients wait.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Set
from typing import Any, Protocol

from twisted.internet.interfaces import IListeningPort

_AT_ONCE = 2048
"""Connections that are dropped before others get their turn."""
_PEEK = getattr(socket, "MSG_PEEK", 0) | getattr(socket, "MSG_DONTWAIT", 0)


class AcceptingSocket(Protocol):
    """A listening socket, as far as it is used here."""

    def accept(self) -> tuple[Any, Any]:
        """Return a connection and its address."""


class CheckedAccepts:
    """
    A listening socket whose `accept` returns no connection that is over, or has sent something that does not
    begin with one of `first_bytes`. A connection that has sent nothing yet is returned.
    """

    def __init__(self, listening: AcceptingSocket, first_bytes: Set[int]) -> None:
        self._listening = listening
        self._first_bytes = first_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)

    def accept(self) -> tuple[Any, Any]:
        """
        Return a connection and its address.

        :raise OSError: there is none, or many in succession were dropped.
        """
        for _ in range(_AT_ONCE):
            connection, address = self._listening.accept()
            try:
                first = connection.recv(1, _PEEK)
            except BlockingIOError:
                return connection, address
            except OSError:
                first = b""
            if first and first[0] in self._first_bytes:
                return connection, address
            connection.close()
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def check_accepts(port: IListeningPort, first_bytes: Set[int]) -> None:
    """Use `CheckedAccepts` for a port of Twisted's reactors. Other ports stay as they are."""
    listening = getattr(port, "socket", None)
    if isinstance(listening, socket.socket) and hasattr(socket, "MSG_DONTWAIT"):
        port.socket = CheckedAccepts(listening, first_bytes)  # type: ignore[attr-defined]
