"""
The registered peers and their introductions. Pure: methods report what happened and when, and `next_output`
returns what is to be done. Everything is bounded (`RendezvousLimits`).

A peer is registered by one connection at a time. The newest replaces the older one at once: there is no
moment at which the peer cannot be called, and its introductions continue over the new connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from punch.identity import PeerID
from punch.net.deadlines import Deadlines
from punch.net.rate_limits import NoRoom, SourceScope
from punch.net.sources import Source, source_of
from punch.net.token_bucket import TokenBuckets
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionAdmission, IntroductionRefusal
from punch.rendezvous.registry.introduction import (
    IntroductionData,
    IntroductionInputs,
    IntroductionKey,
    introduce,
    introduction_key,
)
from punch.rendezvous.registry.outputs import (
    Deliver,
    DeliverToProcess,
    Disconnect,
    LimitHit,
    Output,
    PeerRegistered,
    PeerUnregistered,
)
from punch.rendezvous.registry.places import RegistrationPlaces, ReturnNotices
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Prekey,
    Reject,
    Reply,
    Returned,
    Trickle,
)

SETTLE_TIME = 3.0
"""Seconds after an answer in which the peers exchange nearly all of their candidates."""
SHUTDOWN_TEXT = "The rendezvous is shutting down; come back later."
NOT_REGISTERED = "No peer of this ID is registered here now."
_REPLACED = Error(ErrorCode.REPLACED, "A newer connection with the same identity replaced this one.")

Introducing = Establish | Answer | Trickle | Reject | Cancel
"""The requests about an introduction."""


@dataclass(slots=True)
class Registration:
    """One registered peer."""

    peer: PeerID
    connection: int
    name: str
    accept: Accept
    address: str
    source: Source
    calls: dict[IntroductionKey, None] = field(default_factory=dict)
    """The introductions that it takes part in, the oldest first."""
    prekey: bytes = b""
    """Its signed prekey, for its callers; empty if it has none."""
    process: str | None = None
    """The other process of the service at which it is registered; None for this one."""
    account: PeerID | None = None
    """The member who vouches for it, and for whom its calls count; None: it answers for itself."""


class OtherProcesses(Protocol):
    """The other processes of the service. An introduction belongs to the process of the called peer."""

    def establish(self, caller: Registration, request: Establish, now: float) -> None:
        """
        A peer of this process calls one that is not registered here.

        :raise IntroductionRefusal: the call is refused.
        """

    def request(self, peer: PeerID, request: Answer | Trickle | Reject | Cancel) -> bool:
        """
        Pass on what a peer of this process says about an introduction, if that belongs to another process.

        :return: whether it does.
        :raise IntroductionRefusal: the request is refused.
        """

    def lost(self, peer: PeerID) -> None:
        """A peer is no longer registered at this process."""

    def unfinished(self, now: float) -> set[PeerID]:
        """The peers of this process whose calls to others are under way, as in `Registry.unfinished`."""


@dataclass(frozen=True)
class _Introduction:
    core: IntroductionData
    machine: IntroductionInputs
    prekey: bytes
    """That of the callee, for the caller if it has no answer; empty: none, or the caller did not ask."""


class Registry:
    """
    The registrations and introductions of one rendezvous. All times are monotonic seconds.

    :ivar admission: which introductions may begin.
    :ivar places: which peers have a place.
    :ivar introductions_begun: introductions that were delivered to the called peer, since the start.
    :ivar introductions_answered: those of them that it has accepted.
    """

    def __init__(self, limits: RendezvousLimits, others: OtherProcesses | None = None) -> None:
        """:param others: the other processes of the service; None if there are none."""
        self.introductions_begun = 0
        self.introductions_answered = 0
        self._stopping = False
        self._limits = limits
        self._others = others
        self._peers: dict[PeerID, Registration] = {}
        self._away: dict[PeerID, Registration] = {}
        """Callers that are registered at other processes, while their introductions last."""
        self._introductions: dict[IntroductionKey, _Introduction] = {}
        self.places = RegistrationPlaces(limits, self._displace_peer)
        self.admission = IntroductionAdmission(limits, self._displace_introduction)
        self._return_notices = ReturnNotices(limits)
        self._deadlines: Deadlines[IntroductionKey] = Deadlines()
        self._outputs: deque[Output] = deque()
        # Four times as many as can be registered: a peer that reconnects keeps the bucket that it emptied.
        capacity = 4 * limits.registrations
        self._peer_rate = TokenBuckets(limits.message_rate, limits.message_burst, capacity)

    # -- state --

    def __contains__(self, peer: PeerID) -> bool:
        return peer in self._peers

    def __len__(self) -> int:
        """The number of registered peers."""
        return len(self._peers)

    @property
    def introduction_count(self) -> int:
        """The number of introductions that are not over."""
        return len(self._introductions)

    def next_output(self) -> Output | None:
        """The next output; None if there is none."""
        return self._outputs.popleft() if self._outputs else None

    def unfinished(self, now: float) -> set[PeerID]:
        """
        The peers of this process whose introductions are under way: they ring, or candidates are likely to
        follow.
        """
        answered_after = now - SETTLE_TIME + self._limits.answered_time
        cores = [each.core for each in self._introductions.values()]
        under_way = [each for each in cores if each.answer is None or each.deadline > answered_after]
        peers = {peer for each in under_way for peer in (each.caller, each.callee)}
        return peers if self._others is None else peers | self._others.unfinished(now)

    def was_registered(self, peer: PeerID) -> bool:
        """Whether a peer was registered here before, as far as that is remembered."""
        return self.places.was_registered(peer)

    # -- inputs --

    def stop(self) -> None:
        """The service ends: refuse new registrations and calls from now on."""
        self._stopping = True

    def allow_message(self, peer: PeerID, now: float) -> bool:
        """Whether this peer may send one more message now."""
        return self._peer_rate.allow(peer, now)

    def register(
        self,
        connection: int,
        peer: PeerID,
        name: str,
        accept: Accept,
        address: str,
        now: float,
        *,
        prekey: bytes = b"",
        account: PeerID | None = None,
    ) -> None:
        """
        `peer` proved its key on `connection`, from IP `address`. An older registration of it is replaced.

        :param account: for whom its calls count; None: for itself.
        :raise IntroductionRefusal: there are too many registrations.
        """
        if self._stopping:
            raise IntroductionRefusal(ErrorCode.SHUTDOWN, SHUTDOWN_TEXT)
        source = source_of(address)
        old = self._peers.get(peer)
        try:
            self.places.take(peer, source, None if old is None else old.source, now)
        except NoRoom as problem:
            text = f"Too many peers are registered {problem.scope.value}; try again later."
            if problem.scope is not SourceScope.TABLE:
                text += " The operator can raise --registrations-per-address."
            raise IntroductionRefusal(ErrorCode.TOO_MANY, text) from problem
        new = Registration(peer, connection, name, accept, address, source, prekey=prekey, account=account)
        self._peers[peer] = new
        if old is not None and old.connection != connection:
            new.calls = old.calls
            self._outputs.append(Disconnect(old.connection, _REPLACED))
        self._outputs.append(PeerRegistered(peer, name, old is not None))
        self.returned(peer, now)

    def resume(self, peer: PeerID) -> None:
        """Send again, after `welcome`, what the replaced connection may not have got."""
        registration = self._peers.get(peer)
        if registration is not None:
            for key in list(registration.calls):
                self._introductions[key].machine.returned(peer)

    def request(self, peer: PeerID, connection: int, request: Introducing, now: float) -> None:
        """
        Handle a registered peer's request about an introduction.

        :raise IntroductionRefusal: the request is refused, and nothing has changed.
        """
        registration = self._peers.get(peer)
        if registration is None or registration.connection != connection:
            raise IntroductionRefusal(ErrorCode.FORBIDDEN, "Register first.")
        if isinstance(request, Establish):
            self._establish(registration, request, now)
        else:
            self._continue(peer, request, now)

    def _continue(self, peer: PeerID, request: Answer | Trickle | Reject | Cancel, now: float) -> None:
        key = introduction_key(request.call, peer, request.to)
        introduction = self._introductions.get(key)
        if introduction is None:
            if self._others is not None and self._others.request(peer, request):
                return
            if isinstance(request, Answer):
                raise IntroductionRefusal(ErrorCode.CANCELLED, "This call is over already.")
            return  # The introduction ended while the request was on its way.
        called = peer == introduction.core.callee
        if isinstance(request, Trickle):
            introduction.machine.trickled(peer, request.envelope)
        elif isinstance(request, Cancel):
            introduction.machine.ended(peer, ErrorCode.CANCELLED, "The other peer ended the introduction.")
        elif not called:
            raise IntroductionRefusal(ErrorCode.FORBIDDEN, "Only the called peer answers or rejects a call.")
        elif isinstance(request, Answer):
            self.introductions_answered += introduction.core.answer is None
            introduction.machine.answered(request.answer, now + self._limits.answered_time)
            self.admission.answered(key, now)
            self._deadlines.set(key, introduction.core.deadline)
        else:
            text = (
                "The called peer is busy." if request.code is ErrorCode.BUSY else "The called peer said no."
            )
            introduction.machine.ended(peer, request.code, text)
        self._sweep(key, introduction, now)

    def disconnected(self, peer: PeerID, connection: int, reason: str, now: float) -> None:
        """A connection is gone. It is ignored unless it holds the registration."""
        registration = self._peers.get(peer)
        if registration is None or registration.connection != connection:
            return
        self._remove(registration, reason, now)

    # -- other processes of the service --

    def request_from(
        self, process: str, peer: PeerID, name: str, address: str, request: Introducing, now: float
    ) -> None:
        """
        Handle the request of a peer that is registered at another process.

        :raise IntroductionRefusal: the request is refused, and nothing has changed.
        """
        caller = self._away.get(peer)
        if caller is not None and caller.process != process:
            self._leave(caller, now)
            caller = None
        if isinstance(request, Establish):
            caller = caller or Registration(
                peer, 0, name, Accept.ANYONE, address, source_of(address), process=process
            )
            self._away[peer] = caller
            try:
                self._establish(caller, request, now)
            finally:
                self._forget_if_idle(caller)
        elif caller is not None:
            self._continue(peer, request, now)

    def lost_at(self, process: str, peer: PeerID, now: float) -> None:
        """A peer is no longer registered at another process."""
        caller = self._away.get(peer)
        if caller is not None and caller.process == process:
            self._leave(caller, now)

    def process_lost(self, process: str, now: float) -> None:
        """Another process is gone, with all peers that are registered there."""
        for caller in [each for each in self._away.values() if each.process == process]:
            self._leave(caller, now)

    def end_away(
        self, refuses: Callable[[PeerID, str], bool], code: ErrorCode, text: str, now: float
    ) -> None:
        """
        End all introductions of those callers of other processes that are refused.

        :param text: a sentence for these callers.
        """
        for caller in [each for each in self._away.values() if refuses(each.peer, each.address)]:
            for core in [self._introductions[key].core for key in caller.calls]:
                self._deliver(caller.peer, Ended(core.call, code, text, sender=core.callee))
            self._leave(caller, now)

    @property
    def processes(self) -> set[str]:
        """The other processes at which callers of introductions here are registered."""
        return {caller.process for caller in self._away.values() if caller.process is not None}

    def replaced(self, peer: PeerID, now: float) -> None:
        """A newer registration of a peer is at another process."""
        registration = self._peers.get(peer)
        if registration is not None:
            self._outputs.append(Disconnect(registration.connection, _REPLACED))
            self._remove(registration, ErrorCode.REPLACED.value, now)

    def absent(self, caller: PeerID, request: Establish, text: str, now: float) -> bool:
        """
        Tell a caller that the peer that it calls is registered at no process.

        :return: whether it is to be told when that peer is back (`returned`).
        """
        registration = self._peers.get(caller)
        if registration is None:
            return False
        self.deliver(caller, Error(ErrorCode.NOT_REGISTERED, text, request.call))
        return request.notify and self._return_notices.ask(caller, registration.source, request.to, now)

    def returned(self, peer: PeerID, now: float) -> None:
        """A peer is registered now, here or at another process: tell the callers who wait for it."""
        for caller in self._return_notices.returned(peer, now):
            self.deliver(caller, Returned(peer))

    @property
    def awaited_peers(self) -> list[PeerID]:
        """The peers that callers of this process wait for."""
        return self._return_notices.callees

    def limit_hit(self, peer: PeerID, address: str, limit: str) -> None:
        """A limit has ended or refused something of a peer. `address` is where the peer was seen."""
        self._outputs.append(LimitHit(peer, address, limit))

    def deliver(self, peer: PeerID, reply: Reply) -> None:
        """Send a reply to a peer that is registered at this process."""
        registration = self._peers.get(peer)
        if registration is not None:
            self._outputs.append(Deliver(registration.connection, reply))

    # -- time --

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called; None if nothing is due."""
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        """End the introductions whose deadline has passed."""
        while (key := self._deadlines.pop(now)) is not None:
            introduction = self._introductions[key]
            introduction.machine.expired()
            self._sweep(key, introduction, now)

    # -- within --

    def _establish(self, caller: Registration, request: Establish, now: float) -> None:
        if request.to == caller.peer:
            raise IntroductionRefusal(ErrorCode.FORBIDDEN, "That is your own ID; call another peer.")
        if self._stopping:
            raise IntroductionRefusal(ErrorCode.SHUTDOWN, SHUTDOWN_TEXT)
        callee = self._peers.get(request.to)
        if callee is None:
            self.admission.check_absent(caller.source, now)
            if caller.process is None and self._others is not None:
                self._others.establish(caller, request, now)
                return
            if caller.process is None and request.notify:
                self._return_notices.ask(caller.peer, caller.source, request.to, now)
            raise IntroductionRefusal(ErrorCode.NOT_REGISTERED, NOT_REGISTERED)
        key = introduction_key(request.call, caller.peer, request.to)
        if key in self._introductions:
            raise IntroductionRefusal(ErrorCode.FORBIDDEN, "A call of this ID is going on already.")
        self.admission.admit(
            key, caller.peer, callee.peer, caller.source, now, account=caller.account or caller.peer
        )
        core = IntroductionData(
            request.call,
            caller.peer,
            caller.name,
            callee.peer,
            request.offer,
            now + self._limits.ring_time,
            self._deliver,
        )
        introduction = _Introduction(core, introduce(core), callee.prekey if request.prekey else b"")
        self._introductions[key] = introduction
        self.introductions_begun += 1
        caller.calls[key] = None
        callee.calls[key] = None
        self._deadlines.set(key, introduction.core.deadline)
        self._deliver(callee.peer, Incoming(core.call, core.caller, core.caller_name, core.offer))

    def _displace_peer(self, peer: PeerID, now: float) -> None:
        """A peer makes room for another one."""
        text = "Your network has more peers here than others, who come now; try again later."
        registration = self._peers[peer]
        self.limit_hit(peer, registration.address, "registrations")
        self._outputs.append(Disconnect(registration.connection, Error(ErrorCode.TOO_MANY, text)))
        self._remove(registration, ErrorCode.TOO_MANY.value, now)

    def _remove(self, registration: Registration, reason: str, now: float) -> None:
        peer = registration.peer
        del self._peers[peer]
        self.places.leave(peer)
        self._leave(registration, now)
        if self._others is not None:
            self._others.lost(peer)
        self._outputs.append(PeerUnregistered(peer, reason))

    def _leave(self, registration: Registration, now: float) -> None:
        """End all introductions of a peer that is gone."""
        for key in list(registration.calls):
            introduction = self._introductions[key]
            introduction.machine.lost(registration.peer)
            self._sweep(key, introduction, now)
        self._forget_if_idle(registration)

    def _forget_if_idle(self, caller: Registration) -> None:
        if not caller.calls and self._away.get(caller.peer) is caller:
            del self._away[caller.peer]

    def _displace_introduction(self, key: IntroductionKey, now: float) -> None:
        introduction = self._introductions[key]
        peer = introduction.core.caller
        caller = self._peers.get(peer) or self._away.get(peer)
        if caller is not None:
            self.limit_hit(caller.peer, caller.address, "calls")
        introduction.machine.displaced()
        self._sweep(key, introduction, now)

    def _sweep(self, key: IntroductionKey, introduction: _Introduction, now: float) -> None:
        core = introduction.core
        if not core.over or self._introductions.pop(key, None) is None:
            return
        self._deadlines.discard(key)
        self.admission.leave(key, now)
        if introduction.prekey and core.answer is None:
            self.deliver(core.caller, Prekey(core.callee, introduction.prekey))
        for peer in (core.caller, core.callee):
            registration = self._peers.get(peer)
            if registration is not None:
                registration.calls.pop(key, None)
        away = self._away.get(core.caller)
        if away is not None:
            away.calls.pop(key, None)
            self._forget_if_idle(away)

    def _deliver(self, peer: PeerID, reply: Reply) -> None:
        away = self._away.get(peer)
        if peer in self._peers or away is None:
            self.deliver(peer, reply)
        elif away.process is not None:
            sender = reply.sender if isinstance(reply, (Answered, Candidates, Ended)) else None
            callee = None if sender is None else self._peers.get(sender)
            address = "" if callee is None else callee.address
            self._outputs.append(DeliverToProcess(away.process, peer, reply, away.source, address))
