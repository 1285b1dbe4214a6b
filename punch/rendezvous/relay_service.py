"""
The relay as a part of the rendezvous: its configuration, what peers are told about it, and their credentials.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorUDP
from twisted.internet.protocol import DatagramProtocol

from punch.identity import PeerID, RandomBytes
from punch.net.fairness import SourceCache
from punch.net.interfaces import source_address
from punch.net.sources import Shares, Source, source_of
from punch.rendezvous.config import RendezvousConfig
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import Membership
from punch.rendezvous.operator_log import OperatorLog
from punch.rendezvous.reflector import Reflector
from punch.rendezvous.relay import Relay
from punch.turn.server.allocation import (
    AllocationMade,
    AllocationOwner,
    AllocationRefused,
    FirstPermission,
    RelayEvent,
    RelayLimitHit,
)
from punch.turn.server.authentication import Nonces, issue, user_of
from punch.turn.server.quotas import Meter
from punch.turn.server.settings import Destinations, RelaySettings
from punch.wire.address import Address, canonical
from punch.wire.turn import MAX_RELAYS, RelayServer, TurnTransport, TurnURI


@dataclass(frozen=True)
class OwnRelay:
    """
    The service's own TURN server, at the host that the peer has connected to.

    :ivar pin: the pin of the key in its TLS certificate; None if the certificate is an authority's.
    """

    secret: bytes
    realm: str
    nonces: Nonces
    udp_port: int
    tcp_port: int
    pin: bytes | None

    @property
    def urls(self) -> Sequence[TurnURI]:
        """Its URIs, the best first."""
        ports = {
            TurnTransport.UDP: self.udp_port,
            TurnTransport.TCP: self.tcp_port,
            TurnTransport.TLS: self.tcp_port,
        }
        return [TurnURI(None, port, transport) for transport, port in ports.items() if port]


@dataclass(frozen=True)
class CredentialIssuer:
    """
    Issues credentials for relays to peers.

    :ivar own: the service's own relay; None if it is switched off or does not listen yet.
    :ivar others: other TURN servers, with which `secret` is shared (coturn's `use-auth-secret`).
    :ivar wall: returns Unix seconds.
    :ivar credentials_time: lifetime of credentials, in seconds.
    :ivar nonce_time: lifetime of a nonce, in seconds; after it a peer asks for a new one.
    """

    own: OwnRelay | None
    others: Sequence[TurnURI]
    secret: bytes
    wall: Callable[[], float]
    credentials_time: float
    nonce_time: float

    def servers(self, peer: PeerID) -> tuple[RelayServer, ...]:
        """The relays for a peer that has proved its key, the best first."""
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


class StoreUsage(Protocol):
    """Stores what the relay has carried on a day, in addition to what was stored of it before."""

    def __call__(self, day: int, peers: Mapping[PeerID, int], users: Mapping[str, int]) -> object: ...


_SECRET_LABEL = b"punch/1 relay secret"

_PART = 16
"""Of the peers that are remembered, one address may have one in this many."""
DENIED = 403
"""The error code for users that the operator refuses, and for clients at a relayed address."""
_LIMITS = {486: "relay-allocations-of-peer-or-address", 508: "relay-allocations"}
"""The limits behind error codes, for the log."""


class RelayService:
    """
    The relay and the credentials for it.

    :ivar relay: the service's own relay; None if it is switched off.
    :ivar stored_bytes: returns how many bytes were stored on a day, as days since 1970, of the user of the
        relay with this name.
    """

    def __init__(
        self,
        config: RendezvousConfig,
        reflector: Reflector,
        *,
        reactor: Any,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        random: RandomBytes,
        log: OperatorLog,
        membership: Membership | None = None,
    ) -> None:
        limits = config.limits
        self._log = log
        self._not_logged: set[Address] = set()
        """The relayed addresses of allocations that have no line in the log yet."""
        self._membership = membership
        remembered = 2 * limits.registrations
        self._peers: SourceCache[str, PeerID] = SourceCache(
            remembered, Shares.growing(-(-remembered // _PART))
        )
        """The peers behind the names of users: those that got credentials last…"""
        self._owners: WeakKeyDictionary[Meter, PeerID] = WeakKeyDictionary()
        """…and those whose bytes are counted."""
        self.stored_bytes: Callable[[int, str], int] = lambda day, user: 0
        # Derived from the key, so that credentials stay valid over a restart.
        key = config.identity.private_key.private_bytes_raw()
        self._secret = hmac.digest(key, _SECRET_LABEL, "sha256")
        shared = config.turn_secret
        self._settings = RelaySettings(
            secrets=(self._secret,) if shared is None else (self._secret, shared),
            machine=tuple(config.machine_addresses) or _addresses(config.host, config.primary_address),
            shown=shown_addresses(config),
            ports=config.relay_ports,
            allocations=limits.relay_allocations,
            allocations_per_user=limits.relay_allocations_per_peer,
            allocations_per_address=limits.relay_allocations_per_address,
            rate=limits.relay_rate,
            rate_per_user=limits.relay_rate_per_peer,
            rate_per_address=limits.relay_rate_per_address,
            quota_per_user=config.relay_quota_per_peer,
            quota_per_address=config.relay_quota_per_address,
            lifetime=limits.relay_lifetime,
            nonce_time=limits.relay_nonce_time,
            requests_rate=limits.relay_requests_rate,
            requests_burst=limits.relay_requests_burst,
        )
        self._issuer = CredentialIssuer(
            own=None,
            others=config.turn,
            secret=shared or b"",
            wall=wall,
            credentials_time=limits.relay_credentials_time,
            nonce_time=limits.relay_nonce_time,
        )
        self.relay: Relay | None = None
        if config.relay:
            own = own_addresses(config)
            self.relay = Relay(
                self._settings,
                Destinations(config.relay_allow, is_own=lambda host: host in own or _is_own(reactor, host)),
                reactor=reactor,
                monotonic=monotonic,
                wall=wall,
                random=random,
                reflector=reflector,
                idle_time=limits.relay_idle_time,
                happened=self._happened,
            )
            quotas = self.relay.core.allocations.quotas
            quotas.own_limit = self._own_quota
            quotas.stored = lambda user: self.stored_bytes(quotas.day, user)

    def servers(self, peer: PeerID, address: str) -> tuple[RelayServer, ...]:
        """The relays for a peer at this address, with new credentials."""
        if self._membership is not None and not self._membership.may_relay(peer):
            return ()
        if self.relay is not None:
            self._remember(peer, source_of(address))
        return self._issuer.servers(peer)

    def is_for_members(self, peer: PeerID) -> bool:
        """Whether there are relays that a peer may not use since it is no member."""
        return (
            self._membership is not None
            and (self.relay is not None or bool(self._issuer.others))
            and not self._membership.may_relay(peer)
        )

    def store_usage(self, store: StoreUsage) -> None:
        """
        Store how many bytes the service's own relay has carried today, since the last time: for each user of
        it, by which quotas go, and for each peer, for the operator. The peers behind credentials that are
        older than this process are known once they have renewed them.

        :param store: called with the day, as days since 1970, the bytes of peers and those of users, if there
            are any. If it raises an exception, these bytes are stored the next time.
        """
        if self.relay is None:
            return
        quotas = self.relay.core.allocations.quotas
        peers: dict[PeerID, int] = {}
        users: dict[str, int] = {}
        for user, meter in quotas.not_stored.items():
            users[user] = meter.used - meter.stored
            peer = self._peers.get(user) or self._owners.get(meter)
            if peer is not None:
                peers[peer] = peers.get(peer, 0) + users[user]
        if users:
            store(quotas.day, peers, users)
        quotas.all_stored()

    def restore_usage(self, unix: float, peers: Mapping[PeerID, int], users: Mapping[str, int]) -> None:
        """
        Take what was stored on the day of `unix`, which is today.

        :param users: earlier releases have stored only the bytes of peers.
        """
        if self.relay is not None:
            quotas = self.relay.core.allocations.quotas
            quotas.begin_day(unix)
            restored = dict(users)
            for peer, used in peers.items():
                self._remember(peer, (str(peer),))
                user = user_of(self._secret, peer)
                restored[user] = max(used, restored.get(user, 0))
            for user, used in restored.items():
                quotas.restore(user, used)

    @property
    def peers(self) -> Collection[PeerID]:
        """The peers that got credentials last."""
        return [peer for _, peer in self._peers]

    def _remember(self, peer: PeerID, source: Source) -> None:
        for secret in self._settings.secrets:
            user = user_of(secret, peer)
            self._peers.put(source, user, peer)
            if self.relay is not None:
                self.relay.core.allocations.quotas.update_limit(user)

    def _own_quota(self, user: str) -> int | None:
        peer = self._peer_of(user)
        return None if peer is None or self._membership is None else self._membership.relay_quota(peer)

    def _peer_of(self, user: str) -> PeerID | None:
        peer = self._peers.get(user)
        if peer is None and self.relay is not None:
            meter = self.relay.core.allocations.quotas.meter(user)
            peer = None if meter is None else self._owners.get(meter)
        return peer

    def listening(self, udp_port: int, tcp_port: int, pin: bytes | None) -> None:
        """
        The service listens on these ports.

        :param pin: the pin of the key in its TLS certificate; None if the certificate is an authority's.
        """
        if self.relay is not None:
            own = OwnRelay(
                self._secret,
                self._settings.realm,
                self.relay.core.authenticator.nonces,
                udp_port,
                tcp_port,
                pin,
            )
            self._issuer = replace(self._issuer, own=own)

    def _happened(self, event: RelayEvent) -> None:
        if isinstance(event, RelayLimitHit):
            user = event.user
            self._log.limit_hit(event.host, event.limit, user and str(self._peer_of(user) or user))
            return
        owner = event.owner
        host = owner.client.host
        found = self._peer_of(owner.user)
        peer = str(found or owner.user)
        if isinstance(event, AllocationRefused):
            if event.code == DENIED:
                self._log.denied(host, peer)
            else:
                self._log.limit_hit(host, event.limit or _LIMITS[event.code], peer)
        elif isinstance(event, AllocationMade):
            if found is not None and self.relay is not None:
                self._owners[self.relay.core.allocations.quotas.of_user(owner.user)] = found
            if not self._log.allocation_made(host, peer, str(event.relayed), _transport(owner)):
                self._not_logged.add(event.relayed)
        elif isinstance(event, FirstPermission):
            if event.relayed in self._not_logged:
                self._not_logged.discard(event.relayed)
                self._log.allocation_permitted(host, peer, str(event.relayed), _transport(owner))
        else:
            self._not_logged.discard(event.relayed)
            self._log.allocation_ended(
                host,
                peer,
                str(event.relayed),
                seconds=event.seconds,
                to_peers=event.to_peers,
                to_client=event.to_client,
            )

    def deny(self, deny: DenyList, revoked: Collection[PeerID] | None = ()) -> None:
        """
        Refuse allocations to these peers and networks from now on, and end those that they have.

        :param revoked: other peers that are refused; None if they can't be read now. Then everybody who was
            refused before remains so.
        """
        if self.relay is not None:
            peers = deny.peers.union(revoked or ())
            users = frozenset(user_of(secret, peer) for secret in self._settings.secrets for peer in peers)
            if revoked is None:
                users |= self.relay.core.allocations.denied
            self.relay.deny(users, deny.has_host)

    def change_denied(self, denied: Collection[PeerID], allowed: Collection[PeerID]) -> None:
        """As `Relay.change_denied`, for peers."""
        if self.relay is not None:
            secrets = self._settings.secrets
            self.relay.change_denied(
                frozenset(user_of(secret, peer) for secret in secrets for peer in denied),
                frozenset(user_of(secret, peer) for secret in secrets for peer in allowed),
            )

    def stop(self) -> None:
        """End all allocations."""
        if self.relay is not None:
            self.relay.stop()


def shown_addresses(config: RendezvousConfig) -> tuple[str, ...]:
    """
    The relay's addresses that peers see instead of the machine's own: those of the configuration; and the
    public address of the service, if the machine itself has only private ones.
    """
    shown = {":" in each: each for each in config.relay_addresses}
    private = Destinations(is_own=lambda host: False).refuses
    for host in _addresses(config.host):
        own = [each for each in config.machine_addresses if (":" in each) == (":" in host)]
        if own and not private(host) and all(map(private, own)):
            shown.setdefault(":" in host, host)
    return tuple(shown.values())


def own_addresses(config: RendezvousConfig) -> frozenset[str]:
    """
    All addresses that lead to this machine, its own and those of a NAT in front of it: its other services may
    listen there.
    """
    found: set[str] = set()
    for host in (
        config.host,
        config.primary_address,
        config.reflector_host,
        *config.machine_addresses,
        *config.relay_addresses,
        *(host for each in config.alternate_addresses for host in (each.shown, each.own)),
    ):
        found.update(_addresses(host))
    return frozenset(found)


def _transport(owner: AllocationOwner) -> str:
    return "stream" if owner.is_stream else "udp"


def _addresses(*hosts: str | None) -> tuple[str, ...]:
    """The IP addresses among `hosts`, the first of each family."""
    found: dict[bool, str] = {}
    for host in hosts:
        try:
            found.setdefault(":" in str(host), canonical(str(host), 0).host)
        except ValueError:
            continue
    return tuple(found.values())


def _is_own(reactor: Any, host: str) -> bool:
    """Whether an address is one of this machine's: the system would use it as the source to reach it."""
    if IReactorFDSet.providedBy(reactor):
        return source_address(host) == host
    # Only addresses of this machine can be bound.
    try:
        probe = cast(IReactorUDP, reactor).listenUDP(0, DatagramProtocol(), host, 8192)
    except CannotListenError:
        return False
    probe.stopListening()
    return True
