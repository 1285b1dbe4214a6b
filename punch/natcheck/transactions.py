"""
What the experiments are made of: Binding transactions (RFC 8489), probes (docs/protocol.md, section 7.1), and
coroutines.

Each experiment is a coroutine, so that its steps stand in order: send a request, wait for the answer or for
half a second, conclude. `Scheduler` runs coroutines without an event loop, a clock or a socket. Its caller
passes in the time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from punch.identity import PeerID, RandomBytes
from punch.net.deadlines import Deadlines
from punch.wire.address import Address, Transmit
from punch.wire.control import NONCE_SIZE, TRANSACTION_SIZE, Probe, Probed, ProbeOutcome, Vantage, commitment
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    binding_request,
    encode,
    mapped_address,
    parse,
)

T = TypeVar("T")


class Future(Generic[T]):
    """A result that will be known later. It can be awaited before and after it is `done`."""

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._waiting: list[Callable[[], None]] = []

    @property
    def value(self) -> T:
        """
        The result.

        :raise RuntimeError: it is not known yet.
        """
        if not self.done:
            raise RuntimeError("not known yet")
        return cast(T, self._value)

    def set(self, value: T) -> None:
        """Set the result. Only the first call counts."""
        if self.done:
            return
        self.done, self._value = True, value
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def then(self, call: Callable[[], None]) -> None:
        """Call a function when the result is known; at once if it is."""
        if self.done:
            call()
        else:
            self._waiting.append(call)

    def __await__(self) -> Generator[Future[Any], None, T]:
        if not self.done:
            yield self
        return self.value


class Scheduler:
    """
    Runs coroutines that await nothing but `Future`.

    :ivar now: the time of the newest input, in monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self._sleeps: Deadlines[Future[None]] = Deadlines()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine until it waits, and continue it later; returns its future result."""
        finished: Future[T] = Future()
        self._step(coroutine, finished)
        return finished

    def sleep(self, seconds: float) -> Future[None]:
        """Return a `Future` that is done after so many seconds."""
        over: Future[None] = Future()
        self._sleeps.set(over, self.now + seconds)
        return over

    async def within(self, awaited: Future[Any], seconds: float) -> bool:
        """Wait for a result for at most so many seconds; returns whether it is done."""
        either: Future[None] = Future()
        for each in (awaited, self.sleep(seconds)):
            each.then(lambda: either.set(None))
        await either
        return awaited.done

    def get_timer(self) -> float | None:
        """When to call `handle_timer`; None: not needed."""
        return self._sleeps.next()

    def handle_timer(self, now: float) -> None:
        """Complete the sleeps that end at `now` or before."""
        self.now = now
        while (over := self._sleeps.pop(now)) is not None:
            over.set(None)

    def _step(self, coroutine: Coroutine[Any, Any, T], finished: Future[T]) -> None:
        try:
            awaited = coroutine.send(None)
        except StopIteration as end:
            finished.set(end.value)
        else:
            cast("Future[Any]", awaited).then(lambda: self._step(coroutine, finished))


@dataclass(frozen=True)
class ReflectorAddresses:
    """The addresses of the reflectors of one address family; None for those that do not exist."""

    first: Address
    second: Address | None = None
    third: Address | None = None
    fourth: Address | None = None

    @classmethod
    def of(cls, hosts: Sequence[str], port: int, second: int) -> ReflectorAddresses:
        """
        :param hosts: the service's addresses, of one family; the first is the main one.
        :param port: the reflector's port.
        :param second: the reflector's second port, 0 if there is none.
        """
        main = hosts[0]
        other = next((host for host in hosts if host != main), None)
        return cls(
            Address(main, port),
            Address(main, second) if second else None,
            None if other is None else Address(other, port),
            Address(other, second) if other is not None and second else None,
        )


WAITS = (0.5, 0.5, 0.5, 0.5, 1.0)
"""
Seconds to wait for an answer after each transmission of a request. With the doubled waits of RFC 8489,
section 6.2.1, only three requests would be sent in these 3 s. That is too few on networks with loss, because
a dozen requests must all be answered.
"""
PROBE_TRIES = 4
"""How often a probe is requested before silence is a result, since each may be lost."""
PROBE_WAIT = 0.4
"""Seconds, plus a round-trip time, to wait for a probe after the service says that it was sent."""
CONTROL_WAIT = 3.0
"""Seconds to wait for the service's answer to a probe request."""

Bind = Callable[[str], Address | None]
"""Opens a socket at one of our own IP addresses at a free port; returns its address, or None if it can't."""


