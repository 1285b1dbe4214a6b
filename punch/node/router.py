"""
Which session a datagram is for (RFC 7983, RFC 9443).

STUN goes to a session by its ufrag or transaction, QUIC by its connection ID, whatever address it comes from.
Only a first Initial, whose connection ID nobody knows yet, goes by address: to a called session in which that
address has passed an authenticated check. Everything else is dropped, which is all a stranger's datagram can
achieve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from punch.link.packet import destination_id, is_client_initial
from punch.wire.address import Address
from punch.wire.demux import DatagramKind, classify
from punch.wire.stun import MAX_ATTRIBUTES, Attribute, MessageClass, STUNError, parse

if TYPE_CHECKING:
    from punch.node.reflexive_addresses import ReflexiveAddressCache

Unwrap = Callable[[Sequence[bytes], Address, Address], Sequence[bytes]]


class Routed(Protocol):
    """A session, to which datagrams are handed."""

    def wants(self, data: bytes, remote: Address) -> bool:
        """Whether this STUN response answers it."""

    def receive_stun(self, data: bytes, remote: Address, local: Address) -> None:
        """STUN for one of its ufrags, or a response that it wanted."""

    def awaits_initial(self, local: Address, remote: Address) -> bool:
        """Whether a first Initial that came this way may be for its link."""

    def receive_link(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """QUIC for its link."""


class Router:
    """Hands datagrams to sessions."""

    def __init__(self, keeper: ReflexiveAddressCache, relays: Unwrap) -> None:
        """
        :param relays: takes what relays send to our sockets; returns the rest.
        """
        self._keeper = keeper
        self._relays = relays
        self._sessions: dict[str, Routed] = {}
        self._connection_ids: dict[bytes, Routed] = {}

    @property
    def connection_id_count(self) -> int:
        """How many connection IDs lead to a session."""
        return len(self._connection_ids)

    def listen(self, session: Routed, ufrags: Sequence[str]) -> None:
        """From now on, the checks to these ufrags, and to no others, are for `session`."""
        self._sessions = {ufrag: other for ufrag, other in self._sessions.items() if other is not session}
        self._sessions.update(dict.fromkeys(ufrags, session))

    def route(self, connection_id: bytes, session: Routed, added: bool) -> None:
        """A connection ID comes into use for `session`'s link, or goes out of it."""
        if added:
            self._connection_ids.setdefault(connection_id, session)
        elif self._connection_ids.get(connection_id) is session:
            del self._connection_ids[connection_id]

    def remove(self, session: Routed) -> None:
        """Nothing is for that session any more."""
        self.listen(session, ())
        self._connection_ids = {
            key: other for key, other in self._connection_ids.items() if other is not session
        }

    def receive_from_socket(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Datagrams came from `remote` to the socket of `local`: from a relay, or for a session."""
        datagrams = self._relays(datagrams, remote, local)
        if datagrams:
            self.receive(datagrams, remote, local)

    def receive(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Datagrams came from `remote` to the address `local` of ours, relayed or not."""
        links: dict[Routed, list[bytes]] = {}
        for data in datagrams:
            kind = classify(data)
            if kind is DatagramKind.STUN:
                self._receive_stun(data, remote, local)
            elif kind is not DatagramKind.UNKNOWN:
                # What relays sent has been taken out already, so that 0x40 to 0x4F is QUIC too.
                session = self._session_of(data, remote, local)
                if session is not None:
                    links.setdefault(session, []).append(data)
        for session, received in links.items():
            session.receive_link(received, remote, local)

    def _receive_stun(self, data: bytes, remote: Address, local: Address) -> None:
        if data[0] & 1:  # A response, success or error: by transaction.
            if self._keeper.receive(data, remote, local):
                return
            for session in list(dict.fromkeys(self._sessions.values())):
                if session.wants(data, remote):
                    session.receive_stun(data, remote, local)
                    return
            return
        try:
            request = parse(data, most=MAX_ATTRIBUTES)
        except STUNError:
            return
        username = request.get(Attribute.USERNAME)
        if request.message_class is MessageClass.REQUEST and isinstance(username, str):
            session_called = self._sessions.get(username.partition(":")[0])
            if session_called is not None:
                session_called.receive_stun(data, remote, local)

    def _session_of(self, data: bytes, remote: Address, local: Address) -> Routed | None:
        connection_id = destination_id(data)
        if connection_id is None:
            return None
        session = self._connection_ids.get(connection_id)
        if session is not None:
            return session
        if is_client_initial(data):
            # The newest first: an older session with this peer may linger.
            for session in reversed(self._sessions.values()):
                if session.awaits_initial(local, remote):
                    return session
        return None
