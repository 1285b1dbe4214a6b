"""The TCP connections of one link, which attempts have made, and the ports at which it listens for them."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from punch.ice.reach import may_pair
from punch.node.calls.call_context import CallContext
from punch.node.network.tcp_connections import TCPConnection
from punch.node.paths.ice_transport import IceTransport
from punch.wire.address import Address

CHECK_TIME = 5.0
"""Seconds within which an authenticated check must come on a connection, or be answered."""
TIDY_GAP = 1.0
"""Seconds between two looks at connections on which no authenticated check has come yet."""
UNUSED_TIME = 15.0
"""Seconds after which a connection is closed that the link does not use, except during an attempt."""


class TCPPaths:
    """
    The connections and ports of one link.

    :param changed: called when a connection is made or has ended.
    """

    def __init__(self, transport: IceTransport, context: CallContext, changed: Callable[[], None]) -> None:
        self._transport = transport
        self._context = context
        self._network = context.network
        self._changed = changed
        # When each was made, or was in use last
        self._connections: dict[TCPConnection, float] = {}
        self._listening: dict[Address, IListeningPort] = {}
        # Those that routers have mapped, or were asked to map
        self._mapped: set[Address] = set()
        self._look_at: float | None = None

    # Ports

    def listen(self, host: str, connection: Callable[[], TCPConnection]) -> Address | None:
        """
        Listen at any port of a local IP address, until `stop_listening`.

        :param connection: makes each connection that is accepted.
        :return: the address; None if that is not possible.
        """
        listening = self._network.tcp.listen(host, connection)
        if listening is None:
            return None
        local, self._listening[local] = listening
        return local

    def map(self, local: Address) -> Deferred[Address | None]:
        """Have routers map a port at which we listen; fires as `PortMappings.map_tcp`."""
        self._mapped.add(local)
        return self._network.port_mappings.map_tcp(local)

    def stop_listening(self) -> None:
        """The attempt is over."""
        for port in self._listening.values():
            port.stopListening()
        self._listening.clear()
        self._unmap_unused()

    def _unmap_unused(self) -> None:
        """Give back the ports of routers at which nobody listens any more, and that no connection uses."""
        used = {*self._listening, *(connection.local for connection in self._connections)}
        for port in self._mapped - used:
            self._mapped.remove(port)
            self._network.port_mappings.unmap_tcp(port)

    # Connections

    def add(self, connection: TCPConnection, mapped: Address | None) -> None:
        """
        A connection is made.

        :param mapped: our end as the rendezvous sees it, if that is known.
        """
        if not may_pair(connection.local, connection.remote):
            connection.close()
            return
        now = self._context.monotonic()
        self._connections[connection] = now
        self._transport.connection_made(connection, mapped)
        if self._look_at is None or now + TIDY_GAP < self._look_at:
            self._look_at = now + TIDY_GAP
        self._changed()

    def lost(self, connection: TCPConnection) -> None:
        """A connection has ended."""
        if self._connections.pop(connection, None) is not None:
            self._transport.connection_lost(connection)
            self._unmap_unused()
            self._changed()

    def has(self, local: Address, remote: Address) -> bool:
        """Whether there is a connection between these addresses."""
        return any((each.local, each.remote) == (local, remote) for each in self._connections)

    @property
    def proved(self) -> bool:
        """Whether an authenticated check has come, or was answered, on any connection."""
        return any(map(self._is_proved, self._connections))

    def hosts_changed(self) -> None:
        """This machine has other addresses: close the connections from those that are gone."""
        hosts = {base.host for base in self._network.sockets.bases}
        for connection in [each for each in self._connections if each.local.host not in hosts]:
            self._close(connection)

    def close(self) -> None:
        """The link is over: close all of them."""
        for connection in list(self._connections):
            self._close(connection)
        self.stop_listening()

    def _close(self, connection: TCPConnection) -> None:
        connection.close()
        self.lost(connection)

    def _is_proved(self, connection: TCPConnection) -> bool:
        proved = self._transport.generations.validated(connection.local, connection.remote)
        connection.proved = connection.proved or proved
        return proved

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._look_at if self._connections else None

    def handle_timer(self, now: float) -> None:
        """Close the connections without an authenticated check, and those that nobody has used for long."""
        if self._look_at is None or now < self._look_at:
            return
        used = self._transport.route
        for connection, since in list(self._connections.items()):
            if used == (connection.local, connection.remote):
                self._connections[connection] = now
                connection.proved = True
            elif not self._is_proved(connection):
                if now >= since + CHECK_TIME:
                    self._close(connection)
            elif now >= since + UNUSED_TIME and not self._listening:
                self._close(connection)
        proved = all(connection.proved for connection in self._connections)
        self._look_at = now + (CHECK_TIME if proved else TIDY_GAP)
