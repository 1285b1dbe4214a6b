"""
The reflector: tells whoever asks which address a datagram came from (STUN Binding, RFC 8489).

It talks to strangers who may lie about where they are, so it gives nobody a lever:

- A plain Binding request of 20 bytes is answered with 32 (IPv6: 44): the header and XOR-MAPPED-ADDRESS, no
  SOFTWARE, no MAPPED-ADDRESS, no OTHER-ADDRESS. No answer is ever longer than three times its question.
- Everything that isn't a well-formed Binding request gets silence: noise, responses, indications, other
methods,
  RFC 3489 clients, whose requests lack the magic cookie.
- What it answers is limited by token buckets: one for each IPv4 /24, and for each IPv6 /64, /56 and /48.
- It answers from where it was asked and to where it was asked from. RFC 5780's CHANGE-REQUEST, RESPONSE-PORT
and
  PADDING would let strangers aim it elsewhere or make it send more. They are answered with 420 (Unknown
  Attribute), as RFC 8489, section 6.3.1 asks of a server that doesn't have them; `turnutils_natdiscovery`
  takes that, and the lack of OTHER-ADDRESS in every answer, as "this server has no RFC 5780". Peers get what
  these are for over the control channel, for addresses at which they receive: see `punch.rendezvous.probing`.

No address is kept or logged. What stays in memory are the prefixes of those who asked lately: the /24, or the
/64, /56 and /48.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from struct import Struct

from punch.net.rate_limits import NETWORK_GROWTH, SITE_GROWTH
from punch.net.token_bucket import TokenBuckets
from punch.wire.address import Address, canonical
from punch.wire.stun import (
    HEADER_SIZE,
    MAGIC_COOKIE,
    Attribute,
    STUNError,
    StunMessage,
    encode,
    error,
    parse,
    success,
)

RATE = 100.0
"""Answers a second to one IPv4 /24 or IPv6 /64, in the long run; wider IPv6 prefixes get more."""
BURST = 500.0
"""Answers to one IPv4 /24 or IPv6 /64 at once, after a pause."""
CAPACITY = 16384
"""Prefixes of each width whose bucket is remembered."""

MAX_QUESTION = 2048
"""Bytes: longer datagrams are not looked at. RFC 5780's padded requests have about 1,530."""
AMPLIFICATION = 3
"""No answer is longer than this many times its question."""

_BINDING_REQUEST = b"\x00\x01"
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_PLAIN_REQUEST = _BINDING_REQUEST + b"\x00\x00" + _COOKIE
# Type and length of the answer to a plain request, and its one attribute up to the value.
_ANSWER4, _ANSWER6 = b"\x01\x01\x00\x0c", b"\x01\x01\x00\x18"
_MAPPED4 = Struct(">HHHHI")
_MAPPED6 = Struct(">HHHH")
_XOR_MAPPED_ADDRESS = int(Attribute.XOR_MAPPED_ADDRESS)
_PORT_MASK = MAGIC_COOKIE >> 16
_REFUSED = (Attribute.CHANGE_REQUEST, Attribute.RESPONSE_PORT, Attribute.PADDING)


Prove = Callable[[bytes, Address, str, float], bytes]
"""Makes a proof for a commitment, where it came from, our own address where it came to, and the time."""


class Reflector:
    """
    What to answer to a datagram, if anything. Pure: no socket, no clock.

    :param buckets: how much each IPv4 /24 and IPv6 /64 may ask; keys are opaque numbers. A /56 and a /48 have
        the same multiples of it as of every other limit.
    :param limited: is told a host whose prefix asks too much.
    :param prove: makes the proofs with which peers may ask for probes; None if there are none.
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
        The answer to `data`, to be sent to where it came from, or None for silence.

        :param remote: where it came from: host and port. An IPv6 host may have a zone ("%eth0").
        :param now: monotonic seconds.
        :param local: our own address at which it came in, as a datagram.
        :raise ValueError: `remote` is no IP address.
        """
        plain = len(data) == HEADER_SIZE and data.startswith(_PLAIN_REQUEST)
        if not plain and not (
            HEADER_SIZE < len(data) <= MAX_QUESTION
            and data.startswith(_BINDING_REQUEST)
            and data.startswith(_COOKIE, 4)
        ):
            return None
        host, port = remote
        if ":" not in host:
            a, b, c, d = host.split(".")
            number = int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
            wide = False
        else:
            number = int(IPv6Address(host.partition("%")[0]))
            wide = number >> 32 != 0xFFFF
            if not wide:
                # An IPv4 sender, as a socket for both families shows it.
                number &= 0xFFFFFFFF
        if wide:
            # Negative numbers, so that no IPv6 prefix shares a bucket with an IPv4 one.
            allowed = (
                self._buckets.allow(~(number >> 64), now)
                and self._sites.allow(number >> 72, now)
                and self._networks.allow(number >> 80, now)
            )
        else:
            allowed = self._buckets.allow(number >> 8, now)
        if not allowed:
            self._limited(host)
            return None
        if not plain:
            return self._answer(data, canonical(host.partition("%")[0], port), now, local)
        # Nearly every question is a plain one, so its answer is put together by hand.
        if wide:
            mapped = (number ^ int.from_bytes(data[4:], "big")).to_bytes(16, "big")
            head = _MAPPED6.pack(_XOR_MAPPED_ADDRESS, 20, 2, port ^ _PORT_MASK)
            return b"%b%b%b%b" % (_ANSWER6, data[4:], head, mapped)
        return (
            _ANSWER4
            + data[4:]
            + _MAPPED4.pack(_XOR_MAPPED_ADDRESS, 8, 1, port ^ _PORT_MASK, number ^ MAGIC_COOKIE)
        )

    def _answer(self, data: bytes, remote: Address, now: float, local: str | None) -> bytes | None:
        """The answer to a Binding request with attributes, or None if it is malformed."""
        try:
            request = parse(data)
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


def _not_supported(request: StunMessage) -> tuple[int, ...]:
    """
    What the request demands and doesn't get.

    A CHANGE-REQUEST without a flag, like an empty PADDING, demands nothing. Attributes of ICE, TURN and
    authentication are known and have no meaning here, so they are ignored (RFC 8489, section 6.3.1).
    """
    return tuple(int(kind) for kind in _REFUSED if request.get(kind)) + request.unknown_required()