@dataclass(frozen=True)
class ObservedAddress:
    """
    A reflector's answer.

    :ivar local: the socket's address.
    :ivar mapped: the address that the reflector saw.
    :ivar nonce: the nonce of the commitment that the proof is for.
    :ivar proof: the proof for probe requests; None if the reflector gives none.
    """

    local: Address
    mapped: Address
    nonce: bytes
    proof: bytes | None


class Transactions(Scheduler):
    """
    Sends requests and receives answers.

    :param peer: our peer ID, which proofs for probe requests are made out to; None: none is wanted.
    :ivar rtts: all measured round-trip times: reflector and seconds.
    """

    def __init__(self, peer: PeerID | None, random: RandomBytes, bind: Bind, now: float) -> None:
        super().__init__(now)
        self.bind = bind
        self.rtts: list[tuple[Address, float]] = []
        self._peer = peer
        self._random = random
        self._expected: dict[tuple[Address, bytes], tuple[Address | None, Future[StunMessage]]] = {}
        self._outcomes: dict[bytes, Future[ProbeOutcome]] = {}
        self._datagrams: list[Transmit] = []
        self._probes: list[Probe] = []

    # For experiments

    async def ask(self, local: Address, remote: Address) -> ObservedAddress | None:
        """Ask a reflector for the mapped address of a socket; None if it does not answer."""
        nonce = self._random(NONCE_SIZE)
        transaction = self._random(TRANSACTION_SIZE)
        peer = self._peer
        proof: tuple[tuple[int, object], ...] = ()
        if peer is not None:
            proof = ((Attribute.PROBE, commitment(peer, nonce)),)
        data = binding_request(transaction, *proof)
        answer = self._expect(local, transaction, remote)
        for number, wait in enumerate(WAITS):
            sent = self.now
            self._datagrams.append(Transmit(data, remote, local))
            if not await self.within(answer, wait):
                continue
            mapped = mapped_address(answer.value)
            if mapped is None:
                return None
            if number == 0:
                self.rtts.append((remote, self.now - sent))
            return ObservedAddress(local, mapped, nonce, answer.value.get(Attribute.PROBE))
        return None

    async def probed(self, seen: ObservedAddress, vantage: Vantage) -> bool | None:
        """
        Whether a datagram that the service sends to `seen.mapped` from `vantage` arrives; None if the service
        sends none.
        """
        if seen.proof is None:
            return None
        transaction = self._random(TRANSACTION_SIZE)
        arrived = self._expect(seen.local, transaction, None)
        sent = False
        for _ in range(PROBE_TRIES):
            outcome = self._outcomes[transaction] = Future()
            mapped = seen.mapped
            self._probes.append(Probe(mapped.host, mapped.port, vantage, transaction, seen.nonce, seen.proof))
            either: Future[None] = Future()
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
        """Whether any datagram between the mapped addresses of two sockets of ours arrives."""
        arrived: Future[None] = Future()
        for _ in range(rounds):
            for here, there in ((one, other), (other, one)):
                transaction = self._random(TRANSACTION_SIZE)
                self._expect(there.local, transaction, None).then(lambda: arrived.set(None))
                # A success response without a request: no host on the way answers it
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

    # Input and output

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Process a datagram that came to one of our sockets. Unexpected ones are ignored."""
        self.now = now
        if not self.expects(data, local):
            return
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
        """Process the service's answer to a probe request."""
        self.now = now
        outcome = self._outcomes.get(reply.transaction)
        if outcome is not None:
            outcome.set(reply.outcome)

    def expects(self, data: bytes, local: Address) -> bool:
        """Whether a datagram that came to one of our sockets answers a request, by its transaction ID."""
        return (local, data[8:20]) in self._expected

    def send(self, transmit: Transmit) -> None:
        """Send another datagram, in order with the requests."""
        self._datagrams.append(transmit)

    def datagrams_to_send(self) -> list[Transmit]:
        """Return the datagrams to send now."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def probes_to_send(self) -> Sequence[Probe]:
        """Return the probes to request now."""
        probes, self._probes = self._probes, []
        return probes

    def _expect(self, local: Address, transaction: bytes, sender: Address | None) -> Future[StunMessage]:
        arrived: Future[StunMessage] = Future()
        self._expected[local, transaction] = sender, arrived
        return arrived

    def _round_trip(self, local: Address) -> float:
        return max((rtt for remote, rtt in self.rtts if remote.is_ipv6 == local.is_ipv6), default=0.0)
