"""
The ICE agent (RFC 8445 for one component, trickled candidates of RFC 8838): finds a path to a peer, keeps it.

A pure core: it is given addresses, datagrams and the time, and says what to send and what happened. After any
input, send `datagrams_to_send(now)`, take the events, and call `handle_timer` at `get_timer()`.

Choices where the RFCs leave some, or where we differ:

- Between ourselves the controlling side nominates its first success at once, and again, with a growing
  number, when a clearly better pair works (`Nomination`). Each side may send as soon as a check of its own
  succeeded.
- Remote candidates of different types take turns in being checked (`CheckList.next_pair`).
- Gathering has a pacer of its own (`Gatherer`) beside that of checks (`Pacer`), and failure a limit
  of its own (`FailureTimer`).
- Requests of those who don't know our ufrag get silence (`punch.ice.check_server`).
- A pair that falls silent is left before its consent expires (`PathKeeper`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Sequence
from typing import Literal

from punch.ice.agent_state import AgentLifecycleState, AgentState, new_lifecycle
from punch.ice.budget import Budget
from punch.ice.call_budget import CallBudget
from punch.ice.candidates import LocalCandidates, RemoteCandidates
from punch.ice.check_client import CheckClient, CheckVerdict, Outcome
from punch.ice.check_messages import (
    Check,
    EarlyChecks,
    IceRole,
    is_check_for,
    is_for,
    read_check,
)
from punch.ice.check_server import respond
from punch.ice.checklist import CheckList
from punch.ice.credentials import IceCredentials
from punch.ice.events import (
    CheckingStarted,
    Event,
    GatheringDone,
    LocalCandidate,
    PathFailed,
    RoleChanged,
)
from punch.ice.failure_reasons import why_not
from punch.ice.failure_timer import FailureTimer
from punch.ice.gathering import Gatherer
from punch.ice.nomination import Nomination, Selector
from punch.ice.pacing import PACING, Pacer
from punch.ice.pairs import CandidatePair, Pair, PairState
from punch.ice.selected_pair import SelectedPair
from punch.ice.snapshot import PairStatus, take_snapshot
from punch.ice.transactions import Purpose
from punch.identity import RandomBytes
from punch.wire.address import Address, Transmit
from punch.wire.candidate import Candidate, CandidateType
from punch.wire.stun import (
    MAGIC_COOKIE,
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    parse,
)

__all__ = ["Agent", "AgentState", "IceCredentials", "Pair"]

_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_ENDED = (AgentState.FAILED, AgentState.CLOSED)


class Agent:
    """
    One side of one ICE session.

    :param controlling: the role to begin with; the side that calls has it, and a conflict is repaired.
    :param credentials: ours, which the peer is told.
    :param pacing: Ta that we signal, in seconds; the greater one of both sides is used.
    :param nomination: "renomination" between ourselves, "regular" towards others.
    :param consent: ask for consent on the selected pair (RFC 7675); without, it is only kept alive.
    :param budget: of the peer, for what is sent to addresses that have not answered; it outlives a session.
        None: as much as the RFC has.
    :param steady: check every 2 s instead of backing off: after a restart a peer may be back at any moment.
    """

    def __init__(
        self,
        *,
        controlling: bool,
        credentials: IceCredentials,
        random: RandomBytes = os.urandom,
        pacing: float = PACING,
        nomination: Literal["renomination", "regular"] = "renomination",
        consent: bool = True,
        steady: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self._ours = credentials
        self._theirs: IceCredentials | None = None
        self._locals = LocalCandidates()
        self._remotes = RemoteCandidates()
        self._checklist = CheckList()
        self._checklist.controlling = controlling
        role = IceRole.CONTROLLING if controlling else IceRole.CONTROLLED
        spending = self._spending = CallBudget(budget, self._locals, self._remotes)
        self._checker = CheckClient(
            credentials, self._locals, role, random, spending.may_check, spending.answered, steady=steady
        )
        self._selector = Selector(
            self._checklist, Nomination(nomination), random, consent=consent, patient=steady
        )
        self._pacer = Pacer(self._checklist, self._checker, self._selector, spending.is_unlikely, pacing)
        self._gatherer = Gatherer(random, self._pacer.interval)
        self._events: deque[Event] = deque()
        self._path = SelectedPair(
            self._checker,
            self._checklist,
            self._selector,
            self._locals,
            random,
            self._events,
            self._connected,
            consent=consent,
        )
        self._state = AgentLifecycleState()
        self._lifecycle = new_lifecycle(self._state)
        self._early = EarlyChecks()
        self._locals_ended = False
        self._remotes_ended = False
        self._failure_timer = FailureTimer()
        self._announced = False
        self._output: list[Transmit] = []

    @property
    def state(self) -> AgentState:
        """Where the session is."""
        return self._state.now

    @property
    def controlling(self) -> bool:
        """Our role now."""
        return self._checker.role is IceRole.CONTROLLING

    @property
    def credentials(self) -> IceCredentials:
        """Ours."""
        return self._ours

    @property
    def local_candidates(self) -> list[Candidate]:
        """What to tell the peer: all candidates so far."""
        return self._locals.signalled

    @property
    def pair_count(self) -> int:
        """How many pairs the checklist has."""
        return len(self._checklist)

    @property
    def pairs(self) -> list[PairStatus]:
        """All pairs as they are now, to be looked at."""
        return take_snapshot(self._checklist, self._locals, self.selected)

    @property
    def selected(self) -> Pair | None:
        """The path to send on now."""
        return self._path.selected

    @property
    def working(self) -> bool:
        """Whether there is a path, and no doubt about it."""
        return self._path.working

    @property
    def agreed(self) -> bool:
        """Whether the path is the controlling side's choice, and not only the first that works."""
        return self._path.agreed

    @property
    def small(self) -> bool:
        """Whether there is a path that carries checks, but not the largest datagrams."""
        return self._path.small

    @property
    def settled(self) -> bool:
        """Whether it is known what the path carries, or that is for the peer to find out."""
        return self._path.settled

    def validated(self, local: Address, remote: Address) -> bool:
        """Whether an authenticated check came or was answered between these addresses, and consent holds."""
        pair = self._checklist.get(local, remote)
        return pair is not None and not pair.revoked and (pair.heard is not None or pair.valid)

    # Candidates

    def add_local_address(self, base: Address) -> None:
        """
        A socket was bound to `base`: it is a host candidate.

        :raise ValueError: it is no address that a peer could send to.
        """
        self._pair_up(self._locals.add_host(base))

    def add_relayed(
        self, relayed: Address, mapped: Address | None, source: str, now: float, *, streamed: bool = False
    ) -> None:
        """
        A relay gave us `relayed`, which is a local address like any other from now on: what is to be sent
        from it goes through the relay, what the relay hands over came to it.

        :param mapped: what the relay sees us as; None if the peer is not to know.
        :param source: which relay, and how it is reached.
        :param streamed: it is reached over a stream, which makes it the last resort.
        """
        self._pair_up(self._locals.add_relayed(relayed, mapped, source, streamed))
        self._path.publish()

    def _pair_up(self, candidate: Candidate | None) -> None:
        """There is a new base, unless it is None."""
        if candidate is not None:
            self._events.append(LocalCandidate(candidate))
            for remote in self._remotes:
                self._checklist.add(candidate, remote)

    def remove_local(self, base: Address, now: float) -> None:
        """
        A socket or an allocation is gone, and all pairs with it. If the selected one was among them, another
        takes its place, or consent is lost.
        """
        if self.state in _ENDED or base not in self._locals:
            return
        self._drop_pairs([pair for pair in self._checklist if pair.base == base], now)
        self._locals.remove(base)

    def gather(self, reflectors: Sequence[Address], now: float, *, relays: bool = False) -> None:
        """
        Ask the reflectors for server-reflexive candidates; `GatheringDone` comes within 3.5 s.

        :param relays: relayed candidates may come too (`add_relayed`), until `end_of_relayed_candidates`.
        """
        hosts = [base.address for base in self._locals.bases if base.type is not CandidateType.RELAY]
        self._gatherer.start(hosts, reflectors, now, relays=relays)
        self._take_gathering_done(now)

    def end_of_relayed_candidates(self, now: float) -> None:
        """No more relayed candidates are coming."""
        self._gatherer.awaits_relayed = False
        self._take_gathering_done(now)

    def add_reflexive(self, base: Address, mapped: Address, source: str = "") -> bool:
        """
        A mapping of `base` that was learned elsewhere.

        :param source: where, so that mappings of one kind share a foundation.
        :return: whether that was news.
        """
        candidate = self._locals.add_reflexive(base, mapped, source)
        if candidate is None:
            return False
        self._events.append(LocalCandidate(candidate))
        self._path.publish()
        return True

    def end_of_local_candidates(self) -> None:
        """No more are coming; `gather` says so itself."""
        self._locals_ended = True

    def set_remote(self, credentials: IceCredentials, pacing: float, now: float) -> None:
        """
        The peer's credentials and the Ta that it signals, in seconds: checking starts.

        :raise ValueError: other credentials are already in use: that would be a restart.
        """
        if self._theirs is not None:
            if credentials != self._theirs:
                raise ValueError("the peer's credentials can't change within a session")
            return
        self._theirs = credentials
        self._checker.set_remote(credentials)
        self._pacer.slow_down(pacing)
        self._failure_timer.start(now)
        if self._gatherer.unanswered:
            self._pacer.hold(now)
        self._lifecycle.start()
        for check in self._early.take(credentials.ufrag):
            self._take_check(check, now)

    def add_remote_candidate(self, candidate: Candidate, now: float) -> None:
        """A candidate that the peer signalled; useless ones and those beyond 32 are ignored."""
        if not self._remotes.add(candidate):
            return
        self._checklist.update_remotes(self._remotes)
        for local in self._locals.bases:
            self._checklist.add(local, candidate)
        # An address that was learned from a check may turn out to be a relay's
        self._path.choose(now)

    def refuse_remote(self, address: Address, now: float) -> None:
        """Neither send to this address of the peer nor answer checks from it: no path may lead there."""
        self._remotes.refuse(address)
        self._drop_pairs([pair for pair in self._checklist if pair.remote.address == address], now)

    def end_of_remote_candidates(self, now: float) -> None:
        """The peer has signalled all of its candidates (RFC 8838, section 14)."""
        self._remotes_ended = True

    # What is known about paths from elsewhere

    def probe(self, now: float) -> None:
        """Data on the selected pair got no answer, or came by another: ask whether it is still there."""
        if self.state is AgentState.CONNECTED:
            self._path.probe(now)

    def check_size(self, now: float) -> None:
        """Large datagrams are sent on the selected pair: ask whether it carries them."""
        if self.state is AgentState.CONNECTED:
            self._path.check_size(now)

    def heard(self, now: float) -> None:
        """The link hears something on the selected pair."""
        if self.state is AgentState.CONNECTED:
            self._path.heard(now)

    def pass_over(self, now: float) -> None:
        """The link hears nothing on the selected pair, though checks are answered: take another."""
        if self.state is AgentState.CONNECTED:
            self._path.pass_over(now)

    def unresponsive(self, bases: Collection[Address], now: float) -> None:
        """The machine has these local addresses no more, perhaps for a moment."""
        if self.state not in _ENDED:
            self._path.unresponsive(bases, now)

    @property
    def bases(self) -> list[Address]:
        """The local addresses that checks are sent from."""
        return [candidate.address for candidate in self._locals.bases]

    # Datagrams and time

    def wants(self, data: bytes, remote: Address) -> bool:
        """
        Whether this is a STUN message for this session: an answer to one of our requests, or a request whose
        USERNAME begins with our ufrag. Says nothing about its being authentic.
        """
        if self.state in _ENDED or len(data) < 20 or data[0] > 1 or data[4:8] != _COOKIE:
            return False
        if data[0] & 1:
            transaction_id = bytes(data[8:20])
            return self._checker.owns(transaction_id) or self._gatherer.owns(transaction_id)
        return is_check_for(data, self._ours, self._theirs)

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Take a datagram that came from `remote` to the socket bound to `local`."""
        if self.state in _ENDED or local not in self._locals:
            return
        try:
            message = parse(data, most=MAX_ATTRIBUTES)
        except STUNError:
            return
        if message.method != Method.BINDING:
            return
        if message.message_class is MessageClass.REQUEST:
            self._receive_request(message, len(data), remote, local, now)
        elif self._gatherer.owns(message.transaction_id):
            self._receive_reflection(message, remote, local, now)
        elif message.message_class is not MessageClass.INDICATION:
            outcome = self._checker.receive(message, remote, local, now)
            if outcome is not None:
                self._take_outcome(outcome, now)

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """What to send now; checks that are due start here."""
        self._work(now)
        if self.state in _ENDED:
            return []
        output, self._output = self._output + self._path.datagrams_to_send(), []
        return output + self._checker.datagrams_to_send() + self._gatherer.datagrams_to_send()

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds."""
        if self.state in _ENDED:
            return None
        times = [self._gatherer.get_timer()]
        if self._theirs is not None:
            times += [self._checker.get_timer(), self._path.get_timer(), self._pacer.get_timer()]
        if self.state is AgentState.CHECKING:
            times.append(self._failure_timer.get_timer())
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        self._work(now)

    def next_event(self) -> Event | None:
        """The oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    def close(self, now: float) -> None:
        """End the session: nothing is sent or answered any more."""
        self._lifecycle.close()
        self._rest()

    # Requests of the peer (RFC 8445, section 7.3)

    def _receive_request(
        self, request: StunMessage, size: int, remote: Address, local: Address, now: float
    ) -> None:
        pair = self._checklist.get(local, remote)
        if not is_for(request, self._ours, self._theirs) or (pair is not None and pair.revoked):
            return
        if self._remotes.refuses(remote):
            return
        if Attribute.PADDING in request and not self._spending.may_be_large(remote, now):
            return  # It comes again
        reply = respond(request, size, remote, self._ours, self._checker.role, self._checker.tiebreaker)
        if reply.answer is not None and self._spending.may_answer(remote, reply.answer, now):
            self._output.append(Transmit(reply.answer, remote, local))
        if not reply.accepted:
            return
        if reply.role is not self._checker.role:
            self._take_role(reply.role, now, refused=False)
        check = read_check(request, remote, local)
        if self._theirs is not None:
            self._take_check(check, now)
        else:
            self._early.add(check)

    def _take_check(self, check: Check, now: float) -> None:
        candidate = self._remotes.learn(check.remote, check.priority)
        local = self._locals.base(check.local)
        pair = None if candidate is None or local is None else self._checklist.add(local, candidate)
        if pair is None:
            return
        repeated, pair.heard = pair.heard == check.transaction_id, check.transaction_id
        if not self.controlling and check.nomination is not None:
            pair.nomination = max(check.nomination, pair.nomination or 0)
        if pair.state is PairState.SUCCEEDED:
            self._path.choose(now)
        elif self._checklist.is_echo(pair):
            pair.state = PairState.FAILED
        elif not pair.revoked and not (repeated and pair.state is PairState.IN_PROGRESS):
            # Whatever was sent before may have met a closed NAT, so it starts anew (section 7.3.1.4)
            self._checker.stop(pair, now)
            self._checklist.trigger(pair)

    # Answers of the peer (RFC 8445, section 7.2.5)

    def _take_outcome(self, outcome: Outcome, now: float) -> None:
        pair, transaction = outcome.pair, outcome.transaction
        if pair.revoked or self._checklist.get(pair.base, pair.remote.address) is not pair:
            return
        if outcome.verdict is CheckVerdict.ROLE_CONFLICT:
            self._take_role_conflict(outcome, now)
        elif outcome.verdict is CheckVerdict.FAILED:
            self._pair_failed(pair, now)
        else:
            if pair.local.type is not CandidateType.RELAY:
                pair.mapped = outcome.mapped
                self._locals.at(pair.base, pair.mapped or pair.base)
            if transaction.purpose is Purpose.CHECK:
                self._checklist.succeeded(pair)
            self._path.answered(pair, now, full=transaction.purpose is Purpose.SIZE)

    def _take_role_conflict(self, outcome: Outcome, now: float) -> None:
        pair, transaction = outcome.pair, outcome.transaction
        ours = transaction.controlling == self.controlling
        if ours and not self._take_role(self._checker.role.other, now, refused=True):
            self._pair_failed(pair, now)
        elif transaction.purpose is Purpose.CHECK and pair.state is not PairState.SUCCEEDED:
            self._checklist.trigger(pair)

    def _take_role(self, role: IceRole, now: float, *, refused: bool) -> bool:
        if not self._checker.switch_role(role, refused=refused):
            return False
        self._checklist.controlling = self.controlling
        self._events.append(RoleChanged(self.controlling))
        self._selector.role_changed(now)
        return True

    def _pair_failed(self, pair: CandidatePair, now: float) -> None:
        if pair.valid:
            return  # Only a nomination failed: whether the path still works is for consent to say
        self._checker.forget(pair)
        self._checklist.forget_trigger(pair)
        pair.state = PairState.FAILED
        self._path.choose(now)

    # Gathering

    def _receive_reflection(self, answer: StunMessage, remote: Address, local: Address, now: float) -> None:
        reflection = self._gatherer.receive(answer, remote, local, now)
        if reflection is not None:
            news = self.add_reflexive(reflection.base, reflection.mapped, str(reflection.reflector))
            self._pacer.reflected(now, news=news)
        self._take_gathering_done(now)

    def _take_gathering_done(self, now: float) -> None:
        if self._gatherer.take_done(now):
            self._locals_ended = True
            self._events.append(GatheringDone())

    # What time brings

    def _work(self, now: float) -> None:
        if self.state in _ENDED:
            return
        self._gatherer.handle_timer(now)
        self._take_gathering_done(now)
        if self._theirs is None:
            return
        for unanswered in self._checker.expire(now):
            if unanswered.purpose is Purpose.SIZE:
                self._path.too_small(unanswered.pair, unanswered.since, now)
            else:
                self._pair_failed(unanswered.pair, now)
        if self._path.work(now):
            self._fail()
        self._start_check(now)
        self._judge(now)

    def _start_check(self, now: float) -> None:
        if self.state in _ENDED or not self._pacer.start_check(now) or self._announced:
            return
        self._announced = True
        self._events.append(CheckingStarted(len(self._checklist)))

    def _judge(self, now: float) -> None:
        """RFC 8863: a session fails when its patience has run out and nothing is left to hope for."""
        if self.state is not AgentState.CHECKING:
            return
        hopeless = self._locals_ended and self._remotes_ended and self._checklist.exhausted()
        if self._failure_timer.is_over(now, hopeless):
            reason = why_not(self._locals.bases, list(self._remotes), len(self._checklist))
            self._events.append(PathFailed(reason))
            self._fail()

    def _drop_pairs(self, pairs: Sequence[CandidatePair], now: float) -> None:
        if self._path.drop(pairs, now):
            self._fail()

    def _connected(self) -> None:
        self._lifecycle.connect()
        self._gatherer.stop()

    def _fail(self) -> None:
        self._lifecycle.fail()
        self._rest()

    def _rest(self) -> None:
        self._early = EarlyChecks()
        self._gatherer.stop()
