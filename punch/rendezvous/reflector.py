"""
The reflector: a STUN Binding server (RFC 8489), which tells clients their reflexive address, and probes of
their NATs. Pure.

The source address of a request may be forged, so the reflector must not be useful for attacks:

- A plain Binding request of 20 bytes is answered with 32 (IPv6: 44): the header and XOR-MAPPED-ADDRESS, no
  SOFTWARE, no MAPPED-ADDRESS, no OTHER-ADDRESS. No answer is ever longer than three times its question.
- Only well-formed Binding requests are answered. Noise, responses, indications, other methods, and requests
  without the magic cookie (RFC 3489) are ignored.
- Token buckets limit the answers to `RATE` a second and `BURST` at once: one for each IPv4 /24 and IPv6 /64,
  for each /56 with twice as many, and for each /48 with four times as many.
- Plain requests on a stream, whose source is proved, have a limit for each connection instead
  (`punch.rendezvous.relay`).
- An answer goes to the source of the request, from the address where the request arrived. RFC 5780's
  CHANGE-REQUEST, RESPONSE-PORT and PADDING would let strangers choose another destination or a larger answer.
  They are answered with 420 (Unknown Attribute), as RFC 8489, section 6.3.1 asks of a server that does not
  support them; `turnutils_natdiscovery` takes that, and the lack of OTHER-ADDRESS in every answer, as "this
  server has no RFC 5780". Peers get the same function over the control channel, for addresses at which they
  receive: see `Prober`.

No address of a client is stored or logged here. Memory holds the prefixes of recent clients: the /24, or the
/64, /56 and /48; and the keys of peers that asked for probes.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from punch.identity import PeerID, RandomBytes
from punch.net.rate_limits import SourceBuckets
from punch.net.sources import NETWORK_GROWTH, SITE_GROWTH, source_of
from punch.net.token_bucket import TokenBuckets
from punch.rendezvous.config import RendezvousLimits
from punch.wire.address import Address, canonical
from punch.wire.control import PROOF_SIZE, Probe, ProbeOutcome, Vantage, commitment
from punch.wire.stun import (
    HEADER_SIZE,
    MAGIC_COOKIE,
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    encode,
    error,
    parse,
    success,
)
from punch.wire.stun_attributes import CODECS

RATE = 100.0
"""Answers a second to one IPv4 /24 or IPv6 /64, for long; wider IPv6 prefixes get more."""
BURST = 500.0
"""Answers to one IPv4 /24 or IPv6 /64 at once, after a pause."""
CAPACITY = 16384
"""Buckets that are kept for each width of prefix."""

MAX_QUESTION = 2048
"""Bytes: longer datagrams are ignored. RFC 5780's padded requests have about 1,530."""
AMPLIFICATION = 3
"""No answer is longer than this many times its question."""

_6TO4, _NAT64 = 0x2002, 0x64FF9B << 64
_BINDING_REQUEST = b"\x00\x01"
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
PLAIN_REQUEST = _BINDING_REQUEST + b"\x00\x00" + _COOKIE
"""The beginning of a request of `HEADER_SIZE` bytes; the transaction ID follows."""
# Type and length of the answer to a plain request, and its one attribute up to the value.
_ANSWER4, _ANSWER6 = b"\x01\x01\x00\x0c", b"\x01\x01\x00\x18"
_PLAIN4 = Struct(">4s16sHHHHI")
_MAPPED6 = Struct(">HHHH")
_XOR_MAPPED_ADDRESS = int(Attribute.XOR_MAPPED_ADDRESS)
_PORT_MASK = MAGIC_COOKIE >> 16
_KNOWN = frozenset(CODECS)
"""Of each type the first attribute is decoded, and others, which have no meaning, are not."""
_REFUSED = (Attribute.CHANGE_REQUEST, Attribute.RESPONSE_PORT, Attribute.PADDING)


Prove = Callable[[bytes, Address, str, float], bytes]
"""Makes a proof from a commitment, its source, our address at which it arrived, and the time."""


