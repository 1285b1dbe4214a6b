"""
The ICE agent (RFC 8445 for one component, RFC 8838): finds a path to a peer and keeps it.

A sans-I/O core. It is given addresses, datagrams and the time, and returns datagrams to send and events.
After any input, send `datagrams_to_send(now)`, take the events, and call `handle_timer` at `get_timer()`.

Where the RFCs leave a choice, or where this agent differs from them:

- Between two Punch agents the controlling side nominates the first pair that succeeds at once, and
  renominates, with an increasing number, when a clearly better pair succeeds (`Nomination`). Each side may
  send application data as soon as a check of its own succeeded.
- The types of remote candidates take turns in being checked (`CheckList.next_pair`).
- Gathering (`Gatherer`) and checks (`Pacer`) are paced separately, and a session fails by a time limit
  (`FailureTimer`).
- Requests without our ufrag are not answered (`CheckServer`).
- A pair that stops answering is replaced before its consent expires (`PairMonitor`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Container, Sequence
from typing import Literal

from punch.ice import events
from punch.ice.budget import Budget
from punch.ice.candidates import LocalCandidates, RemoteCandidates
from punch.ice.check_client import CheckClient
from punch.ice.check_results import CheckResults
from punch.ice.checklist import CheckList, PairStatus, take_snapshot
from punch.ice.checks import UNAUTHENTICATED, CallBudget, CheckServer, IceCredentials, IceRole
from punch.ice.events import AgentState, Event, checking_failure
from punch.ice.gathering import Gatherer, ReflexiveCandidates
from punch.ice.pacing import PACING, FailureTimer, Pacer
from punch.ice.pairs import Pair
from punch.ice.punching.opening_checks import OpeningChecks
from punch.ice.selected_pair import SelectedPair
from punch.ice.selector import Nomination, Selector
from punch.ice.transactions import Purpose
from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.stun import MAGIC_COOKIE, MAX_ATTRIBUTES, MessageClass, Method, STUNError, StunMessage, parse

_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_BINDING_REQUEST = b"\x00\x01"
_ENDED = (AgentState.FAILED, AgentState.CLOSED)


class Agent:
    """
    One side of one ICE session.

    :param controlling: the initial role. The caller is controlling; a role conflict is repaired.
    :param credentials: our credentials, which are signalled to the peer.
    :param pacing: the Ta that we signal, in seconds; the larger one of the two sides is used.
    :param nomination: "renomination" between two Punch agents, "regular" with other implementations.
    :param consent: check consent on the selected pair (RFC 7675); if false, the pair is only kept alive.
    :param steady: repeat checks every 2 s instead of backing off: after a restart the peer may return
        at any time.
    :param budget: limits what is sent to addresses that have not answered; it is the peer's, and outlives the
        ICE session. None: no limit beyond the RFC's.
    :param familiar: IP addresses of the peer at which it answered before, which are checked first.
    :param refused: returns whether an IP address can't be one of a peer.
    :ivar state: the state of the ICE session.
    :ivar credentials: our credentials.
    :ivar path: the selected pair. The link reports to it what it notices about the path.
    :ivar reflexive: takes server-reflexive candidates that were learned elsewhere.
    :ivar openings: the checks of attempts, from sockets whose addresses are not signalled.
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
        familiar: Container[str] = (),
        refused: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.credentials = credentials
        self._theirs: IceCredentials | None = None
        self._locals = LocalCandidates()
        self._remotes = RemoteCandidates(refused)
        self._checklist = CheckList(familiar)
        self._checklist.controlling = controlling
        role = IceRole.CONTROLLING if controlling else IceRole.CONTROLLED
        call_budget = CallBudget(budget, self._locals, self._remotes, familiar)
        self._server = CheckServer(credentials, call_budget)
        self._checker = CheckClient(credentials, self._locals, role, random, call_budget, steady=steady)
        self._selector = Selector(
            self._checklist, Nomination(nomination), random, consent=consent, size_first=steady
        )
        self._pacer = Pacer(self._checklist, self._checker, self._selector, call_budget.is_unlikely, pacing)
        self._gatherer = Gatherer(random, self._pacer.interval)
        self._events: deque[Event] = deque()
        self.reflexive = ReflexiveCandidates(self._locals, self._reflexive_found)
        self.path = SelectedPair(
            self._checker,
            self._checklist,
            self._selector,
            self._locals,
            random,
            self._events,
            self._connected,
            self._fail,
            self._changed,
            consent=consent,
        )
        self._results = CheckResults(
            self._checklist,
            self._checker,
            self._server,
            self._selector,
            self._locals,
            self._remotes,
            self.path,
            self._events,
        )
        self.openings = OpeningChecks(
            self._locals,
            self._remotes,
            self._checklist,
            self._checker,
            call_budget,
            random,
            ready=lambda: self._theirs is not None and self.state not in _ENDED,
            changed=self._changed,
        )
        self.state = AgentState.NEW
        self._locals_ended = False
        self._remotes_ended = False
        self._failure_timer = FailureTimer()
        self._checking_started = False
        self._worked_at: float | None = None
        # What `get_timer` has returned since the last change, in a tuple, because it may be None
        self._timer: tuple[float | None] | None = None

    @property
    def controlling(self) -> bool:
        """Whether our role is controlling now."""
        return self._checker.role is IceRole.CONTROLLING

    @property
    def local_candidates(self) -> list[Candidate]:
        """The candidates to signal to the peer: all that are known so far."""
        return self._locals.signalled

    @property
    def pairs(self) -> list[PairStatus]:
        """The status of all pairs."""
        return take_snapshot(self._checklist, self._locals, self.selected)

    @property
    def selected(self) -> Pair | None:
        """The pair to send on now."""
        return self.path.selected

    def validated(self, local: Address, remote: Address) -> bool:
        """
        Whether an authenticated check was received or answered between these addresses, and consent has not
        expired.
        """
        pair = self._checklist.get(local, remote)
        return pair is not None and not pair.revoked and (pair.received_check is not None or pair.valid)

    # Candidates

    def add_local_address(self, base: Address) -> None:
        """
        Add the host candidate of a socket that is bound to `base`.

        :raise ValueError: a peer could not send to this address (a wildcard, for example).
        """
        self._pair_up(self._locals.add_host(base))

    def add_relayed(
        self,
        relayed: Address,
        mapped: Address | None,
        source: str,
        *,
        streamed: bool = False,
        host: str | None = None,
    ) -> None:
        """
        Add the relayed candidate of an allocation. `relayed` is a local address from now on: datagrams that
        are sent from it go through the relay, and datagrams from the relay are received at it.

        :param mapped: our address as the relay sees it; None if the peer must not learn it.
        :param source: identifies the relay and how it is reached.
        :param streamed: the relay is reached over TCP or TLS, which gives the candidate the lowest priority.
        :param host: the IP address at which the relay has answered us.
        """
        self._pair_up(self._locals.add_relayed(relayed, mapped, source, streamed, host))
        self.path.publish()

    def _pair_up(self, candidate: Candidate | None) -> None:
        if candidate is not None:
            self._changed()
            if candidate in self._locals.signalled:
                self._events.append(events.LocalCandidate(candidate))
            for remote in self._remotes:
                self._checklist.add(candidate, remote)

    def remove_local(self, base: Address, now: float) -> None:
        """
        Remove a socket or an allocation and all its pairs. If the selected pair is among them, another one
        is selected, or consent is lost.
        """
        if self.state in _ENDED or base not in self._locals:
            return
        self._changed()
        opening = self._locals.is_opening(base)
        dropped = [pair for pair in self._checklist if pair.base == base]
        self.path.drop(dropped, now)
        self._locals.remove(base)
        self.reflexive.forget(base)
        if opening:
            self.openings.forget(base)
            left = {pair.remote.address for pair in self._checklist}
            self._remotes.forget({pair.remote.address for pair in dropped} - left)

    def gather(
        self, reflectors: Sequence[Address], now: float, *, relays: bool = False, mappings: bool = False
    ) -> None:
        """
        Request server-reflexive candidates from the reflectors. `GatheringDone` follows within 3.5 s.

        :param relays: relayed candidates may follow (`add_relayed`), until `end_of_relayed_candidates`.
        :param mappings: mapped ports may follow (`reflexive`), until `end_of_mapped_candidates`.
        """
        self._changed()
        hosts = [base.address for base in self._locals.bases if base.type is not CandidateType.RELAY]
        self._gatherer.start(hosts, reflectors, now, relays=relays, mappings=mappings)
        self._take_gathering_done(now)

    def end_of_relayed_candidates(self, now: float) -> None:
        """No more relayed candidates follow."""
        self._changed()
        self._gatherer.awaits_relayed = False
        self._take_gathering_done(now)

    def end_of_mapped_candidates(self, now: float) -> None:
        """No more mapped ports follow."""
        if self._gatherer.awaits_mapped:
            self._changed()
            self._gatherer.awaits_mapped = False
            self._take_gathering_done(now)

    def _reflexive_found(self, candidate: Candidate) -> None:
        self._changed()
        self._events.append(events.LocalCandidate(candidate))
        self.path.publish()

    def end_of_local_candidates(self) -> None:
        """No more local candidates follow. `gather` implies this when it is done."""
        self._changed()
        self._locals_ended = True

    def set_remote(self, credentials: IceCredentials, pacing: float, now: float) -> None:
        """
        Set the peer's credentials and start checking.

        :param pacing: the Ta that the peer signals, in seconds.
        :raise ValueError: other credentials are already in use; changing them takes an ICE restart.
        """
        if self._theirs is not None:
            if credentials != self._theirs:
                raise ValueError("the peer's credentials can't change within an ICE session")
            return
        self._theirs = credentials
        self._checker.set_remote(credentials)
        self._pacer.slow_down(pacing)
        self._failure_timer.start(now)
        if self._gatherer.unanswered:
            self._pacer.hold(now)
        if self.state is AgentState.NEW:
            self.state = AgentState.CHECKING
        self._changed()
        for check in self._server.set_remote(credentials):
            self._results.take_check(check, now)

    def add_remote_candidate(self, candidate: Candidate, now: float) -> bool:
        """
        Add a candidate that the peer signalled. Unusable ones and those beyond 32 are ignored.

        :return: whether it was added.
        """
        if not self._remotes.add(candidate):
            return False
        self._changed()
        self._checklist.update_remotes(self._remotes)
        for local in self._locals.bases:
            self._checklist.add(local, candidate)
        # An address that was learned from a check may now be known as a relay's
        self.path.choose(now)
        return True

    def refuse_remote(self, address: Address, now: float) -> None:
        """Neither send to this address of the peer nor answer checks from it."""
        self._remotes.refuse(address)
        self._changed()
        self.path.drop([pair for pair in self._checklist if pair.remote.address == address], now)

    # TCP connections (`punch.node.punching.tcp`)

    def connection_lost(self, base: Address, remote: Address, now: float) -> None:
        """A TCP connection has ended: the pair of these addresses fails at once."""
        pair = self._checklist.get(base, remote)
        if self.state not in _ENDED and pair is not None:
            self._changed()
            self.path.drop([pair], now)
            self._remotes.forget([remote])

    def end_of_remote_candidates(self) -> None:
        """The peer has signalled all of its candidates (RFC 8838, section 14)."""
        self._changed()
        self._remotes_ended = True

    # Changes of the machine's addresses. What the link notices about paths is reported to `path`

    def bases_lost(self, bases: Collection[Address], now: float) -> None:
        """The machine no longer has these local addresses; they may return."""
        if self.state not in _ENDED:
            self._changed()
            self.path.bases_lost(bases, now)

    @property
    def bases(self) -> list[Address]:
        """The local addresses that checks are sent from."""
        return [candidate.address for candidate in self._locals.bases]

    # Datagrams and time

    def wants(self, data: bytes) -> bool:
        """
        Whether this is a STUN message for this ICE session: an answer to one of our requests, or a request
        whose USERNAME begins with our ufrag. The message is not authenticated.
        """
        if self.state in _ENDED or len(data) < 20 or data[0] > 1 or data[4:8] != _COOKIE:
            return False
        if data[0] & 1:
            transaction_id = bytes(data[8:20])
            owners = (self._checker, self._gatherer, self.openings)
            return any(each.owns(transaction_id) for each in owners)
        return self._server.is_check(data)

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Process a datagram that came from `remote` to the socket bound to `local`."""
        if self.state in _ENDED or local not in self._locals:
            return
        # A request may be a stranger's, and is decoded when it has been authenticated
        only = UNAUTHENTICATED if data.startswith(_BINDING_REQUEST) else None
        try:
            message = parse(data, most=MAX_ATTRIBUTES, only=only)
        except STUNError:
            return
        if message.method != Method.BINDING:
            return
        self._changed()
        if message.message_class is MessageClass.REQUEST:
            self._results.receive_request(message, len(data), remote, local, now)
        elif self._gatherer.owns(message.transaction_id):
            self._receive_reflection(message, remote, local, now)
        elif self.openings.owns(message.transaction_id):
            self.openings.receive(message, remote, local)
        elif message.message_class is not MessageClass.INDICATION:
            outcome = self._checker.receive(message, remote, local, now)
            if outcome is not None:
                self._results.take_outcome(outcome, now)

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """Return the datagrams to send now, and start the checks that are due."""
        if self._worked_at != now:
            self.handle_timer(now)
        if self.state in _ENDED:
            return []
        return [
            *self._server.datagrams_to_send(),
            *self.path.datagrams_to_send(),
            *self._checker.datagrams_to_send(),
            *self._gatherer.datagrams_to_send(),
        ]

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        if self.state in _ENDED:
            return None
        if self._timer is None:
            self._timer = (self._next_timer(),)
        return self._timer[0]

    def _next_timer(self) -> float | None:
        times = [self._gatherer.get_timer()]
        if self._theirs is not None:
            times += [self._checker.get_timer(), self.path.get_timer(), self._pacer.get_timer()]
        if self.state is AgentState.CHECKING:
            times.append(self._failure_timer.get_timer())
        return earliest(times)

    def next_event(self) -> Event | None:
        """Remove and return the oldest event; None if there is none."""
        return self._events.popleft() if self._events else None

    def close(self, now: float) -> None:
        """End the ICE session: nothing is sent or answered any more."""
        self.state = AgentState.CLOSED
        self._gatherer.stop()

    # Gathering

    def _receive_reflection(self, answer: StunMessage, remote: Address, local: Address, now: float) -> None:
        reflection = self._gatherer.receive(answer, remote, local, now)
        if reflection is not None:
            news = self.reflexive.add(reflection.base, reflection.mapped, str(reflection.reflector))
            self._pacer.reflected(now, news=news)
        self._take_gathering_done(now)

    def _take_gathering_done(self, now: float) -> None:
        if self._gatherer.take_done(now):
            self._locals_ended = True
            self._events.append(events.GatheringDone())

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`: retransmit, start checks, give up."""
        if self.state in _ENDED:
            return
        if self._worked_at is not None:
            # Nothing has changed since then, so there is nothing to do before the timer is due
            due = self.get_timer()
            if due is None or now < due:
                return
        self._worked_at, self._timer = now, None
        self._gatherer.handle_timer(now)
        self._take_gathering_done(now)
        if self._theirs is None:
            return
        for unanswered in self._checker.expire(now):
            if unanswered.purpose is Purpose.SIZE:
                self.path.too_small(unanswered.pair, unanswered.since, now)
            else:
                self._results.pair_failed(unanswered.pair, now)
                self._pacer.unanswered(unanswered.pair, now)
        self.path.handle_timer(now)
        if self.state in _ENDED:
            return
        if self._pacer.start_check(now) and not self._checking_started:
            self._checking_started = True
            self._events.append(events.CheckingStarted(len(self._checklist)))
        if self.state is AgentState.CHECKING:
            # It fails when the time for checking is over (RFC 8863).
            exhausted = self._locals_ended and self._remotes_ended and self._checklist.exhausted()
            if self._failure_timer.is_over(now, exhausted):
                failure = checking_failure(self._locals.bases, self._remotes, len(self._checklist))
                self._events.append(events.PathFailed(failure))
                self._fail()

    def _changed(self) -> None:
        """There may be something to do before the timer is due."""
        self._worked_at = self._timer = None

    def _connected(self) -> None:
        if self.state is AgentState.CHECKING:
            self.state = AgentState.CONNECTED
        self._gatherer.stop()

    def _fail(self) -> None:
        if self.state in (AgentState.CHECKING, AgentState.CONNECTED):
            self.state = AgentState.FAILED
        self._gatherer.stop()
