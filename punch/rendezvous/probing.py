"""
Probes of NATs, for peers that receive at the address to be probed (docs/protocol.md, section 7.1). Pure.

The reflector returns proofs and stores nothing. A proof is bound to the peer that asked, its reflexive
address, and the address of ours that it asked. For a peer that presents the proof over the control channel,
one datagram is sent to the reflexive address. So nobody can have datagrams sent to an address at which they
do not receive, and the datagram is shorter than the request.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from punch.identity import PeerID, RandomBytes
from punch.net.rate_limits import SourceBuckets, source_of
from punch.net.token_bucket import TokenBuckets
from punch.rendezvous.config import RendezvousLimits
from punch.wire.address import Address
from punch.wire.control import Probe
from punch.wire.probing import PROOF_SIZE, ProbeOutcome, Vantage, commitment
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
)

PERIOD = 600.0
"""Seconds: a proof is good in the period in which it was made and in the next."""
_CAPACITY = 4096
"""Buckets that are kept for peers, and for prefixes."""
_MAX_LOCALS = 255
"""Addresses of ours that have a number at the same time."""
_KEY_SIZE = 32


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
    Makes proofs, and the datagrams for peers that present them.

    :ivar vantages: where probes can be sent from; set when the service listens.
    """

    def __init__(self, limits: RendezvousLimits, random: RandomBytes) -> None:
        self.vantages = Vantages()
        self._key = random(_KEY_SIZE)
        # The addresses of ours that were asked: a proof contains the number of one.
        self._locals: dict[str, int] = {}
        self._by_peer = TokenBuckets(limits.probe_rate, limits.probe_burst, _CAPACITY)
        # A network has no more than an address, because the requests choose the address.
        self._by_prefix = SourceBuckets(
            limits.probe_prefix_rate, limits.probe_prefix_burst, _CAPACITY, growth=(1, 1, 1)
        )

    def prove(self, committed: bytes, remote: Address, local: str, now: float) -> bytes:
        """
        The proof for a commitment that came from `remote` to our address `local`.

        :param now: monotonic seconds.
        """
        number = self._locals.get(local)
        if number is None:
            if len(self._locals) >= _MAX_LOCALS:
                # The numbers get a new meaning, so a new key invalidates the older proofs.
                self._locals.clear()
                self._key = hmac.digest(self._key, b"next", "sha256")
            number = self._locals[local] = len(self._locals)
        return self._proof(number, committed, remote, int(now // PERIOD))

    def probe(self, peer: PeerID, request: Probe, now: float) -> tuple[ProbeOutcome, ProbeSend | None]:
        """The outcome of a registered peer's request, and the datagram to send, if any."""
        remote = Address(request.address, request.port)
        number = request.proof[0]
        committed = commitment(peer, request.nonce)
        good = [
            hmac.compare_digest(request.proof, self._proof(number, committed, remote, period))
            for period in (int(now // PERIOD), int(now // PERIOD) - 1)
        ]
        local = next((host for host, known in self._locals.items() if known == number), None)
        if local is None or not any(good):
            return ProbeOutcome.REFUSED, None
        origin = self._origin(local, request.vantage, remote)
        if origin is None:
            return ProbeOutcome.UNAVAILABLE, None
        source = source_of(remote.host)
        if not (self._by_peer.allow(peer.key, now) and self._by_prefix.allow(source, now)):
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

    def _proof(self, number: int, committed: bytes, remote: Address, period: int) -> bytes:
        text = b"%b %d %d %s" % (committed, number, period, str(remote).encode("ascii"))
        return bytes([number]) + hmac.digest(self._key, text, "sha256")[: PROOF_SIZE - 1]
