"""
Who may use the relay, and how many requests of each source are authenticated. Pure.

Authentication is the long-term credential mechanism (RFC 8489, section 9.2) with time-limited credentials.
The nonce that is issued with credentials is good for an Allocate request, from anywhere: it saves the round
trip of a 401. Every other request needs a nonce that was sent to the address that the request comes from, in
an Allocate answer, a 401 or a 438. So nobody can act for an address at which they do not receive.

Nothing is remembered of clients that fail. Of clients that succeed, the transaction IDs of the last requests
that made or ended an allocation are remembered: a copy of one of them, sent by somebody who has read it on
its way, is stale.

To authenticate a request takes a tenth of a millisecond. A request that shows a nonce which was sent to its
address, or comes on a connection, is charged to that address: nobody else can use up its share. An Allocate
request with the nonce that came with its credentials may have a forged address, so it is charged to its user.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import NamedTuple

from punch.net.fairness import FairShares, SourceShares
from punch.net.rate_limits import source_of
from punch.turn.server.allocation import Allocation, FiveTuple, LimitHit, RelayEvent
from punch.turn.server.credentials import Nonces, password_of, read_username
from punch.turn.server.settings import RelaySettings
from punch.wire.stun import (
    Attribute,
    Invalid,
    Method,
    StunMessage,
    error,
    long_term_key,
)

_CAPACITY = 16_384
"""Prefixes of each width that are remembered."""
_GROUPS = 256
"""Clients of UDP at one address are told apart by their port, modulo this: so their number is bounded."""
_FROM_ANYWHERE = 4
"""All users together have the share of so many addresses for requests that may come from anywhere."""
_SAID_AGAIN = 1.0
"""Seconds."""


class Metering:
    """
    What each source may ask for.

    :param events: where it is said that a limit was hit, once a second at most.
    """

    def __init__(self, settings: RelaySettings, events: deque[RelayEvent]) -> None:
        rate, burst = settings.requests_rate, settings.requests_burst
        self._sources = SourceShares(rate, burst, _CAPACITY)
        self._users = FairShares(_FROM_ANYWHERE * rate, _FROM_ANYWHERE * burst, 1)
        self._held: OrderedDict[FiveTuple, float] = OrderedDict()
        """Clients of UDP that asked too much, and until when they get no answer."""
        self._events = events
        self._said = -math.inf

    def by_address(self, client: FiveTuple, now: float) -> float:
        """
        A request of a client that receives at its address; for how many seconds it should ask nothing more.
        """
        remote, _, connection = client
        member = connection or -1 - remote.port % _GROUPS
        wait = self._sources.charge(source_of(remote.host), member, 1.0, now)
        if wait > 0.0:
            self._say(remote.host, now)
        return wait

    def hold(self, client: FiveTuple, now: float) -> None:
        """A request of a client of UDP: if it should ask nothing more, its next ones get no answer."""
        wait = self.by_address(client, now)
        if wait > 0.0:
            self._held[client] = now + wait
            if len(self._held) > _CAPACITY:
                self._held.popitem(last=False)

    def is_held(self, client: FiveTuple, now: float) -> bool:
        """Whether a request gets no answer, so that nobody need look at it."""
        until = self._held.get(client)
        if until is None:
            return False
        if until <= now:
            del self._held[client]
        return now < until

    def by_user(self, user: str, client: FiveTuple, now: float) -> float:
        """
        The same for a user, who has shown a nonce that was handed to it.
        """
        wait = self._users.charge(None, user, 1.0, now)
        if wait > 0.0:
            self._say(client.remote.host, now, user)
        return wait

    def _say(self, host: str, now: float, user: str | None = None) -> None:
        # A flood is thousands of these a second.
        if now >= self._said + _SAID_AGAIN:
            self._said = now
            self._events.append(LimitHit(host, "relay-requests", user))


REMEMBERED = 16_384
"""Transactions that are remembered; a flood of them from one user costs it many round trips."""


class Login(NamedTuple):
    """Whose request this is, beyond doubt."""

    user: str
    key: bytes
    expires: float
    """Of the credentials, in Unix seconds."""
    has_own_nonce: bool
    """Whether its nonce is one that was sent to its address, not the one that came with the credentials."""
    receives: bool
    """Whether the client has proved that it receives at its address: by such a nonce, or by a connection."""


class AuthenticationRefused(NamedTuple):
    """The answer to a request that is not served, and the key to protect it with, if there is one."""

    answer: StunMessage
    key: bytes | None = None


class Authenticator:
    """
    Checks requests. Pure: `now` is monotonic seconds, `unix` the time in Unix seconds.
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
        Whose request it is, or the answer that refuses it.
        """
        if not request.has_integrity():
            return self.challenge(request, client, 401, unix)
        username, nonce = request.get(Attribute.USERNAME), request.get(Attribute.NONCE)
        if username is None or nonce is None or Attribute.REALM not in request:
            return AuthenticationRefused(error(request, 400, ""))
        claim = None if isinstance(username, Invalid) else read_username(username)
        if claim is None or claim.expires <= unix:
            return self.challenge(request, client, 401, unix)
        if isinstance(nonce, Invalid):
            return self.challenge(request, client, 438, unix)
        own = self.nonces.is_for_address(nonce, client.remote, unix)
        if not own and not (
            _may_come_from_anywhere(request) and self.nonces.is_for_user(nonce, claim.user, unix)
        ):
            return self.challenge(request, client, 438, unix)
        if own and not client.connection:
            self._metering.hold(client, now)
        elif not own and self._metering.by_user(claim.user, client, now) > 0.0:
            # With a nonce of its own, the request is charged to its address.
            return self.challenge(request, client, 438, unix)
        for secret in self._secrets:
            key = long_term_key(username, self._realm, password_of(secret, username))
            if request.check_integrity(key):
                return Login(claim.user, key, claim.expires, own, own or client.connection != 0)
        return self.challenge(request, client, 401, unix)

    def challenge(
        self, request: StunMessage, client: FiveTuple, code: int, unix: float
    ) -> AuthenticationRefused:
        """
        The answer that tells realm and nonce. It says no more, so that it is short: strangers may have asked
        in somebody else's name.
        """
        nonce = self.nonces.for_address(client.remote, unix)
        return AuthenticationRefused(
            error(request, code, "", (Attribute.REALM, self._realm), (Attribute.NONCE, nonce))
        )

    def done(self, request: StunMessage, user: str) -> None:
        """This request has made an allocation or ended one: no copy of it may do so again."""
        self._done[user, request.transaction_id] = None
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    def is_copy(self, request: StunMessage, user: str, allocation: Allocation | None) -> bool:
        """
        Whether this request has made or ended an allocation before.

        :param allocation: the one that the client has.
        """
        if (user, request.transaction_id) not in self._done:
            return False
        # A retransmission of the request that made this very allocation is answered as the first was.
        return allocation is None or allocation.transaction != request.transaction_id


def _may_come_from_anywhere(request: StunMessage) -> bool:
    """
    Whether a request is served with the nonce that came with the credentials: one for an allocation that
    relays nothing before its client has proved that it receives. A reserved port is not for those who have
    not: they would know a relayed address whose announcement somebody else received.
    """
    return (
        request.method == Method.ALLOCATE
        and Attribute.RESERVATION_TOKEN not in request
        and not request.get(Attribute.EVEN_PORT)
    )
