"""
The coordination of attempts at a direct path, for one link: when one is made, who makes it, and by which
technique.

`punch.ice.punching.techniques` says which technique is used, and which side opens. The two sides coordinate
each attempt over the link, so both have proved their keys to each other, and nobody else can start any of
this. Packets go only to IP addresses at which the other side has proved that it receives. Their number is
limited for each peer (`punch.ice.budget`), and one node makes one attempt at a time. How an attempt is made
is up to the technique (`punch.node.punching.attempt.AttemptMaker`).

Packets that arrive are connectivity checks of the ICE agent in use, at a socket that was opened for this
attempt. The agent answers and repeats them as it does any others, and selects the pair if it is better than
the relay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from punch.ice.agent import Agent
from punch.ice.limits import Sent
from punch.ice.pairs import PathKind
from punch.ice.punching.techniques import Technique
from punch.identity import PeerID
from punch.link.control_stream import OptionalFrameType
from punch.link.link import Link
from punch.natcheck.transactions import Future, Transactions
from punch.net.deadlines import earliest
from punch.net.driver import Driver, Timed
from punch.node.calls.call_context import CallContext
from punch.node.paths.ice_transport import IceTransport
from punch.node.policies import SprayPolicy
from punch.node.punching.attempt import (
    LONGEST_RTT,
    QUICK,
    Attempt,
    AttemptBasis,
    AttemptMaker,
    AttemptSockets,
    doubled,
)
from punch.node.punching.attempt_makers import Prediction, SimultaneousOpen, Spraying
from punch.node.punching.choice import TechniqueChoice, Tries, hosts
from punch.wire.address import Address
from punch.wire.peers.link_frames import Begin, Nats, Opened, Targets
from punch.wire.peers.nat_profile import NatProfile

SETTLE = 1.0
"""
Seconds on a relayed path after which the first attempt begins, since plain ICE takes less time. Between two
peers that had a direct path by the same technique before, it begins at once.
"""
RETURN_TIME = 5.0
"""
The same for a path that an attempt had found before: it is likely to answer again, unless a network changes.
"""
SHORTEST_WAIT, LONGEST_WAIT = 2.0, 300.0
"""The least and the most seconds until an attempt is considered again for which the budget is not enough."""
NETWORK_CHANGE_GAP = 60.0
"""
At most once in so many seconds, the other side may say that it is in another network, so that we begin at
once.
"""
PROOF_GAP = 0.5
"""Seconds until both sides check again whether they receive at their public addresses, if one was lost."""
PROOFS = 8
"""How often they do so before they wait longer…"""
PROOF_WAITS = 2.0, 300.0
"""…which is so many seconds at first, doubled each time, and the longest one."""
REFUSAL_WAITS = 1.0, 300.0
"""Seconds after an attempt that was refused or was impossible: at first, doubled each time, and at most."""
BUSY = 0.5
"""Seconds until this node is asked again whether another attempt is over."""
TIME_FOR_CHECKS = 3.0
"""
Seconds on a relayed path before a path over TCP is looked for, if no technique can find one over UDP.
"""
TIME_FOR_TECHNIQUE = 30.0
"""
The most such seconds if a technique can find a path over UDP. TCP begins earlier if the attempts in quick
succession, or the first one by spraying, are over.
"""


@dataclass(frozen=True)
class PunchingStatus:
    """
    What was tried to get a direct path to a peer.

    :ivar technique: what the NATs of both sides call for.
    :ivar attempts: how many attempts there were on this link.
    :ivar packets: how many packets were sent to ports of this peer for this, on this link.
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
        self._peer = peer
        self._link = link
        self._transport = transport
        self._context = context
        self._network = context.network
        self._changed = changed
        self._budget = budget = context.budgets.of(peer, context.monotonic())
        self._makers: dict[Technique, AttemptMaker] = {
            Technique.PREDICTION: Prediction(budget.openings),
            Technique.SIMULTANEOUS_OPEN: SimultaneousOpen(budget.openings),
        }
        if context.spray_policy is SprayPolicy.AUTO:
            self._makers[Technique.SPRAYING] = Spraying(
                budget.sprays,
                context.descriptors,
                lambda: context.network.sockets.extra,
                context.network.nat_observer.port_range,
            )
        self._choice = TechniqueChoice(peer, context, transport, theirs)
        self._attempts = 0
        self._made: Counter[Technique] = Counter()
        # Attempts that have begun since the last direct path that lasted, or since a network changed
        self._begun_by: Counter[Technique] = Counter()
        self._tries = Tries()
        self._basis: AttemptBasis | None = None
        self._refusals = self._proofs = 0
        self._newest = 0
        self._opening = self._direct = False
        self._network_changed_at = self._settled_at = float("-inf")
        self._begin_at: float | None = None
        self._awaited: tuple[int, Future[Opened]] | None = None
        self._begun: tuple[int, Future[None]] | None = None
        self._driver = Driver(context.clock, context.monotonic, self._step, self._cores)
        self._sockets = AttemptSockets(
            context.network, transport, budget.sent, context.monotonic, lambda: self._driver.run(), changed
        )

    @property
    def status(self) -> PunchingStatus:
        """What was tried so far."""
        sent = sum((self._transport.sent.get(each, Sent()) for each in self._makers), Sent())
        return PunchingStatus(self._choice.technique, self._attempts, sent.packets, sent.bytes)

    @property
    def attempts(self) -> Mapping[Technique, int]:
        """How many attempts there were on this link by each technique."""
        return self._made

    @property
    def time_for_udp(self) -> float:
        """
        For how many seconds on a relayed path only a direct path over UDP is looked for. By then,
        connectivity checks and the technique for these NATs, if there is one, have probably found what they
        can find.
        """
        technique = self._choice.technique
        if technique not in self._makers or not self._choice.is_worth_trying:
            return TIME_FOR_CHECKS
        enough = 1 if technique is Technique.SPRAYING else QUICK
        over = self._begun_by[technique] >= enough and not self._choice.uncertain
        # Without a proof from either side no attempt can be made
        return TIME_FOR_CHECKS if over or self._proofs >= PROOFS else TIME_FOR_TECHNIQUE

    def technique_of(self, base: Address) -> Technique:
        """Return by which technique the path from this local address was found."""
        basis = self._sockets.basis(base)
        return Technique.ICE if basis is None else basis.technique

    # What happens

    def path_changed(self, now: float) -> None:
        """The link takes another path, or has one again."""
        self._sockets.path_changed(now)
        if not self._relayed:
            found = self._sockets.selected
            if found is not None:
                # Connectivity checks alone, or TCP, may have found any other path
                self._budget.path_found(found.host)
                basis = self._sockets.selected_basis
                if basis is not None and basis.theirs is not None:
                    # One that aims is counted by the profile, one that opens by what TARGETS names
                    for host in {basis.theirs.host, found.host}:
                        self._tries.found(basis.technique, host)
                if self._transport.generations.working:
                    self._choice.path_found(basis)
            self._direct, self._begin_at = True, None
        else:
            if self._direct and not self._transport.generations.damping.short_lived:
                self._begin_anew()
            self._direct = False
            self._choice.review()
            if self._begin_at is None:
                # The proofs first, which may take that long
                self._settled_at = now + self._settle_time
                self._begin_at = max(now, self._settled_at - PROOF_GAP)
        self._tell_nats()
        self._driver.run()

    def nat_observed(self, now: float) -> None:
        """There is a new observation of our NAT."""
        if self._choice.moved:
            self._tries.clear()
            self._sockets.network_changed()
            self._choice.networks_changed()
            self._transport.generations.network_changed(now)
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
            self._tell_time(now)
            if self._awaited is not None and self._awaited[0] == opened.attempt:
                self._awaited[1].set(opened)
        elif frame_type == OptionalFrameType.BEGIN:
            begin = Begin.decode(payload)
            self._tell_time(now)
            if self._begun is not None and self._begun[0] == begin.attempt:
                self._begun[1].set(None)
        self._driver.run()

    def close(self) -> None:
        """The link is over: close the sockets."""
        self._driver.stop()
        self._end_attempt(over=False)
        self._sockets.close()

    def _take_nats(self, nats: Nats, now: float) -> None:
        if hosts(nats.profiles) != hosts(self._choice.theirs):
            self._choice.networks_changed()
            if now >= self._network_changed_at + NETWORK_CHANGE_GAP:
                self._network_changed_at = now
                self._transport.generations.network_changed(now)
                self._begin_anew()
        technique = self._choice.technique
        self._choice.theirs, self._choice.pairs = nats.profiles, nats.pairs
        self._choice.review()
        if self._choice.technique is not technique:
            # The wait was one for another technique
            self._begin_at = None
        self.path_changed(now)

    def _tell_time(self, now: float) -> None:
        """Tell the attempt the time. It also learns it from what it receives and from its timers."""
        if self._sockets.observing is not None:
            self._sockets.observing.transactions.handle_timer(now)

    def _begin_anew(self) -> None:
        """The network is another one, or a direct path has lasted: begin as soon as the waits allow."""
        self._tries.path_found(self._context.monotonic())
        self._refusals = self._proofs = 0
        self._begun_by.clear()
        self._begin_at = None

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return earliest((self._begin_at, self._choice.get_timer()))

    def handle_timer(self, now: float) -> None:
        """Begin an attempt if it is time."""
        if self._choice.handle_timer(now):
            self._tell_nats()
            self._begin_at = now + SETTLE
        if self._begin_at is None or now < self._begin_at:
            return
        self._begin_at = None
        technique, theirs = self._choice.technique, self._choice.profiles[1]
        maker = self._makers.get(technique)
        if not self._relayed or maker is None or theirs is None or not self._choice.is_worth_trying:
            return
        found = self._base_and_reflector
        proving = found is not None and self._agent.openings.prove(found[0])
        self._changed()
        if not self._choice.opens:
            # An attempt before both know where the other one receives would be refused
            proving = proving or theirs.host not in self._agent.openings.proven_hosts
        if proving:
            self._proofs += 1
            self._begin_at = now + proof_wait(self._proofs)
        elif self._choice.opens:
            return
        elif now < self._settled_at:
            self._begin_at = self._settled_at
        elif now < (next_at := self._next_at(theirs.host, maker)):
            self._begin_at = next_at
        elif now < (enough_at := maker.can_aim_at(theirs.host, now)):
            # Several links may wait for the same packets
            self._begin_at = min(max(enough_at, now + SHORTEST_WAIT), now + LONGEST_WAIT)
        elif not self._begin(technique, lambda transactions: self._aim(maker, technique, transactions)):
            self._begin_at = now + BUSY

    @property
    def _agent(self) -> Agent:
        return self._transport.generations.use

    @property
    def _relayed(self) -> bool:
        """Whether the link works over a relay, and may leave it."""
        return self._transport.relayed

    @property
    def _base_and_reflector(self) -> tuple[str, Address] | None:
        """The local IP address that attempts are made from, and a reflector; None if that is not known."""
        ours = self._choice.profiles[0]
        return None if ours is None else self._network.nat_observer.base_and_reflector(ours.host)

    @property
    def _settle_time(self) -> float:
        """
        For how many seconds on a relayed path no attempt begins, because plain ICE may find a path, or the
        path before may answer again.
        """
        theirs, left = self._choice.profiles[1], self._sockets.left
        if theirs is not None and left is not None and left.host == theirs.host:
            return RETURN_TIME
        return 0.0 if self._choice.found_last_path else SETTLE

    # The side that aims

    async def _aim(self, maker: AttemptMaker, technique: Technique, transactions: Transactions) -> None:
        """Make one attempt."""
        self._attempts += 1
        self._made[technique] += 1
        started = transactions.now
        attempt = self._attempt(self._attempts, transactions)
        if attempt is not None and await maker.aim(attempt):
            wait = maker.wait_after(self._tries.add(technique, attempt.theirs.host, started))
        else:
            self._refusals += 1
            wait = refusal_wait(self._refusals)
        if self._relayed:
            self._begin_at = max(transactions.now, started + wait)

    def _propose(self, targets: Targets) -> Future[Opened]:
        answered: Future[Opened] = Future()
        self._awaited = targets.attempt, answered
        self._link.try_send_control(OptionalFrameType.TARGETS, targets.encode())
        return answered

    # The side that opens

    def _take_targets(self, targets: Targets, now: float) -> None:
        maker = self._makers.get(self._choice.technique)
        found = self._base_and_reflector
        agrees = (
            maker is not None
            and found is not None
            and targets.technique == self._choice.technique.value
            and targets.attempt > self._newest
            and self._relayed
            and self._choice.opens
            # Half the wait of the other side, whose messages may be late
            and now >= self._next_at(targets.host, maker, 0.5)
            and targets.host in self._agent.openings.proven_hosts
            and maker.can_open(self._agent, found[0], targets, now)
        )
        self._newest = max(self._newest, targets.attempt)
        if self._opening:
            # The other side has given up the attempt before. It had sent its few packets, unless it sprayed
            self._end_attempt(over=targets.technique != Technique.SPRAYING.value)
        if maker is None or not agrees or not self._begin_opening(maker, targets):
            self._refuse(targets)

    def _begin_opening(self, maker: AttemptMaker, targets: Targets) -> bool:
        technique = Technique(targets.technique)
        return self._begin(technique, lambda transactions: self._open(maker, transactions, targets))

    async def _open(self, maker: AttemptMaker, transactions: Transactions, targets: Targets) -> None:
        """Open our NAT for one attempt of the other side."""
        technique = Technique(targets.technique)
        self._attempts += 1
        self._made[technique] += 1
        self._tries.add(technique, targets.host, transactions.now)
        self._opening = True
        attempt = self._attempt(targets.attempt, transactions)
        if attempt is None or not await maker.open(attempt, targets):
            self._refuse(targets)

    def _refuse(self, targets: Targets) -> None:
        self._answer(Opened(targets.attempt, targets.host, ()))

    def _answer(self, opened: Opened) -> None:
        self._link.try_send_control(OptionalFrameType.OPENED, opened.encode())

    # What both do

    def _attempt(self, number: int, transactions: Transactions) -> Attempt | None:
        """Return what a technique needs; None if our NAT or that of the other side is not known."""
        begun: Future[None] = Future()
        self._begun = number, begun
        ours, theirs = self._choice.profiles
        found, basis = self._base_and_reflector, self._basis
        if ours is None or theirs is None or found is None or basis is None:
            return None

        def sent(local: Address, remote: Address, size: int) -> None:
            self._budget.sent.add(local, remote, size)
            self._choice.sent(basis)

        return Attempt(
            number=number,
            local=found[0],
            reflector=found[1],
            ours=ours,
            theirs=theirs,
            transactions=transactions,
            network=self._network,
            transport=self._transport,
            sockets=self._sockets,
            rtt=min(self._link.rtt or 0.0, LONGEST_RTT),
            random=self._context.random,
            relayed=lambda: self._relayed,
            propose=self._propose,
            answer=self._answer,
            begin=lambda: self._link.try_send_control(OptionalFrameType.BEGIN, Begin(number).encode()),
            begun=begun,
            sent=sent,
            release=lambda: self._context.punching_slot.release(self),
        )

    def _next_at(self, host: str, maker: AttemptMaker, part: float = 1.0) -> float:
        """Return when the next attempt may begin with the other side at this IP address."""
        damped_until = self._transport.generations.damping.allowed_at(PathKind.REFLEXIVE, part)
        return max(damped_until, self._tries.next_at(self._choice.technique, host, maker.wait_after, part))

    def _begin(
        self, technique: Technique, attempt: Callable[[Transactions], Coroutine[Any, Any, None]]
    ) -> bool:
        """Begin an attempt; returns False if this node makes another one."""
        if self._sockets.observing is not None or not self._context.punching_slot.take(self):
            return False
        self._begun_by[technique] += 1
        self._basis = AttemptBasis(technique, *self._choice.profiles)
        sockets = self._sockets.begin(self._basis)

        async def run() -> None:
            over = False
            try:
                await attempt(sockets.transactions)
                over = True
            finally:
                # Unless it was ended, and is only dropped now
                if self._sockets.observing is sockets:
                    self._end_attempt(over=over)

        sockets.transactions.spawn(run())
        return True

    def _end_attempt(self, *, over: bool) -> None:
        """
        End the attempt that is made, if any.

        :param over: whether it has run to its end, so that it has failed if there is no direct path.
        """
        basis, self._basis = self._basis, None
        if over and basis is not None:
            self._choice.attempt_over(basis)
            self._tell_nats()
        self._awaited, self._begun, self._opening = None, None, False
        self._sockets.end()
        self._context.punching_slot.release(self)

    def _cores(self) -> Sequence[Timed]:
        observing = self._sockets.observing
        transactions = () if observing is None else (observing.transactions,)
        return self, self._sockets, *transactions

    def _step(self, now: float) -> None:
        self._sockets.flush()

    def _tell_nats(self) -> None:
        news = self._choice.news()
        if news is not None:
            self._link.try_send_control(OptionalFrameType.NATS, Nats(news, pairs=True).encode())


def proof_wait(proofs: int) -> float:
    """Return the seconds until both sides check again, after so many times."""
    rounds, rest = divmod(proofs, PROOFS)
    return PROOF_GAP if rest else doubled(PROOF_WAITS, rounds - 1)


def refusal_wait(refusals: int) -> float:
    """Return the seconds to the next attempt after so many that were refused, or could not be made."""
    return doubled(REFUSAL_WAITS, refusals - 1)
