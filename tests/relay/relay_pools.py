"""
Two relay pools in one process, as peers have them, that talk to each other through a TURN server.

`python -m tests.relay.relay_pools SERVERS` with SERVERS as in control messages, a JSON array; `--root PEM`
trusts that authority. Prints JSON lines: `found` and `lost` (who, local, source), `echoed` (count, of),
`done`. Lines on stdin: `send COUNT` makes the first send so many datagrams that the second sends back,
`probe` leaves and joins again, as a session does that lost its path, `why` prints why there is no relay,
`leave` gives the allocations back.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from punch.net.udp.socket_set import SocketSet
from punch.net.udp.sockets import open_socket
from punch.node.network.relay import RelayClient
from punch.node.network.relay_pool import RelayPool
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import RelayServer

QUIC_LIKE = b"\x41"
ECHO_TIMEOUT = 3.0
"""Seconds in which the last datagram comes back, or doesn't."""


def tell(event: str, **fields: object) -> None:
    """One line."""
    print(json.dumps({"event": event, **fields}), flush=True)


class PoolUser:
    """One pool, its socket, and its only user."""

    def __init__(
        self, reactor: Any, name: str, servers: Sequence[RelayServer], roots: Sequence[x509.Certificate]
    ) -> None:
        self.name = name
        self.received = 0
        self.relay: RelayClient | None = None
        self.peer: PoolUser | None = None
        self.echoes = False
        self.sockets = SocketSet(
            reactor,
            open_socket,
            lambda: ["127.0.0.1"],
            lambda datagrams, remote, socket: self._arrived(datagrams, remote, socket.local),
            lambda local, remote: self.pool.find(local),
        )
        self.pool = RelayPool(
            reactor,
            monotonic=time.monotonic,
            random=os.urandom,
            roots=list(roots) or None,
            name="127.0.0.1",
            bases=lambda: self.sockets.bases,
            send=self.sockets.send,
            received=self._take,
            renew=lambda: None,
        )
        self.sockets.refresh()
        self.pool.update(tuple(servers), "127.0.0.1")

    def relay_found(self, relay: RelayClient) -> None:
        """As a session is told."""
        self.relay = relay
        tell("found", who=self.name, local=str(relay.local), source=relay.source)
        assert self.peer is not None
        if self.peer.relay is not None:
            relay.permit([self.peer.relay.local])
            self.peer.relay.permit([relay.local])

    def relay_lost(self, local: Address) -> None:
        """As a session is told."""
        self.relay = None
        tell("lost", who=self.name, local=str(local))

    def relay_limited(self, local: Address, limit: RelayLimit) -> None:
        """As a link is told."""

    def relays_done(self) -> None:
        """As a session is told."""
        tell("done", who=self.name)

    def send(self, datagrams: Sequence[bytes]) -> None:
        """To the other user's relayed address."""
        assert self.relay is not None
        assert self.peer is not None
        assert self.peer.relay is not None
        self.sockets.send(datagrams, self.peer.relay.local, self.relay.local)

    def _arrived(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        self.pool.receive(datagrams, remote, local)

    def _take(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        self.received += len(datagrams)
        if self.echoes and self.relay is not None:
            self.sockets.send(datagrams, remote, self.relay.local)


class Commands(LineOnlyReceiver):
    """Stdin."""

    delimiter = b"\n"

    def __init__(self, reactor: Any, users: Sequence[PoolUser]) -> None:
        self._reactor = reactor
        self._users = users

    def lineReceived(self, line: bytes) -> None:
        """One command."""
        words = line.decode().split()
        first = self._users[0]
        if words[0] == "send":
            count = int(words[1])
            first.received = 0
            for number in range(count):
                data = QUIC_LIKE + number.to_bytes(4, "big") + bytes(1195)
                self._reactor.callLater(0.005 * number, first.send, [data])
            self._tell_when_back(count, time.monotonic() + 0.005 * count + ECHO_TIMEOUT)
        elif words[0] == "probe":
            for user in self._users:
                user.pool.leave(user)
                user.pool.join(user)
        elif words[0] == "why":
            tell("why", failure=None if first.pool.failure is None else first.pool.failure.value)
        elif words[0] == "leave":
            for user in self._users:
                user.pool.leave(user)
                user.pool.stop()
            tell("left")

    def _tell_when_back(self, count: int, deadline: float) -> None:
        received = self._users[0].received
        if received >= count or time.monotonic() > deadline:
            tell("echoed", count=received, of=count)
        else:
            self._reactor.callLater(0.02, self._tell_when_back, count, deadline)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The test is over."""
        if self._reactor.running:
            self._reactor.stop()


def main(reactor: Any) -> None:
    """Run until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("servers")
    parser.add_argument("--root", action="append", default=[])
    given = parser.parse_args()
    servers = [RelayServer.from_json(value) for value in json.loads(given.servers)]
    roots = [x509.load_pem_x509_certificate(Path(path).read_bytes()) for path in given.root]
    users = [PoolUser(reactor, "one", servers, roots), PoolUser(reactor, "two", servers, roots)]
    users[0].peer, users[1].peer = users[1], users[0]
    users[1].echoes = True
    protocol: Protocol = Commands(reactor, users)
    StandardIO(protocol)
    for user in users:
        user.pool.join(user)
    reactor.run()


if __name__ == "__main__":
    from twisted.internet import reactor

    main(reactor)
