"""
Who may use the relay: the long-term credential mechanism (RFC 8489, section 9.2) with time-limited
credentials.

Nothing is remembered of those who fail. Of those who succeed, the transaction IDs of the last requests that
made or ended an allocation: a copy of one of these, sent by somebody who has read it on its way, is stale.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from punch.rendezvous.relay.allocations import Allocation, FiveTuple
from punch.rendezvous.relay.credentials import password_of, read_username
from punch.rendezvous.relay.nonces import Nonces
from punch.rendezvous.relay.settings import RelaySettings
from punch.wire.stun import Attribute, Message, error, long_term_key

REMEMBERED = 16_384
"""Transactions that are remembered; a flood of them from one user costs it many round trips."""


class Login(NamedTuple):
    """Whose request this is, beyond doubt."""

    user: str
    key: bytes
    expires: float
    """Of the credentials, in Unix seconds."""


class Refused(NamedTuple):
    """The answer to a request that is not served, and the key to protect it with, if there is one."""

    answer: Message
    key: bytes | None = None


class Authenticator:
    """
    Checks requests. Pure: `unix` is the time in Unix seconds.
    """

    def __init__(self, settings: RelaySettings) -> None:
        self._secrets = settings.secrets
        self._realm = settings.realm
        self.nonces = Nonces(settings.secrets[0], settings.nonce_time)
        self._done: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def check(
        self, request: Message, client: FiveTuple, allocation: Allocation | None, unix: float
    ) -> Login | Refused:
        """
        Whose request it is, or the answer that refuses it.

        :param allocation: the one that the client has.
        """
        if not request.has_integrity():
            return self.challenge(request, client, 401, unix)
        username, nonce = request.get(Attribute.USERNAME), request.get(Attribute.NONCE)
        if username is None or nonce is None or Attribute.REALM not in request:
            return Refused(error(request, 400, ""))
        claim = read_username(username)
        if claim is None or claim.expires <= unix:
            return self.challenge(request, client, 401, unix)
        if not self.nonces.is_good(nonce, client.remote, claim.user, unix):
            return self.challenge(request, client, 438, unix)
        for secret in self._secrets:
            key = long_term_key(username, self._realm, password_of(secret, username))
            if request.check_integrity(key):
                break
        else:
            return self.challenge(request, client, 401, unix)
        if allocation is not None and allocation.user.name != claim.user:
            return Refused(error(request, 441, "Wrong credentials"), key)
        if self._is_copy(request, claim.user, allocation):
            return self.challenge(request, client, 438, unix)
        return Login(claim.user, key, claim.expires)

    def challenge(self, request: Message, client: FiveTuple, code: int, unix: float) -> Refused:
        """
        The answer that tells realm and nonce. It says no more, so that it is short: strangers may have asked
        in somebody else's name.
        """
        nonce = self.nonces.for_address(client.remote, unix)
        return Refused(error(request, code, "", (Attribute.REALM, self._realm), (Attribute.NONCE, nonce)))

    def done(self, request: Message, user: str) -> None:
        """This request has made an allocation or ended one: no copy of it may do so again."""
        self._done[user, request.transaction_id] = None
        if len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    def _is_copy(self, request: Message, user: str, allocation: Allocation | None) -> bool:
        if (user, request.transaction_id) not in self._done:
            return False
        # A retransmission of the request that made this very allocation is answered as the first was.
        return allocation is None or allocation.transaction != request.transaction_id