class Reflector:
    """
    Makes the answers. Pure: no socket, no clock.

    :param buckets: the buckets of IPv4 /24s and IPv6 /64s; keys are opaque numbers. Those of a /56 have
        `SITE_GROWTH` times their rate and burst, those of a /48 `NETWORK_GROWTH` times.
    :param limited: called with a host whose prefix has exceeded its rate.
    :param prove: makes the proofs with which peers ask for probes; None if there are no probes.
    """

    def __init__(
        self,
        buckets: TokenBuckets | None = None,
        *,
        prove: Prove | None = None,
        limited: Callable[[str], None] = lambda host: None,
    ) -> None:
        self._buckets = TokenBuckets(RATE, BURST, CAPACITY) if buckets is None else buckets
        self._sites, self._networks = (
            TokenBuckets(times * self._buckets.rate, times * self._buckets.burst, self._buckets.capacity)
            for times in (SITE_GROWTH, NETWORK_GROWTH)
        )
        self._prove = prove
        self._limited = limited

    def handle(
        self, data: bytes, remote: tuple[str, int], now: float, local: str | None = None
    ) -> bytes | None:
        """
        The answer to `data`, to be sent to its source, or None if it is not answered.

        :param remote: the source: host and port. An IPv6 host may have a zone ("%eth0").
        :param now: monotonic seconds.
        :param local: our address at which it arrived, if it is a datagram.
        :raise ValueError: `remote` is not an IP address.
        """
        plain = len(data) == HEADER_SIZE and data.startswith(PLAIN_REQUEST)
        if not plain and not (
            HEADER_SIZE < len(data) <= MAX_QUESTION
            and data.startswith(_BINDING_REQUEST)
            and data.startswith(_COOKIE, 4)
        ):
            return None
        host, port = remote
        number, wide = _number(host)
        if not self._allowed(number, wide, now):
            self._limited(host)
            return None
        if plain:
            return _plain_answer(data, number, wide, port)
        return self._answer(data, canonical(host.partition("%")[0], port), now, local)

    def handle_plain(self, question: bytes, number: int, port: int, now: float) -> bytes | None:
        """
        The same as `handle` for a request of an IPv4 host that begins with `PLAIN_REQUEST` and has
        `HEADER_SIZE` bytes.

        :param number: the host's address.
        """
        if self._allowed(number, False, now):
            return _plain_answer(question, number, False, port)
        self._limited(str(IPv4Address(number)))
        return None

    def _allowed(self, number: int, wide: bool, now: float) -> bool:
        """Whether a host may have an answer. `wide`: it has an IPv6 address."""
        if not wide:
            return self._buckets.allow(number >> 8, now)
        # As in `punch.net.sources.source_of`
        if number >> 112 == _6TO4:
            return self._buckets.allow(number >> 88 & 0xFFFFFF, now)
        if number >> 32 == _NAT64:
            return self._buckets.allow(number >> 8 & 0xFFFFFF, now)
        # Negative numbers, so that no IPv6 prefix shares a bucket with an IPv4 one.
        return (
            self._buckets.allow(~(number >> 64), now)
            and self._sites.allow(number >> 72, now)
            and self._networks.allow(number >> 80, now)
        )

    def _answer(self, data: bytes, remote: Address, now: float, local: str | None) -> bytes | None:
        """The answer to a Binding request with attributes, or None if it is malformed."""
        try:
            request = parse(data, most=MAX_ATTRIBUTES, only=_KNOWN)
        except STUNError:
            return None
        unknown = _not_supported(request)
        if unknown:
            response = error(request, 420, "", (Attribute.UNKNOWN_ATTRIBUTES, unknown))
        else:
            attributes: list[tuple[int, object]] = [(Attribute.XOR_MAPPED_ADDRESS, remote)]
            committed = request.get(Attribute.PROBE)
            if self._prove is not None and committed is not None and local is not None:
                attributes.append((Attribute.PROBE, self._prove(committed, remote, local, now)))
            response = success(request, *attributes)
        answer = encode(response, fingerprint=request.has_fingerprint)
        return answer if len(answer) <= AMPLIFICATION * len(data) else None


def answer_on_stream(question: bytes, remote: Address) -> bytes | None:
    """
    The answer to a request that came on a stream, whose source can't be forged; None if it isn't plain. The
    caller limits these answers.
    """
    if len(question) != HEADER_SIZE or not question.startswith(PLAIN_REQUEST):
        return None
    return _plain_answer(question, *_number(remote.host), remote.port)


def _number(host: str) -> tuple[int, bool]:
    """
    The number of an IP address, and whether it is one of IPv6.

    :raise ValueError: it is no IP address.
    """
    if ":" not in host:
        a, b, c, d = host.split(".")
        return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d), False
    number = int(IPv6Address(host.partition("%")[0]))
    if number >> 32 == 0xFFFF:
        # An IPv4 client, as a socket for both families shows it.
        return number & 0xFFFFFFFF, False
    return number, True


def _plain_answer(data: bytes, number: int, wide: bool, port: int) -> bytes:
    # Nearly every request is a plain one, so its answer is assembled here for speed.
    if wide:
        mapped = (number ^ int.from_bytes(data[4:], "big")).to_bytes(16, "big")
        head = _MAPPED6.pack(_XOR_MAPPED_ADDRESS, 20, 2, port ^ _PORT_MASK)
        return b"%b%b%b%b" % (_ANSWER6, data[4:], head, mapped)
    return _PLAIN4.pack(
        _ANSWER4, data[4:], _XOR_MAPPED_ADDRESS, 8, 1, port ^ _PORT_MASK, number ^ MAGIC_COOKIE
    )


def _not_supported(request: StunMessage) -> tuple[int, ...]:
    """
    The attributes of a request that are not supported.

    A CHANGE-REQUEST without a flag, like an empty PADDING, asks for nothing. Attributes of ICE, TURN and
    authentication are known and have no meaning here, so they are ignored (RFC 8489, section 6.3.1).
    """
    return tuple(int(kind) for kind in _REFUSED if request.get(kind)) + request.unknown_required()


