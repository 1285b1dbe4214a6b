"""Calls of other peers: who is let in, who is asked about, who hears no."""

from __future__ import annotations

from collections.abc import Callable

from punch.contacts import AddressBook
from punch.identity import PeerID
from punch.node import limits, sentences
from punch.node.call import Call
from punch.node.call_context import CallContext
from punch.node.calls import Calls
from punch.node.events import Event, IncomingCall, Reason
from punch.node.observer import CallObserver
from punch.node.offer_freshness import OfferMemory, OfferVerdict
from punch.node.outgoing_calls import OutgoingCalls
from punch.node.policy import Decision, decide
from punch.node.signaling import SeenEnvelopes, Signaling, glare
from punch.node.signaling_state import Side
from punch.wire.control import Accept, ErrorCode, Incoming, Reject
from punch.wire.sealed import SealError


class IncomingCalls:
    """
    Receives calls.

    :param outgoing: calls of ours that may cross with theirs.
    :param observer: of the sessions made here.
    :param accept: who may call besides known peers.
    :param known: peers that were called or accepted before, and blocked ones.
    :param offers: tells new offers from copies of old ones.
    :param wall: this machine's clock, in seconds since 1970.
    :param on_event: told `IncomingCall`.
    """

    def __init__(
        self,
        around: CallContext,
        sessions: Calls,
        outgoing: OutgoingCalls,
        observer: CallObserver,
        accept: Accept,
        known: AddressBook,
        offers: OfferMemory,
        wall: Callable[[], float],
        on_event: Callable[[Event], None],
    ) -> None:
        self._around = around
        self._sessions = sessions
        self._outgoing = outgoing
        self._observer = observer
        self._accept = accept
        self._known = known
        self._offers = offers
        self._wall = wall
        self._on_event = on_event
        self._seen = SeenEnvelopes()

    def receive(self, incoming: Incoming) -> None:
        """The rendezvous says that somebody calls."""
        peer, us = incoming.sender, self._around.identity.peer_id
        if peer == us:
            return
        same = self._sessions.calls.get(incoming.call)
        if same is not None:
            if same.peer == peer:
                same.repeat_answer()
            return
        if not self._seen.add(incoming.offer.digest()):
            self._refuse(incoming, ErrorCode.REFUSED)
            return
        live = self._sessions.links.get(peer)
        if live is not None and live.receive_restart(incoming.call, incoming.offer):
            return
        before = self._sessions.attempts.get(peer)
        # A call of ours may still wait for the rendezvous: then theirs was first.
        wanted = (before is not None and before.call.side is Side.CALLER) or peer in self._outgoing
        if before is not None and before.waiting and glare(us, peer) is Side.CALLER:
            # Our offer wins: the other side answers it, and withdraws its own, which is used up by that.
            call = self._open(incoming)
            if call is not None:
                self._judge(call)
            return
        decision = decide(self._accept, wanted or peer in self._known, self._known.blocked(peer))
        if decision is Decision.REFUSE:
            self._refuse(incoming, ErrorCode.REFUSED)
        elif before is None and self._is_busy(peer, decision):
            self._refuse(incoming, ErrorCode.BUSY)
        else:
            self._take(incoming, before, decision, wanted=wanted)

    def let_in(self, session: Call) -> None:
        """Say yes to a call that rings."""
        try:
            session.accept()
        except SealError:
            text = sentences.tampered(session.peer, session.name)
            session.reject(ErrorCode.REFUSED, Reason.PROTOCOL.value, text)

    def _take(self, incoming: Incoming, before: Call | None, decision: Decision, *, wanted: bool) -> None:
        """The call rings, in the place of the one before."""
        peer = incoming.sender
        call = self._open(incoming)
        if call is None:
            self._refuse(incoming, ErrorCode.REFUSED)
            return
        if call.generation:
            # A restart of a link that isn't here any more, or not yet
            self._refuse(incoming, ErrorCode.REFUSED if before is None else ErrorCode.BUSY)
            return
        verdict = self._judge(call)
        if verdict is not OfferVerdict.FRESH:
            self._turn_away(incoming, call, verdict)
            return
        session = Call.incoming(call, self._around, self._observer)
        rang = before is not None and before.ringing
        if before is not None:
            self._sessions.drop(before)
        self._outgoing.withdraw(peer)
        self._sessions.begin(session)
        asked = decision is Decision.ASK
        if not wanted and not rang:
            self._on_event(IncomingCall(peer, session.name or "", peer in self._known, decided=not asked))
        if not asked and self._sessions.attempts.get(peer) is session:
            self.let_in(session)

    def _open(self, incoming: Incoming) -> Signaling | None:
        around = self._around
        try:
            return Signaling.incoming(
                around.identity,
                incoming.sender,
                incoming.call,
                incoming.offer,
                random=around.random,
                now=around.monotonic(),
            )
        except SealError:
            return None

    def _judge(self, call: Signaling) -> OfferVerdict:
        return self._offers.judge(
            call.peer,
            call.offer,
            call.offer_digest,
            known=call.peer in self._known,
            wall=self._wall(),
            now=self._around.monotonic(),
        )

    def _turn_away(self, incoming: Incoming, call: Signaling, verdict: OfferVerdict) -> None:
        """The offer may be a copy: let the caller, if it is one, call again. Nothing else happens."""
        now = self._around.monotonic()
        try:
            if verdict is OfferVerdict.STALE:
                call.challenge(self._offers.challenge(call.peer, now), now)
        except SealError:
            pass  # Its reply key is unusable
        messages = call.messages_to_send()
        for message in messages:
            self._around.send_control(message)
        if not messages:
            self._refuse(incoming, ErrorCode.REFUSED)

    def _is_busy(self, caller: PeerID, decision: Decision) -> bool:
        full, attempts = self._sessions.full, self._sessions.attempts
        if caller in self._known:
            return full
        ringing = sum(session.ringing for session in attempts.values())
        strangers = sum(peer not in self._known for peer in attempts)
        return (
            full
            or strangers >= limits.MAX_STRANGERS
            or (decision is Decision.ASK and ringing >= limits.MAX_RINGING)
        )

    def _refuse(self, incoming: Incoming, code: ErrorCode) -> None:
        self._around.send_control(Reject(incoming.call, incoming.sender, code))
