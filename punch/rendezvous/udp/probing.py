"""
Probes of NATs, for peers that receive at the address to be probed (docs/protocol.md, section 7.1). Pure.

The reflector returns proofs and stores nothing. A proof is bound to the peer that asked, its reflexive
address, and the address of ours that it asked. For a peer that presents the proof over the control channel,
one datagram is sent to the reflexive address. So nobody can have datagrams sent to an address at which they
do not receive, and the datagram is shorter than the request.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from punch.identity import PeerID, RandomBytes
from punch.net.rate_limits import SourceBuckets
from punch.net.sources import source_of
from punch.net.token_bucket import TokenBuckets
from punch.rendezvous.config import RendezvousLimits
from punch.wire.address import Address
from punch.wire.control import Probe
from punch.wire.probes import PROOF_SIZE, ProbeOutcome, Vantage, commitment
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
    Makes proofs, and the datagrams for peers that present them.

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
