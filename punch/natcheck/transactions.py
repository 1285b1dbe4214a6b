"""What experiments are made with: Binding transactions (RFC 8489) and probes (docs/protocol.md, 7.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from punch.identity import PeerID, RandomBytes
from punch.natcheck.tasks import Later, Scheduler
from punch.wire.address import Address, Transmit
from punch.wire.control import Probe, Probed
from punch.wire.probing import NONCE_SIZE, TRANSACTION_SIZE, ProbeOutcome, Vantage, commitment
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    encode,
    parse,
)

WAITS = (0.5, 0.5, 0.5, 0.5, 1.0)
"""
After each time a request is sent, how long for an answer. RFC 8489, section 6.2.1 would double the first: the
same 3 s for three requests, which on bad networks is too few for a dozen questions that must all be answered.
"""
PROBE_TRIES = 4
"""How often a probe is asked for before silence means anything: each may be lost."""
PROBE_WAIT = 0.4
"""Seconds for a probe to arrive after the service says that it is sent, besides the round-trip time."""
CONTROL_WAIT = 3.0
"""Seconds for the service to say what became of a probe."""

Bind = Callable[[str], Address | None]
"""Opens a socket at one of our own IP addresses, at a free port; None if that can't be."""


@dataclass(frozen=True)
class ObservedAddress:
    """
    What a reflector said.

    :ivar local: the socket's address.
    :ivar mapped: what the reflector saw.
    :ivar nonce: what the proof was asked for with.
    :ivar proof: None if the reflector gives none.
    """

    local: Address
    mapped: Address
    nonce: bytes
    proof: bytes | None


class Transactions(Scheduler):
    """
    Sends requests and notes answers.

    :ivar rtts: all round-trip times that were measured, in seconds.
    """

    def __init__(self, peer: PeerID, random: RandomBytes, bind: Bind, now: float) -> None:
        super().__init__(now)
        self.bind = bind
        self.rtts: list[tuple[Address, float]] = []
        self._peer = peer
        self._random = random
        self._expected: dict[tuple[Address, bytes], tuple[Address | None, Later[StunMessage]]] = {}
        self._outcomes: dict[bytes, Later[ProbeOutcome]] = {}
        self._datagrams: list[Transmit] = []
        self._probes: list[Probe] = []

    # For experiments

    async def ask(self, local: Address, remote: Address) -> ObservedAddress | None:
        """Ask a reflector what it sees; None if it doesn't answer."""
        nonce = self._random(NONCE_SIZE)
        transaction = self._random(TRANSACTION_SIZE)
        request = StunMessage(
            Method.BINDING,
            MessageClass.REQUEST,
            transaction,
            ((Attribute.PROBE, commitment(self._peer, nonce)),),
        )
        data = encode(request, fingerprint=False)
        answer = self._expect(local, transaction, remote)
        for number, wait in enumerate(WAITS):
            sent = self.now
            self._datagrams.append(Transmit(data, remote, local))
            if not await self.within(answer, wait):
                continue
            mapped = answer.value.get(Attribute.XOR_MAPPED_ADDRESS)
            if not isinstance(mapped, Address) or mapped.port == 0:
                return None
            if number == 0:
                self.rtts.append((remote, self.now - sent))
            return ObservedAddress(local, mapped, nonce, answer.value.get(Attribute.PROBE))
        return None

    async def probed(self, seen: ObservedAddress, vantage: Vantage) -> bool | None:
        """
        Whether a datagram to `seen.mapped` arrives from somewhere else; None if the service sends none.
        """
        if seen.proof is None:
            return None
        transaction = self._random(TRANSACTION_SIZE)
        arrived = self._expect(seen.local, transaction, None)
        sent = False
        for _ in range(PROBE_TRIES):
            outcome = self._outcomes[transaction] = Later()
            mapped = seen.mapped
            self._probes.append(Probe(mapped.host, mapped.port, vantage, transaction, seen.nonce, seen.proof))
            either: Later[None] = Later()
            for each in (arrived, outcome):
                each.then(lambda either=either: either.set(None))  # type: ignore[misc]
            await self.within(either, CONTROL_WAIT)
            if not arrived.done and outcome.done:
                if outcome.value in (ProbeOutcome.REFUSED, ProbeOutcome.UNAVAILABLE):
                    return None
                sent = sent or outcome.value is ProbeOutcome.SENT
                await self.within(arrived, PROBE_WAIT + self._round_trip(seen.local))
            if arrived.done:
                return True
        return False if sent else None

    async def crossed(self, one: ObservedAddress, other: ObservedAddress, rounds: int) -> bool:
        """Whether, of datagrams between the mapped addresses of two of our own sockets, any arrives."""
        arrived: Later[None] = Later()
        for _ in range(rounds):
            for here, there in ((one, other), (other, one)):
                transaction = self._random(TRANSACTION_SIZE)
                self._expect(there.local, transaction, None).then(lambda: arrived.set(None))
                # An answer to a question nobody asked: no host on the way replies to it.
                hello = StunMessage(
                    Method.BINDING,
                    MessageClass.SUCCESS,
                    transaction,
                    ((Attribute.XOR_MAPPED_ADDRESS, there.mapped),),
                )
                data = encode(hello, fingerprint=False)
                self._datagrams.append(Transmit(data, there.mapped, here.local))
            if await self.within(arrived, PROBE_WAIT):
                return True
        return False

    # What comes, and what is to be sent

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """A datagram came to one of our sockets. What nobody waits for is ignored."""
        self.now = now
        try:
            message = parse(data)
        except STUNError:
            return
        if message.method != Method.BINDING or message.message_class is not MessageClass.SUCCESS:
            return
        sender, arrived = self._expected.get((local, message.transaction_id), (None, None))
        if arrived is not None and sender in (None, remote):
            arrived.set(message)

    def receive_probed(self, reply: Probed, now: float) -> None:
        """The service says what became of a probe."""
        self.now = now
        outcome = self._outcomes.get(reply.transaction)
        if outcome is not None:
            outcome.set(reply.outcome)

    def datagrams_to_send(self) -> list[Transmit]:
        """The datagrams to send now."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def probes_to_send(self) -> Sequence[Probe]:
        """The probes to ask for now."""
        probes, self._probes = self._probes, []
        return probes

    def _expect(self, local: Address, transaction: bytes, sender: Address | None) -> Later[StunMessage]:
        arrived: Later[StunMessage] = Later()
        self._expected[local, transaction] = sender, arrived
        return arrived

    def _round_trip(self, local: Address) -> float:
        return max((rtt for remote, rtt in self.rtts if remote.is_ipv6 == local.is_ipv6), default=0.0)
