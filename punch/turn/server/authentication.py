"""
Who may use the relay, and how many requests of each source are authenticated.

Authentication is the long-term credential mechanism (RFC 8489, section 9.2) with time-limited credentials.
The nonce that is issued with credentials is good for an Allocate request, from anywhere: it saves the round
trip of a 401. Every other request needs a nonce that was sent to the address that the request comes from, in
an Allocate answer, a 401 or a 438. So nobody can act for an address at which they do not receive.

The credentials have the form that coturn calls `use-auth-secret`: whoever holds the shared secret can make
and check them, and nothing about them is remembered.

    username = expiry, in Unix seconds, as decimal digits ‖ ":" ‖ user
    password = base64(HMAC-SHA1(secret, username))

Whoever makes them chooses the user. A rendezvous derives it from the peer ID that the peer has proved, so
that an allocation is bound to that peer; the ID itself would be readable on the wire.

A nonce (RFC 8489, section 9.2) is a time and a MAC over it. It is bound either to the address that it was
sent to, or to the user that it was issued to along with its credentials, whose address is not known
beforehand. The former proves that the client receives at the address that it sends from; the latter does not,
and is good for an Allocate request only.

Nothing is remembered of clients that fail. Of clients that succeed, the transaction IDs of the last requests
that made or ended an allocation are remembered: a copy of one of them, sent by somebody who has read it on
its way, is stale.

To authenticate a request takes a tenth of a millisecond. A request that shows a nonce which was sent to its
address, or comes on a connection, is charged to that address: nobody else can use up its share. An Allocate
request with the nonce that came with its credentials may have a forged address, so it is charged to its user.
"""

from __future__ import annotations

import hmac
import math
import re
from base64 import b32encode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict, deque
from typing import NamedTuple

from punch.identity import PeerID
from punch.net.fairness import FairShares, SourceShares
from punch.net.sources import source_of
from punch.turn.server.allocation import Allocation, FiveTuple, RelayEvent, RelayLimitHit
from punch.turn.server.settings import RelaySettings
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    Invalid,
    Method,
    StunMessage,
    error,
    long_term_key,
)

_USERNAME = re.compile(r"([0-9]{1,12})(?::(.*))?", re.DOTALL)
_USER_LABEL = b"punch relay user\0"


class TurnCredentials(NamedTuple):
    """What a TURN client is given."""

    username: str
    password: str


class Claim(NamedTuple):
    """The content of a username; true only if the password was right."""

    expires: int
    """Unix seconds."""
    user: str


def password_of(secret: bytes, username: str) -> str:
    """The password that belongs to a username."""
    return b64encode(hmac.digest(secret, username.encode(), "sha1")).decode("ascii")


def issue(secret: bytes, user: str, expires: float) -> TurnCredentials:
    """
    Credentials for `user`, good until `expires` (Unix seconds).
    """
    username = f"{int(expires)}:{user}"
    return TurnCredentials(username, password_of(secret, username))


def read_username(username: str) -> Claim | None:
    """The content of a username, or None if it does not have this form."""
    found = _USERNAME.fullmatch(username)
    return None if found is None else Claim(int(found[1]), found[2] or "")


def user_of(secret: bytes, peer: PeerID) -> str:
    """
    The user name for a peer. It is always the same, and does not reveal the peer to anyone without the
    secret.
    """
    return b32encode(hmac.digest(secret, _USER_LABEL + peer.key, "sha256")[:15]).decode("ascii").lower()


NONCE_SIZE = 16
"""Characters; short enough that a 401 is not longer than three times the request."""

_ADDRESS, _USER = b"a", b"u"
_TIME_BYTES = 4
_MAC_BYTES = 8


