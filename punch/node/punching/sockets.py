"""The sockets that attempts open for one link."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from punch.net.udp.sockets import DatagramSocket
from punch.node.ice_transport import IceTransport
from punch.node.nat_profiles import TransactionSockets
from punch.node.network import Network
from punch.wire.address import Address


class AttemptSockets:
    """
    Opens sockets from which attempts send, and closes all but the one of the selected pair.

    :param received: called after the answer of a reflector.
    :ivar observing: the sockets and transactions of the attempt that is made now; None between attempts.
    """

    def __init__(
        self,
        network: Network,
        transport: IceTransport,
        monotonic: Callable[[], float],
        received: Callable[[], None],
    ) -> None:
        self.observing: TransactionSockets | None = None
        self._network = network
        self._transport = transport
        self._monotonic = monotonic
        self._received = received
        self._bases: list[Address] = []

    @property
    def selected(self) -> Address | None:
        """The remote address of the selected pair, if that is one of a socket of an attempt."""
        selected = self._transport.generations.selected
        own = selected is not None and selected.local_base in self._bases
        return selected.remote_address if selected is not None and own else None

    def begin(self) -> TransactionSockets:
        """Return the transactions of an attempt that begins."""
        self.observing = self._network.nat_observer.open_sockets(
            self._received,
            lambda transmit: self._network.sockets.send([transmit.data], transmit.remote, transmit.local),
        )
        return self.observing

    def end(self) -> None:
        """The attempt is over: close its sockets."""
        if self.observing is not None:
            self.observing.close()
            self.observing = None
            self.close_unused()

    def open(self, local: str) -> Address | None:
        """Open a socket at a local IP address; None if that is not possible."""
        base = self._network.sockets.open_extra(local, self._take)
        if base is not None:
            self._bases.append(base)
        return base

    def close_unused(self) -> None:
        """Close all sockets but that of the selected pair."""
        now = self._monotonic()
        selected = self._transport.generations.selected
        used = None if selected is None else selected.local_base
        for base in [base for base in self._bases if base != used]:
            self._bases.remove(base)
            self._transport.remove_opening(base, now)
            self._network.sockets.close_extra(base)

    def close(self) -> None:
        """Close all sockets: the link is over."""
        self.end()
        for base in self._bases:
            self._network.sockets.close_extra(base)
        self._bases.clear()

    def _take(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        """Take what arrives at a socket of an attempt: answers of the reflector, and all else for calls."""
        sockets = self.observing
        if sockets is not None:
            others = [data for data in datagrams if not sockets.transactions.expects(data, socket.local)]
            if len(others) < len(datagrams):
                now = self._monotonic()
                for data in datagrams:
                    sockets.transactions.receive_datagram(data, remote, socket.local, now)
                self._received()
            datagrams = others
        if datagrams:
            self._network.router.receive_from_socket(datagrams, remote, socket)
