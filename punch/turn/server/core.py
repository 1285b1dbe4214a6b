"""
The TURN server (RFC 8656), without sockets and without a clock.

Datagrams go in by `receive` (from clients, whatever carried them) and `receive_from_peers` (at relayed
addresses), many at a time. What is to be sent gathers until `outputs` is asked, at the end of a turn of the
reactor: so whoever sends has whole batches for one address, and bytes are counted once a batch. Relaying a
datagram is one look-up and one `append`; all that can be checked beforehand was checked when its channel or
its permission came.

Messages of TURN itself are not relayed, in neither direction. So a relayed address is never the client of
another relay, and no relays can be arranged in a ring, in which datagrams would go round for ever: to become
a client takes a message that was received there, and one that was sent from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceBuckets, source_of
from punch.net.token_bucket import admit
from punch.turn.server.allocation import Allocation, FiveTuple, Flow, PortPool, RelayedPort
from punch.turn.server.allocations import Allocations
from punch.turn.server.authentication import Authenticator, Metering
from punch.turn.server.destinations import Destinations
from punch.turn.server.requests import REQUESTS, RequestHandler
from punch.turn.server.settings import RelaySettings
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
    error,
    header,
    parse,
)
from punch.wire.stun_attributes import CODECS, REQUIRED_BELOW
from punch.wire.turn import MAX_REQUEST, TURN_BEGIN, TURN_END, is_turn

STRANGERS_RATE = 100.0
"""
Answers a second to those who have not proved who they are: at one IPv4 /24, or at one IPv6 /64, /56 or /48,
so that a victim's network hears no more however many of its addresses are forged…
"""
STRANGERS_BURST = 500.0
"""…and at once."""
STRANGERS_CAPACITY = 16_384
"""Prefixes of each width whose bucket is remembered."""
AMPLIFICATION = 3
"""No answer to a stranger is longer than this many times its question."""

_HIGHEST_STUN = 3
_SEND_INDICATION = b"\x00\x16"
_DATA = int(Attribute.DATA)
_XOR_PEER_ADDRESS = int(Attribute.XOR_PEER_ADDRESS)
_DONT_FRAGMENT = int(Attribute.DONT_FRAGMENT)
_LONGEST_INDICATED = 65_480
"""Bytes: with its addresses, a longer datagram fits no message."""
_NO_CHANNELS: dict[bytes, Flow] = {}
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class ToClient(NamedTuple):
    """Messages for a client: each a datagram, or for a stream one after the other."""

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
    :param destinations: says where nothing is relayed to.
    :ivar epoch: what to add to `now` to have Unix seconds, which credentials expire by.
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
        self.allocations = Allocations(settings, ports, random, now)
        self._metering = Metering(settings, self.allocations.events)
        self.authenticator = Authenticator(settings, self._metering)
        self._requests = RequestHandler(settings, self.authenticator, self.allocations, destinations)
        self._strangers = SourceBuckets(STRANGERS_RATE, STRANGERS_BURST, STRANGERS_CAPACITY, growth=(1, 1, 1))
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
        Messages of one client, in order: datagrams, or what a stream was cut into.

        :param connection: the number of its connection, 0 for UDP.
        :return: for how many seconds nothing more should be read from the connection; 0.0 in the ordinary
            case, and for UDP, where requests that are too many get no answer.
        """
        # A plain tuple is the same key as a FiveTuple, and made faster.
        allocation = self._clients.get((remote, local, connection))
        channels = _NO_CHANNELS if allocation is None else allocation.channels
        flow: Flow | None = None
        last, end, wait = b"", 0, 0.0
        for data in datagrams:
            if (first := data[:4]) != last:
                # Of a batch, most have the same channel and length.
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
        Datagrams that came from `peer` at the relayed address of an allocation.
        """
        number = allocation.numbers.get(peer)
        flow = allocation.to_client
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
        """All that is to be sent now."""
        to_clients, self._answers = self._answers, []
        to_peers: list[ToPeer] = []
        flows, total = self._flows, self.allocations.bandwidth
        # What is for another allocation of ours appends to it while we go.
        while flows:
            flow = flows.popleft()
            allocation, peer = flow.allocation, flow.peer
            waiting, flow.waiting = flow.waiting, []
            if allocation.sends:
                allocation.sends.clear()
            datagrams, size = admit(waiting, (total, allocation.user.bandwidth), now)
            if not datagrams or allocation.port.allocation is not allocation:
                continue
            if peer is None:
                allocation.bytes_to_client += size
                to_clients.append(ToClient(allocation.client, datagrams))
                continue
            allocation.bytes_to_peers += size
            inner = self.allocations.by_relayed.get(peer)
            if inner is None:
                if peer.host not in allocation.inside:
                    to_peers.append(ToPeer(allocation.port, datagrams, peer))
            else:
                self.receive_from_peers(inner, datagrams, allocation.relayed)
        return to_clients, to_peers

    def disconnected(self, client: FiveTuple, now: float) -> None:
        """A stream is gone, and its allocation with it (RFC 8656, section 3.1)."""
        allocation = self._clients.get(client)
        if allocation is not None:
            self.allocations.close(allocation, now)

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self.allocations.get_timer()

    def handle_timer(self, now: float) -> None:
        """End what is over."""
        self.allocations.handle_timer(now)

    # -- within --

    def _receive_stun(self, data: bytes, client: FiveTuple, now: float) -> float:
        """For how many seconds the client should send nothing more, if it has a connection."""
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
            answered = self._answer(data, client, now)
            if answered is None:
                return wait
            answer, key, fingerprint = answered
            encoded = encode(answer, key, fingerprint=fingerprint)
            if key is not None or self._may_answer(client, len(data), len(encoded), now):
                self._answers.append(ToClient(client, (encoded,)))
        return wait

    def _answer(
        self, data: bytes, client: FiveTuple, now: float
    ) -> tuple[StunMessage, bytes | None, bool] | None:
        """An answer to a request, the key to protect it with, and whether it has a FINGERPRINT."""
        try:
            if len(data) > MAX_REQUEST:
                raise TooManyAttributesError(f"{len(data)} bytes")
            request = parse(data, lenient=True, most=MAX_ATTRIBUTES)
        except TooManyAttributesError:
            # Nothing of it was verified, nor will be.
            unread = header(data)
            return None if unread is None else (error(unread, 400, ""), None, False)
        except STUNError:
            return None
        answer, key = self._requests.answer(request, client, now, now + self.epoch)
        return answer, key, request.has_fingerprint

    def _may_answer(self, client: FiveTuple, question: int, answer: int, now: float) -> bool:
        """
        Whether a request that proves nothing gets its answer. Over UDP it may have come from anybody,
        anywhere; those who prove who they are do not suffer from others in their network.
        """
        if client.connection:
            return True
        return answer <= AMPLIFICATION * question and self._strangers.allow(
            source_of(client.remote.host), now
        )

    def _send_indication(self, encoded: bytes, allocation: Allocation) -> None:
        """RFC 8656, section 11.2: anything unusual is dropped without a word."""
        try:
            message = parse(encoded, most=MAX_ATTRIBUTES)
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

    def _data_indication(self, data: bytes, peer: Address) -> bytes:
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        message = StunMessage(Method.DATA, MessageClass.INDICATION, self._random(12), attributes)
        return encode(message, fingerprint=False)