class Nonces:
    """
    Makes and checks nonces. `unix` is Unix seconds.

    :param lifetime: the lifetime of a nonce, in seconds.
    """

    def __init__(self, secret: bytes, lifetime: float) -> None:
        self._key = hmac.digest(secret, b"punch relay nonces", "sha256")
        self._lifetime = lifetime

    def for_address(self, remote: Address, unix: float) -> str:
        """A nonce for a client at `remote`."""
        return self._make(_ADDRESS + str(remote).encode(), int(unix))

    def for_user(self, user: str, unix: float) -> str:
        """A nonce for `user` at any address."""
        return self._make(_USER + user.encode(), int(unix))

    def is_for_address(self, nonce: str, remote: Address, unix: float) -> bool:
        """Whether a nonce was made for a client at `remote` and has not expired."""
        return self._is_good(nonce, _ADDRESS + str(remote).encode(), unix)

    def is_for_user(self, nonce: str, user: str, unix: float) -> bool:
        """Whether a nonce was made for `user` and has not expired."""
        return self._is_good(nonce, _USER + user.encode(), unix)

    def _is_good(self, nonce: str, bound_to: bytes, unix: float) -> bool:
        if len(nonce) != NONCE_SIZE or not nonce.isascii():
            return False
        try:
            made = int.from_bytes(urlsafe_b64decode(nonce)[:_TIME_BYTES], "big")
        except ValueError:
            return False
        # Nonces from the near future are accepted, because the clock may have been set back.
        if not made - self._lifetime <= unix < made + self._lifetime:
            return False
        return hmac.compare_digest(nonce.encode(), self._make(bound_to, made).encode())

    def _make(self, bound_to: bytes, made: int) -> str:
        time = (made & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big")
        mac = hmac.digest(self._key, time + bound_to, "sha256")[:_MAC_BYTES]
        return urlsafe_b64encode(time + mac).decode("ascii")


_CAPACITY = 16_384
"""Sources that are kept for each width of prefix."""
_GROUPS = 256
"""UDP clients at one address are told apart by their port modulo this, which bounds their number."""
_FROM_ANYWHERE = 4
"""All users together have the share of this many addresses for requests from forgeable addresses."""
_LOG_PERIOD = 1.0
"""Seconds between two events."""


class Metering:
    """
    Limits the requests of each source.

    :param events: gets an event when a limit is hit, at most once a second.
    """

    def __init__(self, settings: RelaySettings, events: deque[RelayEvent]) -> None:
        rate, burst = settings.requests_rate, settings.requests_burst
        self._sources = SourceShares(rate, burst, _CAPACITY)
        self._users = FairShares(_FROM_ANYWHERE * rate, _FROM_ANYWHERE * burst, 1)
        self._held: OrderedDict[FiveTuple, float] = OrderedDict()
        """UDP clients that have exceeded their share, and until when they get no answer."""
        self._events = events
        self._logged_at = -math.inf

    def by_address(self, client: FiveTuple, now: float) -> float:
        """
        Charge the address of a client that receives there. Return the seconds for which it should send no
        request.
        """
        remote, _, connection = client
        member = connection or -1 - remote.port % _GROUPS
        wait = self._sources.charge(source_of(remote.host), member, 1.0, now)
        if wait > 0.0:
            self._log(remote.host, now)
        return wait

    def hold(self, client: FiveTuple, now: float) -> None:
        """Charge a UDP client. If it has exceeded its share, its next requests get no answer."""
        wait = self.by_address(client, now)
        if wait > 0.0:
            self._held[client] = now + wait
            if len(self._held) > _CAPACITY:
                self._held.popitem(last=False)

    def is_held(self, client: FiveTuple, now: float) -> bool:
        """Whether requests of a client get no answer now, and need not be parsed."""
        until = self._held.get(client)
        if until is None:
            return False
        if until <= now:
            del self._held[client]
        return now < until

    def by_user(self, user: str, client: FiveTuple, now: float) -> float:
        """
        Charge a user that has shown the nonce that was issued to it. Return the seconds to wait.
        """
        wait = self._users.charge(None, user, 1.0, now)
        if wait > 0.0:
            self._log(client.remote.host, now, user)
        return wait

    def _log(self, host: str, now: float, user: str | None = None) -> None:
        # A flood is thousands of these a second.
        if now >= self._logged_at + _LOG_PERIOD:
            self._logged_at = now
            self._events.append(RelayLimitHit(host, "relay-requests", user))


REMEMBERED = 16_384
"""Transactions that are remembered."""


class Login(NamedTuple):
    """The authenticated sender of a request."""

    user: str
    key: bytes
    expires: float
    """When the credentials expire, in Unix seconds."""
    has_own_nonce: bool
    """Whether its nonce was sent to its address, and is not the one that came with the credentials."""
    receives: bool
    """Whether the client has proved that it receives at its address: by such a nonce, or by a connection."""


class AuthenticationRefused(NamedTuple):
    """A request is refused with an error response, which nothing protects."""

    code: int


CREDENTIALS = frozenset((Attribute.USERNAME, Attribute.REALM, Attribute.NONCE, Attribute.EVEN_PORT))
"""The attributes of a request that `Authenticator.check` reads the values of."""


class Authenticator:
    """
    Authenticates requests. `now` is monotonic seconds, `unix` Unix seconds.
    """

    def __init__(self, settings: RelaySettings, metering: Metering) -> None:
        self._secrets = settings.secrets
        self._realm = settings.realm
        self._metering = metering
        self.nonces = Nonces(settings.secrets[0], settings.nonce_time)
        self._done: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    @property
    def remembered(self) -> int:
        """How many transactions are remembered."""
        return len(self._done)

    def check(
        self, request: StunMessage, client: FiveTuple, now: float, unix: float
    ) -> Login | AuthenticationRefused:
        """
        Authenticate a request: return its sender, or why it is refused.

        Of the request only `CREDENTIALS` need be decoded.
        """
        if not request.has_integrity():
            return AuthenticationRefused(401)
        username, nonce = request.get(Attribute.USERNAME), request.get(Attribute.NONCE)
        if username is None or nonce is None or Attribute.REALM not in request:
            return AuthenticationRefused(400)
        claim = None if isinstance(username, Invalid) else read_username(username)
        if claim is None or claim.expires <= unix:
            return AuthenticationRefused(401)
        if isinstance(nonce, Invalid):
            return AuthenticationRefused(438)
        own = self.nonces.is_for_address(nonce, client.remote, unix)
        if not own and not (
            _may_come_from_anywhere(request) and self.nonces.is_for_user(nonce, claim.user, unix)
        ):
            return AuthenticationRefused(438)
        if own and not client.connection:
            self._metering.hold(client, now)
        elif not own and self._metering.by_user(claim.user, client, now) > 0.0:
            # With a nonce for its address, the request would be charged to the address.
            return AuthenticationRefused(438)
        for secret in self._secrets:
            key = long_term_key(username, self._realm, password_of(secret, username))
            if request.check_integrity(key):
                return Login(claim.user, key, claim.expires, own, own or client.connection != 0)
        return AuthenticationRefused(401)

    def refusal(self, request: StunMessage, client: FiveTuple, code: int, unix: float) -> StunMessage:
        """
        The error response for an `AuthenticationRefused`; with realm and nonce, except for a 400. It is
        short, because the source of the request may be forged.
        """
        if code == 400:
            return error(request, code, "")
        nonce = self.nonces.for_address(client.remote, unix)
        return error(request, code, "", (Attribute.REALM, self._realm), (Attribute.NONCE, nonce))

    def done(self, request: StunMessage, user: str) -> None:
        """Remember a request that has made or ended an allocation, so that no copy of it does so again."""
        self._done[user, request.transaction_id] = None
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    def is_copy(self, request: StunMessage, user: str, allocation: Allocation | None) -> bool:
        """
        Whether a request has made or ended an allocation before.

        :param allocation: the allocation of the client.
        """
        if (user, request.transaction_id) not in self._done:
            return False
        # A retransmission of the request that made the present allocation is answered again.
        return allocation is None or allocation.transaction != request.transaction_id


def _may_come_from_anywhere(request: StunMessage) -> bool:
    """
    Whether a request is accepted with the nonce that came with the credentials: only a request for an
    allocation, which relays nothing before its client has proved that it receives at its address. Reserved
    ports are excluded, because a client with a forged address would know the relayed address from the token.
    """
    return (
        request.method == Method.ALLOCATE
        and Attribute.RESERVATION_TOKEN not in request
        and not request.get(Attribute.EVEN_PORT)
    )
