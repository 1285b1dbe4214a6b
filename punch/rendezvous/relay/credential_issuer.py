"""Which relays a peer is told of, and the credentials that go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from punch.identity import PeerID
from punch.turn.server.credentials import issue, user_of
from punch.turn.server.nonces import Nonces
from punch.wire.turn_uri import (
    MAX_RELAYS,
    RelayServer,
    TurnTransport,
    TurnURI,
)


@dataclass(frozen=True)
class OwnRelay:
    """
    The service's own TURN server, at the host that the peer has dialled.

    :ivar pin: of the key that its TLS shows; None if an authority vouches for it.
    """

    secret: bytes
    realm: str
    nonces: Nonces
    udp_port: int
    tcp_port: int
    pin: bytes | None

    @property
    def urls(self) -> Sequence[TurnURI]:
        """Best first."""
        ports = {
            TurnTransport.UDP: self.udp_port,
            TurnTransport.TCP: self.tcp_port,
            TurnTransport.TLS: self.tcp_port,
        }
        return [TurnURI(None, port, transport) for transport, port in ports.items() if port]


@dataclass(frozen=True)
class CredentialIssuer:
    """
    What is handed out.

    :ivar own: the service's own relay, unless it is switched off or not listening yet.
    :ivar others: TURN servers elsewhere, which share `secret` with us (coturn's `use-auth-secret`).
    :ivar wall: Unix seconds.
    :ivar credentials_time: seconds that credentials are good for.
    :ivar nonce_time: seconds that a nonce is good for: when they are over, a peer asks for a new one.
    """

    own: OwnRelay | None
    others: Sequence[TurnURI]
    secret: bytes
    wall: Callable[[], float]
    credentials_time: float
    nonce_time: float

    def servers(self, peer: PeerID) -> tuple[RelayServer, ...]:
        """The relays for a peer that has proved its key, best first."""
        unix = self.wall()
        expires = unix + self.credentials_time
        servers: list[RelayServer] = []
        if self.own is not None:
            own = self.own
            user = user_of(own.secret, peer)
            username, password = issue(own.secret, user, expires)
            nonce = own.nonces.for_user(user, unix)
            lifetime = min(self.nonce_time, self.credentials_time)
            for url in own.urls:
                pin = own.pin if url.transport is TurnTransport.TLS else None
                servers.append(RelayServer(url, username, password, own.realm, nonce, lifetime, pin))
        if self.others:
            username, password = issue(self.secret, user_of(self.secret, peer), expires)
            for url in self.others:
                # Its realm and nonce come with its first answer.
                realm = url.host or "turn"
                servers.append(RelayServer(url, username, password, realm, "", self.credentials_time))
        return tuple(servers[:MAX_RELAYS])
