"""
The TURN server (RFC 8656), without sockets and without a clock.

`receive` takes messages from clients, over any transport, and `receive_from_peers` datagrams that arrive at
relayed addresses, many at a time. Output is queued until `outputs` is called at the end of a turn of the
reactor, so that datagrams for one address are sent in batches, and bytes are counted once a batch. Relaying a
datagram is one look-up and one `append`; everything else was checked when its channel or permission was made.

Messages of TURN itself are not relayed in either direction. So a relayed address cannot become the client of
another relay, which takes a message received there and one sent from there, and relays cannot be arranged in
a ring in which datagrams would circulate for ever.

A client whose datagrams are dropped because of a rate, and not only at one moment, is told so
(docs/protocol.md, section 7.2): at most once in `LIMIT_NOTICE_GAP` and with no more bytes than were dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceBuckets
from punch.net.sources import source_of
from punch.net.token_bucket import admit
from punch.turn.server.allocation import Allocation, FiveTuple, Flow, PortPool, RelayedPort, RelayLimitHit
from punch.turn.server.allocations import Allocations
from punch.turn.server.authentication import CREDENTIALS, Authenticator, Login, Metering
from punch.turn.server.requests import REQUESTS, RequestHandler
from punch.turn.server.settings import Destinations, RelaySettings
from punch.wire.address import Address
from punch.wire.stun import (
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    TooManyAttributesError,
    encode,
    header,
    parse,
)
from punch.wire.stun_attributes import CODECS, REQUIRED_BELOW, RelayLimit, RelayLimitValue
from punch.wire.turn import MAX_REQUEST, TURN_BEGIN, TURN_END, is_turn

UNAUTHENTICATED_RATE = 100.0
"""
Answers a second to unauthenticated requests from one IPv4 /24, or one IPv6 /64, /56 or /48, so that the
network of a victim gets no more even if many of its addresses are forged.
"""
UNAUTHENTICATED_BURST = 500.0
"""How many such answers may be sent at once."""
UNAUTHENTICATED_CAPACITY = 16_384
"""Buckets that are kept for each width of prefix."""
AMPLIFICATION = 3
"""No answer to an unauthenticated request is longer than this many times the request."""

LIMIT_NOTICE_AFTER = 1.0
"""Seconds for which a rate is exceeded before its client is told: a short burst is not worth it."""
LIMIT_NOTICE_GAP = 10.0
"""
Seconds between two notices to one client that a rate is exceeded. If nothing is dropped for so long, it is
exceeded no longer.
"""

_LIMIT_NOTICE_SIZE = 56
_HIGHEST_STUN = 3
_SEND_INDICATION = b"\x00\x16"
_DATA = int(Attribute.DATA)
_XOR_PEER_ADDRESS = int(Attribute.XOR_PEER_ADDRESS)
_DONT_FRAGMENT = int(Attribute.DONT_FRAGMENT)
_INDICATED = frozenset((_DATA, _XOR_PEER_ADDRESS))
_LONGEST_INDICATED = 65_480
"""Bytes: a longer datagram does not fit into a Data indication."""
_NO_CHANNELS: dict[bytes, Flow] = {}
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class ToClient(NamedTuple):
    """Messages for a client: datagrams, or parts of a stream."""

    client: FiveTuple
    messages: Sequence[bytes]


class ToPeer(NamedTuple):
    """Datagrams to send from a relayed address."""

    port: RelayedPort
    datagrams: Sequence[bytes]
    peer: Address


class RelayCore:
    """
    One TURN server. `now` is monotonic seconds.

    :param ports: opens the sockets behind relayed addresses.
    :param destinations: tells to which addresses nothing is relayed.
    :ivar epoch: Unix seconds minus `now`, for the expiry of credentials.
    :ivar bytes_to_peers: bytes that were relayed to peers since the start.
    :ivar bytes_to_clients: bytes that were relayed to clients since the start.
    """

    def __init__(
        self,
        settings: RelaySettings,
        ports: PortPool,
        destinations: Destinations,
        *,
        random: RandomBytes,
        now: float,
        epoch: float,
    ) -> None:
        self.epoch = epoch
        self.bytes_to_peers = 0
        self.bytes_to_clients = 0
        self.allocations = Allocations(settings, ports, random, now)
        self._metering = Metering(settings, self.allocations.events)
        self.authenticator = Authenticator(settings, self._metering)
        self._requests = RequestHandler(settings, self.authenticator, self.allocations, destinations)
        self._unauthenticated = SourceBuckets(
            UNAUTHENTICATED_RATE, UNAUTHENTICATED_BURST, UNAUTHENTICATED_CAPACITY, growth=(1, 1, 1)
        )
        self._random = random
        self._clients = self.allocations.by_client
        self._answers: list[ToClient] = []
        self._flows: deque[Flow] = deque()

    def receive(
        self,
        datagrams: Sequence[bytes],
        remote: Address,
        local: Address,
        now: float,
        connection: int = 0,
    ) -> float:
        """
        Handle messages of one client, in order: datagrams, or parts of a stream.

        :param connection: the number of its connection, 0 for UDP.
        :return: the seconds for which the connection should not be read from; 0.0 in the ordinary case and
            for UDP, where requests beyond the limit get no answer.
        """
        # A plain tuple is the same key as a FiveTuple, and is made faster.
        allocation = self._clients.get((remote, local, connection))
        channels = _NO_CHANNELS if allocation is None else allocation.channels
        flow: Flow | None = None
        last, end, wait = b"", 0, 0.0
        for data in datagrams:
            if (first := data[:4]) != last:
                # Most datagrams of a batch have the same channel and length.
                last = first
                flow = channels.get(first[:2]) if len(first) == 4 else None
                end = 0 if flow is None else 4 + (first[2] << 8 | first[3])
            if flow is not None:
                body = data[4:end]
                if end > len(data) or (body < TURN_END and body >= TURN_BEGIN and is_turn(body)):
                    continue
                waiting = flow.waiting
                if not waiting:
                    self._flows.append(flow)
                waiting.append(body)
            elif data and data[0] <= _HIGHEST_STUN:
                client = FiveTuple(remote, local, connection)
                wait = max(wait, self._receive_stun(data, client, now))
                allocation = self._clients.get(client)
                channels = _NO_CHANNELS if allocation is None else allocation.channels
                last = b""
        return wait

    def receive_from_peers(self, allocation: Allocation, datagrams: Sequence[bytes], peer: Address) -> None:
        """
        Handle datagrams that came from `peer` to the relayed address of an allocation.
        """
        number = allocation.numbers.get(peer)
        flow = allocation.to_client
        if flow is None:
            flow = allocation.to_client = Flow(allocation, None)
        if number is not None:
            if not flow.waiting:
                self._flows.append(flow)
            append = flow.waiting.append
            if allocation.client.connection:
                for data in datagrams:
                    if not is_turn(data):
                        size = len(data)
                        append(b"%b%b%b%b" % (number, size.to_bytes(2, "big"), data, _PADDING[size & 3]))
                return
            last, header = -1, b""
            for data in datagrams:
                if data < TURN_END and data >= TURN_BEGIN and is_turn(data):
                    continue
                if len(data) != last:
                    last = len(data)
                    header = number + last.to_bytes(2, "big")
                append(header + data)
        elif peer.host in allocation.permissions:
            for data in datagrams:
                if len(data) > _LONGEST_INDICATED or is_turn(data):
                    continue
                if not flow.waiting:
                    self._flows.append(flow)
                flow.waiting.append(self._data_indication(data, peer))

    def outputs(self, now: float) -> tuple[list[ToClient], list[ToPeer]]:
        """
        Return and forget everything that is to be sent now. The caller handles the events before it sends
        this, so that the log has the line of an allocation before anything is relayed for it.
        """
        to_clients, self._answers = self._answers, []
        to_peers: list[ToPeer] = []
        flows = self._flows
        spent: dict[Allocation, None] = {}
        limited: dict[Allocation, None] = {}
        self.allocations.quotas.begin_day(now + self.epoch)
        # Datagrams for another allocation are appended to the queue meanwhile.
        while flows:
            flow = flows.popleft()
            allocation, peer = flow.allocation, flow.peer
            waiting, flow.waiting = flow.waiting, []
            if allocation.sends:
                allocation.sends.clear()
            datagrams, size = admit(waiting, allocation.buckets, now)
            if len(datagrams) < len(waiting):
                allocation.bytes_dropped += sum(map(len, waiting)) - size
                limited[allocation] = None
            if not datagrams or allocation.port.allocation is not allocation:
                continue
            for meter in allocation.meters:
                meter.used += size
                if meter.used >= meter.limit:
                    spent[allocation] = None
            if peer is None:
                allocation.bytes_to_client += size
                self.bytes_to_clients += size
                to_clients.append(ToClient(allocation.client, datagrams))
                continue
            allocation.bytes_to_peers += size
            self.bytes_to_peers += size
            inner = self.allocations.by_relayed.get(peer)
            if inner is None:
                if peer.host not in allocation.inside:
                    to_peers.append(ToPeer(allocation.port, datagrams, peer))
            else:
                self.receive_from_peers(inner, datagrams, allocation.relayed)
        for allocation in spent:
            self.allocations.end_spent(allocation, now)
        for allocation in limited:
            if (notice := self._limit_notice(allocation, now)) is not None:
                to_clients.append(ToClient(allocation.client, (notice,)))
        return to_clients, to_peers

    def disconnected(self, client: FiveTuple, now: float) -> None:
        """A connection is closed: end its allocation (RFC 8656, section 3.1)."""
        allocation = self._clients.get(client)
        if allocation is not None:
            self.allocations.close(allocation, now)

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called; None if nothing is due."""
        return self.allocations.get_timer()

    def handle_timer(self, now: float) -> None:
        """End what has expired."""
        self.allocations.handle_timer(now)

    def _receive_stun(self, data: bytes, client: FiveTuple, now: float) -> float:
        """Handle a STUN message. Return the seconds for which the connection should not be read from."""
        kind = data[:2]
        wait = 0.0
        if kind == _SEND_INDICATION:
            allocation = self._clients.get(client)
            if allocation is not None:
                self._send_indication(data, allocation)
        elif kind in REQUESTS:
            if client.connection:
                wait = self._metering.by_address(client, now)
            elif self._metering.is_held(client, now):
                return wait
            self._receive_request(data, client, now)
        return wait

    def _receive_request(self, data: bytes, client: FiveTuple, now: float) -> None:
        """Answer one of the `REQUESTS`. Only what authenticates it is decoded before it is authenticated."""
        try:
            if len(data) > MAX_REQUEST:
                raise TooManyAttributesError(f"{len(data)} bytes")
            request = parse(data, lenient=True, most=MAX_ATTRIBUTES, only=CREDENTIALS)
        except TooManyAttributesError:
            # Nothing of it was verified, nor will be.
            unread = header(data)
            if unread is not None:
                self._refuse(unread, 400, len(data), client, now)
            return
        except STUNError:
            return
        unix = now + self.epoch
        login = self.authenticator.check(request, client, now, unix)
        if isinstance(login, Login):
            self.allocations.quotas.begin_day(unix)
            answer = self._requests.answer(request.decoded(), client, login, now, unix)
            if isinstance(answer, StunMessage):
                encoded = encode(answer, login.key, fingerprint=request.has_fingerprint)
                self._answers.append(ToClient(client, (encoded,)))
            else:
                self._refuse(request, answer.code, len(data), client, now)
        else:
            self._refuse(request, login.code, len(data), client, now)

    def _refuse(self, request: StunMessage, code: int, size: int, client: FiveTuple, now: float) -> None:
        """
        Send an unprotected error response, if the limits allow it: over UDP the source of the request may be
        forged. Authenticated clients are not affected by others in their network.
        """
        if client.connection or self._unauthenticated.allow(source_of(client.remote.host), now):
            answer = self.authenticator.refusal(request, client, code, now + self.epoch)
            encoded = encode(answer, fingerprint=request.has_fingerprint)
            if client.connection or len(encoded) <= AMPLIFICATION * size:
                self._answers.append(ToClient(client, (encoded,)))

    def _send_indication(self, encoded: bytes, allocation: Allocation) -> None:
        """Handle a Send indication. Malformed ones are dropped silently (RFC 8656, section 11.2)."""
        try:
            message = parse(encoded, most=MAX_ATTRIBUTES, only=_INDICATED)
        except STUNError:
            return
        peer: Address | None = None
        data: bytes | None = None
        for kind, value in message.attributes:
            if kind == _DATA:
                data = value if data is None else data
            elif kind == _XOR_PEER_ADDRESS:
                peer = value if peer is None else peer
            elif kind == _DONT_FRAGMENT or (kind < REQUIRED_BELOW and kind not in CODECS):
                return
        if peer is None or data is None or peer.host not in allocation.permissions or is_turn(data):
            return
        flow = allocation.sends.get(peer)
        if flow is None:
            flow = allocation.sends[peer] = Flow(allocation, peer)
            self._flows.append(flow)
        flow.waiting.append(data)

    def _limit_notice(self, allocation: Allocation, now: float) -> bytes | None:
        """Datagrams were dropped: an indication that says so, if it is time and enough was dropped."""
        if now >= allocation.dropped_at + LIMIT_NOTICE_GAP:
            allocation.dropped_since = now
        allocation.dropped_at = now
        not_told = allocation.bytes_dropped - allocation.bytes_told
        if (
            now < max(allocation.dropped_since + LIMIT_NOTICE_AFTER, allocation.told_at + LIMIT_NOTICE_GAP)
            or not_told < _LIMIT_NOTICE_SIZE
            or allocation.port.allocation is not allocation
        ):
            return None
        allocation.told_at, allocation.bytes_told = now, allocation.bytes_dropped
        # The limits are numbered in the order of the buckets; the last ones are of ever larger networks
        emptiest = min(range(len(allocation.buckets)), key=lambda at: allocation.buckets[at].available(now))
        limit = RelayLimit(min(emptiest, RelayLimit.NETWORK))
        owner = allocation.owner
        self.allocations.events.append(RelayLimitHit(owner.client.host, "relay-rate", owner.user))
        value = RelayLimitValue(limit, allocation.bytes_dropped)
        message = StunMessage(
            Method.REFRESH, MessageClass.INDICATION, self._random(12), ((Attribute.RELAY_LIMIT, value),)
        )
        return encode(message, allocation.key, fingerprint=False)

    def _data_indication(self, data: bytes, peer: Address) -> bytes:
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        message = StunMessage(Method.DATA, MessageClass.INDICATION, self._random(12), attributes)
        return encode(message, fingerprint=False)
