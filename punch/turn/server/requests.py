"""
The requests of TURN: Allocate, Refresh, CreatePermission, ChannelBind (RFC 8656, sections 7, 8, 10 and 12).

Each method takes a request that was parsed and authenticated, and returns the answer. A retransmission gets
the same answer, because the state that it asks for exists already.
"""

from __future__ import annotations

from collections.abc import Callable

from punch.turn.server.allocation import (
    AllocateRequest,
    Allocation,
    AllocationOwner,
    AllocationRefusal,
    AllocationRefused,
    Binding,
    FirstPermission,
    FiveTuple,
)
from punch.turn.server.allocations import Allocations
from punch.turn.server.authentication import AuthenticationRefused, Authenticator, Login
from punch.turn.server.settings import Destinations, RelaySettings
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    Method,
    StunMessage,
    error,
    success,
)
from punch.wire.stun_attributes import IPV6, AddressErrorCode
from punch.wire.turn import (
    CHANNEL_LIFETIME,
    DEFAULT_LIFETIME,
    FIRST_CHANNEL,
    LAST_CHANNEL,
    PERMISSION_LIFETIME,
)

REQUESTS = frozenset(
    int(method).to_bytes(2, "big")
    for method in (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND)
)
"""The first two bytes of all requests that are handled."""

_UDP = 17


