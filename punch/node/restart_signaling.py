"""An introduction that restarts a live link: the rendezvous carries what the link itself can't."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from punch.identity import PeerID
from punch.node.call_context import CallContext
from punch.node.signaling import Signaling
from punch.node.signaling_state import CallEvent, Description, Side
from punch.wire.candidate import Candidate
from punch.wire.control import ErrorCode
from punch.wire.sealed import Envelope


class RestartSignaling:
    """
    One call of one generation, of ours or of the other side's.

    :param happened: told that there are events to take.
    """

    def __init__(self, call: Signaling, around: CallContext, happened: Callable[[], None]) -> None:
        self._call = call
        self._around = around
        self._happened = happened
        self.answered = call.side is Side.CALLEE
        """Whether both sides have said who they are."""
        around.calls[call.call_id] = self
        self._send()

    @classmethod
    def place(
        cls, peer: PeerID, description: Description, around: CallContext, happened: Callable[[], None]
    ) -> RestartSignaling:
        """
        Call the other side.

        :raise SealError: its key can't be sealed to.
        """
        now = around.monotonic()
        call = Signaling.outgoing(around.identity, peer, description, random=around.random, now=now)
        return cls(call, around, happened)

    @property
    def peer(self) -> PeerID:
        """The other side."""
        return self._call.peer

    def accept(self, description: Description, certificate_sha256: bytes) -> None:
        """
        Answer the other side's call.

        :raise SealError: its reply key is unusable.
        """
        self._call.accept(description, certificate_sha256, self._around.monotonic())
        self._send()

    def reject(self, code: ErrorCode) -> None:
        """Don't answer it."""
        self._call.reject(code, code.value, "", self._around.monotonic())
        self.drop()

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Trickle candidates of ours."""
        self._call.add_candidates(candidates, False, self._around.monotonic())
        self._send()

    def drop(self) -> None:
        """Nothing of it matters any more; the rendezvous is told if it had to be."""
        self._call.reject(ErrorCode.CANCELLED, ErrorCode.CANCELLED.value, "", self._around.monotonic())
        self._send()
        if self._around.calls.get(self._call.call_id) is self:
            del self._around.calls[self._call.call_id]

    def next_event(self) -> CallEvent | None:
        """What happened, oldest first."""
        return self._call.next_event()

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self._call.get_timer()

    def handle_timer(self, now: float) -> None:
        """It took too long."""
        self._call.handle_timer(now)
        self._send()

    # CallUser

    def receive_answer(self, envelope: Envelope) -> None:
        """The other side's answer."""
        self._call.receive_answer(envelope, self._around.monotonic())
        self.answered = True
        self._changed()

    def receive_candidates(self, envelope: Envelope) -> None:
        """Trickled candidates of the other side."""
        self._call.receive_candidates(envelope, self._around.monotonic())
        self._changed()

    def receive_end(self, code: ErrorCode) -> None:
        """The rendezvous says it is over."""
        self._call.receive_end(code, self._around.monotonic())
        self._changed()

    def repeat_answer(self) -> None:
        """The rendezvous may have lost our answer."""
        self._call.repeat_answer()
        self._changed()

    def _changed(self) -> None:
        self._send()
        self._happened()

    def _send(self) -> None:
        for request in self._call.messages_to_send():
            self._around.send_control(request)
