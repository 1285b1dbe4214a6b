"""
One introduction: the offer is delivered to the called peer, which answers; both trickle candidates for a
while.

    ringing ──answered──> answered ──expired──> over
       └──ended, lost, expired,─────┴──ended, lost,──> over
          displaced                    displaced

Pure: messages go to `deliver`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from punch.identity import PeerID
from punch.wire.control import Answered, Candidates, Ended, ErrorCode, Incoming, Reply
from punch.wire.peers.sealed import Envelope

Deliver = Callable[[PeerID, Reply], None]

DISPLACED = "Your call has ended to make room for calls of others; try again later."

IntroductionKey = tuple[str, PeerID, PeerID]
"""The call ID and both peers, the smaller first, so that either peer finds the introduction."""


def introduction_key(call: str, one: PeerID, other: PeerID) -> IntroductionKey:
    """The key of the introduction of `one` and `other` under the call ID `call`."""
    return (call, min(one, other), max(one, other))


class IntroductionInputs(Protocol):
    """What can happen to an introduction."""

    def answered(self, answer: Envelope, deadline: float) -> None:
        """The called peer accepted the call: candidates are forwarded until `deadline`."""

    def trickled(self, sender: PeerID, envelope: Envelope) -> None:
        """A peer has more candidates for the other."""

    def ended(self, by: PeerID, code: ErrorCode, text: str) -> None:
        """`by` ends the introduction, and the other peer is told."""

    def lost(self, peer: PeerID) -> None:
        """The connection of `peer` is gone."""

    def returned(self, peer: PeerID) -> None:
        """`peer` registered on another connection: what the old one may not have got is sent again."""

    def expired(self) -> None:
        """The deadline of the present state has passed."""

    def displaced(self) -> None:
        """The introduction ends to make room for another one."""


@dataclass
class IntroductionData:
    """The data of an introduction."""

    call: str
    caller: PeerID
    caller_name: str
    callee: PeerID
    offer: Envelope
    deadline: float
    """Monotonic seconds."""
    deliver: Deliver
    answer: Envelope | None = None
    over: bool = field(default=False)

    def other(self, peer: PeerID) -> PeerID:
        """The peer that is not `peer`."""
        return self.callee if peer == self.caller else self.caller

    def tell_end(self, to: PeerID, code: ErrorCode, text: str) -> None:
        """Tell one peer that the introduction is over."""
        self.deliver(to, Ended(self.call, code, text, sender=self.other(to)))


_builder = TypeMachineBuilder(IntroductionInputs, IntroductionData)
_ringing = _builder.state("ringing")
_answered = _builder.state("answered")
_over = _builder.state("over")


@_ringing.upon(IntroductionInputs.answered).to(_answered)
def _answer(inputs: IntroductionInputs, core: IntroductionData, answer: Envelope, deadline: float) -> None:
    core.answer = answer
    core.deadline = deadline
    core.deliver(core.caller, Answered(core.call, core.callee, answer))


@_ringing.upon(IntroductionInputs.trickled).loop()
@_answered.upon(IntroductionInputs.trickled).loop()
def _trickle(inputs: IntroductionInputs, core: IntroductionData, sender: PeerID, envelope: Envelope) -> None:
    core.deliver(core.other(sender), Candidates(core.call, sender, envelope))


@_ringing.upon(IntroductionInputs.ended).to(_over)
@_answered.upon(IntroductionInputs.ended).to(_over)
def _end(inputs: IntroductionInputs, core: IntroductionData, by: PeerID, code: ErrorCode, text: str) -> None:
    core.over = True
    core.tell_end(core.other(by), code, text)


@_ringing.upon(IntroductionInputs.lost).to(_over)
@_answered.upon(IntroductionInputs.lost).to(_over)
def _lose(inputs: IntroductionInputs, core: IntroductionData, peer: PeerID) -> None:
    core.over = True
    core.tell_end(core.other(peer), ErrorCode.GONE, "The other peer lost its connection to the rendezvous.")


@_ringing.upon(IntroductionInputs.returned).loop()
def _ring_again(inputs: IntroductionInputs, core: IntroductionData, peer: PeerID) -> None:
    if peer == core.callee:
        core.deliver(core.callee, Incoming(core.call, core.caller, core.caller_name, core.offer))


@_answered.upon(IntroductionInputs.returned).loop()
def _answer_again(inputs: IntroductionInputs, core: IntroductionData, peer: PeerID) -> None:
    if peer == core.caller and core.answer is not None:
        core.deliver(core.caller, Answered(core.call, core.callee, core.answer))


@_ringing.upon(IntroductionInputs.expired).to(_over)
def _time_out(inputs: IntroductionInputs, core: IntroductionData) -> None:
    core.over = True
    core.tell_end(core.caller, ErrorCode.TIMEOUT, "Nobody answered the call.")
    core.tell_end(core.callee, ErrorCode.TIMEOUT, "The call was not answered in time.")


@_answered.upon(IntroductionInputs.expired).to(_over)
def _finish(inputs: IntroductionInputs, core: IntroductionData) -> None:
    core.over = True


@_ringing.upon(IntroductionInputs.displaced).to(_over)
def _stop_ringing(inputs: IntroductionInputs, core: IntroductionData) -> None:
    core.over = True
    core.tell_end(core.caller, ErrorCode.BUSY, DISPLACED)
    core.tell_end(core.callee, ErrorCode.CANCELLED, "The rendezvous ended the call to make room for others.")


@_answered.upon(IntroductionInputs.displaced).to(_over)
def _end_answered(inputs: IntroductionInputs, core: IntroductionData) -> None:
    # Peers that have their link ignore this. Others would go on trying until the deadline.
    core.over = True
    for peer in (core.caller, core.callee):
        core.tell_end(peer, ErrorCode.CANCELLED, "The rendezvous ended the call to make room for others.")


# A second answer is the same one, sent again over a new connection.
_answered.upon(IntroductionInputs.answered).loop().returns(None)

introduce: Callable[[IntroductionData], IntroductionInputs] = _builder.build()
"""Make the machine of one introduction, which rings. The caller of this function delivers the offer."""
