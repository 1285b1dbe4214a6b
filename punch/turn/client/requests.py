"""
The transactions of a TURN client, the credentials that it is given for them, and the events that follow.

Requests are authenticated, repeated until they are answered, and made again with a new nonce when the server
asks for that (RFC 8489, sections 6.2 and 9.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from punch.identity import RandomBytes
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode_padded,
    long_term_key,
)
from punch.wire.stun_attributes import RelayLimit


@dataclass(frozen=True)
class RelayCredentials:
    """
    Long-term credentials (RFC 8489, section 9.2). With `realm` and `nonce` the first request is
    authenticated. Where they are empty, the server has to send them first, which costs a round trip.
    """

    username: str
    password: str = field(repr=False)
    realm: str = ""
    nonce: str = ""


class AllocationProblem(str, Enum):
    """Why an allocation failed or ended; in brackets the error code of RFC 8656, section 18."""

    TIMEOUT = "timeout"
    """The server does not answer."""
    DISCONNECTED = "disconnected"
    """The connection to the server could not be made, or ended."""
    UNAUTHORIZED = "unauthorized"
    """The credentials are wrong or have expired (401)."""
    MISMATCH = "mismatch"
    """There is no such allocation, or an Allocate request found one already (437)."""
    WRONG_CREDENTIALS = "wrong-credentials"
    """The allocation belongs to another user (441)."""
    UNSUPPORTED = "unsupported"
    """The server does not support the address family or the transport (440, 442)."""
    QUOTA = "quota"
    """The user has too many allocations there (486)."""
    CAPACITY = "capacity"
    """The server has no capacity left (508)."""
    REFUSED = "refused"
    """The server refused for another reason."""


PROBLEM_OF_CODE = {
    401: AllocationProblem.UNAUTHORIZED,
    437: AllocationProblem.MISMATCH,
    440: AllocationProblem.UNSUPPORTED,
    441: AllocationProblem.WRONG_CREDENTIALS,
    442: AllocationProblem.UNSUPPORTED,
    486: AllocationProblem.QUOTA,
    508: AllocationProblem.CAPACITY,
}


@dataclass(frozen=True)
class Allocated:
    """
    The server has made the allocation, with the relayed address `relayed`. `mapped` is the client's address
    as the server sees it, if the server said so. `lifetime` is in seconds; the client renews it by itself.
    """

    relayed: Address
    mapped: Address | None
    lifetime: float


@dataclass(frozen=True)
class AllocationDenied:
    """The server does not relay to this peer (403)."""

    peer: Address


@dataclass(frozen=True)
class AllocationFailed:
    """The allocation was refused or has ended. `text` is the server's reason phrase, or empty."""

    problem: AllocationProblem
    text: str = ""


@dataclass(frozen=True)
class RateLimited:
    """The server drops datagrams of the allocation, because more come than this limit allows."""

    limit: RelayLimit


Event = Allocated | AllocationDenied | AllocationFailed | RateLimited


class Data(NamedTuple):
    """A datagram that a peer sent to the relayed address."""

    data: bytes
    peer: Address


RTO = 0.5
"""Seconds before a request is sent again for the first time; then twice as long each time (section 6.2.1)."""
LAST_WAIT = 8
"""For how many times RTO an answer is awaited after the last request."""
RELIABLE_WAIT = 10.0
"""Seconds for which an answer is awaited over TCP, where nothing is sent twice."""
MAX_TRIES = 4
"""How often one request is made again with another nonce or realm: a server could ask for ever."""

SUCCESS = 0
# Errors of a server that does not know yet who asks. All other answers must have MESSAGE-INTEGRITY.
_UNSIGNED = frozenset({400, 401, 420, 438})


@dataclass(eq=False)
class ClientRequest:
    """
    One request, which may take several transactions.

    :ivar about: what it is about, for the caller.
    """

    method: Method
    attributes: tuple[tuple[int, Any], ...]
    about: Any
    sends: int
    """How often one transaction is sent at most."""
    started: float
    size: int = 0
    """The least number of bytes that it has."""
    tries: int = field(default=0, init=False)
    sent: int = field(default=0, init=False)
    next_at: float = field(default=0.0, init=False)
    transaction_id: bytes = field(default=b"", init=False)
    data: bytes = field(default=b"", init=False)
    credentials: RelayCredentials | None = field(default=None, init=False)
    """The credentials that it is signed with, if it is."""

    @property
    def at_once(self) -> bool:
        """Whether it was answered after its first datagram, as far as can be known."""
        return self.tries == 1 and self.sent == 1


class ClientResponse(NamedTuple):
    """The final response to a request: `code` is 0 for success."""

    request: ClientRequest
    code: int
    text: str
    message: StunMessage


