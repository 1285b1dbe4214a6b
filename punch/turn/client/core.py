"""
A TURN client (RFC 8656): one allocation at one server, over UDP or a stream.

A core without I/O. Call `receive` with each message of the server and `handle_timer` when `get_timer()` is
due. After each input, send what `data_to_send()` returns to the server and take the events. Over a stream
(`reliable=True`) the messages are padded already; `punch.wire.turn.StreamSplitter` splits what the server
sends into messages.

Where the RFC leaves a choice:

- The first datagram to a peer requests a permission and follows the request at once, so that it costs no
  round trip. If the request had to be repeated, the newest of the datagrams are sent again.
- Application data requests a channel, and so do checks of full size. Other checks do not, since they go to
  many addresses. Send indications carry the data until the server has bound the channel.
- A response to Allocate may contain another nonce (Punch's servers send one, docs/protocol.md, section 7.2):
  all further requests use that one. Over UDP a Refresh uses it at once.
- Permissions and channels that were not used for four minutes are not renewed.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.turn.client.permissions import (
    TRY_AGAIN_AFTER,
    Channel,
    ClientPermissions,
    Grant,
    Permission,
)
from punch.turn.client.requests import (
    PROBLEM_OF_CODE,
    SUCCESS,
    Allocated,
    AllocationDenied,
    AllocationFailed,
    AllocationProblem,
    ClientRequest,
    ClientRequests,
    ClientResponse,
    Data,
    Event,
    RateLimited,
    RelayCredentials,
)
from punch.wire.address import FULL_SIZE, Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    encode,
    parse,
)
from punch.wire.turn import DEFAULT_LIFETIME, encode_channel_data, parse_channel_data

KEEPALIVE = 15.0
"""Seconds of silence after which the way to the server is kept open (RFC 8445, section 11)."""
PROBE_SENDS = 3
"""How often a request is sent that asks whether the server still answers."""
CHANNEL_DATA_HEADER = 4
"""Bytes of ChannelData before the data (RFC 8656, section 12.4)."""
SHORT_LIFETIME = 300.0
"""
Seconds; half of the default lifetime of an allocation. A server may grant less because the credentials
expire.
"""
MAX_LIFETIME = 3600.0
"""Seconds; the client counts on no longer lifetime, whatever the server grants."""

_UDP = 17
_IPV6 = 2
_UNAUTHORIZED, _MISMATCH, _FAMILY, _WRONG_CREDENTIALS = 401, 437, 440, 441


class _Subject(Enum):
    """What a request is about, where it concerns no single peer."""

    ALLOCATION = "allocation"
    RETURN = "return"
    SIZE = "size"


class ClientState(Enum):
    """The state of an allocation."""

    NEW = "new"
    """Nothing has been requested."""
    ALLOCATING = "allocating"
    """It was requested, and the server has not answered."""
    ALLOCATED = "allocated"
    """It relays."""
    CLOSING = "closing"
    """The server was asked to delete it, and has not answered."""
    OVER = "over"
    """It was refused, deleted or lost, and is not requested again."""


class TurnClient:
    """
    One allocation, from the request for it to its deletion.

    :ivar state: the state of the allocation.
    :ivar relayed: the relayed address; None when there is no allocation.
    :ivar mapped: the client's address as the server sees it, if the server said so.
    :ivar answered_at: when the last authentic answer of the server came, in seconds.
    :ivar full_at: when the last answer came to a request as large as the largest relayed datagram.
    """

    def __init__(self, credentials: RelayCredentials, random: RandomBytes, *, reliable: bool = False) -> None:
        """
        :param reliable: the messages travel on a stream: they are padded, and each request is sent once.
        """
        self.state = ClientState.NEW
        self.relayed: Address | None = None
        self.mapped: Address | None = None
        self.answered_at = self.full_at = float("-inf")
        self._random = random
        self._reliable = reliable
        self._requests = ClientRequests(credentials, random, reliable=reliable)
        self._peers = ClientPermissions()
        self._refresh_at: float | None = None
        self._expires_at: float | None = None
        self._keepalive_at: float | None = None
        self._timer: float | None = None
        self._timer_changes = -1
        self._tried_anew = False
        self._dropped = 0
        self._output: list[bytes] = []
        self._events: deque[Event] = deque()

    # What the user calls

    def allocate(self, now: float) -> None:
        """
        Request the allocation. The event `Allocated` or `AllocationFailed` follows.

        :raise RuntimeError: it has been requested before, or the client is closed.
        """
        if self.state is not ClientState.NEW:
            raise RuntimeError(f"the allocation is {self.state.value}")
        self.state = ClientState.ALLOCATING
        self._ask_for_allocation(now)

    def permit(self, peer: Address, now: float) -> None:
        """Request a permission for the IP address of a peer, so that it can send to the relayed address."""
        if self.relayed is not None and peer.is_ipv6 == self.relayed.is_ipv6:
            self._permission(peer, now)

    def send(self, data: bytes, peer: Address, now: float) -> None:
        """Relay a datagram to `peer`. It is lost where that is not possible."""
        channel = self._peers.channel(peer)
        if channel is not None and channel.bound:
            channel.used_at = now
            self._output.append(encode_channel_data(channel.number, data, padded=self._reliable))
            return
        if self.relayed is None or peer.is_ipv6 != self.relayed.is_ipv6:
            return
        permission = self._permission(peer, now)
        if permission is None or permission.grant is Grant.REFUSED:
            return
        self._indicate(data, peer)
        if permission.grant is Grant.PENDING:
            permission.waiting.append((data, peer))
        if data and (data[0] > 3 or len(data) >= FULL_SIZE):
            self._bind(channel, peer, now)

    def renew(self, credentials: RelayCredentials) -> None:
        """Use these credentials once the old ones have expired."""
        self._requests.renew(credentials)

    def probe(self, now: float) -> None:
        """Ask whether the allocation still exists. `AllocationFailed` follows within 5.5 s if it does not."""
        if self.state is ClientState.ALLOCATED:
            self._refresh(now, sends=PROBE_SENDS)

    def woke(self, now: float) -> None:
        """
        Renew permissions and channels: the machine has slept, which `now` may not count, and they may have
        expired at the server.
        """
        self._timer_changes = -1
        self._peers.renew(now)

    def check_size(self, now: float) -> None:
        """
        Ask whether the largest datagrams reach the server: `full_at` is set when it answers. A stream carries
        them if it carries anything, so a small request does over a stream.
        """
        if self.state is ClientState.ALLOCATED:
            size = 0 if self._reliable else FULL_SIZE + CHANNEL_DATA_HEADER
            self._requests.drop(_Subject.SIZE)
            self._requests.start(Method.REFRESH, (), _Subject.SIZE, now, PROBE_SENDS, size)

    def close(self, now: float) -> None:
        """Delete the allocation (RFC 8656, section 8). Nothing is relayed any more."""
        if self.state in (ClientState.ALLOCATING, ClientState.ALLOCATED):
            self._forget()
            # An Allocate request may still be on its way: its allocation is deleted too.
            self._requests.start(
                Method.REFRESH, ((Attribute.LIFETIME, 0),), _Subject.RETURN, now, sends=PROBE_SENDS
            )
            self.state = ClientState.CLOSING
        elif self.state is ClientState.NEW:
            self.state = ClientState.OVER

    def disconnected(self) -> None:
        """The stream that carried the messages has ended."""
        self._fail(AllocationProblem.DISCONNECTED, "")

    # Input and output

    def owns(self, data: bytes) -> bool:
        """
        Whether a datagram from the server's address and port is for this client, and not a response of the
        reflector that may be at the same port.
        """
        if len(data) < 4:
            return False
        return 0x40 <= data[0] <= 0x4F or (data[0] <= 0x3F and (data[0] << 8 | data[1]) & 0x3EEF != 0x0001)

    def receive(self, data: bytes, now: float) -> Data | None:
        """Take one message of the server. Returns the data that it relays, or None."""
        if not data:
            return None
        if 0x40 <= data[0] <= 0x4F:
            message = parse_channel_data(data)
            channel = None if message is None else self._peers.channel_of(message.number)
            if message is None or channel is None or self.relayed is None:
                return None
            return Data(message.data, channel.peer)
        try:
            stun = parse(data)
        except STUNError:
            return None
        if stun.message_class is MessageClass.INDICATION:
            return self._receive_indication(stun)
        if stun.message_class is not MessageClass.REQUEST:
            answer = self._requests.receive(stun, now)
            if answer is not None:
                self.answered_at = now
                self._take_answer(answer, now)
        return None

    def data_to_send(self) -> list[bytes]:
        """The messages to send to the server, in order."""
        output, self._output = self._requests.data_to_send() + self._output, []
        return output

    def get_timer(self) -> float | None:
        """The time at which to call `handle_timer`, in monotonic seconds; None: never."""
        if self.state is ClientState.OVER:
            return None
        if self._timer_changes != self._requests.changes:
            # It is asked for after each datagram, and few of these change it.
            self._timer_changes = self._requests.changes
            times = [self._requests.get_timer(), self._refresh_at, self._expires_at, self._keepalive_at]
            if self.relayed is not None:
                times.append(self._peers.get_timer())
            self._timer = earliest(times)
        return self._timer

    def handle_timer(self, now: float) -> None:
        """Do what is due: repeat requests, and renew the allocation, permissions and channels."""
        if self.state is ClientState.OVER:
            return
        self._timer_changes = -1
        for request in self._requests.expire(now):
            self._unanswered(request, now)
        if self.relayed is None:
            return
        if self._expires_at is not None and now >= self._expires_at:
            # Most likely the machine has slept.
            self._fail(AllocationProblem.MISMATCH, "")
            return
        if self._refresh_at is not None and now >= self._refresh_at:
            self._refresh(now)
        permissions, channels = self._peers.due(now)
        for permission in permissions:
            self._ask_for_permission(permission, now)
        for channel in channels:
            self._ask_for_channel(channel, now)
        if self._keepalive_at is not None and now >= self._keepalive_at:
            keepalive = StunMessage(Method.BINDING, MessageClass.INDICATION, self._random(12))
            self._output.append(encode(keepalive))
            self._keepalive_at = now + KEEPALIVE

    def next_event(self) -> Event | None:
        """Return and remove the oldest event, or None."""
        return self._events.popleft() if self._events else None

    # The allocation

    def _ask_for_allocation(self, now: float, *attributes: tuple[int, Any]) -> None:
        attributes = ((Attribute.REQUESTED_TRANSPORT, _UDP), *attributes)
        self._requests.start(Method.ALLOCATE, attributes, _Subject.ALLOCATION, now)

    def _refresh(self, now: float, sends: int = 5) -> None:
        self._refresh_at = None
        self._requests.drop(_Subject.ALLOCATION)
        self._requests.start(Method.REFRESH, (), _Subject.ALLOCATION, now, sends)

    def _take_answer(self, answer: ClientResponse, now: float) -> None:
        about, code = answer.request.about, answer.code
        if about is _Subject.RETURN:
            self._end()
        elif about is _Subject.SIZE:
            # A server that refuses PADDING has received it too.
            self.full_at = now
            if code == SUCCESS:
                self._take_lifetime(answer.message, now)
        elif about is _Subject.ALLOCATION:
            if answer.request.method is Method.ALLOCATE:
                self._take_allocation(answer, now)
            elif code == SUCCESS:
                self._take_lifetime(answer.message, now)
            else:
                self._fail_by(code, answer.text)
        elif code in (_UNAUTHORIZED, _MISMATCH, _WRONG_CREDENTIALS):
            self._fail_by(code, answer.text)
        elif isinstance(about, Permission):
            self._take_permission(about, answer, now)
        elif isinstance(about, Channel):
            self._take_channel(about, answer, now)

    def _take_allocation(self, answer: ClientResponse, now: float) -> None:
        code, message = answer.code, answer.message
        if self.state is not ClientState.ALLOCATING:
            return
        if code == _FAMILY and answer.request.attributes[-1][0] != Attribute.REQUESTED_ADDRESS_FAMILY:
            # Without the attribute the server allocates IPv4 (RFC 8656, section 7.1).
            self._ask_for_allocation(now, (Attribute.REQUESTED_ADDRESS_FAMILY, _IPV6))
            return
        if code == _MISMATCH and not self._tried_anew:
            # An earlier process may have left one at this port: delete it and ask once more (section 7.4).
            self._tried_anew = True
            self._requests.start(Method.REFRESH, ((Attribute.LIFETIME, 0),), None, now, PROBE_SENDS)
            self._ask_for_allocation(now)
            return
        if code != SUCCESS:
            self._fail_by(code, answer.text)
            return
        relayed = message.get(Attribute.XOR_RELAYED_ADDRESS)
        if not isinstance(relayed, Address) or relayed.port == 0:
            self._fail(AllocationProblem.REFUSED, "no relayed address")
            return
        self.relayed = relayed
        self._peers = ClientPermissions(relayed.host)
        mapped = message.get(Attribute.XOR_MAPPED_ADDRESS)
        self.mapped = mapped if isinstance(mapped, Address) else None
        self.state = ClientState.ALLOCATED
        lifetime = self._take_lifetime(message, now)
        nonce = message.get(Attribute.NONCE)
        if isinstance(nonce, str) and nonce:
            self._requests.use_nonce(nonce)
            if not self._reliable:
                # Using the nonce proves that we receive at this address. Until then the server ends this
                # allocation before others.
                self._refresh(now)
        if not self._reliable:
            self._keepalive_at = now + KEEPALIVE
        self._events.append(Allocated(relayed, self.mapped, lifetime))

    def _take_lifetime(self, message: StunMessage, now: float) -> float:
        lifetime = message.get(Attribute.LIFETIME)
        lifetime = min(float(lifetime), MAX_LIFETIME) if isinstance(lifetime, int) else DEFAULT_LIFETIME
        if lifetime <= 0:
            self._fail(AllocationProblem.MISMATCH, "")
            return 0.0
        self._refresh_at = now + (lifetime - 60 if lifetime > 120 else lifetime / 2)
        self._expires_at = now + lifetime
        if lifetime < SHORT_LIFETIME and self._requests.adopt():
            self._refresh_at = now
        return lifetime

    def _unanswered(self, request: ClientRequest, now: float) -> None:
        about = request.about
        if about is _Subject.RETURN:
            self._end()
        elif about is _Subject.ALLOCATION:
            self._fail(AllocationProblem.TIMEOUT, "")
        elif isinstance(about, (Permission, Channel)) and self.relayed is not None:
            # Either this request was lost or the server is gone: the probe will tell.
            about.renew_at = now + TRY_AGAIN_AFTER
            self.probe(now)

    def _fail_by(self, code: int, text: str) -> None:
        self._fail(PROBLEM_OF_CODE.get(code, AllocationProblem.REFUSED), text or str(code))

    def _fail(self, problem: AllocationProblem, text: str) -> None:
        if self.state in (ClientState.ALLOCATING, ClientState.ALLOCATED):
            self._events.append(AllocationFailed(problem, text))
        self._end()

    def _end(self) -> None:
        self._forget()
        self._requests.clear()
        self.state = ClientState.OVER

    def _forget(self) -> None:
        self._timer_changes = -1
        self.relayed = None
        self._refresh_at = self._expires_at = self._keepalive_at = None
        self._peers = ClientPermissions()
        self._requests.clear()
        self._output.clear()

    # Permissions and channels

    def _permission(self, peer: Address, now: float) -> Permission | None:
        permission = self._peers.permission(peer)
        if permission is None:
            permission = self._peers.add_permission(peer, now)
            if permission is not None:
                self._ask_for_permission(permission, now)
        elif permission.use(now):
            self._ask_for_permission(permission, now)
        return permission

    def _ask_for_permission(self, permission: Permission, now: float) -> None:
        # One request for each address: an address that the server refuses would fail the others too.
        self._requests.start(
            Method.CREATE_PERMISSION, ((Attribute.XOR_PEER_ADDRESS, permission.peer),), permission, now
        )

    def _take_permission(self, permission: Permission, answer: ClientResponse, now: float) -> None:
        waiting = list(permission.waiting)
        permission.waiting.clear()
        if answer.code == SUCCESS:
            self._peers.granted(permission.peer, now)
            if not answer.request.at_once:
                for data, peer in waiting:
                    self._indicate(data, peer)
            return
        if permission.grant is not Grant.GRANTED:
            permission.grant = Grant.REFUSED
            permission.expires_at = now + TRY_AGAIN_AFTER
            self._events.append(AllocationDenied(permission.peer))

    def _bind(self, channel: Channel | None, peer: Address, now: float) -> None:
        if channel is None:
            channel = self._peers.add_channel(peer, now)
            if channel is not None:
                self._ask_for_channel(channel, now)
        elif channel.use(now):
            self._ask_for_channel(channel, now)

    def _ask_for_channel(self, channel: Channel, now: float) -> None:
        attributes = (
            (Attribute.CHANNEL_NUMBER, channel.number),
            (Attribute.XOR_PEER_ADDRESS, channel.peer),
        )
        self._requests.start(Method.CHANNEL_BIND, attributes, channel, now)

    def _take_channel(self, channel: Channel, answer: ClientResponse, now: float) -> None:
        if answer.code == SUCCESS:
            self._peers.bound(channel, now)
        else:
            self._peers.not_bound(channel, now)

    # Data

    def _indicate(self, data: bytes, peer: Address) -> None:
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        message = StunMessage(Method.SEND, MessageClass.INDICATION, self._random(12), attributes)
        self._output.append(encode(message, fingerprint=False))

    def _receive_indication(self, message: StunMessage) -> Data | None:
        if message.method == Method.REFRESH:
            self._take_limit(message)
            return None
        if message.method != Method.DATA or self.relayed is None or message.unknown_required():
            return None
        peer, data = message.get(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
        if not isinstance(peer, Address) or not isinstance(data, bytes):
            return None
        # The server relays only from permitted peers, but that is not relied on (section 11.3).
        return Data(data, peer) if self._peers.permission(peer) is not None else None

    def _take_limit(self, message: StunMessage) -> None:
        """Take a notice of the server that a rate is exceeded. A copy of an earlier one says nothing new."""
        value = message.get(Attribute.RELAY_LIMIT)
        if self.relayed is None or value is None or value.dropped <= self._dropped:
            return
        if self._requests.check(message):
            self._dropped = value.dropped
            self._events.append(RateLimited(value.limit))
