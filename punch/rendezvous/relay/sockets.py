"""The sockets behind relayed addresses."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorUDP

from punch.net.segmentation import allow_fragments
from punch.net.udp import BatchedSocket, DatagramSocket, bound_socket, open_portable
from punch.net.udp import Receiver as SocketReceiver
from punch.turn.server.allocation import Allocation
from punch.wire.address import Address

_RECEIVE_BUFFER = 1024 * 1024
"""Bytes asked of the kernel, which uses them only for datagrams that wait."""


class Receiver(Protocol):
    """Takes the datagrams that arrive at relayed addresses. Its methods raise nothing."""

    def relayed_received(self, allocation: Allocation, datagrams: Sequence[bytes], peer: Address) -> None:
        """Take datagrams that a peer sent to a relayed address."""

    def flush(self) -> None:
        """All datagrams of this turn of the reactor have been handed over."""


class RelayedSocket:
    """
    A socket that is bound to a relayed address.

    :ivar allocation: what arrives is for this allocation; None: it is dropped.
    """

    __slots__ = ("_receiver", "_socket", "allocation")

    def __init__(self, receiver: Receiver, opened: Callable[[SocketReceiver], DatagramSocket]) -> None:
        """
        :param opened: opens the socket.
        :raise OSError: it can't be opened.
        :raise twisted.internet.error.CannotListenError: the same.
        """
        self.allocation: Allocation | None = None
        self._receiver = receiver
        self._socket = opened(self._received)

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Send datagrams to a peer. What can't be sent is lost."""
        self._socket.send(datagrams, peer)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _received(self, datagrams: Sequence[bytes], peer: Address, _: DatagramSocket) -> None:
        if self.allocation is not None:
            self._receiver.relayed_received(self.allocation, datagrams, peer)


class RelayedPorts:
    """
    Opens sockets for allocations.

    :param reactor: provides `IReactorUDP`; if it watches descriptors, the sockets are batched.
    """

    def __init__(self, reactor: IReactorUDP, receiver: Receiver) -> None:
        self._reactor = reactor
        self._receiver = receiver
        self._watching = IReactorFDSet(reactor, None) if hasattr(socket.socket, "recvmsg_into") else None

    def open(self, host: str, port: int) -> RelayedSocket | None:
        """A socket bound to `host` and `port`, or None: it is in use, or there are no descriptors left."""

        def opened(receiver: SocketReceiver) -> DatagramSocket:
            if self._watching is None:
                return open_portable(self._reactor, host, port, receiver, after=self._receiver.flush)
            sock = bound_socket(host, port, _RECEIVE_BUFFER)
            allow_fragments(sock, ":" in host)
            # What waited for room in the kernel would only arrive late.
            return BatchedSocket(self._watching, sock, receiver, queue=0, after=self._receiver.flush)

        try:
            return RelayedSocket(self._receiver, opened)
        except (OSError, CannotListenError):
            return None


def is_own_address(host: str) -> bool:
    """Whether an address is one of this machine's: the system would use it as the source to reach it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0]) == host
    except OSError:
        return False