class ClientRequests:
    """The requests under way to one server."""

    def __init__(self, credentials: RelayCredentials, random: RandomBytes, *, reliable: bool) -> None:
        self._random = random
        self._reliable = reliable
        self._under_way: dict[bytes, ClientRequest] = {}
        self._output: list[bytes] = []
        self._fresh: RelayCredentials | None = None
        self._previous: RelayCredentials | None = None
        self.changes = 0
        """Grows whenever the result of `get_timer` may have changed."""
        self._use(credentials)

    def renew(self, credentials: RelayCredentials) -> None:
        """
        Keep these credentials for when the present ones expire (`adopt`). Not before: a server may identify
        the allocation by the user name (RFC 8656, section 5), which contains the time in some schemes.
        """
        self._fresh = credentials

    def adopt(self) -> bool:
        """Use the new credentials now, if there are any; if the server refuses them, the old ones again."""
        fresh, self._fresh = self._fresh, None
        if fresh is None:
            return False
        self._previous = self._credentials
        self._use(fresh)
        return True

    def use_nonce(self, nonce: str) -> None:
        """Use this nonce from now on."""
        known = self._credentials
        self._use(RelayCredentials(known.username, known.password, known.realm, nonce))

    def _use(self, credentials: RelayCredentials) -> None:
        self._credentials = credentials
        self._key = long_term_key(credentials.username, credentials.realm, credentials.password)

    def start(
        self,
        method: Method,
        attributes: tuple[tuple[int, Any], ...],
        about: Any,
        now: float,
        sends: int = 5,
        size: int = 0,
    ) -> ClientRequest:
        """
        Make a request and send it for the first time.

        :param size: the least number of bytes; PADDING (RFC 5780, section 7.6) fills it up.
        """
        request = ClientRequest(method, attributes, about, 1 if self._reliable else sends, now, size)
        self._make(request, now)
        return request

    def drop(self, about: object) -> None:
        """Forget the requests about this."""
        for transaction_id, request in list(self._under_way.items()):
            if request.about is about:
                del self._under_way[transaction_id]

    def clear(self) -> None:
        """Forget all requests."""
        self._under_way.clear()

    def receive(self, message: StunMessage, now: float) -> ClientResponse | None:
        """
        Take a response. Returns None if it ends no request: it is not ours, not authentic, or led to a new
        try.
        """
        request = self._under_way.get(message.transaction_id)
        if request is None or message.method != request.method:
            return None
        code, text = SUCCESS, ""
        if message.message_class is MessageClass.ERROR:
            found = message.get(Attribute.ERROR_CODE)
            if not isinstance(found, tuple):
                return None
            code, text = found
        signed = request.credentials is not None and message.check_integrity(_key(request.credentials))
        if not signed and (code not in _UNSIGNED or message.has_integrity()):
            return None
        del self._under_way[message.transaction_id]
        self.changes += 1
        if code in (401, 438, 441) and self._learn(request, code, message):
            self._make(request, now)
            return None
        if message.unknown_required():
            code, text = 420, "unknown attributes in the answer"
        return ClientResponse(request, code, text, message)

    def check(self, indication: StunMessage) -> bool:
        """Whether the key of the credentials in use, or of those before, protects an indication."""
        used = (self._credentials, self._previous)
        return any(each is not None and indication.check_integrity(_key(each)) for each in used)

    def expire(self, now: float) -> list[ClientRequest]:
        """Repeat the requests that are due, and return those that were never answered."""
        unanswered = []
        for transaction_id, request in list(self._under_way.items()):
            if now < request.next_at:
                continue
            if request.sent < request.sends:
                self._send(request, now)
            else:
                del self._under_way[transaction_id]
                unanswered.append(request)
        return unanswered

    def get_timer(self) -> float | None:
        """The time at which to call `expire`, or None."""
        return min((request.next_at for request in self._under_way.values()), default=None)

    def data_to_send(self) -> list[bytes]:
        """The messages to send now."""
        output, self._output = self._output, []
        return output

    def _learn(self, request: ClientRequest, code: int, message: StunMessage) -> bool:
        """Take realm and nonce from an error; return whether another try makes sense."""
        if request.tries >= MAX_TRIES:
            return False
        used, known = request.credentials, self._credentials
        if used is not None and used != known:
            return True  # Another response has brought new ones meanwhile.
        if code == 441:
            previous, self._previous = self._previous, None
            if previous is not None:
                self._use(previous)
            return previous is not None
        realm, nonce = message.get(Attribute.REALM), message.get(Attribute.NONCE)
        if not isinstance(nonce, str) or not nonce:
            return False
        if code == 438:
            realm = known.realm
        if not isinstance(realm, str) or not realm:
            return False
        # A refusal with the same realm means that name or password are wrong: another nonce does not help.
        if used is not None and (nonce == known.nonce or (code == 401 and realm == known.realm)):
            return self.adopt()
        self._use(RelayCredentials(known.username, known.password, realm, nonce))
        return True

    def _make(self, request: ClientRequest, now: float) -> None:
        known = self._credentials
        attributes, key = request.attributes, None
        request.credentials = None
        if known.realm and known.nonce:
            attributes += (
                (Attribute.USERNAME, known.username),
                (Attribute.REALM, known.realm),
                (Attribute.NONCE, known.nonce),
            )
            key = self._key
            request.credentials = known
        request.tries += 1
        request.sent = 0
        self.changes += 1
        request.transaction_id = self._random(12)
        message = StunMessage(request.method, MessageClass.REQUEST, request.transaction_id, attributes)
        request.data = encode_padded(message, key, request.size)
        self._under_way[request.transaction_id] = request
        self._send(request, now)

    def _send(self, request: ClientRequest, now: float) -> None:
        self._output.append(request.data)
        if self._reliable:
            wait = RELIABLE_WAIT
        elif request.sent + 1 == request.sends:
            wait = RTO * LAST_WAIT
        else:
            wait = RTO * 2**request.sent
        request.sent += 1
        request.next_at = now + wait


def _key(credentials: RelayCredentials) -> bytes:
    return long_term_key(credentials.username, credentials.realm, credentials.password)