PERIOD = 600.0
"""Seconds: a proof is good in the period in which it was made and in the next."""
_CAPACITY = 4096
"""Buckets that `Prober` keeps for peers, and as many for each width of prefix."""
_MAX_LOCALS = 255
"""Addresses of ours that are remembered at the same time."""
_KEY_SIZE = 32
_LABEL = b"punch/1 probes"


class ProbeSend(NamedTuple):
    """
    A datagram to send, from our address `local`, and from the port of the second reflector if `second` is
    true.
    """

    data: bytes
    remote: Address
    local: str
    second: bool


@dataclass(frozen=True)
class Vantages:
    """
    The addresses and ports from which probes can be sent.

    :ivar second: whether there is a second port.
    :ivar addresses: our further addresses.
    """

    second: bool = False
    addresses: Sequence[str] = ()


class Prober:
    """
    Probes of NATs, for peers that receive at the address to be probed (docs/protocol.md, section 7.1): makes
    proofs, and the datagrams for peers that present them.

    The reflector returns proofs and stores nothing. A proof is bound to the peer that asked, its reflexive
    address, and the address of ours that it asked. For a peer that presents the proof over the control
    channel, one datagram is sent to the reflexive address. So nobody can have datagrams sent to an address at
    which they do not receive, and the datagram is shorter than the request.

    :param secret: the service's private key. All processes that have it and are reached at the same address
        take each other's proofs. None: only this prober takes its proofs.
    :param wall: Unix seconds, by which processes agree about the period; None: the time that is given.
    :ivar vantages: where probes can be sent from; set when the service listens.
    :ivar by_prefix: the rate of probes to each network.
    """

    def __init__(
        self,
        limits: RendezvousLimits,
        random: RandomBytes,
        *,
        secret: bytes | None = None,
        wall: Callable[[], float] | None = None,
    ) -> None:
        self.vantages = Vantages()
        self._key = hmac.digest(secret or random(_KEY_SIZE), _LABEL, "sha256")
        self._wall = wall
        self._locals: dict[str, int] = {}
        """The addresses of ours that were asked, and the first byte of their proofs."""
        self._by_peer = TokenBuckets(limits.probe_rate, limits.probe_burst, _CAPACITY)
        # A network has no more than an address, because the requests choose the address.
        self.by_prefix = SourceBuckets(
            limits.probe_prefix_rate, limits.probe_prefix_burst, _CAPACITY, growth=(1, 1, 1)
        )

    def prove(self, committed: bytes, remote: Address, local: str, now: float) -> bytes:
        """
        The proof for a commitment that came from `remote` to our address `local`.

        :param now: monotonic seconds.
        """
        if local not in self._locals:
            if len(self._locals) >= _MAX_LOCALS:
                self._locals.clear()
            self._locals[local] = hmac.digest(self._key, local.encode(), "sha256")[0]
        return self._proof(local, committed, remote, self._period(now))

    def probe(self, peer: PeerID, request: Probe, now: float) -> tuple[ProbeOutcome, ProbeSend | None]:
        """The outcome of a registered peer's request, and the datagram to send, if any."""
        remote = Address(request.address, request.port)
        committed, period = commitment(peer, request.nonce), self._period(now)
        asked = [host for host, first in self._locals.items() if first == request.proof[0]]
        # The clock of another process may be a little ahead
        good = [
            host
            for host in asked
            for each in (period, period - 1, period + 1)
            if hmac.compare_digest(request.proof, self._proof(host, committed, remote, each))
        ]
        if not good:
            return ProbeOutcome.REFUSED, None
        local = good[0]
        origin = self._origin(local, request.vantage, remote)
        if origin is None:
            return ProbeOutcome.UNAVAILABLE, None
        source = source_of(remote.host)
        if not (self._by_peer.allow(peer.key, now) and self.by_prefix.allow(source, now)):
            return ProbeOutcome.RATE, None
        answer = StunMessage(
            Method.BINDING,
            MessageClass.SUCCESS,
            request.transaction,
            ((Attribute.XOR_MAPPED_ADDRESS, remote),),
        )
        second = request.vantage is not Vantage.SAME
        return ProbeOutcome.SENT, ProbeSend(encode(answer, fingerprint=False), remote, origin, second)

    def _origin(self, local: str, vantage: Vantage, remote: Address) -> str | None:
        if vantage is Vantage.SAME:
            return local
        if not self.vantages.second:
            return None
        if vantage is Vantage.PORT:
            return local
        # A socket for both families may have reported `local` as "::" for either.
        others = (each for each in self.vantages.addresses if (":" in each) == remote.is_ipv6)
        return next((each for each in others if each != local), None)

    def _period(self, now: float) -> int:
        return int((now if self._wall is None else self._wall()) // PERIOD)

    def _proof(self, local: str, committed: bytes, remote: Address, period: int) -> bytes:
        text = b"%b %d %b %b" % (committed, period, local.encode(), str(remote).encode())
        return bytes([self._locals[local]]) + hmac.digest(self._key, text, "sha256")[: PROOF_SIZE - 1]
