"""
Finds a direct path for a link that works over a relay, by what both sides know about their NATs.

`punch.ice.techniques` says which technique is used, and which side opens. The two sides coordinate each
attempt over the link, so both have proved their keys to each other, and nobody else can start any of this.
Packets go only to IP addresses at which the other side has proved that it receives. Their number is limited
for each peer (`punch.ice.budget.OpeningBudget`), and one node makes one attempt at a time.

    aims:   observe the own NAT, send TARGETS, await OPENED, observe again, send to what is open
    opens:  receive TARGETS, send to all targets while observing the own NAT, send OPENED

Packets that arrive are connectivity checks of the ICE agent in use, at a socket that was opened for this
attempt. The agent answers and repeats them as it does any others, and selects the pair if it is better than
the relay.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from punch.ice import prediction
from punch.ice.agent import Agent
from punch.ice.candidates import may_pair
from punch.ice.techniques import Technique, opens, technique_for
from punch.identity import PeerID
from punch.link.events import LinkError
from punch.link.frames import OptionalFrameType
from punch.link.link import Link
from punch.natcheck.transactions import Later, Transactions
from punch.net.driver import Driver
from punch.net.udp import DatagramSocket
from punch.node.call_context import CallContext
from punch.node.ice_transport import IceTransport
from punch.node.nat_profiles import TransactionSockets
from punch.node.path import RelayPolicy
from punch.wire.address import Address
from punch.wire.nat_profile import NatProfile
from punch.wire.punching import Nats, Opened, Targets

SETTLE = 1.0
"""Seconds on a relayed path after which the first attempt begins: plain ICE needs less."""
GAP = 0.005
"""Seconds between two packets of an attempt. Other hosts take ports meanwhile, so it is short."""
ROUND = 1.0
"""The least seconds from the beginning of one attempt to that of the next…"""
QUICK = 4
"""…for the first few attempts; after that, it is `LATER` seconds, doubled each time."""
LATER = 15.0, 300.0
"""The wait after the quick attempts, and the longest one, in seconds."""
NETWORK_CHANGE_GAP = 60.0
"""Seconds in which the other side may say once that it is in another network, so that we begin at once."""
ANSWER_TIME = 3.0
"""Seconds that the other side has to answer TARGETS."""
ARRIVAL_TIME = 1.0
"""Seconds that packets have to arrive, and the checks that follow them to be answered."""
REPEATS = 4
"""How often so much time is added if something has arrived, while the link does not take the new path yet."""
OPEN_TIME = 8.0
"""Seconds that the side that opens waits for packets of the one that aims."""
PROOF_GAP = 0.5
"""Seconds until both sides check again whether they receive at their public addresses, if one was lost."""
PROOFS = 8
"""How often they do so before they wait for the first time of `LATER`, which is doubled each time."""
REFLECTOR_REQUESTS = 2
"""How often the side that opens asks a reflector in one attempt…"""
REQUEST_SIZE = 20
"""…and how many bytes such a request has: the header of RFC 8489, section 5."""
BUSY = 0.5
"""Seconds until this node is asked again whether another attempt is over."""


@dataclass(frozen=True)
class PunchingStatus:
    """
    What was tried to get a direct path to a peer.

    :ivar technique: what the NATs of both sides call for.
    :ivar attempts: how many attempts there were on this link.
    :ivar packets: how many packets were sent to predicted ports of this peer.
    :ivar bytes: how many bytes they had, with headers.
    """

    technique: Technique
    attempts: int
    packets: int
    bytes: int


class Punching:
    """
    The attempts for one link.

    :param theirs: what the other side's offer or answer said about its NATs.
    :param changed: called when the ICE agent may have something to send.
    """

    def __init__(
        self,
        peer: PeerID,
        link: Link,
        transport: IceTransport,
        context: CallContext,
        theirs: Sequence[NatProfile],
        changed: Callable[[], None],
    ) -> None:
        self._link = link
        self._transport = transport
        self._context = context
        self._network = context.network
        self._changed = changed
        self._budget = context.budgets.of(peer, context.monotonic()).openings
        self._theirs = tuple(theirs)
        self._told: tuple[NatProfile, ...] = ()
        self._attempts = 0
        self._tries = 0
        self._proofs = 0
        self._taken = 1
        self._newest = 0
        self._opening = False
        self._opened_at = self._network_changed_at = float("-inf")
        self._begin_at: float | None = None
        self._sockets: TransactionSockets | None = None
        self._awaited: tuple[int, Later[Opened]] | None = None
        self._bases: list[Address] = []
        self._driver = Driver(context.clock, context.monotonic, self._step, lambda: (self, *self._cores()))

    @property
    def status(self) -> PunchingStatus:
        """What was tried so far."""
        return PunchingStatus(self._technique, self._attempts, self._budget.packets, self._budget.bytes)

    # What happens

    def path_changed(self, now: float) -> None:
        """The link takes another path, or has one again."""
        if not self._relayed:
            self._begin_anew()
        elif self._begin_at is None:
            self._begin_at = now + SETTLE
        if self._sockets is None:
            self._close_unused()
        self._tell_nats()
        self._driver.run()

    def nat_observed(self, now: float) -> None:
        """There is a new observation of our NAT."""
        if _hosts(self._told) != _hosts(self._ours):
            self._begin_anew()
        self.path_changed(now)

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        Take a control frame of the link that is about this.

        :raise PunchingError: it is malformed.
        """
        if frame_type == OptionalFrameType.NATS:
            self._take_nats(Nats.decode(payload), now)
        elif frame_type == OptionalFrameType.TARGETS:
            self._take_targets(Targets.decode(payload), now)
        elif frame_type == OptionalFrameType.OPENED:
            opened = Opened.decode(payload)
            if self._sockets is not None:
                # The time of the newest input may be that of a packet before
                self._sockets.transactions.handle_timer(now)
            if self._awaited is not None and self._awaited[0] == opened.attempt:
                self._awaited[1].set(opened)
        self._driver.run()

    def close(self) -> None:
        """The link is over: close the sockets."""
        self._driver.stop()
        self._end_attempt()
        for base in self._bases:
            self._network.sockets.close_extra(base)
        self._bases.clear()

    def _take_nats(self, nats: Nats, now: float) -> None:
        if (
            _hosts(nats.profiles) != _hosts(self._theirs)
            and now >= self._network_changed_at + NETWORK_CHANGE_GAP
        ):
            self._network_changed_at = now
            self._begin_anew()
        self._theirs = nats.profiles
        self.path_changed(now)

    def _begin_anew(self) -> None:
        """The network is another one, or was better meanwhile: what failed before says nothing."""
        self._tries, self._proofs, self._begin_at = 0, 0, None

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._begin_at

    def handle_timer(self, now: float) -> None:
        """Begin an attempt if it is time."""
        if self._begin_at is None or now < self._begin_at:
            return
        self._begin_at = None
        if not self._relayed or self._technique is not Technique.PREDICTION:
            return
        found = self._network.nat_observer.base_and_reflector
        proving = found is not None and self._agent.prove(found[0])
        self._changed()
        if not self._opens:
            proving = not self._may_aim_at(self._theirs[0].host)
        if proving:
            self._proofs += 1
            self._begin_at = now + proof_wait(self._proofs)
        elif self._opens:
            return
        elif self._budget.left(now) < prediction.MAX_AIMS:
            self._begin_at = now + LATER[1]
        elif not self._begin(lambda transactions: self._aim(transactions)):
            self._begin_at = now + BUSY

    # The choice

    @property
    def _agent(self) -> Agent:
        return self._transport.generations.use

    @property
    def _relayed(self) -> bool:
        """Whether the link works over a relay, and may leave it."""
        generations = self._transport.generations
        pair = generations.selected
        auto = self._context.relay_policy is RelayPolicy.AUTO
        return auto and pair is not None and pair.path == "relay" and generations.working

    @property
    def _ours(self) -> tuple[NatProfile, ...]:
        return tuple(self._network.nat_observer.current)

    @property
    def _profiles(self) -> tuple[NatProfile | None, NatProfile | None]:
        """Return the profile of the most preferred address of each side."""
        return next(iter(self._ours), None), next(iter(self._theirs), None)

    @property
    def _technique(self) -> Technique:
        ours, theirs = self._profiles
        if ours is not None and theirs is not None and ours.host == theirs.host:
            # Behind one NAT, each side's packets shift the ports of the other
            return Technique.ICE
        return technique_for(ours, theirs)

    @property
    def _opens(self) -> bool:
        return opens(*self._profiles, controlling=self._agent.controlling)

    def _may_aim_at(self, host: str) -> bool:
        """Whether the other side has proved that it receives at this address."""
        return host in self._agent.proven_hosts

    # The side that aims

    async def _aim(self, transactions: Transactions) -> None:
        """Make one attempt."""
        self._attempts += 1
        self._tries += 1
        started = transactions.now
        observer = self._network.nat_observer
        found = observer.base_and_reflector
        if found is not None:
            await self._aim_from(transactions, *found)
        if self._relayed:
            self._begin_at = max(transactions.now, started + wait_after(self._tries))

    async def _aim_from(self, transactions: Transactions, local: str, reflector: Address) -> None:
        profile, theirs = self._profiles
        if profile is None or theirs is None or not self._may_aim_at(theirs.host):
            return
        base = self._open_socket(local)
        if base is None or (seen := await transactions.ask(base, reflector)) is None:
            return
        self._agent.add_opening(base, seen.mapped)
        ports = prediction.targets(profile, seen.mapped.port, self._taken)
        answered: Later[Opened] = Later()
        self._awaited = self._attempts, answered
        self._send_frame(
            OptionalFrameType.TARGETS,
            Targets(self._attempts, Technique.PREDICTION.value, seen.mapped.host, tuple(ports)).encode(),
        )
        if not await transactions.within(answered, ANSWER_TIME):
            return
        opened = answered.value
        if not opened.ports or not self._may_aim_at(opened.host):
            return
        newest = None
        if prediction.needs_second_observation(profile):
            again = transactions.bind(local)
            seen_again = None if again is None else await transactions.ask(again, reflector)
            if seen_again is None:
                return
            newest = seen_again.mapped.port
            self._network.nat_observer.add_ports(local, [seen.mapped.port, newest])
            steps = prediction.steps_between(profile, seen.mapped.port, newest)
            self._taken = max(1, (steps or 1) - 2)
        await self._send_to(
            transactions, base, opened.host, prediction.aims(profile, ports, opened.ports, newest)
        )
        await transactions.sleep(ARRIVAL_TIME)
        if self._agent.has_received_check(base):
            # The NATs are open: whatever was lost is sent again
            for _ in range(REPEATS):
                if self._relayed:
                    await transactions.sleep(ARRIVAL_TIME)

    # The side that opens

    def _take_targets(self, targets: Targets, now: float) -> None:
        agrees = (
            targets.technique == Technique.PREDICTION.value == self._technique.value
            and targets.attempt > self._newest
            and self._relayed
            and self._opens
            # Half the wait of the other side, whose messages may be late
            and now >= self._opened_at + wait_after(self._tries) / 2
            and bool(targets.ports)
            and self._may_aim_at(targets.host)
            and self._can_afford(targets, now)
        )
        self._newest = max(self._newest, targets.attempt)
        if self._opening:
            # The other side has given up the attempt before
            self._end_attempt()
        if not agrees or not self._begin(lambda transactions: self._open(transactions, targets)):
            self._refuse(targets)

    def _can_afford(self, targets: Targets, now: float) -> bool:
        """Whether we can send to all targets, and ask a reflector twice."""
        found = self._network.nat_observer.base_and_reflector
        if found is None:
            return False
        base, remote = Address(found[0], 1), Address(targets.host, targets.ports[0])
        size = self._agent.opening_size
        return may_pair(base, remote) and self._budget.has(
            len(targets.ports) + REFLECTOR_REQUESTS, size, remote, now
        )

    async def _open(self, transactions: Transactions, targets: Targets) -> None:
        """Open our NAT for one attempt of the other side."""
        self._attempts += 1
        self._tries += 1
        self._opening, self._opened_at = True, transactions.now
        rows = await self._open_ports(transactions, targets)
        if rows is None:
            self._refuse(targets)
            return
        self._send_frame(OptionalFrameType.OPENED, rows.encode())
        # We only wait from now on: attempts with other peers do no harm
        self._context.punching_slot.release(self)
        await transactions.sleep(OPEN_TIME)

    async def _open_ports(self, transactions: Transactions, targets: Targets) -> Opened | None:
        profile, _ = self._profiles
        found = self._network.nat_observer.base_and_reflector
        base = None if found is None else self._open_socket(found[0])
        if profile is None or found is None or base is None:
            return None
        local, reflector = found
        self._agent.add_opening(base)
        for _ in range(REFLECTOR_REQUESTS):
            self._budget.charge(reflector, REQUEST_SIZE, transactions.now)
        # Without waiting for the answer: other hosts have little time to take ports in between
        asked = transactions.spawn(transactions.ask(base, reflector))
        sent = await self._send_to(transactions, base, targets.host, targets.ports)
        after = transactions.bind(local)
        seen_again = None if after is None else await transactions.ask(after, reflector)
        seen = await asked
        if seen is None:
            return None
        self._agent.add_opening(base, seen.mapped)
        last = None if seen_again is None else seen_again.mapped.port
        rows = prediction.opened(profile, seen.mapped.port, last, sent)
        return Opened(targets.attempt, seen.mapped.host, tuple(map(tuple, rows)))

    def _refuse(self, targets: Targets) -> None:
        self._send_frame(OptionalFrameType.OPENED, Opened(targets.attempt, targets.host, ()).encode())

    # What both do

    async def _send_to(
        self, transactions: Transactions, base: Address, host: str, ports: Sequence[int]
    ) -> int:
        """Send to these ports in order, as far as the limit allows; returns to how many."""
        for number, port in enumerate(ports):
            opening = self._agent.opening(base, Address(host, port))
            if opening is None or not self._budget.allows(
                opening.remote, len(opening.data), transactions.now
            ):
                return number
            transactions.send(opening)
            await transactions.sleep(GAP)
        return len(ports)

    def _open_socket(self, local: str) -> Address | None:
        """Open a socket for an attempt, and close those of earlier ones that are not in use."""
        self._close_unused()
        base = self._network.sockets.open_extra(local, self._received)
        if base is not None:
            self._bases.append(base)
        return base

    def _close_unused(self) -> None:
        now = self._context.monotonic()
        selected = self._transport.generations.selected
        used = None if selected is None else selected.local_base
        for base in [base for base in self._bases if base != used]:
            self._bases.remove(base)
            for agent in self._transport.generations.agents:
                agent.remove_local(base, now)
            self._network.sockets.close_extra(base)

    def _received(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        """Take what arrives at a socket of an attempt: answers of the reflector, and all else for calls."""
        sockets = self._sockets
        if sockets is not None:
            others = [data for data in datagrams if not sockets.transactions.expects(data, socket.local)]
            if len(others) < len(datagrams):
                now = self._context.monotonic()
                for data in datagrams:
                    sockets.transactions.receive_datagram(data, remote, socket.local, now)
                self._driver.run()
            datagrams = others
        if datagrams:
            self._network.router.receive_from_socket(datagrams, remote, socket)

    def _begin(self, attempt: Callable[[Transactions], Coroutine[Any, Any, None]]) -> bool:
        """Begin an attempt; returns False if this node makes another one."""
        if self._sockets is not None or not self._context.punching_slot.take(self):
            return False
        self._sockets = sockets = self._network.nat_observer.open_sockets(
            lambda: self._driver.run(),
            lambda transmit: self._network.sockets.send([transmit.data], transmit.remote, transmit.local),
        )

        async def run() -> None:
            try:
                await attempt(sockets.transactions)
            finally:
                # Unless it was ended, and is only dropped now
                if self._sockets is sockets:
                    self._end_attempt()

        sockets.transactions.spawn(run())
        return True

    def _end_attempt(self) -> None:
        self._awaited, self._opening = None, False
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
            self._close_unused()
        self._context.punching_slot.release(self)

    def _cores(self) -> Sequence[Transactions]:
        return () if self._sockets is None else (self._sockets.transactions,)

    def _step(self, now: float) -> None:
        if self._sockets is not None:
            self._sockets.send()

    def _tell_nats(self) -> None:
        """Tell the other side what we know about our NATs, if that matters and is news."""
        ours = self._ours
        if self._relayed and [_without_age(each) for each in ours] != [
            _without_age(each) for each in self._told
        ]:
            self._told = ours
            self._send_frame(OptionalFrameType.NATS, Nats(ours).encode())

    def _send_frame(self, frame_type: OptionalFrameType, payload: bytes) -> None:
        try:
            self._link.send_control(frame_type, payload)
        except LinkError:
            return  # The link is over; `Link.when_closed` tells the call


def wait_after(tries: int) -> float:
    """Return the least seconds from the beginning of an attempt to that of the next, after so many."""
    if tries < QUICK:
        return ROUND
    return min(LATER[0] * 2.0 ** min(tries - QUICK, 10), LATER[1])


def proof_wait(proofs: int) -> float:
    """Return the seconds until both sides check again, after so many times."""
    rounds, rest = divmod(proofs, PROOFS)
    return PROOF_GAP if rest else min(LATER[0] * 2.0 ** min(rounds - 1, 10), LATER[1])


def _hosts(profiles: Sequence[NatProfile]) -> list[str]:
    return [each.host for each in profiles]


def _without_age(profile: NatProfile) -> tuple[object, ...]:
    return profile.host, profile.mapping, profile.ports, profile.step
