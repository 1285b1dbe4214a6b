"""
The calls and links of a node: which ones there are, how they end, how calls of ours are placed, and how calls
of other peers are received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from twisted.logger import Logger

from punch.contacts import AddressBook, AddressBookError
from punch.identity import PeerID
from punch.link.events import CloseCode, LinkRole
from punch.net.driver import Timer
from punch.node.calls.call_context import CallContext
from punch.node.calls.offer_freshness import OfferMemory, OfferVerdict, SeenEnvelopes
from punch.node.causes import Cause, ControlProblem, IntroductionEnded, SimpleCause
from punch.node.events import (
    CallFailed,
    CallState,
    CallUnanswerable,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    PathSlowed,
)
from punch.node.policies import Decision, decide
from punch.wire.control import Accept, ErrorCode, Incoming, Reject
from punch.wire.peers.sealed import SealError

if TYPE_CHECKING:
    from punch.node.calls.call import Call
    from punch.node.calls.signaling import Signaling

MAX_CALLS = 64
"""Calls and links at once."""
MAX_QUEUED = 32
"""Calls that wait for the rendezvous at once."""
QUEUE_TIME = 12.0
"""Seconds that a call waits for the rendezvous."""
EXPECTED_TIME = 600.0
"""
Seconds after the rendezvous went away during a call, in which this node tries to reach it more often than
other nodes do.
"""
CALLEE_TIME = 10.0
"""
Seconds after our return to the rendezvous for which a call that waited for it also waits for its callee, who
may have lost the rendezvous too.
"""
MAX_RINGING = 8
"""Incoming calls that wait for the user at once; further callers get `busy`."""
MAX_STRANGERS = 32
"""Calls of unknown peers under way at once where anyone is accepted. Known peers still get through."""


def glare(us: PeerID, peer: PeerID) -> LinkRole:
    """Return our role when both peers have called each other: the offer of the smaller key wins."""
    return LinkRole.CALLER if us < peer else LinkRole.CALLEE


class Calls:
    """
    The calls of one node: with each peer at most one link, and at most one call that may become the next
    link. Each call reports its stages and its end here.

    :param known: the address book.
    :param tell: takes the events of calls and links.
    :param retry: called with the peer of a call that has failed, and why; returns whether it is tried again.
    :param path_silent: called when the path of a link does not answer, and the network may be the cause.
    :param disconnected_changed: called when `disconnected` may have changed.
    :param sentence: returns what the log says of an error of the address book.
    :ivar attempts: the call with each peer that is not linked yet.
    :ivar links: the linked call with each peer.
    """

    _log = Logger()

    def __init__(
        self,
        known: AddressBook,
        tell: Callable[[Event], None],
        retry: Callable[[PeerID, Cause], bool],
        path_silent: Callable[[], None],
        disconnected_changed: Callable[[], None],
        sentence: Callable[[AddressBookError], str],
    ) -> None:
        self.attempts: dict[PeerID, Call] = {}
        self.links: dict[PeerID, Call] = {}
        self._known = known
        self._tell = tell
        self._retry = retry
        self._path_silent = path_silent
        self._disconnected_changed = disconnected_changed
        self._sentence = sentence
        self._replaced: dict[PeerID, Disconnected] = {}

    def __iter__(self) -> Iterator[Call]:
        """Iterate over a copy, so that calls may end meanwhile."""
        return iter((*self.attempts.values(), *self.links.values()))

    @property
    def disconnected(self) -> bool:
        """Whether a link has no path that answers."""
        return any(call.state is CallState.DISCONNECTED for call in self.links.values())

    @property
    def full(self) -> bool:
        """Whether there is no room for another call."""
        return len(self.attempts) + len(self.links) >= MAX_CALLS

    def begin(self, call: Call) -> None:
        """Add a call that is under way."""
        self.attempts[call.peer] = call

    def withdraw(self, call: Call) -> None:
        """End a call without telling anyone, because another one takes its place."""
        if self.attempts.get(call.peer) is call:
            del self.attempts[call.peer]
        call.withdraw()

    def remember(self, peer: PeerID, name: str) -> None:
        """Make a peer a known one, under the name that it gave itself."""
        try:
            self._known.add(peer, name)
        except AddressBookError as error:
            problem = self._sentence(error)  # The call goes on without it
            self._log.warn("{peer} could not be remembered: {error}", peer=peer, error=problem)

    def knows(self, peer: PeerID) -> bool:
        """Whether a peer was called or accepted before."""
        return peer in self._known

    def failed(self, peer: PeerID, cause: Cause, name: str | None = None) -> None:
        """Tell that a call failed, and first that the link which it was to replace is over."""
        replaced = self._replaced.pop(peer, None)
        if replaced is not None:
            self._tell(replaced)
        self._tell(CallFailed(peer, cause, name))

    # What calls report. Nothing follows `call_ended`.

    def call_event(self, call: Call, event: Event) -> None:
        """A call has reached a stage (`Introduced` to `Connected`), or the path of its link has changed."""
        peer = call.peer
        if isinstance(event, Introduced) and call.signaling.role is LinkRole.CALLER:
            self.remember(peer, event.name)
        elif isinstance(event, Connected):
            self._connected(call)
        elif isinstance(event, (PathChanged, PathLost, PathSlowed)) and self.links.get(peer) is not call:
            return
        self._tell(event)

    def call_silent(self) -> None:
        """The path of a link does not answer at once. It may be dead, and the network with it."""
        self._path_silent()

    def call_disconnected(self, disconnected: bool) -> None:
        """A link has no path that answers, or has one again."""
        if disconnected:
            self._path_silent()
        self._disconnected_changed()

    def call_ended(self, call: Call, cause: Cause) -> None:
        """A call or its link is over."""
        peer = call.peer
        self._disconnected_changed()
        if self.links.get(peer) is call:
            del self.links[peer]
            over = Disconnected(peer, cause, call.name)
            newer = cause is SimpleCause.REPLACED and peer in self.attempts
            if newer or call.asked:
                # The other side has proved the newer link before we have, or the peer is being called again.
                # The result, such as a `Connected`, tells about both.
                self._replaced[peer] = over
            else:
                self._tell(over)
        elif self.attempts.get(peer) is call:
            del self.attempts[peer]
            if not self._retry(peer, cause):
                self.failed(peer, cause, call.name)

    def _connected(self, call: Call) -> None:
        """A call has become a link, which takes the place of an older one with the same peer."""
        peer = call.peer
        if self.attempts.get(peer) is call:
            del self.attempts[peer]
        older, self.links[peer] = self.links.pop(peer, None), call
        self._replaced.pop(peer, None)
        if older is not None:
            older.hang_up(CloseCode.REPLACED, "A newer link with the same peer took over.")


class OutgoingCalls:
    """
    Places calls of ours: at once, or as soon as there is a connection to the rendezvous.

    :ivar final: why there will be no connection to the rendezvous any more; None while there may be one.
    """

    def __init__(self, context: CallContext, calls: Calls) -> None:
        self._context = context
        self._calls = calls
        self._queue: dict[PeerID, Timer] = {}
        """Calls that wait for the rendezvous."""
        self._absent: dict[PeerID, Timer] = {}
        """Calls that wait for their callees to register again."""
        self._anew: set[PeerID] = set()
        """The peers whose calls were placed after the rendezvous had been away."""
        self._registered_at: float | None = None
        self._interrupted_at = float("-inf")
        """When the rendezvous went away last while calls were under way."""
        self._problem: ControlProblem | None = None
        self.final: ControlProblem | None = None

    def __contains__(self, peer: PeerID) -> bool:
        """Return whether a call to this peer waits for the rendezvous, or for the peer to register again."""
        return peer in self._queue or peer in self._absent

    @property
    def waiting(self) -> Iterable[PeerID]:
        """The peers whose calls wait."""
        return (*self._queue, *self._absent)

    @property
    def interrupted(self) -> bool:
        """Whether the rendezvous went away during a call, within the last `EXPECTED_TIME`."""
        return self._context.monotonic() < self._interrupted_at + EXPECTED_TIME

    def refusal(self) -> Cause | None:
        """Return why no call can be placed or queued now; None if one can."""
        if self.final is not None:
            return self.final
        full = len(self._queue) >= MAX_QUEUED or self._calls.full
        return SimpleCause.TOO_MANY_CALLS if full else None

    def place(self, peer: PeerID) -> None:
        """Call `peer`, now or within `QUEUE_TIME`."""
        if self._context.channel.registered:
            self._place(peer)
        else:
            timer = self._queue[peer] = Timer(self._context.clock)
            timer.start(QUEUE_TIME, self._expire, peer)

    def withdraw(self, peer: PeerID) -> bool:
        """Withdraw the call to `peer` that waits; return whether there was one."""
        self._anew.discard(peer)
        return _cancel(self._queue, peer) or _cancel(self._absent, peer)

    def retry(self, peer: PeerID, cause: Cause) -> bool:
        """A call has failed: return whether it waits until its callee, too, is registered again."""
        if peer not in self._anew:
            return False
        self._anew.discard(peer)
        assert self._registered_at is not None
        left = self._registered_at + CALLEE_TIME - self._context.monotonic()
        absent = isinstance(cause, IntroductionEnded) and cause.code is ErrorCode.NOT_REGISTERED
        if not absent or left <= 0.0 or len(self._absent) >= MAX_QUEUED:
            return False
        timer = self._absent[peer] = Timer(self._context.clock)
        timer.start(left, self._stays_absent, peer, cause)
        return True

    def returned(self, peer: PeerID) -> None:
        """A callee is registered again: place the call that waits for it, but let it wait only this once."""
        if _cancel(self._absent, peer):
            self._place(peer)

    def registered(self) -> None:
        """There is a connection to the rendezvous: place the queued calls."""
        self._problem = None
        self._interrupted_at = float("-inf")
        # At the first registration, no callee is known to have been registered before
        self._anew = set() if self._registered_at is None else set(self._queue)
        self._registered_at = self._context.monotonic()
        for peer in list(self._queue):
            if _cancel(self._queue, peer):
                self._place(peer)

    def unregistered(self, problem: ControlProblem) -> None:
        """The connection is lost: queue the calls that were not answered yet, to place them anew."""
        self._problem = problem
        if self._calls.attempts:
            self._interrupted_at = self._context.monotonic()
        for peer in list(self._absent):
            if _cancel(self._absent, peer):
                self.place(peer)
        for peer, call in list(self._calls.attempts.items()):
            if call.state is CallState.CALLING:
                self._calls.withdraw(call)
                self.place(peer)

    def give_up(self, problem: ControlProblem) -> None:
        """There will be no connection any more: all calls that wait fail."""
        self.final = problem
        for peer in self.waiting:
            if self.withdraw(peer):
                self._calls.failed(peer, problem)

    def stop(self) -> None:
        """Withdraw the calls that wait without telling anyone."""
        for peer in self.waiting:
            self.withdraw(peer)

    def _place(self, peer: PeerID) -> None:
        if peer in self._calls.attempts:
            return
        # Imported here because a node without calls needs none of the modules that this one imports
        from punch.node.calls.call import Call

        try:
            call = Call.outgoing(peer, self._context)
        except SealError:
            self._calls.failed(peer, SimpleCause.TAMPERED)
            return
        self._calls.begin(call)

    def _expire(self, peer: PeerID) -> None:
        del self._queue[peer]
        self._calls.failed(peer, self._problem or SimpleCause.NO_RENDEZVOUS)

    def _stays_absent(self, peer: PeerID, cause: Cause) -> None:
        del self._absent[peer]
        self._calls.failed(peer, cause)


def _cancel(calls: dict[PeerID, Timer], peer: PeerID) -> bool:
    """Remove the call to a peer from those that wait; return whether there was one."""
    timer = calls.pop(peer, None)
    if timer is not None:
        timer.cancel()
    return timer is not None


class IncomingCalls:
    """
    Receives calls of other peers: accepts them, asks the user, or rejects them.

    :param outgoing: calls of ours, which may cross with theirs.
    :param accept: who may call besides known peers.
    :param known: peers that were called or accepted before, and blocked ones.
    :param offers: tells new offers from copies of old ones.
    :param tell: called with `IncomingCall` and `CallUnanswerable`.
    """

    def __init__(
        self,
        context: CallContext,
        calls: Calls,
        outgoing: OutgoingCalls,
        accept: Accept,
        known: AddressBook,
        offers: OfferMemory,
        tell: Callable[[Event], None],
    ) -> None:
        self._context = context
        self._calls = calls
        self._outgoing = outgoing
        self._accept = accept
        self._known = known
        self._offers = offers
        self._tell = tell
        self._seen = SeenEnvelopes()

    def receive(self, incoming: Incoming) -> None:
        """Take an offer that the rendezvous delivers."""
        peer, us = incoming.sender, self._context.identity.peer_id
        if peer == us or self._context.channel.repeat_answer(incoming.call, peer):
            return
        if not self._seen.add(incoming.offer.digest()):
            self._refuse(incoming, ErrorCode.REFUSED)
            return
        live = self._calls.links.get(peer)
        if live is not None and live.receive_restart(incoming.call, incoming.offer):
            return
        before = self._calls.attempts.get(peer)
        # A call of ours may still wait for the rendezvous: then theirs was first.
        wanted = (before is not None and before.signaling.role is LinkRole.CALLER) or peer in self._outgoing
        crossed = before is not None and before.state is CallState.CALLING
        if crossed and glare(us, peer) is LinkRole.CALLER:
            # Our offer wins: the other side answers it and withdraws its own. That one may not be used again.
            signaling = self._open(incoming)
            if signaling is not None:
                self._judge(signaling)
            return
        decision = decide(self._accept, wanted or peer in self._known, self._known.blocked(peer))
        if decision is Decision.REFUSE:
            self._refuse(incoming, ErrorCode.REFUSED)
        elif before is None and self._is_busy(peer, decision):
            self._refuse(incoming, ErrorCode.BUSY)
        else:
            self._take(incoming, before, decision, wanted=wanted)

    def accept(self, call: Call) -> None:
        """Accept a ringing call."""
        try:
            call.accept()
        except SealError:
            call.reject(ErrorCode.REFUSED, SimpleCause.TAMPERED)

    def decide_unanswered(self) -> None:
        """Nobody can be asked: accept ringing calls of peers that a service expects, refuse the others."""
        for call in [call for call in self._calls.attempts.values() if call.state is CallState.RINGING]:
            if self._context.services.expects(call.peer):
                call.guest = True
                self.accept(call)
            else:
                self._tell(CallUnanswerable(call.peer))
                self.reject(call.peer)

    def reject(self, peer: PeerID) -> None:
        """Refuse the call of a peer that rings, if there is one."""
        call = self._calls.attempts.get(peer)
        if call is not None and call.state is CallState.RINGING:
            call.hang_up()

    def _take(self, incoming: Incoming, before: Call | None, decision: Decision, *, wanted: bool) -> None:
        """Let the call ring. It takes the place of an earlier call of this peer."""
        peer = incoming.sender
        signaling = self._open(incoming)
        if signaling is None:
            self._refuse(incoming, ErrorCode.REFUSED)
            return
        if signaling.offer.generation:
            # It restarts a link that is over here, or that is not proved yet
            self._refuse(incoming, ErrorCode.REFUSED if before is None else ErrorCode.BUSY)
            return
        verdict = self._judge(signaling)
        if verdict is not OfferVerdict.FRESH:
            self._turn_away(incoming, signaling, verdict)
            return
        # Imported here for the same reason as in `OutgoingCalls`
        from punch.node.calls.call import Call

        call = Call.incoming(signaling, self._context)
        rang = before is not None and before.state is CallState.RINGING
        # In the place of the one before, so that `Node.calls` keeps its order
        self._calls.begin(call)
        if before is not None:
            self._calls.withdraw(before)
        self._outgoing.withdraw(peer)
        asked = decision is Decision.ASK
        if not wanted and not rang:
            self._tell(IncomingCall(peer, call.name or "", peer in self._known, decided=not asked))
        if not asked and self._calls.attempts.get(peer) is call:
            self.accept(call)

    def _open(self, incoming: Incoming) -> Signaling | None:
        from punch.node.calls.signaling import Signaling

        context = self._context
        try:
            return Signaling.incoming(
                context.identity, incoming.sender, incoming.call, incoming.offer, now=context.monotonic()
            )
        except SealError:
            return None

    def _judge(self, signaling: Signaling) -> OfferVerdict:
        return self._offers.judge(
            signaling.peer,
            signaling.offer,
            signaling.offer_digest,
            known=signaling.peer in self._known,
            wall=self._context.wall(),
            now=self._context.monotonic(),
        )

    def _turn_away(self, incoming: Incoming, signaling: Signaling, verdict: OfferVerdict) -> None:
        """The offer may be a copy: let its sender, if it is calling, call again. Nothing else happens."""
        try:
            if verdict is OfferVerdict.STALE:
                known = signaling.peer in self._known
                now = self._context.monotonic()
                signaling.challenge(self._offers.challenge(signaling.peer, now, known=known))
        except SealError:
            pass  # Its reply key is unusable
        messages = signaling.messages_to_send()
        for message in messages:
            self._context.channel.send(message)
        if not messages:
            self._refuse(incoming, ErrorCode.REFUSED)

    def _is_busy(self, caller: PeerID, decision: Decision) -> bool:
        full, attempts = self._calls.full, self._calls.attempts
        if caller in self._known:
            return full
        ringing = sum(call.state is CallState.RINGING for call in attempts.values())
        strangers = sum(peer not in self._known for peer in attempts)
        return full or strangers >= MAX_STRANGERS or (decision is Decision.ASK and ringing >= MAX_RINGING)

    def _refuse(self, incoming: Incoming, code: ErrorCode) -> None:
        self._context.channel.send(Reject(incoming.call, incoming.sender, code))
