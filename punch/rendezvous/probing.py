"""
Probes of NATs, for peers that receive at the address to be probed (docs/protocol.md, section 7.1). Pure.

The reflector hands out proofs and remembers nothing; a proof binds who asked, the reflexive address, and
which of our addresses was asked. Whoever shows it over the control channel has one datagram sent there. So
nobody can aim us at an address at which he doesn't receive, and what is sent is shorter than what asks for
it.
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
"""Peers, and prefixes, whose bucket is remembered."""
_MAX_LOCALS = 255
"""Our own addresses that are told apart at the same time."""
_KEY_SIZE = 32


class ProbeSend(NamedTuple):
    """
    What to send: from our address `local`, and from the port of the second reflector if `second` is true.
    """

    data: bytes
    remote: Address
    local: str
    second: bool


@dataclass(frozen=True)
class Vantages:
    """
    From where probes can be sent.

    :ivar second: whether there is a second port.
    :ivar addresses: our own further addresses.
    """

    second: bool = False
    addresses: Sequence[str] = ()


class Prober:
    """
    Makes proofs, and says what to send for those that come back.

    :ivar vantages: from where; the shell sets them when it listens.
    """

    def __init__(self, limits: RendezvousLimits, random: RandomBytes) -> None:
        self.vantages = Vantages()
        self._key = random(_KEY_SIZE)
        # Our own addresses at which somebody asked: a proof names one by its number.
        self._locals: dict[str, int] = {}
        self._by_peer = TokenBuckets(limits.probe_rate, limits.probe_burst, _CAPACITY)
        # A network has no more than an address: probes go where somebody says that he is.
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
                # Proofs that name them by number would mean other ones now: a new key makes them worthless.
                self._locals.clear()
                self._key = hmac.digest(self._key, b"next", "sha256")
            number = self._locals[local] = len(self._locals)
        return self._proof(number, committed, remote, int(now // PERIOD))

    def probe(self, peer: PeerID, request: Probe, now: float) -> tuple[ProbeOutcome, ProbeSend | None]:
        """What a registered peer's request comes to, and what to send if it is granted."""
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
        # A socket for both families may have told `local` as "::" for either.
        others = (each for each in self.vantages.addresses if (":" in each) == remote.is_ipv6)
        return next((each for each in others if each != local), None)

    def _proof(self, number: int, committed: bytes, remote: Address, period: int) -> bytes:
        text = b"%b %d %d %s" % (committed, number, period, str(remote).encode("ascii"))
        return bytes([number]) + hmac.digest(self._key, text, "sha256")[: PROOF_SIZE - 1]
