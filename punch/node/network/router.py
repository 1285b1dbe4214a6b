"""
Which call a datagram is for (RFC 7983, RFC 9443).

STUN requests go to a call by the user name fragment, STUN responses by the transaction, and QUIC by the
connection ID, whatever address they come from. Only a first Initial, whose connection ID is not known yet,
goes by address: to an accepted call of a peer whose authenticated check came from there. Everything else is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from punch.link.quic.packet import CONNECTION_ID_LENGTH, destination_id, is_client_initial, is_short
from punch.wire.address import Address
from punch.wire.framing import DatagramKind, classify
from punch.wire.stun import MAX_ATTRIBUTES, Attribute, MessageClass, STUNError, parse
from punch.wire.turn import MAX_REQUEST

if TYPE_CHECKING:
    from punch.net.udp.sockets import DatagramSocket
    from punch.node.network.reflexive_addresses import ReflexiveAddressCache
    from punch.node.paths.ice_transport import IceTransport

_USERNAME = frozenset((Attribute.USERNAME,))

Unwrap = Callable[[Sequence[bytes], Address, Address], Sequence[bytes]]


class Router:
    """
    Hands datagrams to the ICE transports of calls.

    :param reflexive_addresses: receives the answers to its own STUN requests.
    :param unwrap: takes what relays send to our sockets, and returns the other datagrams.
    """

    def __init__(self, reflexive_addresses: ReflexiveAddressCache, unwrap: Unwrap) -> None:
        self._reflexive_addresses = reflexive_addresses
        self._unwrap = unwrap
        self._transports: dict[str, IceTransport] = {}
        self._connection_ids: dict[bytes, IceTransport] = {}

    @property
    def connection_id_count(self) -> int:
        """How many connection IDs lead to a call."""
        return len(self._connection_ids)

    def listen(self, transport: IceTransport, ufrags: Sequence[str]) -> None:
        """Hand checks to these user name fragments to `transport` from now on, and no others."""
        self._transports = {
            ufrag: other for ufrag, other in self._transports.items() if other is not transport
        }
        self._transports.update(dict.fromkeys(ufrags, transport))

    def route(self, connection_id: bytes, transport: IceTransport, added: bool) -> None:
        """The link of `transport` uses a connection ID from now on, or (`added` is False) no longer."""
        if added:
            self._connection_ids.setdefault(connection_id, transport)
        elif self._connection_ids.get(connection_id) is transport:
            del self._connection_ids[connection_id]

    def remove(self, transport: IceTransport) -> None:
        """Hand no datagram to this transport any more."""
        self.listen(transport, ())
        self._connection_ids = {
            key: other for key, other in self._connection_ids.items() if other is not transport
        }

    def receive_from_socket(
        self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket
    ) -> None:
        """Take datagrams that came from `remote` to one of our sockets: from a relay, or for a call."""
        local = socket.local
        datagrams = self._unwrap(datagrams, remote, local)
        if datagrams:
            self.receive(datagrams, remote, local)

    def receive(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Take datagrams that came from `remote` to our address `local`, relayed or not."""
        links: dict[IceTransport, list[bytes]] = {}
        # Nearly all datagrams of a batch are for the same connection as the one before.
        before: bytes | None = None
        same: list[bytes] = []
        for data in datagrams:
            if data[1 : 1 + CONNECTION_ID_LENGTH] == before and is_short(data):
                same.append(data)
                continue
            kind = classify(data)
            if kind is DatagramKind.STUN:
                self._receive_stun(data, remote, local)
            elif kind is not DatagramKind.UNKNOWN:
                # What relays sent has been taken out already, so that 0x40 to 0x4F is QUIC too.
                transport = self._transport_of(data, remote, local)
                if transport is not None:
                    same = links.setdefault(transport, [])
                    same.append(data)
                    before = destination_id(data) if is_short(data) else None
        for transport, received in links.items():
            transport.receive_link(received, remote, local)

    def _receive_stun(self, data: bytes, remote: Address, local: Address) -> None:
        if data[0] & 1:  # A response, success or error: by transaction.
            if self._reflexive_addresses.receive(data, remote, local):
                return
            for transport in list(dict.fromkeys(self._transports.values())):
                if transport.wants(data):
                    transport.receive_stun(data, remote, local)
                    return
            return
        if len(data) > MAX_REQUEST:
            return
        try:
            request = parse(data, most=MAX_ATTRIBUTES, only=_USERNAME)
        except STUNError:
            return
        username = request.get(Attribute.USERNAME)
        if request.message_class is MessageClass.REQUEST and isinstance(username, str):
            called = self._transports.get(username.partition(":")[0])
            if called is not None:
                called.receive_stun(data, remote, local)

    def _transport_of(self, data: bytes, remote: Address, local: Address) -> IceTransport | None:
        connection_id = destination_id(data)
        if connection_id is None:
            return None
        known = self._connection_ids.get(connection_id)
        if known is not None:
            return known
        if is_client_initial(data):
            # The newest first: an older call with this peer may linger.
            for transport in reversed(self._transports.values()):
                if transport.awaits_initial(local, remote):
                    return transport
        return None
