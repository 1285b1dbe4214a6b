"""A TURN server without sockets, and clients that build each request themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from punch.turn.server.allocation import Allocation
from punch.turn.server.authentication import issue
from punch.turn.server.core import RelayCore, ToPeer
from punch.turn.server.settings import Destinations, RelaySettings
from punch.wire.address import Address
from punch.wire.special_addresses import IPNetwork
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    long_term_key,
    parse,
)

SECRET = b"the secret of the server"
EPOCH = 1_700_000_000.0
"""The Unix time at which the server's monotonic clock stands at zero."""
HERE = Address("198.51.100.1", 3478)
HERE6 = Address("2001:db8::1", 3478)
ALICE = Address("203.0.113.1", 50000)
BOB = Address("203.0.113.2", 60000)
UDP = (Attribute.REQUESTED_TRANSPORT, 17)


class FakePort:
    """A relayed port that keeps what is sent."""

    def __init__(self, ports: FakePorts, host: str, port: int) -> None:
        self.allocation: Allocation | None = None
        self.address = Address(host, port)
        self._ports = ports

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        raise AssertionError("the core sends nothing itself")

    def close(self) -> None:
        del self._ports.open_ports[self.address]


class FakePorts:
    """
    Stands in for the kernel's UDP ports.

    :ivar taken: ports that others have.
    :ivar descriptors: how many sockets there may be.
    """

    def __init__(self) -> None:
        self.open_ports: dict[Address, FakePort] = {}
        self.taken: set[int] = set()
        self.descriptors = 1_000_000

    def open(self, host: str, port: int) -> FakePort | None:
        address = Address(host, port)
        if address in self.open_ports or port in self.taken or len(self.open_ports) >= self.descriptors:
            return None
        return self.open_ports.setdefault(address, FakePort(self, host, port))


class TurnServer:
    """
    A server whose clock, ports and clients are the test's.

    :ivar now: monotonic seconds; set it, then call `tick`.
    :ivar own_addresses: asked whether an address is the server's.
    """

    def __init__(self, allow: Sequence[IPNetwork] = (), own: Sequence[str] = (), **settings: Any) -> None:
        self.now = 100.0
        self.settings = replace(RelaySettings((SECRET,), machine=(HERE.host, HERE6.host)), **settings)
        self.ports = FakePorts()
        self._random = count(1)
        own_addresses = {HERE.host, HERE6.host, *own}
        self.own_addresses: Callable[[str], object] = own_addresses.__contains__
        self.core = RelayCore(
            self.settings,
            self.ports,
            Destinations(allow, is_own=lambda host: bool(self.own_addresses(host))),
            random=self.random,
            now=self.now,
            epoch=EPOCH,
        )

    def random(self, size: int) -> bytes:
        """Return deterministic bytes, which are different each time."""
        return (
            (next(self._random) * 0x9E3779B97F4A7C15 % (1 << 64))
            .to_bytes(16, "big")[-size:]
            .rjust(size, b"\x5a")
        )

    @property
    def unix(self) -> float:
        """Unix seconds."""
        return self.now + EPOCH

    def advance(self, seconds: float) -> None:
        """Let time pass, and have the server do what is due."""
        end = self.now + seconds
        while (timer := self.core.get_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.core.handle_timer(self.now)
        self.now = end

    def client(self, remote: Address = ALICE, user: str = "alice", **options: Any) -> FiveTupleClient:
        """A client with good credentials."""
        return FiveTupleClient(self, remote, user, **options)

    def from_peer(self, relayed: Address, *datagrams: bytes, peer: Address = BOB) -> None:
        """Datagrams from a peer come to a relayed address."""
        allocation = self.ports.open_ports[relayed].allocation
        if allocation is not None:
            self.core.receive_from_peers(allocation, datagrams, peer)


class FiveTupleClient:
    """One five-tuple."""

    def __init__(
        self, server: TurnServer, remote: Address, user: str, *, local: Address = HERE, connection: int = 0
    ) -> None:
        self.server = server
        self.remote = remote
        self.local = local
        self.connection = connection
        self.user = user
        self.username, self.password = issue(SECRET, user, server.unix + 86400)
        self.realm = server.settings.realm
        self.nonce = server.core.authenticator.nonces.for_address(remote, server.unix)
        self.to_peers: list[ToPeer] = []

    @property
    def handed_out(self) -> str:
        """The nonce that comes with credentials."""
        return self.server.core.authenticator.nonces.for_user(self.user, self.server.unix)

    @property
    def key(self) -> bytes:
        """The key for MESSAGE-INTEGRITY."""
        return long_term_key(self.username, self.realm, self.password)

    def request(self, method: int, *attributes: tuple[int, Any], transaction: bytes | None = None) -> bytes:
        """A request with credentials."""
        login = (
            (Attribute.USERNAME, self.username),
            (Attribute.REALM, self.realm),
            (Attribute.NONCE, self.nonce),
        )
        if transaction is None:
            transaction = self.server.random(12)
        message = StunMessage(method, MessageClass.REQUEST, transaction, (*attributes, *login))
        return encode(message, self.key, fingerprint=False)

    def send(self, *datagrams: bytes) -> list[bytes]:
        """Send messages; returns what comes back to this client. What goes to peers is in `to_peers`."""
        self.server.core.receive(datagrams, self.remote, self.local, self.server.now, self.connection)
        return self.collect()

    def collect(self) -> list[bytes]:
        """Return what the server sends to this client now."""
        to_clients, self.to_peers = self.server.core.outputs(self.server.now)
        me = (self.remote, self.local, self.connection)
        return [data for client, messages in to_clients if client == me for data in messages]

    def ask(self, method: int, *attributes: tuple[int, Any], transaction: bytes | None = None) -> StunMessage:
        """
        Return the answer to a request. Its integrity is checked, unless it is an error of a request that was
        not authenticated.
        """
        (answer,) = self.send(self.request(method, *attributes, transaction=transaction))
        message = parse(answer)
        if code_of(message) not in (400, 401, 438):
            assert message.check_integrity(self.key), message
        return message

    def allocate(self, *attributes: tuple[int, Any]) -> Address:
        """Make an allocation; returns the relayed address."""
        answer = self.ask(Method.ALLOCATE, UDP, *attributes)
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address), answer
        return relayed

    def permit(self, *peers: Address) -> StunMessage:
        """Request a permission."""
        return self.ask(Method.CREATE_PERMISSION, *((Attribute.XOR_PEER_ADDRESS, peer) for peer in peers))

    def bind(self, number: int, peer: Address) -> StunMessage:
        """Request a channel."""
        return self.ask(
            Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, number), (Attribute.XOR_PEER_ADDRESS, peer)
        )

    def indicate(self, peer: Address, data: bytes, *more: tuple[int, Any]) -> list[bytes]:
        """Send data by a Send indication."""
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data), *more)
        message = StunMessage(Method.SEND, MessageClass.INDICATION, b"indication..", attributes)
        return self.send(encode(message))

    @property
    def relayed(self) -> list[tuple[bytes, Address]]:
        """What the last `send` has had relayed to peers."""
        return [(data, each.peer) for each in self.to_peers for data in each.datagrams]


def code_of(message: StunMessage) -> int:
    """The error code of an answer, 0 for success."""
    error = message.get(Attribute.ERROR_CODE)
    return int(error[0]) if error is not None else 0