class RequestHandler:
    """
    Answers requests. `now` is monotonic seconds, `unix` Unix seconds.
    """

    def __init__(
        self,
        settings: RelaySettings,
        authenticator: Authenticator,
        allocations: Allocations,
        destinations: Destinations,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._allocations = allocations
        self._destinations = destinations
        self._methods: dict[int, Callable[[StunMessage, FiveTuple, Login, float, float], StunMessage]] = {
            Method.ALLOCATE: self._allocate,
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._create_permission,
            Method.CHANNEL_BIND: self._channel_bind,
        }

    def answer(
        self, request: StunMessage, client: FiveTuple, login: Login, now: float, unix: float
    ) -> StunMessage | AuthenticationRefused:
        """
        The answer to one of the `REQUESTS`, which was parsed leniently and authenticated. It is to be
        protected with the key of the login.
        """
        method = self._methods[request.method]
        allocation = self._allocations.of(client, login.user)
        if allocation is not None and allocation.user.name != login.user:
            return error(request, 441, "Wrong credentials")
        if self._authenticator.is_copy(request, login.user, allocation):
            return AuthenticationRefused(438)
        if allocation is not None:
            allocation.key = login.key
        unknown = request.unknown_required()
        if Attribute.DONT_FRAGMENT in request:
            # The system fragments what is relayed, so DONT-FRAGMENT is not supported (RFC 8656, section 7.2).
            unknown += (int(Attribute.DONT_FRAGMENT),)
        if unknown:
            return error(request, 420, "Unknown attribute", (Attribute.UNKNOWN_ATTRIBUTES, unknown))
        invalid = request.invalid()
        if invalid:
            if invalid == (Attribute.REQUESTED_ADDRESS_FAMILY,):
                if request.method == Method.ALLOCATE:
                    return error(request, 440, "No such address family")
                if request.method == Method.REFRESH and allocation is not None:
                    return error(request, 443, "The allocation is of another address family")
            return error(request, 400, "An attribute has no lawful value")
        try:
            if allocation is not None and login.receives:
                self._allocations.prove(allocation, now)
            return method(request, client, login, now, unix)
        except AllocationRefusal as refused:
            if request.method == Method.ALLOCATE and refused.code in (403, 486, 508):
                owner = AllocationOwner(login.user, client.remote, client.connection != 0)
                self._allocations.events.append(AllocationRefused(owner, refused.code, refused.limit))
            return error(request, refused.code, refused.reason)

    def _allocate(
        self, request: StunMessage, client: FiveTuple, login: Login, now: float, unix: float
    ) -> StunMessage:
        allocations = self._allocations
        existing = allocations.of(client, login.user)
        if existing is not None:
            if existing.transaction != request.transaction_id:
                raise AllocationRefusal(437, "This five-tuple has an allocation")
            return self._allocated(request, existing, login, now, unix)
        transport = request.get(Attribute.REQUESTED_TRANSPORT)
        if transport is None:
            raise AllocationRefusal(400, "No transport requested")
        if transport != _UDP:
            raise AllocationRefusal(442, "Only UDP is relayed")
        if not client.connection and allocations.is_relay(client.remote):
            # With forged sources, two allocations could be each other's clients and relay for ever.
            raise AllocationRefusal(403, "Not for a relayed address")
        lifetime = self._lifetime(request, login, unix)
        if lifetime <= 0:
            raise AllocationRefusal(400, "An allocation without a lifetime")
        allocation = allocations.open(
            client,
            login.user,
            login.key,
            request.transaction_id,
            _wanted(request),
            now + lifetime,
            now,
            receives=login.receives,
        )
        self._authenticator.done(request, login.user)
        return self._allocated(request, allocation, login, now, unix)

    def _allocated(
        self, request: StunMessage, allocation: Allocation, login: Login, now: float, unix: float
    ) -> StunMessage:
        attributes = [
            (Attribute.XOR_RELAYED_ADDRESS, allocation.relayed),
            (Attribute.LIFETIME, max(0, round(allocation.expires - now))),
            (Attribute.XOR_MAPPED_ADDRESS, allocation.client.remote),
        ]
        if allocation.token is not None:
            attributes.append((Attribute.RESERVATION_TOKEN, allocation.token))
        if not login.has_own_nonce:
            # A client that uses it receives at this address. Requests with another nonce are stale from now
            # on.
            nonce = self._authenticator.nonces.for_address(allocation.client.remote, unix)
            attributes.append((Attribute.NONCE, nonce))
        if Attribute.ADDITIONAL_ADDRESS_FAMILY in request:
            refusal = AddressErrorCode(IPV6, 440, "One family an allocation")
            attributes.append((Attribute.ADDRESS_ERROR_CODE, refusal))
        return success(request, *attributes)

    def _refresh(
        self, request: StunMessage, client: FiveTuple, login: Login, now: float, unix: float
    ) -> StunMessage:
        allocation = self._allocation(client)
        family = request.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        if family is not None and (family == IPV6) != allocation.is_ipv6:
            raise AllocationRefusal(443, "The allocation is of the other address family")
        if request.get(Attribute.LIFETIME) == 0:
            self._allocations.close(allocation, now)
            self._authenticator.done(request, login.user)
            return success(request, (Attribute.LIFETIME, 0))
        lifetime = self._lifetime(request, login, unix)
        allocation.expires = now + lifetime
        self._allocations.schedule(allocation)
        return success(request, (Attribute.LIFETIME, round(lifetime)))

    def _create_permission(
        self, request: StunMessage, client: FiveTuple, login: Login, now: float, unix: float
    ) -> StunMessage:
        allocation = self._allocation(client)
        peers = list(dict.fromkeys(request.get_all(Attribute.XOR_PEER_ADDRESS)))
        if not peers:
            raise AllocationRefusal(400, "No peer address")
        self._check_room(allocation, peers)
        for peer in peers:
            self._check_peer(allocation, peer)
        self._permit(allocation, peers, now)
        return success(request)

    def _channel_bind(
        self, request: StunMessage, client: FiveTuple, login: Login, now: float, unix: float
    ) -> StunMessage:
        allocation = self._allocation(client)
        number: int | None = request.get(Attribute.CHANNEL_NUMBER)
        peer: Address | None = request.get(Attribute.XOR_PEER_ADDRESS)
        if number is None or peer is None:
            raise AllocationRefusal(400, "A channel has a number and a peer address")
        if not FIRST_CHANNEL <= number <= LAST_CHANNEL:
            raise AllocationRefusal(400, "Channel numbers are 0x4000 to 0x4FFF")
        wire = number.to_bytes(2, "big")
        bound = allocation.bindings.get(wire)
        if bound is not None and bound.peer != peer:
            raise AllocationRefusal(400, "The channel is bound to another peer")
        if bound is None and any(each.peer == peer for each in allocation.bindings.values()):
            raise AllocationRefusal(400, "The peer has another channel")
        if bound is None and len(allocation.bindings) >= self._settings.channels:
            raise AllocationRefusal(508, "Too many channels")
        self._check_room(allocation, [peer])
        self._check_peer(allocation, peer)
        if bound is None:
            allocation.bindings[wire] = Binding(wire, peer, now + CHANNEL_LIFETIME)
        else:
            bound.expires = now + CHANNEL_LIFETIME
        self._permit(allocation, [peer], now)
        return success(request)

    def _allocation(self, client: FiveTuple) -> Allocation:
        allocation = self._allocations.by_client.get(client)
        if allocation is None:
            raise AllocationRefusal(437, "This five-tuple has no allocation")
        return allocation

    def _lifetime(self, request: StunMessage, login: Login, unix: float) -> float:
        """Seconds: the requested lifetime, within the limits and the lifetime of the credentials."""
        asked: int | None = request.get(Attribute.LIFETIME)
        longest = self._settings.lifetime
        lifetime = max(DEFAULT_LIFETIME, min(float(asked or 0), longest))
        return min(lifetime, longest, login.expires - unix)

    def _check_peer(self, allocation: Allocation, peer: Address) -> None:
        """
        Check whether a permission or a channel for this peer address may be made.

        :raise AllocationRefusal: 443 or 403.
        """
        if peer.is_ipv6 != allocation.is_ipv6:
            raise AllocationRefusal(443, "The peer is of the other address family")
        if peer.host in allocation.permissions and peer.host not in allocation.inside:
            # It was checked when the permission was made, which may be renewed a thousand times a second.
            return
        if self._destinations.refuses(peer.host):
            # Two peers may both be behind the relay, so one relayed address may send to another, but to
            # nothing else on the same host.
            if peer not in self._allocations.by_relayed:
                raise AllocationRefusal(403, "Not to this address")
            allocation.inside |= {peer.host}

    def _check_room(self, allocation: Allocation, peers: list[Address]) -> None:
        """
        Check the number of permissions before the addresses, because a request has room for thousands.

        :raise AllocationRefusal: 508, there would be too many permissions.
        """
        hosts = {peer.host for peer in peers}
        if len(allocation.permissions.keys() | hosts) > self._settings.permissions:
            raise AllocationRefusal(508, "Too many permissions")

    def _permit(self, allocation: Allocation, peers: list[Address], now: float) -> None:
        if not allocation.permissions:
            self._allocations.events.append(FirstPermission(allocation.owner, allocation.relayed))
        for peer in peers:
            allocation.permissions[peer.host] = now + PERMISSION_LIFETIME
        allocation.update_channels()
        self._allocations.schedule(allocation)


def _wanted(request: StunMessage) -> AllocateRequest:
    """
    The port that an Allocate request asks for.

    :raise AllocationRefusal: 400, the attributes exclude each other (RFC 8656, section 7.2).
    """
    family = request.get(Attribute.REQUESTED_ADDRESS_FAMILY)
    additional = request.get(Attribute.ADDITIONAL_ADDRESS_FAMILY)
    even: bool | None = request.get(Attribute.EVEN_PORT)
    token: bytes | None = request.get(Attribute.RESERVATION_TOKEN)
    if token is not None and (even is not None or family is not None or additional is not None):
        raise AllocationRefusal(400, "A reservation token stands for all else")
    if additional is not None and (additional != IPV6 or family is not None or even):
        raise AllocationRefusal(400, "Attributes that don't go together")
    return AllocateRequest(family == IPV6, even is not None, bool(even), token)
