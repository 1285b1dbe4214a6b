"""The sockets that attempts open for one link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from punch.ice.punching.techniques import Technique
from punch.ice.sent_packets import SentPackets
from punch.net.udp.sockets import DatagramSocket
from punch.node.network.nat_profiles import TransactionSockets
from punch.node.network.network import Network
from punch.node.paths.ice_transport import IceTransport
from punch.wire.address import Address
from punch.wire.peers.nat_profile import NatProfile

UNUSED_TIME = 15.0
"""
Seconds after which the socket of a path that the link has left is closed. If the path answers again before,
it is selected again; to find another one would take many packets.
"""
CHECK_GAP = 1.0
"""Seconds between two checks by which ICE sessions that are newer than such a path learn that it works."""


@dataclass(frozen=True)
class AttemptBasis:
    """
    The technique and the profiles by which an attempt is made. What is known about the NATs may change before
    a path is remembered.

    :ivar technique: its technique.
    :ivar ours: the profile of our NAT then; None if it is not known.
    :ivar theirs: the same of the other side.
    """

    technique: Technique
    ours: NatProfile | None
    theirs: NatProfile | None


class AttemptSockets:
    """
    Opens sockets from which attempts send, and closes all but the one of the selected pair, and that of the
    pair before for a while.

    :param sent: is told which sockets these are.
    :param received: called after the answer of a reflector.
    :param changed: called when the ICE sessions may have something to send or to tell, outside of a call.
    :ivar observing: the sockets and transactions of the attempt that is made now; None between attempts.
    """

    def __init__(
        self,
        network: Network,
        transport: IceTransport,
        sent: SentPackets,
        monotonic: Callable[[], float],
        received: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.observing: TransactionSockets | None = None
        self._network = network
        self._transport = transport
        self._sent = sent
        self._monotonic = monotonic
        self._received = received
        self._changed = changed
        self._basis: AttemptBasis | None = None
        self._bases: dict[Address, AttemptBasis | None] = {}
        # The local and remote address of the path that is, or was last, from one of these sockets
        self._path: tuple[Address, Address] | None = None
        self._left_at: float | None = None
        self._check_at = 0.0

    @property
    def selected(self) -> Address | None:
        """The remote address of the selected pair, if that is one of a socket of an attempt."""
        path = self._selected
        return None if path is None else path[1]

    @property
    def selected_basis(self) -> AttemptBasis | None:
        """The basis of the attempt that has found the selected pair, if one has."""
        path = self._selected
        return None if path is None else self.basis(path[0])

    def basis(self, base: Address) -> AttemptBasis | None:
        """Return the basis of the attempt that opened this socket; None if none did, or it is closed."""
        return self._bases.get(base)

    @property
    def left(self) -> Address | None:
        """The remote address of the path that the link has left, if its socket is still open."""
        return None if self._path is None or self._left_at is None else self._path[1]

    @property
    def _selected(self) -> tuple[Address, Address] | None:
        selected = self._transport.generations.selected
        own = selected is not None and selected.local_base in self._bases
        return (selected.local_base, selected.remote_address) if selected is not None and own else None

    def path_changed(self, now: float) -> None:
        """The link takes another path, or has one again."""
        self._note_path(now)
        if self.observing is None:
            self._close_unused()

    def network_changed(self) -> None:
        """We are behind another NAT: a path that the link has left won't return."""
        if self._left_at is not None:
            self._path = self._left_at = None

    def begin(self, basis: AttemptBasis) -> TransactionSockets:
        """Return the transactions of an attempt that begins."""
        self._basis = basis
        self.observing = self._network.nat_observer.open_sockets(
            self._received,
            lambda transmit: self._network.sockets.send([transmit.data], transmit.remote, transmit.local),
        )
        return self.observing

    def flush(self) -> None:
        """Send what is queued, so that what is sent at once is in order."""
        if self.observing is not None:
            self.observing.send()

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
            self._bases[base] = self._basis
            if self._basis is not None:
                self._sent.opened(base, self._basis.technique)
        return base

    def close_unused(self) -> None:
        """Close all sockets but that of the path in use, or of the last one for `UNUSED_TIME`."""
        self._note_path(self._monotonic())
        self._close_unused()

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        if self._left_at is None:
            return None
        return min(self._check_at, self._left_at + UNUSED_TIME)

    def handle_timer(self, now: float) -> None:
        """Check a path that the link has left, and close its socket if that was some time ago."""
        if self._path is None or self._left_at is None:
            return
        if now >= self._left_at + UNUSED_TIME:
            self._close(self._path[0])
            self._path = self._left_at = None
            self._changed()
        elif now >= self._check_at:
            self._check_at = now + CHECK_GAP
            self._transport.openings.check_path(*self._path, now)
            self._changed()

    def _note_path(self, now: float) -> None:
        path = self._selected
        if path is not None:
            self._path, self._left_at = path, None
        elif self._path is not None and self._left_at is None:
            self._left_at = self._check_at = now

    def _close_unused(self) -> None:
        hosts = {base.host for base in self._network.sockets.bases}
        if self._path is not None and self._left_at is not None and self._path[0].host not in hosts:
            self._path = self._left_at = None
        kept = None if self._path is None else self._path[0]
        for base in [base for base in self._bases if base != kept]:
            self._close(base)

    def _close(self, base: Address) -> None:
        del self._bases[base]
        self._sent.closed(base)
        self._transport.openings.remove(base)
        self._network.sockets.close_extra(base)

    def close(self) -> None:
        """Close all sockets: the link is over."""
        self.end()
        for base in self._bases:
            self._sent.closed(base)
            self._network.sockets.close_extra(base)
        self._bases.clear()
        self._path = self._left_at = None

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
