"""
Who may use the relay: the long-term credential mechanism (RFC 8489, section 9.2) with time-limited
credentials.

The nonce that is handed out with credentials is good for an Allocate request, from anywhere: it saves the
round trip of a 401. Everything else takes a nonce that was sent to the address that the request comes from,
in an Allocate answer, a 401 or a 438. So nobody can act for an address at which he does not receive.

Nothing is remembered of those who fail. Of those who succeed, the transaction IDs of the last requests that
made or ended an allocation: a copy of one of these, sent by somebody who has read it on its way, is stale.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from punch.turn.server.allocations import Allocation, FiveTuple
from punch.turn.server.credentials import password_of, read_username
from punch.turn.server.metering import Metering
from punch.turn.server.nonces import Nonces
from punch.turn.server.settings import RelaySettings
from punch.wire.stun import (
    Attribute,
    Invalid,
    Method,
    StunMessage,
    error,
    long_term_key,
)

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
