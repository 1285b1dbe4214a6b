"""Calls of ours: placed at once, or as soon as the rendezvous is there."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from punch.identity import PeerID
from punch.node import limits, sentences
from punch.node.call import Call
from punch.node.call_context import CallContext
from punch.node.calls import Calls
from punch.node.control.problems import ControlProblem
from punch.node.events import Reason
from punch.node.observer import CallObserver
from punch.wire.control import ErrorCode
from punch.wire.sealed import SealError


class OutgoingCalls:
    """
    Places calls.

    :param observer: of the sessions made here.
    :param failed: told of a call that came to nothing before there was a session: the peer, a reason, a text.
    """

    def __init__(
        self,
        around: CallContext,
        sessions: Calls,
        observer: CallObserver,
        failed: Callable[[PeerID, str, str], None],
    ) -> None:
        self._around = around
        self._sessions = sessions
        self._observer = observer
        self._failed = failed
        self._waiting: dict[PeerID, IDelayedCall] = {}
        self._problem: ControlProblem | None = None
        self._final: ControlProblem | None = None

    def __contains__(self, peer: PeerID) -> bool:
        """Whether a call to this peer waits for the rendezvous."""
        return peer in self._waiting

    def refusal(self) -> tuple[str, str] | None:
        """Why no call can be placed or wait now: a reason and a text."""
        if self._final is not None:
            return self._final.reason, self._final.text
        if len(self._waiting) >= limits.MAX_QUEUED or self._sessions.full:
            return ErrorCode.TOO_MANY.value, sentences.too_many_calls()
        return None

    def place(self, peer: PeerID) -> None:
        """Call `peer`, now or within `bounds.QUEUE_TIME`."""
        if self._around.registered():
            self._place(peer)
        else:
            self._waiting[peer] = self._around.clock.callLater(limits.QUEUE_TIME, self._expire, peer)

    def withdraw(self, peer: PeerID) -> bool:
        """The call to `peer` needs to wait no longer; returns whether it did."""
        timer = self._waiting.pop(peer, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def registered(self) -> None:
        """The rendezvous is there: what waits for it is placed."""
        self._problem = None
        for peer in list(self._waiting):
            if self.withdraw(peer):
                self._place(peer)

    def unregistered(self, problem: ControlProblem) -> None:
        """The rendezvous is gone: calls that nobody has answered yet are placed anew when it is back."""
        self._problem = problem
        for peer, session in list(self._sessions.attempts.items()):
            if session.waiting:
                self._sessions.drop(session)
                self.place(peer)

    def give_up(self, problem: ControlProblem) -> None:
        """The rendezvous will not come back."""
        self._final = problem
        for peer in list(self._waiting):
            if self.withdraw(peer):
                self._failed(peer, problem.reason, problem.text)

    def stop(self) -> None:
        """Nothing waits any more, and nobody is told."""
        for peer in list(self._waiting):
            self.withdraw(peer)

    def _place(self, peer: PeerID) -> None:
        if peer in self._sessions.attempts:
            return
        try:
            session = Call.outgoing(peer, self._around, self._observer)
        except SealError:
            self._failed(peer, Reason.PROTOCOL.value, sentences.tampered(peer, None))
            return
        self._sessions.begin(session)

    def _expire(self, peer: PeerID) -> None:
        del self._waiting[peer]
        cause = "" if self._problem is None else self._problem.text
        reason = Reason.RENDEZVOUS_UNREACHABLE.value if self._problem is None else self._problem.reason
        self._failed(peer, reason, sentences.no_rendezvous(peer, None, cause))
