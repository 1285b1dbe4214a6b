"""
The coordination of attempts at a direct path, for one link: who makes one, and by which technique.
`punch.node.punching.schedule` says when the next one begins.

At most one attempt is made at a time (`Punching`):

    none ──this side begins one──> aiming ──it is over──> none
    none ──the other side asks for one──> opening ──it is over, or the other side asks for another──> none

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
from dataclasses import dataclass, field
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
from punch.node.punching.attempt import LONGEST_RTT, Attempt, AttemptBasis, AttemptMaker, AttemptSockets
from punch.node.punching.attempt_makers import Prediction, SimultaneousOpen, Spraying
from punch.node.punching.choice import TechniqueChoice, hosts
from punch.node.punching.schedule import BUSY, QUICK, RETURN_TIME, SETTLE, AttemptSchedule
from punch.wire.address import Address
from punch.wire.peers.link_frames import Begin, Nats, Opened, Targets
from punch.wire.peers.nat_profile import NatProfile

NETWORK_CHANGE_GAP = 60.0
"""
At most once in so many seconds, the other side may say that it is in another network, so that we begin at
once.
"""
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


# The attempt that is made


@dataclass
class _Aiming:
    """
    This side aims.

    :ivar number: the number of the attempt, which TARGETS names.
    :ivar answered: done when the other side has answered; None: TARGETS was not sent yet.
    """

    basis: AttemptBasis
    number: int
    answered: Future[Opened] | None = None


@dataclass(frozen=True)
class _Opening:
    """
    This side opens.

    :ivar number: the number of the attempt, as TARGETS has named it.
    :ivar begun: done when the other side has sent BEGIN.
    """

    basis: AttemptBasis
    number: int
    begun: Future[None] = field(default_factory=Future)


class Punching:
    """
    The attempts for one link. `AttemptSchedule` says when one begins.

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
        self._schedule = AttemptSchedule()
        self._attempt: _Aiming | _Opening | None = None
        self._made: Counter[Technique] = Counter()
        # The greatest number in the other side's TARGETS
        self._newest = 0
        # When the other side has said last that it is in another network
        self._network_changed_at = float("-inf")
        self._driver = Driver(context.clock, context.monotonic, self._step, self._cores)
        self._sockets = AttemptSockets(
            context.network, transport, budget.sent, context.monotonic, lambda: self._driver.run(), changed
        )

    @property
    def status(self) -> PunchingStatus:
        """What was tried so far."""
        sent = sum((self._transport.sent.get(each, Sent()) for each in self._makers), Sent())
        return PunchingStatus(self._choice.technique, self._made.total(), sent.packets, sent.bytes)

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
        over = self._schedule.begun(technique) >= enough and not self._choice.uncertain
        # Without a proof from either side no attempt can be made
        return TIME_FOR_CHECKS if over or self._schedule.unproved else TIME_FOR_TECHNIQUE

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
                        self._schedule.tries.found(basis.technique, host)
                if self._transport.generations.working:
                    self._choice.path_found(basis)
            self._schedule.on_no_relay()
        else:
            self._schedule.on_relay(now, lasted=not self._transport.generations.damping.short_lived)
            self._choice.review()
            self._schedule.settle(self._settle_time, now)
        self._tell_nats()
        self._driver.run()

    def nat_observed(self, now: float) -> None:
        """There is a new observation of our NAT."""
        if self._choice.moved:
            self._schedule.tries.clear()
            self._sockets.network_changed()
            self._choice.networks_changed()
            self._transport.generations.network_changed(now)
            self._schedule.begin_anew(now)
        self.path_changed(now)

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        Take a control frame of the link that is about this.

        :raise PayloadError: it is malformed.
        """
        if frame_type == OptionalFrameType.NATS:
            self._take_nats(Nats.decode(payload), now)
        elif frame_type == OptionalFrameType.TARGETS:
            self._take_targets(Targets.decode(payload), now)
        elif frame_type == OptionalFrameType.OPENED:
            opened = Opened.decode(payload)
            self._tell_time(now)
            match self._attempt:
                case _Aiming(number=opened.attempt, answered=Future() as answered):
                    answered.set(opened)
        elif frame_type == OptionalFrameType.BEGIN:
            begin = Begin.decode(payload)
            self._tell_time(now)
            match self._attempt:
                case _Opening(number=begin.attempt, begun=begun):
                    begun.set(None)
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
                self._schedule.begin_anew(now)
        technique = self._choice.technique
        self._choice.theirs, self._choice.pairs = nats.profiles, nats.pairs
        self._choice.review()
        if self._choice.technique is not technique:
            self._schedule.forget()
        self.path_changed(now)

    def _tell_time(self, now: float) -> None:
        """Tell the attempt the time. It also learns it from what it receives and from its timers."""
        if self._sockets.observing is not None:
            self._sockets.observing.transactions.handle_timer(now)

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return earliest((self._schedule.get_timer(), self._choice.get_timer()))

    def handle_timer(self, now: float) -> None:
        """Begin an attempt if it is time."""
        if self._choice.handle_timer(now):
            self._tell_nats()
            self._schedule.wait_until(now + SETTLE)
        if not self._schedule.handle_timer(now):
            return
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
            self._schedule.proofs_sent(now)
        elif self._choice.opens:
            return
        elif now < self._schedule.settled_at:
            self._schedule.wait_until(self._schedule.settled_at)
        elif now < (next_at := self._next_at(theirs.host, maker)):
            self._schedule.wait_until(next_at)
        elif now < (enough_at := maker.can_aim_at(theirs.host, now)):
            self._schedule.wait_for_budget(enough_at, now)
        else:
            aiming = _Aiming(AttemptBasis(technique, *self._choice.profiles), self._made.total() + 1)
            if not self._begin(aiming, lambda transactions: self._aim(maker, aiming, transactions)):
                self._schedule.wait_until(now + BUSY)

    @property
    def _agent(self) -> Agent:
        return self._transport.generations.current

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

    async def _aim(self, maker: AttemptMaker, aiming: _Aiming, transactions: Transactions) -> None:
        """Make one attempt."""

        def propose(targets: Targets) -> Future[Opened]:
            answered = aiming.answered = Future()
            self._link.try_send_control(OptionalFrameType.TARGETS, targets.encode())
            return answered

        technique, started = aiming.basis.technique, transactions.now
        attempt = self._attempt_of(aiming, transactions, propose)
        if attempt is not None and await maker.aim(attempt):
            wait = maker.wait_after(self._schedule.tries.add(technique, attempt.theirs.host, started))
        else:
            wait = self._schedule.attempt_refused()
        if self._relayed:
            self._schedule.wait_until(max(transactions.now, started + wait))

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
        if isinstance(self._attempt, _Opening):
            # The other side has given up the attempt before. It had sent its few packets, unless it sprayed
            self._end_attempt(over=targets.technique != Technique.SPRAYING.value)
        if maker is None or not agrees or not self._begin_opening(maker, targets):
            self._refuse(targets)

    def _begin_opening(self, maker: AttemptMaker, targets: Targets) -> bool:
        basis = AttemptBasis(Technique(targets.technique), *self._choice.profiles)
        opening = _Opening(basis, targets.attempt)
        return self._begin(opening, lambda transactions: self._open(maker, opening, transactions, targets))

    async def _open(
        self, maker: AttemptMaker, opening: _Opening, transactions: Transactions, targets: Targets
    ) -> None:
        """Open our NAT for one attempt of the other side."""
        self._schedule.tries.add(opening.basis.technique, targets.host, transactions.now)
        attempt = self._attempt_of(opening, transactions)
        if attempt is None or not await maker.open(attempt, targets):
            self._refuse(targets)

    def _refuse(self, targets: Targets) -> None:
        self._answer(Opened(targets.attempt, targets.host, ()))

    def _answer(self, opened: Opened) -> None:
        self._link.try_send_control(OptionalFrameType.OPENED, opened.encode())

    # What both do

    def _attempt_of(
        self,
        state: _Aiming | _Opening,
        transactions: Transactions,
        propose: Callable[[Targets], Future[Opened]] = lambda targets: Future(),
    ) -> Attempt | None:
        """Return what a technique needs; None if our NAT or that of the other side is not known."""
        basis, number, found = state.basis, state.number, self._base_and_reflector
        ours, theirs = basis.ours, basis.theirs
        if ours is None or theirs is None or found is None:
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
            propose=propose,
            answer=self._answer,
            begin=lambda: self._link.try_send_control(OptionalFrameType.BEGIN, Begin(number).encode()),
            begun=state.begun if isinstance(state, _Opening) else Future(),
            sent=sent,
            release=lambda: self._context.punching_slot.release(self),
        )

    def _next_at(self, host: str, maker: AttemptMaker, part: float = 1.0) -> float:
        """Return when the next attempt may begin with the other side at this IP address."""
        damped_until = self._transport.generations.damping.allowed_at(PathKind.REFLEXIVE, part)
        next_at = self._schedule.tries.next_at(self._choice.technique, host, maker.wait_after, part)
        return max(damped_until, next_at)

    def _begin(
        self, attempt: _Aiming | _Opening, make: Callable[[Transactions], Coroutine[Any, Any, None]]
    ) -> bool:
        """Begin an attempt; returns False if this node makes another one."""
        if self._sockets.observing is not None or not self._context.punching_slot.take(self):
            return False
        self._attempt = attempt
        self._made[attempt.basis.technique] += 1
        self._schedule.attempt_begun(attempt.basis.technique)
        sockets = self._sockets.begin(attempt.basis)

        async def run() -> None:
            over = False
            try:
                await make(sockets.transactions)
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
        attempt, self._attempt = self._attempt, None
        if over and attempt is not None:
            self._choice.attempt_over(attempt.basis)
            self._tell_nats()
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
